//! Tunnel packets inside tunnel packets, and senders that are no peers.

use std::net::IpAddr;

use super::sent::Sent;
use super::{Node, address, forwarding, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::forward::Scope;
use crate::dataplane::packet::Channel;
use crate::net::{DropReason, Mode};
use crate::wire::testing::{Spec, Transport};
use crate::wire::{VnetHdr, ipv4};

fn node(number: u8, mode: Mode, scope: Scope) -> Node {
    Node::with(forwarding(number, mode, None).with_scope(scope))
}

fn nested_allowed() -> Scope {
    Scope { allow_nested: true, ..Scope::default() }
}

/// A pod's packet to the VXLAN port of another.
fn to_vxlan(payload: usize) -> Spec {
    Spec { transport: Transport::Udp(50000, 4789), ..Spec::udp4(&vec![1; payload]) }
}

/// A pod's own IP-in-IP, IPv6-in-IP and GRE packets.
fn with_protocol(number: u8) -> (VnetHdr, Vec<u8>) {
    let mut packet = Spec::udp4(&[1; 40]).build();
    packet[9] = number;
    packet[10..12].fill(0);
    let sum = crate::wire::checksum::finish(crate::wire::checksum::sum(&packet[..ipv4::LEN]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    plain(packet)
}

fn tunnel_packets() -> Vec<(VnetHdr, Vec<u8>)> {
    let mut packets: Vec<_> = [4, 41, 47].map(with_protocol).into();
    packets.extend([
        plain(to_vxlan(60).build()),
        plain(to_vxlan(60).v6().build()),
        to_vxlan(60).build_partial(),
    ]);
    packets
}

#[test]
fn pods_send_no_tunnel_packets_unless_allowed() {
    for mode in [Mode::Ipip, Mode::Vxlan] {
        for packet in tunnel_packets() {
            let mut one = node(1, mode, Scope::default());
            assert_eq!(one.send(std::slice::from_ref(&packet)), []);
            assert_eq!(one.drops(), [(DropReason::Nested, 1)]);
            assert_eq!(node(1, mode, nested_allowed()).send(&[packet]).len(), 1);
        }
        let mut one = node(1, mode, Scope::default());
        assert_eq!(one.send(&[to_vxlan(900).build_gso(100)]), []);
        assert_eq!(one.drops(), [(DropReason::Nested, 9)], "every segment of a super-packet");
    }
}

#[test]
fn no_tunnel_packets_come_out_of_a_tunnel_unless_allowed() {
    for packet in tunnel_packets() {
        let sent = node(1, Mode::Vxlan, nested_allowed()).send(&[packet]);
        for (scope, expected) in [(Scope::default(), 0), (nested_allowed(), 1)] {
            let (mut two, mut device) = (node(2, Mode::Vxlan, scope), Memory::default());
            two.receive(address(1), &sent, true, &mut device);
            assert_eq!((device.output.len(), two.dropped()), (expected, 1 - expected as u64));
            assert_eq!(two.worker.counters.drops(DropReason::Nested), 1 - expected as u64);
        }
    }
}

/// What reaches node 2, whose external nodes are in 198.51.100.0/24, from `outer`.
fn external(outer: IpAddr, spec: &Spec) -> Result<(), Vec<(DropReason, u64)>> {
    let scope = Scope { external_nodes: vec!["198.51.100.0/24".parse().unwrap()], ..Scope::default() };
    let (mut two, mut device) = (node(2, Mode::Vxlan, scope), Memory::default());
    let header = [8, 0, 0, 0, 0, 0x10, 0, 0];
    let ethernet = crate::wire::ethernet::header(crate::net::Mac([2; 6]), crate::net::Mac([4; 6]), 0x0800);
    let bytes = [&header[..], &ethernet, &spec.build()].concat();
    let sent = Sent { channel: Channel::Udp(0), to: address(2), tos: 0, bytes };
    two.receive(outer, &[sent], false, &mut device);
    if device.output.len() == 1 { Ok(()) } else { Err(two.drops()) }
}

#[test]
fn external_nodes_speak_only_for_what_nobody_owns() {
    let from = |source: &str| Spec { source: source.parse().unwrap(), ..Spec::udp4(&[1; 9]) };
    let outer = IpAddr::from([198, 51, 100, 7]);
    for source in ["172.16.0.9", "10.244.99.1", "203.0.113.5"] {
        assert_eq!(external(outer, &from(source)), Ok(()), "{source}");
        assert_eq!(
            external([198, 51, 101, 7].into(), &from(source)),
            Err(vec![(DropReason::UnknownPeer, 1)])
        );
    }
    // A peer's pods, our own, nodes, special addresses.
    for source in
        ["10.244.1.10", "10.244.2.10", "10.244.3.1", "192.0.2.1", "192.0.2.2", "127.0.0.1", "224.0.0.1"]
    {
        assert_eq!(external(outer, &from(source)), Err(vec![(DropReason::SpoofedSource, 1)]), "{source}");
    }
    for destination in ["10.244.3.1", "8.8.8.8", "192.0.2.2"] {
        let spec = Spec { destination: destination.parse().unwrap(), ..from("172.16.0.9") };
        assert_eq!(external(outer, &spec), Err(vec![(DropReason::NotLocal, 1)]), "{destination}");
    }
    let nested = Spec { transport: Transport::Udp(1, 4789), ..from("172.16.0.9") };
    assert_eq!(external(outer, &nested), Err(vec![(DropReason::Nested, 1)]));
    // A peer inside the list is a peer.
    assert_eq!(external(address(1), &from("10.244.1.10")), Ok(()));
}

#[test]
fn a_route_that_covers_special_addresses_carries_none() {
    // 0.0.0.0/1 to the first peer covers 0/8 and 127/8.
    let source = |text: &str| Spec { source: text.parse().unwrap(), ..Spec::udp4(&[1; 9]) };
    for text in ["0.0.0.1", "127.0.0.1"] {
        let mut one = Node::with(forwarding(1, Mode::Vxlan, Some("0.0.0.0/1")));
        let to = Spec { destination: text.parse().unwrap(), ..Spec::udp4(&[1; 9]) };
        assert_eq!(one.send(&[plain(to.build())]), []);
        assert_eq!(one.drops(), [(DropReason::Unsupported, 1)]);
        let mut sent = node(1, Mode::Vxlan, Scope::default()).send(&[plain(Spec::udp4(&[1; 9]).build())]);
        let header = sent[0].bytes.len() - source(text).build().len();
        sent[0].bytes.splice(header.., source(text).build());
        let two = forwarding(2, Mode::Vxlan, Some("0.0.0.0/1"));
        let (mut two, mut device) = (Node::with(two), Memory::default());
        two.receive(address(1), &sent, false, &mut device);
        assert_eq!((device.output.len(), two.drops()), (0, vec![(DropReason::SpoofedSource, 1)]));
    }
}
