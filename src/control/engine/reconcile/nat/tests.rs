//! Which rules follow from a configuration, and the words for an administrator.

use std::collections::BTreeSet;

use super::{difference, wanted};
use crate::control::engine::port::{Blind, HostRequest, NatRules, NatView};
use crate::control::engine::sample::Node;
use crate::net::Prefix;

const NODE: &str = r#"
    [node]
    name = "a"
    address = "192.0.2.1/24"
    [local]
    subnets = ["10.244.1.0/24", "fd00:1::/64", "172.16.1.0/24"]
    [[peer]]
    name = "b"
    address = "192.0.2.2"
    subnets = ["10.244.2.0/24"]
    port = 8472
"#;

/// The rules of a node with these pools, each with the word whether it masquerades.
fn rules(pools: &[(&str, bool)]) -> Option<NatRules> {
    let mut text = NODE.to_owned();
    for (cidr, nat_outgoing) in pools {
        text += &format!("[[pool]]\ncidr = \"{cidr}\"\nnat_outgoing = {nat_outgoing}\n");
    }
    let node = Node::new(crate::config::parse(&text, "test.toml").unwrap());
    wanted(&node, &BTreeSet::new(), "up0")
}

fn sets(rules: NatRules) -> [Vec<String>; 2] {
    let shown = |prefix: &Prefix| prefix.to_string();
    [rules.pods.iter().map(shown).collect(), rules.cluster.iter().map(shown).collect()]
}

#[test]
fn pools_without_the_word_have_no_rules() {
    assert_eq!(rules(&[]), None);
    assert_eq!(rules(&[("10.244.0.0/16", false)]), None);
    // There is nothing outside of such a pool.
    assert_eq!(rules(&[("::/0", true)]), None);
    assert_eq!(rules(&[("fd00::/16", true), ("::/0", false)]), None);
}

#[test]
fn pods_reach_all_pools_and_local_subnets_with_their_own_addresses() {
    let found = rules(&[("10.244.0.0/16", true), ("10.250.0.0/16", false)]).unwrap();
    assert_eq!((found.device.as_str(), &found.tunnel_ports), ("up0", &[4789, 8472].into()));
    let cluster = ["10.244.0.0/16", "10.250.0.0/16", "172.16.1.0/24"];
    assert_eq!(sets(found), [vec!["10.244.0.0/16".to_owned()], cluster.map(str::to_owned).to_vec()]);
    let both = rules(&[("10.244.0.0/16", true), ("fd00::/16", true), ("10.245.0.0/16", true)]).unwrap();
    let [pods, cluster] = sets(both);
    assert_eq!(pods, ["10.244.0.0/15", "fd00::/16"], "neighbours are one element");
    assert_eq!(cluster, ["10.244.0.0/15", "172.16.1.0/24", "fd00::/16"]);
}

#[test]
fn the_longest_pool_of_a_source_decides() {
    let nested = [
        ("10.0.0.0/8", true),
        ("10.128.0.0/9", false),
        ("10.192.0.0/10", true),
        ("10.200.0.0/16", false),
        ("10.200.7.0/24", true),
    ];
    let found = rules(&nested).unwrap();
    let decided = |address: &str| {
        let address = address.parse().unwrap();
        let pools = nested.iter().map(|(cidr, word)| (cidr.parse::<Prefix>().unwrap(), *word));
        pools.filter(|(cidr, _)| cidr.contains(address)).max_by_key(|(cidr, _)| cidr.len()).unwrap().1
    };
    for address in
        ["10.1.2.3", "10.130.0.1", "10.193.0.1", "10.200.6.255", "10.200.7.1", "10.200.8.0", "10.255.0.1"]
    {
        let masqueraded = found.pods.iter().any(|prefix| prefix.contains(address.parse().unwrap()));
        assert_eq!(masqueraded, decided(address), "{address}");
    }
    let [pods, cluster] = sets(found.clone());
    assert_eq!(cluster, ["10.0.0.0/8", "172.16.1.0/24"]);
    assert_eq!((pods.len(), pods.first().unwrap().as_str()), (1 + 6 + 1, "10.0.0.0/9"));
    // The same in whatever order the file has them.
    let mut other = nested;
    other.reverse();
    assert_eq!(rules(&other).unwrap(), found);
}

#[test]
fn a_difference_is_mended_or_explained() {
    let wanted = rules(&[("10.244.0.0/16", true)]).unwrap();
    let table = "underpass-up0";
    assert!(difference(table, Some(wanted.clone()), Some(&NatView::Rules(wanted.clone()))).is_none());
    assert!(difference(table, Some(wanted.clone()), None).is_none(), "not looked at yet");
    let others = NatRules { device: "up1".to_owned(), ..wanted.clone() };
    for view in [NatView::Absent, NatView::Other, NatView::Rules(others)] {
        let found = difference(table, Some(wanted.clone()), Some(&view)).unwrap();
        assert!(
            matches!(&found.requests[..], [HostRequest::Nat { rules: Some(rules), .. }] if *rules == wanted),
            "{view:?}"
        );
    }
    for view in [NatView::Rules(wanted.clone()), NatView::Other] {
        let found = difference(table, None, Some(&view)).unwrap();
        assert!(matches!(&found.requests[..], [HostRequest::Nat { rules: None, .. }]), "{view:?}");
        assert_eq!(found.requirement.unwrap().command, "nft delete table inet underpass-up0");
    }
    for view in [NatView::Absent, NatView::Unseen(Blind::Denied)] {
        assert!(difference(table, None, Some(&view)).is_none(), "{view:?}");
    }
    let nft = "nft 'table inet underpass-up0 { chain postrouting { type nat hook postrouting priority srcnat; \
               oifname \"up0\" return; meta l4proto { 4, 41, 47 } return; udp dport { 4789, 8472 } return; \
               ip saddr { 10.244.0.0/16 } ip daddr != { 10.244.0.0/16, 172.16.1.0/24 } masquerade; }; }'";
    let iptables =
        "iptables -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 ! -o up0 -j MASQUERADE";
    for (blind, why, command) in [
        (Blind::Denied, "the daemon has no CAP_NET_ADMIN", nft),
        (Blind::NoNftables, "this kernel has no nf_tables", iptables),
        (Blind::Nft("it is stuck".to_owned()), "it is stuck", nft),
    ] {
        let found = difference(table, Some(wanted.clone()), Some(&NatView::Unseen(blind))).unwrap();
        assert!(found.requests.is_empty());
        let requirement = found.requirement.unwrap();
        assert!(requirement.what.ends_with(&format!("(nat_outgoing): {why}")), "{}", requirement.what);
        assert_eq!(requirement.command, command);
    }
}

#[test]
fn what_the_kernel_sends_to_other_nodes_stays_in_the_cluster() {
    let text = NODE.to_owned() + "[[pool]]\ncidr = \"10.244.0.0/16\"\nnat_outgoing = true\n";
    let node = Node::new(crate::config::parse(&text, "test.toml").unwrap());
    let outside = "172.20.0.0/16".parse::<Prefix>().unwrap();
    let cluster = |outside: &BTreeSet<Prefix>| wanted(&node, outside, "up0").unwrap().cluster;
    assert!(!cluster(&BTreeSet::new()).contains(&outside));
    assert!(cluster(&BTreeSet::from([outside])).contains(&outside));
}
