//! Who may use which inner source, in both directions.

use std::net::IpAddr;

use super::sent::Sent;
use super::{Node, address, forwarding, forwarding_to, peer, plain, policy, underlay};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::forward::{Compiler, Forwarding, Inputs, Peer, Scope};
use crate::dataplane::packet::Channel;
use crate::net::{DropReason, Mode, Prefix};
use crate::route::{PeerId, Rib, Source, Target};
use crate::wire::testing::Spec;

const DELIVERED: Option<DropReason> = None;
const SPOOFED: Option<DropReason> = Some(DropReason::SpoofedSource);

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Node 1 also sends from 192.0.2.11, and for 10.8.0.0/16 and fd00:8::/32; other peers have nothing of that.
fn generous(node: u8) -> Peer {
    if node != 1 {
        return peer(node);
    }
    Peer {
        also_from: addresses(&["192.0.2.11"]).into(),
        sends_for: prefixes(&["10.8.0.0/16", "10.244.0.0/16", "192.0.2.0/24", "fd00:8::/32"]).into(),
        ..peer(1)
    }
}

/// The fate of a packet from `source` to a pod of the node of `tables`, number 2, sent by `outer`.
fn fate(tables: &Forwarding, outer: IpAddr, source: &str) -> Option<DropReason> {
    let (mut two, mut device) = (Node::with(tables.clone()), Memory::default());
    let source: IpAddr = source.parse().unwrap();
    let base = if source.is_ipv4() { Spec::udp4(&[1; 9]) } else { Spec::udp4(&[1; 9]).v6() };
    let ethertype = if source.is_ipv4() { 0x0800 } else { 0x86dd };
    let header = [8, 0, 0, 0, 0, 0x10, 0, 0];
    let mac = crate::net::Mac;
    let ethernet = crate::wire::ethernet::header(mac([2; 6]), mac([4; 6]), ethertype);
    let bytes = [&header[..], &ethernet, &Spec { source, ..base }.build()].concat();
    let sent = Sent { channel: Channel::Udp(0), to: address(2), tos: 0, bytes };
    two.receive(outer, &[sent], false, &mut device);
    match (device.output.len(), &two.drops()[..]) {
        (1, []) => None,
        (0, [(reason, 1)]) => Some(*reason),
        other => panic!("{source}: {other:?}"),
    }
}

#[test]
fn a_node_speaks_for_itself_and_for_what_is_listed() {
    let tables = forwarding_to(generous, 2, Mode::Vxlan, None);
    for (outer, source, expected) in [
        // Sockets of its host: all of its underlay addresses, whichever it sends from.
        (1, "192.0.2.1", DELIVERED),
        (1, "192.0.2.11", DELIVERED),
        (11, "192.0.2.1", DELIVERED),
        (11, "10.244.1.10", DELIVERED),
        (1, "10.8.3.4", DELIVERED),
        (1, "fd00:8::9", DELIVERED),
        // A list is about what has no owner: no pods, no nodes.
        (1, "10.244.3.1", SPOOFED),
        (1, "10.244.2.10", SPOOFED),
        (1, "192.0.2.3", SPOOFED),
        (1, "192.0.2.2", SPOOFED),
        (1, "192.0.2.77", DELIVERED),
        (1, "203.0.113.1", SPOOFED),
        (3, "10.8.3.4", SPOOFED),
        (3, "192.0.2.1", SPOOFED),
        (3, "192.0.2.11", SPOOFED),
        (3, "192.0.2.3", DELIVERED),
        (3, "fd00:8::9", SPOOFED),
        (12, "10.244.1.10", Some(DropReason::UnknownPeer)),
    ] {
        assert_eq!(fate(&tables, address(outer), source), expected, "{source} from {outer}");
    }
}

#[test]
fn nothing_from_the_underlay_speaks_for_this_host() {
    let host = addresses(&[
        "192.0.2.2",
        "172.17.0.1",
        "10.8.0.1",
        "10.244.1.77",
        "fd00:10:244:1::77",
        "198.51.100.2",
    ]);
    let scope = Scope { external_nodes: prefixes(&["203.0.113.0/24"]), ..Scope::default() };
    let tables = forwarding_to(generous, 2, Mode::Vxlan, None).with_scope(scope).with_host(&host);
    let external = IpAddr::from([203, 0, 113, 7]);
    for (outer, source) in [
        // Interfaces that the configuration does not know.
        (external, "172.17.0.1"),
        (external, "198.51.100.2"),
        (external, "192.0.2.2"),
        // Inside what a peer may send for, and inside its very subnet.
        (address(1), "10.8.0.1"),
        (address(1), "10.244.1.77"),
        (address(1), "fd00:10:244:1::77"),
        (address(1), "192.0.2.2"),
    ] {
        assert_eq!(fate(&tables, outer, source), SPOOFED, "{source} from {outer}");
    }
    for (outer, source) in [(external, "172.17.0.2"), (address(1), "10.8.0.2"), (address(1), "10.244.1.78")] {
        assert_eq!(fate(&tables, outer, source), DELIVERED, "{source} from {outer}");
    }
}

/// The fate of a packet that comes out of the TUN of node 1.
fn sent(node: &mut Node, source: &str, destination: &str) -> Result<usize, Vec<(DropReason, u64)>> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let sent = node.send(&[plain(Spec { source, destination, ..Spec::udp4(&[1; 9]) }.build())]);
    if sent.is_empty() { Err(node.drops()) } else { Ok(sent.len()) }
}

#[test]
fn this_node_sends_for_itself_and_for_what_is_listed() {
    let scope =
        Scope { sends_for: prefixes(&["10.8.0.0/16", "10.244.0.0/16", "192.0.2.0/24"]), ..Scope::default() };
    let tables = forwarding(1, Mode::Ipip, None).with_scope(scope);
    for (source, good) in [
        ("192.0.2.1", true),
        ("10.8.0.9", true),
        ("192.0.2.99", true),
        ("10.244.9.9", true),
        // Others' pods and nodes.
        ("10.244.2.10", false),
        ("192.0.2.2", false),
        ("198.51.100.1", false),
    ] {
        let expected = if good { Ok(1) } else { Err(vec![(DropReason::SpoofedSource, 1)]) };
        assert_eq!(sent(&mut Node::with(tables.clone()), source, "10.244.2.20"), expected, "{source}");
    }
    let listed = Scope { sends_for: prefixes(&["2001:db8::1/128"]), ..Scope::default() };
    for (scope, good) in [(Scope::default(), false), (listed, true)] {
        let mut node = Node::with(forwarding(1, Mode::Ipip, None).with_scope(scope));
        assert_eq!(sent(&mut node, "2001:db8::1", "fd00:10:244:2::20").is_ok(), good, "a pod could forge it");
    }
    let mut plain = Node::with(forwarding(1, Mode::Ipip, None));
    assert_eq!(sent(&mut plain, "192.0.2.1", "10.244.2.20"), Ok(1), "without any list");
    assert_eq!(sent(&mut plain, "10.8.0.9", "10.244.2.20"), Err(vec![(DropReason::SpoofedSource, 1)]));
}

#[test]
fn the_addresses_of_hosts_inside_a_route_are_no_pods() {
    // 192.0.2.0/28 leads to node 2, and all three nodes have their addresses in it.
    let tables = forwarding(1, Mode::Ipip, Some("192.0.2.0/28"));
    for node in [1, 2, 3] {
        let target = address(node).to_string();
        let looped = Err(vec![(DropReason::Loop, 1)]);
        assert_eq!(sent(&mut Node::with(tables.clone()), "10.244.1.10", &target), looped, "{target}");
    }
    assert_eq!(sent(&mut Node::with(tables.clone()), "10.244.1.10", "192.0.2.9"), Ok(1));
    let inward = forwarding(2, Mode::Vxlan, Some("192.0.2.0/28"));
    for (source, expected) in
        [("192.0.2.1", DELIVERED), ("192.0.2.9", DELIVERED), ("192.0.2.3", SPOOFED), ("192.0.2.2", SPOOFED)]
    {
        assert_eq!(fate(&inward, address(1), source), expected, "{source}");
    }
}

/// A route that is added later covers the address of a host as one that was there before, and leaves it again.
#[test]
fn the_addresses_of_hosts_inside_a_new_route_are_no_pods() {
    let (peers, policy) = ([peer(2), peer(3)], policy(Mode::Ipip));
    let other: IpAddr = [172, 17, 0, 1].into();
    for inside in [address(1), address(2), address(3), other] {
        let mut compiler = Compiler::default();
        compiler.set_host(&[other]);
        let mut without = Rib::default();
        without.insert("10.244.1.0/24".parse().unwrap(), Source::Local, Target::Local).unwrap();
        let route = Prefix::containing(inside, 31).unwrap();
        let mut with = without.clone();
        with.insert(route, Source::Static, Target::Peer(PeerId(0))).unwrap();
        let inputs = |rib| Inputs { underlay: underlay(1, 1500), peers: &peers, policy: &policy, rib };
        compiler.compile(inputs(&without)).unwrap();
        let tables = compiler.apply(inputs(&with), &[route]).unwrap();
        let looped = Err(vec![(DropReason::Loop, 1)]);
        assert_eq!(sent(&mut Node::with(tables), "10.244.1.10", &inside.to_string()), looped, "{inside}");
        let tables = compiler.apply(inputs(&without), &[route]).unwrap();
        assert!(!tables.is_exempt(inside), "{inside}");
    }
}
