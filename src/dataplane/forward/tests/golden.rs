//! The bytes of outer packets, in every mode.

use super::sent::Sent;
use super::{Node, address, address6, peer, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::packet::Channel;
use crate::net::Mode;
use crate::wire::VnetHdr;
use crate::wire::testing::{Random, Spec};

/// 31 bytes, ECT(0) under DSCP 46.
fn inner4() -> Spec {
    Spec { tos: 0xba, ..Spec::udp4(&[1, 2, 3]) }
}

/// 51 bytes, ECT(1).
fn inner6() -> Spec {
    Spec { tos: 0x01, ..Spec::udp4(&[1, 2, 3]).v6() }
}

#[rustfmt::skip]
const OUTER4: [u8; 20] = [0x45, 0x02, 0, 0x33, 0, 0, 0x40, 0, 0x40, 4, 0xb6, 0xc1, 192, 0, 2, 1, 192, 0, 2, 2];
#[rustfmt::skip]
const OUTER6: [u8; 20] = [0x45, 0x01, 0, 0x47, 0, 0, 0x40, 0, 0x40, 41, 0xb6, 0x89, 192, 0, 2, 1, 192, 0, 2, 2];

fn sent_by_node_1(mode: Mode, spec: &Spec) -> Sent {
    let mut node = Node::new(1, mode);
    let mut sent = node.send(&[plain(spec.build())]);
    assert_eq!(sent.len(), 1);
    assert_eq!(node.drops(), []);
    assert_eq!(node.worker.counters.device.rx_packets.get(), 1);
    assert_eq!(node.worker.counters.device.rx_bytes.get(), spec.len() as u64);
    sent.remove(0)
}

#[test]
fn ipip() {
    for (spec, outer, tos) in [(inner4(), OUTER4, 2), (inner6(), OUTER6, 1)] {
        let bytes = [&outer[..], &spec.build()].concat();
        let wanted = Sent { channel: Channel::Raw, to: address(2), tos, bytes };
        assert_eq!(sent_by_node_1(Mode::Ipip, &spec), wanted);
    }
}

#[rustfmt::skip]
const OVER6: [u8; 32] = [
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
];

fn sent_over_ipv6(mode: Mode, spec: &Spec) -> Sent {
    let mut node = Node::over_ipv6(1, mode);
    let mut sent = node.send(&[plain(spec.build())]);
    assert_eq!((sent.len(), node.drops()), (1, vec![]));
    sent.remove(0)
}

#[test]
fn ipip_over_ipv6() {
    for (spec, next_header, tos) in [(inner4(), 4, 2), (inner6(), 41, 1)] {
        let sent = sent_over_ipv6(Mode::Ipip, &spec);
        assert_eq!((sent.channel, sent.to, sent.tos), (Channel::Raw6, address6(2).into(), tos));
        let (outer, payload) = etherparse::Ipv6Header::from_slice(&sent.bytes).unwrap();
        assert_eq!((outer.traffic_class, outer.hop_limit, outer.next_header.0), (tos, 64, next_header));
        assert_eq!(usize::from(outer.payload_length), spec.len());
        assert_eq!(payload, spec.build());
        assert_eq!(sent.bytes[8..40], OVER6);
        // The flow label is the flow's: the same for the next packet, another for another flow.
        let again = sent_over_ipv6(Mode::Ipip, &Spec { id: 5, ..spec.clone() });
        let other = Spec { destination: sibling(&spec), ..spec };
        let label = |sent: &Sent| etherparse::Ipv6Header::from_slice(&sent.bytes).unwrap().0.flow_label;
        assert_eq!(label(&again), label(&sent));
        assert_ne!(label(&sent_over_ipv6(Mode::Ipip, &other)), label(&sent));
    }
}

/// Another pod on the node of the destination.
fn sibling(spec: &Spec) -> std::net::IpAddr {
    match spec.destination {
        std::net::IpAddr::V4(_) => "10.244.2.77".parse().unwrap(),
        std::net::IpAddr::V6(_) => "fd00:10:244:2::77".parse().unwrap(),
    }
}

/// Outer IP and UDP header are the kernel's; what is behind them is the same as over IPv4.
#[test]
fn vxlan_over_ipv6() {
    for (spec, tos) in [(inner4(), 2), (inner6(), 1)] {
        let sent = sent_over_ipv6(Mode::Vxlan, &spec);
        let over_ipv4 = sent_by_node_1(Mode::Vxlan, &spec);
        assert_eq!(sent.bytes, over_ipv4.bytes);
        assert_eq!((sent.to, sent.tos), (address6(2).into(), tos));
        let Channel::Udp(port) = over_ipv4.channel else { panic!("{over_ipv4:?}") };
        assert_eq!(sent.channel, Channel::Udp6(port));
    }
}

#[test]
fn vxlan() {
    for (spec, ethertype, tos) in [(inner4(), [0x08, 0x00], 2), (inner6(), [0x86, 0xdd], 1)] {
        #[rustfmt::skip]
        let header = [0x08, 0, 0, 0, 0, 0x10, 0, 0, 0x66, 0, 0, 0, 0, 2, 0x66, 0, 0, 0, 0, 1];
        let sent = sent_by_node_1(Mode::Vxlan, &spec);
        assert_eq!(sent.bytes, [&header[..], &ethertype, &spec.build()].concat());
        assert_eq!((sent.to, sent.tos), (address(2), tos));
        assert!(matches!(sent.channel, Channel::Udp(port) if port < 256));
    }
}

#[test]
fn direct() {
    let wanted = Sent { channel: Channel::Raw, to: address(2), tos: 2, bytes: inner4().build() };
    assert_eq!(sent_by_node_1(Mode::Direct, &inner4()), wanted);
}

#[test]
fn bytes_behind_the_packet_stay_here() {
    for mode in [Mode::Ipip, Mode::Vxlan, Mode::Direct] {
        let mut node = Node::new(1, mode);
        let sent = node.send(&[plain([inner4().build(), vec![9; 5]].concat())]);
        assert_eq!(sent, [sent_by_node_1(mode, &inner4())]);
    }
}

#[test]
fn a_flow_has_one_source_port_and_flows_have_many() {
    let mut node = Node::new(1, Mode::Vxlan);
    let port = |node: &mut Node, spec: Spec| match node.send(&[plain(spec.build())])[0].channel {
        Channel::Udp(port) => port,
        other => panic!("VXLAN on {other:?}"),
    };
    let mut random = Random::new(1);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2000 {
        let mut spec = Spec::tcp4(&[]);
        spec.tcp().source_port = random.next() as u16;
        let first = port(&mut node, spec.clone());
        (spec.payload, spec.id) = (random.bytes(20), 99);
        spec.tcp().sequence_number = random.next() as u32;
        assert_eq!(port(&mut node, spec), first);
        seen.insert(first);
    }
    // 2000 balls in 256 bins leave each empty with probability 0.0004.
    assert!(seen.len() > 250, "{}", seen.len());
    assert!(seen.iter().all(|port| *port < 256));
}

#[test]
fn received_bytes_reach_the_device_as_they_were() {
    #[rustfmt::skip]
    let vxlan = [0x08, 0, 0, 0, 0, 0x10, 0, 0, 0x66, 0, 0, 0, 0, 2, 0x66, 0, 0, 0, 0, 1, 0x08, 0];
    for (channel, header) in [(Channel::Udp(0), &vxlan[..]), (Channel::Raw, &OUTER4[..])] {
        let (mut node, mut device) = (Node::new(2, Mode::Direct), Memory::default());
        let bytes = [header, &inner4().build(), &[0xee; 2]].concat();
        let sent = Sent { channel, to: address(2), tos: 2, bytes };
        node.receive(peer(1).address, std::slice::from_ref(&sent), false, &mut device);
        assert_eq!(device.output, [(VnetHdr::default(), inner4().build())]);
        let outer = sent.bytes.len() as u64 + if channel == Channel::Raw { 0 } else { 28 };
        assert_eq!(node.worker.counters.underlay.rx_packets.get(), 1);
        assert_eq!(node.worker.counters.underlay.rx_bytes.get(), outer);
        assert_eq!(node.worker.counters.device.tx_packets.get(), 1);
        assert_eq!(node.worker.counters.device.tx_bytes.get(), 31);
        assert_eq!(node.drops(), []);
    }
}
