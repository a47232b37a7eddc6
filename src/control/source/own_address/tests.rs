//! Each rule on a host with several interfaces, and what is told of those that were passed over.

use std::net::IpAddr;

use super::{Choice, Seen, choose};
use crate::config::{self, AddressRule};
use crate::control::engine::port::{Interface, InterfaceAddress};

/// The rule that a file has under `key`.
fn rule(key: &str, words: &str) -> AddressRule {
    let text = format!("[node]\nname = \"a\"\n{key} = \"{words}\"\n[local]\nsubnets = [\"10.1.0.0/24\"]\n");
    let config = config::parse(&text, "f").unwrap();
    config.node.rule(key == "address").unwrap().clone()
}

fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
    let own = |net: &&str| InterfaceAddress { net: net.parse().unwrap(), unfit: None };
    let addresses = addresses.iter().map(own).collect();
    Interface { index, name: name.to_owned(), up: true, loopback: name == "lo", addresses }
}

fn host() -> Vec<Interface> {
    let mut all = vec![
        interface(1, "lo", &["127.0.0.1/8", "::1/128"]),
        interface(2, "docker0", &["172.17.0.1/16"]),
        interface(3, "eth0", &["198.18.0.1/24"]),
        interface(4, "up0", &["10.1.0.0/32"]),
        interface(5, "eth1", &["169.254.1.1/16", "fe80::1/64"]),
        interface(
            6,
            "eth2",
            &["192.0.2.1/24", "192.0.2.9/24", "203.0.113.1/28", "fe80::2/64", "2001:db8::1/64"],
        ),
        interface(7, "wlan0", &["198.51.100.1/26", "2001:db8:1::1/64"]),
    ];
    all[2].up = false;
    all
}

/// What `words` choose on `interfaces`, packets having `source` as their source.
fn on(
    interfaces: &[Interface],
    (key, words): (&str, &str),
    source: Result<&str, &str>,
    before: Option<&str>,
) -> Result<Choice, String> {
    let taken = |address: IpAddr| {
        (address.to_string() == "192.0.2.66").then(|| "is the address of peer b".to_owned())
    };
    let source = source.map(|source| source.parse().unwrap()).map_err(str::to_owned);
    let seen = Seen { interfaces, ours: &["up0".to_owned(), "up0-x".to_owned()], source, taken: &taken };
    choose(&rule(key, words), key == "address", &seen, before.map(|address| address.parse().unwrap()))
}

/// The same as text, on the usual host.
fn chosen(key: &str, words: &str) -> String {
    match on(&host(), (key, words), Ok("203.0.113.1"), None) {
        Ok(choice) => format!("{} {}", choice.net, choice.interface),
        Err(reason) => reason,
    }
}

#[test]
fn each_rule_has_its_address() {
    for (words, expected) in [
        ("auto", "192.0.2.1/24 eth2"),
        ("first-found", "192.0.2.1/24 eth2"),
        ("interface=eth.*", "192.0.2.1/24 eth2"),
        ("interface=^wlan0$,^eth0$", "198.51.100.1/26 wlan0"),
        // Those that the first that is found would not be on are fine where they are named.
        ("interface=docker", "172.17.0.1/16 docker0"),
        ("skip-interface=^eth", "198.51.100.1/26 wlan0"),
        ("cidr=198.51.100.0/24,203.0.113.0/24", "203.0.113.1/28 eth2"),
        ("cidr=172.16.0.0/12", "172.17.0.1/16 docker0"),
        ("can-reach=203.0.113.9", "203.0.113.1/28 eth2"),
    ] {
        assert_eq!(chosen("address", words), expected, "{words}");
    }
    for (words, expected) in [
        ("auto", "2001:db8::1/64 eth2"),
        ("interface=wlan", "2001:db8:1::1/64 wlan0"),
        ("cidr=2001:db8:1::/48", "2001:db8:1::1/64 wlan0"),
    ] {
        assert_eq!(chosen("address6", words), expected, "{words}");
    }
}

#[test]
fn why_it_is_none_of_the_others() {
    let choice = on(&host(), ("address", "auto"), Err("unused"), None).unwrap();
    assert_eq!(
        choice.reason,
        "the first that is found; before it, lo is a loopback interface, docker0 is passed over (docker.*), eth0 is \
         down, up0 is the daemon's, eth1 has 169.254.1.1/16, which cannot be a node's: 169.254.1.1 is link-local; \
         give a unicast address"
    );
    let reason = on(&host(), ("address", "interface=^en"), Err("unused"), None).unwrap_err();
    assert!(
        reason.starts_with("no interface has such an IPv4 address: lo has another name, docker0"),
        "{reason}"
    );
    let nothing = on(&[], ("address", "auto"), Err("unused"), None).unwrap_err();
    assert_eq!(nothing, "no interface has such an IPv4 address: there are no interfaces");
    let many: Vec<_> = (1..100).map(|n| interface(n, &format!("veth{n}"), &["192.0.2.7/24"])).collect();
    let reason = on(&many, ("address", "auto"), Err("unused"), None).unwrap_err();
    assert!(reason.ends_with("veth8 is passed over (veth.*) and 91 more"), "{reason}");
}

#[test]
fn what_others_have_and_what_the_kernel_doubts_is_passed_over() {
    let mut host = vec![interface(1, "eth0", &["192.0.2.66/24", "192.0.2.67/24", "192.0.2.68/24"])];
    host[0].addresses[1].unfit = Some("is deprecated");
    let choice = on(&host, ("address", "auto"), Err("unused"), None).unwrap();
    assert_eq!(choice.net.to_string(), "192.0.2.68/24");
    host[0].addresses.pop();
    let reason = on(&host, ("address", "auto"), Err("unused"), None).unwrap_err();
    assert_eq!(
        reason,
        "no interface has such an IPv4 address: eth0 has 192.0.2.66/24, which is the address of peer b"
    );
}

#[test]
fn what_was_chosen_stays_while_the_rule_allows_it() {
    let again = |words, before| on(&host(), ("address", words), Ok("203.0.113.1"), Some(before)).unwrap();
    let kept = again("first-found", "198.51.100.1");
    assert_eq!((kept.net.to_string(), kept.interface.as_str()), ("198.51.100.1/26".to_owned(), "wlan0"));
    assert_eq!(kept.reason, "it was chosen before and is still there");
    assert_eq!(again("interface=eth", "198.51.100.1").net.to_string(), "192.0.2.1/24");
    assert_eq!(again("first-found", "198.18.0.1").net.to_string(), "192.0.2.1/24", "its interface is down");
    assert_eq!(again("first-found", "192.0.2.200").net.to_string(), "192.0.2.1/24", "it is gone");
}

#[test]
fn the_way_to_a_destination_is_followed_and_missed() {
    let reach = |source, before| on(&host(), ("address", "can-reach=203.0.113.9"), source, before);
    let moved = reach(Ok("198.51.100.1"), Some("203.0.113.1")).unwrap();
    assert_eq!(moved.net.to_string(), "198.51.100.1/26");
    let kept = reach(Err("no route"), Some("203.0.113.1")).unwrap();
    assert_eq!(kept.net.to_string(), "203.0.113.1/28");
    assert_eq!(reach(Err("no route"), None).unwrap_err(), "no route");
    // A source that no interface has, such as by a `src` of a route that is wrong.
    assert!(
        reach(Ok("192.0.2.250"), None).unwrap_err().contains("eth2 has 192.0.2.1/24, which is another one")
    );
}
