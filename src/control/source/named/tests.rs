//! Peers at host names: which of the addresses they get, and what is left out.

use super::{resolve, without_unreachable};
use crate::config::{self, Config};
use crate::control::source::compose::Taken;
use crate::control::source::names::{Answer, Answers};

const FILE: &str = "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\naddress6 = \"2001:db8::1/64\"\n\
                    [local]\nsubnets = [\"10.1.0.0/24\"]\n\
                    [[peer]]\nname = \"s\"\naddress = \"192.0.2.9\"\nsubnets = [\"10.9.0.0/24\"]\n\
                    [[peer]]\nname = \"b\"\naddress = \"b.example\"\nsubnets = [\"10.2.0.0/24\"]\n\
                    [[peer]]\nname = \"c\"\naddress = \"c.example\"\nsubnets = [\"10.3.0.0/24\"]\n";

fn file() -> Config {
    config::parse(FILE, "f").unwrap()
}

fn answers(known: &[(&str, &[&str])]) -> Answers {
    let answer = |addresses: &[&str]| Answer {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        trouble: None,
    };
    known.iter().map(|(name, addresses)| (name.parse().unwrap(), answer(addresses))).collect()
}

/// The peers at names with their addresses, and what is left out.
fn made(known: &[(&str, &[&str])], running: Option<&Config>) -> (Vec<String>, Vec<String>) {
    let mut config = file();
    let refused = resolve(&mut config, &answers(known), running, &Taken::default());
    let second = |peer: &config::Peer| peer.address6.map(|address| format!(" {address}")).unwrap_or_default();
    let peers = config.peers.iter().skip(1);
    let peers = peers.map(|peer| format!("{} {}{}", peer.name, peer.address, second(peer))).collect();
    let refused = refused.iter().map(|refused| format!("{}: {}", refused.object, refused.reason));
    (peers, refused.collect())
}

#[test]
fn one_address_of_each_family() {
    let known: [(&str, &[&str]); 2] =
        [("b.example", &["192.0.2.2", "192.0.2.3", "2001:db8::2"]), ("c.example", &["2001:db8::3"])];
    assert_eq!(made(&known, None), (vec!["b 192.0.2.2 2001:db8::2".into(), "c 2001:db8::3".into()], vec![]));
}

#[test]
fn what_a_peer_has_already_it_keeps() {
    let mut running = file();
    let before = answers(&[("b.example", &["192.0.2.3"])]);
    resolve(&mut running, &before, None, &Taken::default());
    let (peers, _) = made(&[("b.example", &["192.0.2.2", "192.0.2.3"])], Some(&running));
    assert_eq!(peers, ["b 192.0.2.3"]);
    let (peers, _) = made(&[("b.example", &["192.0.2.2"])], Some(&running));
    assert_eq!(peers, ["b 192.0.2.2"]);
}

#[test]
fn no_peer_suffers_for_another() {
    for (address, reason) in [
        ("192.0.2.1", "is this node's own address"),
        ("192.0.2.255", "is the network or broadcast address of 192.0.2.0/24"),
        ("192.0.2.9", "is that of another peer"),
        ("127.0.1.1", "cannot be a node's: 127.0.1.1 is loopback; give a unicast address"),
        ("10.3.0.7", "lies in the pod subnet 10.3.0.0/24"),
        ("10.1.0.7", "lies in the pod subnet 10.1.0.0/24"),
    ] {
        let known: [(&str, &[&str]); 2] = [("b.example", &[address]), ("c.example", &["192.0.2.3"])];
        let (peers, refused) = made(&known, None);
        assert_eq!(peers, ["c 192.0.2.3"]);
        assert_eq!(refused, [format!("peer b: b.example is {address}, which {reason}")]);
    }
    let (peers, refused) = made(&[("b.example", &["192.0.2.2"]), ("c.example", &["192.0.2.2"])], None);
    assert_eq!(peers, ["b 192.0.2.2"]);
    assert_eq!(refused, ["peer c: c.example is 192.0.2.2, which is that of another peer"]);
}

#[test]
fn a_name_that_is_not_known_is_told_with_the_reason() {
    let mut known = answers(&[("b.example", &[])]);
    for answer in known.values_mut() {
        answer.trouble = Some("Name or service not known".to_owned());
    }
    let mut config = file();
    let refused = resolve(&mut config, &known, None, &Taken::default());
    let reasons: Vec<&str> = refused.iter().map(|refused| refused.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["b.example is not resolved: Name or service not known", "c.example is not resolved yet"]
    );
    // The last good answer stays, whatever the trouble is.
    for answer in known.values_mut() {
        answer.addresses = vec!["192.0.2.2".parse().unwrap()];
    }
    let mut config = file();
    assert_eq!(resolve(&mut config, &known, None, &Taken::default()).len(), 1);
    assert_eq!(config.peers.len(), 2);
}

#[test]
fn what_was_added_by_request_stays_its_own() {
    let refused = |taken: Taken| {
        let known = answers(&[("b.example", &["192.0.2.2"]), ("c.example", &["192.0.2.3"])]);
        resolve(&mut file(), &known, None, &taken)
            .iter()
            .map(|refused| refused.reason.clone())
            .collect::<Vec<_>>()
    };
    let mut taken = Taken::default();
    taken.names.insert("b".to_owned());
    assert_eq!(refused(taken), ["a peer of this name was added by request; delete that"]);
    let mut taken = Taken::default();
    taken.addresses.insert("192.0.2.3".parse().unwrap());
    assert!(refused(taken)[0].starts_with("c.example is 192.0.2.3, which is that of a peer that was added"));
    let mut taken = Taken::default();
    taken.addresses.insert("10.2.0.8".parse().unwrap());
    assert!(refused(taken)[0].starts_with("its subnets contain 10.2.0.8"));
}

#[test]
fn peers_that_the_chosen_address_cannot_reach_are_left_out() {
    let text = FILE
        .replace("192.0.2.1/24", "auto")
        .replace("address6 = \"2001:db8::1/64\"\n", "address6 = \"auto\"\n");
    let mut config = config::parse(&text.replace("192.0.2.9", "2001:db8::9"), "f").unwrap();
    config.node.address = Some("192.0.2.1/24".parse().unwrap());
    let refused = without_unreachable(&mut config);
    assert_eq!(refused[0].reason, "it has 2001:db8::9, and this node no address of that family");
    assert!(config.peers.is_empty());
    let mut config = config::parse(&text, "f").unwrap();
    config.node.address = Some("192.0.2.8/31".parse().unwrap());
    assert!(without_unreachable(&mut config).is_empty());
    config.node.address = Some("192.0.2.10/30".parse().unwrap());
    assert!(without_unreachable(&mut config).is_empty());
    config.node.address = Some("192.0.2.9/24".parse().unwrap());
    assert_eq!(
        without_unreachable(&mut config)[0].reason,
        "its address 192.0.2.9 is this node's own address"
    );
}
