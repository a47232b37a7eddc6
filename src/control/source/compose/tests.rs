//! Whatever a cluster says, what is followed is a configuration that holds, and no node suffers for another.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{OwnAddresses, Taken, compose, own_addresses};
use crate::config::{self, Config};
use crate::control::source::discovered::{Discovered, Node, OwnNode};
use crate::net::{EncapMode, Mac, Prefix};
use crate::route::{Pool, Source};

const FILE: &str = "[source.kubernetes]\nnode_name = \"a\"\n";

fn file(more: &str) -> Config {
    config::parse(&format!("{FILE}{more}"), "f").unwrap()
}

fn node(name: &str, address: &str, subnets: &[&str]) -> Node {
    Node {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        address6: None,
        vtep_mac: None,
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
    }
}

fn cluster(nodes: Vec<Node>) -> Discovered {
    let own = OwnNode {
        is_known: true,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        subnets: vec!["10.1.0.0/24".parse().unwrap()],
        ..OwnNode::default()
    };
    Discovered { own, nodes, ..Discovered::default() }
}

fn own() -> OwnAddresses {
    OwnAddresses { address: Some("192.0.2.1/24".parse().unwrap()), address6: None }
}

/// Peers with their subnets, and what was left out.
fn made(file: &Config, found: &Discovered, taken: &Taken) -> (Vec<String>, Vec<String>) {
    let composed = compose(file, found, own(), taken).unwrap();
    let peer = |peer: &config::Peer| {
        let subnets: Vec<_> = peer.subnets.iter().map(ToString::to_string).collect();
        format!("{} {} {}", peer.name, peer.address, subnets.join(" ")).trim_end().to_owned()
    };
    let refused = composed.refused.iter().map(|refused| format!("{}: {}", refused.object, refused.reason));
    (composed.config.peers.iter().map(peer).collect(), refused.collect())
}

#[test]
fn what_is_missing_is_said() {
    let missing = |found: &Discovered, own| compose(&file(""), found, own, &Taken::default()).unwrap_err();
    let nothing = OwnAddresses::default();
    assert_eq!(missing(&Discovered::default(), nothing), "the cluster has no address of node a yet");
    assert_eq!(missing(&Discovered::default(), own()), "the cluster gives node a no pod subnet yet");
}

#[test]
fn nodes_become_peers_with_calicos_ethernet_addresses() {
    let found = cluster(vec![node("b", "192.0.2.2", &["10.2.0.0/24"]), node("c", "198.51.100.3", &[])]);
    let composed = compose(&file(""), &found, own(), &Taken::default()).unwrap();
    assert_eq!(composed.config.node.name.as_str(), "a");
    assert_eq!(composed.config.node.address, own().address);
    assert_eq!(composed.config.local_subnets, found.own.subnets);
    let (peers, refused) = made(&file(""), &found, &Taken::default());
    assert_eq!(peers, ["b 192.0.2.2 10.2.0.0/24", "c 198.51.100.3"]);
    assert!(refused.is_empty(), "{refused:?}");
    let peer = &composed.config.peers[0];
    assert_eq!((peer.vtep_mac, peer.source), (Mac::of_vtep("b"), Source::Kubernetes));
}

#[test]
fn the_older_of_two_has_it_and_the_file_before_both() {
    let found = cluster(vec![
        node("b", "192.0.2.2", &["10.2.0.0/24"]),
        node("c", "192.0.2.2", &["10.3.0.0/24"]),
        node("d", "192.0.2.4", &["10.2.0.0/24", "10.4.0.0/24", "10.1.0.0/24"]),
        node("e", "192.0.2.9", &["10.5.0.0/24"]),
        node("f", "192.0.2.6", &["10.9.0.0/24"]),
        node("b", "192.0.2.7", &[]),
    ]);
    let file = file("[[peer]]\nname = \"x\"\naddress = \"192.0.2.9\"\nsubnets = [\"10.9.0.0/24\"]\n");
    let (peers, refused) = made(&file, &found, &Taken::default());
    let expected =
        ["x 192.0.2.9 10.9.0.0/24", "b 192.0.2.2 10.2.0.0/24", "d 192.0.2.4 10.4.0.0/24", "f 192.0.2.6"];
    assert_eq!(peers, expected);
    let expected = [
        "node b: there is another node of this name",
        "node c: its address 192.0.2.2 is another node's",
        "node d: its pod subnet 10.1.0.0/24 is that of node a",
        "node d: its pod subnet 10.2.0.0/24 is that of node b",
        "node e: its address 192.0.2.9 is another node's",
        "node f: its pod subnet 10.9.0.0/24 is that of peer x",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn no_subnet_takes_the_way_to_a_node() {
    let found = cluster(vec![
        node("b", "192.0.2.2", &["192.0.2.0/24", "0.0.0.0/0", "10.2.0.0/24", "127.0.0.0/8"]),
        node("c", "10.2.0.7", &[]),
        node("d", "fd00::4", &[]),
        node("e", "192.0.2.255", &[]),
        node("f", "127.0.0.1", &[]),
        node("g g", "192.0.2.8", &[]),
    ]);
    let (peers, refused) = made(&file(""), &found, &Taken::default());
    assert_eq!(peers, ["b 192.0.2.2 10.2.0.0/24"]);
    let refused = refused.join("\n");
    for part in [
        "node b: its pod subnet 192.0.2.0/24 contains the address 192.0.2.1 of a node",
        "node b: its pod subnet 0.0.0.0/0 is every address",
        "node b: its pod subnet 127.0.0.0/8 ",
        "node c: its address 10.2.0.7 lies in the pod subnet 10.2.0.0/24 of node b",
        "node d: it has fd00::4, and this node no address of that family",
        "node e: its address 192.0.2.255 is the network or broadcast address of 192.0.2.0/24",
        "node f: its address 127.0.0.1 cannot be a node's",
        "node g g: its name: ",
    ] {
        assert!(refused.contains(part), "{part} in\n{refused}");
    }
}

#[test]
fn nobody_gives_away_parts_of_our_pods_but_single_addresses() {
    let found = cluster(vec![node("b", "192.0.2.2", &["10.1.0.128/25", "10.1.0.7/32", "10.0.0.0/8"])]);
    let (peers, refused) = made(&file(""), &found, &Taken::default());
    assert_eq!(peers, ["b 192.0.2.2 10.1.0.7/32 10.0.0.0/8"]);
    assert_eq!(
        refused,
        ["node b: its pod subnet 10.1.0.128/25 lies in 10.1.0.0/24, which is that of node a"]
    );
}

#[test]
fn what_was_added_by_request_and_foreign_routes_are_left_alone() {
    let taken = Taken {
        names: HashSet::from(["b".to_owned()]),
        addresses: HashSet::from(["192.0.2.3".parse().unwrap()]),
        macs: HashSet::from([Mac::of_vtep("d")]),
        prefixes: HashMap::from([("10.5.0.0/24".parse().unwrap(), "is routed to docker0".to_owned())]),
    };
    let nodes = [("b", 2), ("c", 3), ("d", 4), ("e", 5)];
    let nodes = nodes.map(|(name, n)| node(name, &format!("192.0.2.{n}"), &[&format!("10.{n}.0.0/24")]));
    let (peers, refused) = made(&file(""), &cluster(nodes.to_vec()), &taken);
    assert_eq!(peers, ["e 192.0.2.5"]);
    assert_eq!(refused.len(), 4);
    assert!(refused[3].contains("10.5.0.0/24 is routed to docker0"), "{refused:?}");
}

#[test]
fn the_file_goes_before_the_cluster() {
    let pool = |cidr: &str, vxlan_mode| Pool {
        cidr: cidr.parse().unwrap(),
        ipip_mode: EncapMode::Never,
        vxlan_mode,
        nat_outgoing: false,
        verify: false,
    };
    let found = Discovered {
        pools: vec![
            pool("10.0.0.0/8", EncapMode::Always),
            pool("10.0.0.0/8", EncapMode::Never),
            pool("::/0", EncapMode::Never),
        ],
        vxlan_port: Some(8472),
        vni: Some(1.try_into().unwrap()),
        ..cluster(Vec::new())
    };
    let made = |more: &str| compose(&file(more), &found, own(), &Taken::default()).unwrap();
    let plain = made("");
    assert_eq!((plain.config.vxlan.port, plain.config.vxlan.vni.get()), (8472, 1));
    assert_eq!(plain.config.pools, [pool("10.0.0.0/8", EncapMode::Always)]);
    assert_eq!(plain.refused.len(), 2, "{:?}", plain.refused);
    let said = made(
        "[vxlan]\nport = 4789\n[[pool]]\ncidr = \"10.0.0.0/9\"\n[node]\naddress = \"192.0.2.77/25\"\n[local]\nsubnets = [\"10.7.0.0/24\"]\n",
    );
    assert_eq!((said.config.vxlan.port, said.config.vxlan.vni.get()), (4789, 1));
    assert_eq!(said.config.pools, [pool("10.0.0.0/9", EncapMode::Never)]);
    assert_eq!(said.config.node.address, Some("192.0.2.77/25".parse().unwrap()));
    assert_eq!(said.config.local_subnets, ["10.7.0.0/24".parse::<Prefix>().unwrap()]);
}

#[test]
fn the_length_of_the_own_address_is_the_clusters_the_running_one_or_the_hosts() {
    let mut found = cluster(Vec::new());
    found.own.addresses.push("2001:db8::1".parse().unwrap());
    let host = own_addresses(&found, None, |address| Some(if address.is_ipv4() { 20 } else { 60 }));
    assert_eq!(host.address, Some("192.0.2.1/20".parse().unwrap()));
    assert_eq!(host.address6, Some("2001:db8::1/60".parse().unwrap()));
    let running = compose(&file(""), &found, host, &Taken::default()).unwrap().config.node;
    assert_eq!(own_addresses(&found, Some(&running), |_| None), host);
    found.own.net = Some("192.0.2.1/31".parse().unwrap());
    assert_eq!(own_addresses(&found, Some(&running), |_| None).address, found.own.net);
    assert_eq!(own_addresses(&cluster(Vec::new()), None, |_| None), OwnAddresses::default());
}

prop_compose! {
    fn any_node()(
        name in "[a-f]{1,2}",
        address in prop_oneof![(0..8_u8).prop_map(|n| format!("192.0.2.{n}")), (0..8_u8).prop_map(|n| format!("10.1.{n}.1"))],
        subnets in prop::collection::vec((0..4_u8, 8..=32_u8), 0..4),
    ) -> Node {
        let subnet = |(n, len): (u8, u8)| Prefix::containing([10, 1, n, 1].into(), len).unwrap();
        Node { subnets: subnets.into_iter().map(subnet).collect(), ..node(&name, &address, &[]) }
    }
}

proptest! {
    /// A file with what was made would pass `check`.
    #[test]
    fn what_is_made_is_a_checked_configuration(nodes in prop::collection::vec(any_node(), 0..12)) {
        let composed = compose(&file(""), &cluster(nodes), own(), &Taken::default()).unwrap();
        let mut text = "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[local]\nsubnets = [\"10.1.0.0/24\"]\n".to_owned();
        for peer in &composed.config.peers {
            let subnets: Vec<_> = peer.subnets.iter().map(|subnet| format!("\"{subnet}\"")).collect();
            text += &format!(
                "[[peer]]\nname = \"{}\"\naddress = \"{}\"\nsubnets = [{}]\n", peer.name, peer.address, subnets.join(", ")
            );
        }
        prop_assert!(config::parse(&text, "f").is_ok(), "{text}\n{}", config::parse(&text, "f").unwrap_err());
    }
}
