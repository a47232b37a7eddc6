//! Limits of a batch, and which datagrams share a message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Node, plain};
use crate::dataplane::packet::Datagram;
use crate::dataplane::packet::{Channel, Full, Outbox, Piece};
use crate::net::Mode;
use crate::wire::testing::Spec;

const TO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 4789);

/// Puts datagrams of these sizes, one way, into a fresh batch; (count, segment, bytes) of each
/// message.
fn grouped(channel: Channel, sizes: impl IntoIterator<Item = usize>) -> Vec<(u16, u16, u32)> {
    let mut out = Outbox::default();
    for size in sizes {
        push(&mut out, channel, TO, 0, size);
    }
    summary(&out)
}

fn push(out: &mut Outbox, channel: Channel, to: SocketAddr, tos: u8, size: usize) {
    let (head, _) = out.head(size.min(22));
    let body = Piece::arena(0, size - size.min(22));
    out.push(channel, to, tos, Datagram { head, body, packets: 1, wire_bytes: size as u32 });
}

fn summary(out: &Outbox) -> Vec<(u16, u16, u32)> {
    let mut first = 0;
    for message in out.messages() {
        assert_eq!(message.first, first);
        assert_eq!(out.datagrams(message).len(), usize::from(message.count));
        first += u32::from(message.count);
    }
    out.messages().iter().map(|message| (message.count, message.segment, message.bytes)).collect()
}

#[test]
fn equal_sizes_share_a_message_and_a_smaller_one_ends_it() {
    let udp = Channel::Udp(3);
    assert_eq!(grouped(udp, [500, 500, 500]), [(3, 500, 1500)]);
    assert_eq!(grouped(udp, [500, 500, 100]), [(3, 500, 1100)]);
    assert_eq!(grouped(udp, [500, 100, 100]), [(2, 500, 600), (1, 100, 100)]);
    assert_eq!(grouped(udp, [500, 100, 500]), [(2, 500, 600), (1, 500, 500)]);
    assert_eq!(grouped(udp, [500, 501]), [(1, 500, 500), (1, 501, 501)]);
    assert_eq!(grouped(udp, []), []);
    assert_eq!(grouped(Channel::Udp6(3), [500, 500, 100]), [(3, 500, 1100)]);
}

#[test]
fn a_message_has_64_datagrams_and_65507_bytes_at_most() {
    let udp = Channel::Udp(0);
    assert_eq!(grouped(udp, vec![500; 130]), [(64, 500, 32000), (64, 500, 32000), (2, 500, 1000)]);
    assert_eq!(grouped(udp, vec![1472; 46]), [(44, 1472, 64768), (2, 1472, 2944)]);
    assert_eq!(grouped(udp, [65507]), [(1, 65507, 65507)]);
    assert_eq!(grouped(udp, [65507, 1]), [(1, 65507, 65507), (1, 1, 1)]);
    assert_eq!(grouped(udp, [65000, 507]), [(2, 65000, 65507)]);
    assert_eq!(grouped(udp, [65000, 508]), [(1, 65000, 65000), (1, 508, 508)]);
}

#[test]
fn only_datagrams_that_go_the_same_way_share_a_message() {
    assert_eq!(grouped(Channel::Raw, [500, 500]), [(1, 500, 500), (1, 500, 500)]);
    let other = SocketAddr::new([192, 0, 2, 3].into(), TO.port());
    let other6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), TO.port());
    for (channel, to, tos) in [
        (Channel::Udp(2), TO, 0),
        (Channel::Udp(1), other, 0),
        (Channel::Udp(1), SocketAddr::new(TO.ip(), 4790), 0),
        (Channel::Udp(1), TO, 2),
        (Channel::Udp6(1), other6, 0),
    ] {
        let mut out = Outbox::default();
        push(&mut out, Channel::Udp(1), TO, 0, 500);
        push(&mut out, channel, to, tos, 500);
        push(&mut out, Channel::Udp(1), TO, 0, 500);
        assert_eq!(summary(&out), [(1, 500, 500); 3]);
    }
}

#[test]
fn clearing_makes_room_and_forgets() {
    let mut out = Outbox::default();
    assert!(out.is_empty());
    while out.reserve(1, 22).is_ok() {
        push(&mut out, Channel::Udp(0), TO, 0, 100);
    }
    assert_eq!(out.messages().iter().map(|message| u32::from(message.count)).sum::<u32>(), 4096);
    assert!(!out.is_empty());
    out.clear();
    assert!(out.is_empty() && out.messages().is_empty());
    assert_eq!(out.reserve(4096, 128), Ok(()));
    assert_eq!(out.reserve(4097, 1), Err(Full));
    assert_eq!(out.reserve(4096, 129), Err(Full));
    push(&mut out, Channel::Udp(0), TO, 0, 100);
    assert_eq!(summary(&out), [(1, 100, 100)]);
}

#[test]
fn full_counts_nothing_and_succeeds_after_sending() {
    let mut node = Node::new(1, Mode::Vxlan);
    let mut arena = Spec::tcp4(&[1; 9]).build();
    let len = arena.len();
    let mut taken = 0;
    let mut one = |node: &mut Node| node.outbound(&plain(vec![]).0, &mut arena, 0..len);
    while one(&mut node) == Ok(None) {
        taken += 1;
    }
    assert_eq!((taken, node.worker.counters.device.rx_packets.get()), (4096, 4096));
    assert_eq!(one(&mut node), Err(Full));
    assert_eq!(node.worker.counters.device.rx_packets.get(), 4096);
    node.outbox.clear();
    assert_eq!(one(&mut node), Ok(None));
    assert_eq!(node.worker.counters.device.rx_packets.get(), 4097);
    assert_eq!(node.dropped(), 0);
}

/// The worst super-packet, 1365 segments behind the longest headers, fits an empty batch; a batch
/// takes several and says when not.
#[test]
fn the_worst_super_packet_fits() {
    let fitting = 2;
    for mode in [Mode::Ipip, Mode::Vxlan, Mode::Direct] {
        let mut spec = Spec { options: vec![1; 40], ..Spec::tcp4(&[1; 1365]) };
        spec.tcp().set_options_raw(&[1; 40]).unwrap();
        let (vnet, mut arena) = spec.build_gso(1);
        let len = arena.len();
        let mut node = Node::new(1, mode);
        for _ in 0..fitting {
            assert_eq!(node.outbound(&vnet, &mut arena, 0..len), Ok(None));
        }
        assert_eq!(node.outbound(&vnet, &mut arena, 0..len), Err(Full));
        let packets = fitting * 1365;
        assert_eq!(node.worker.counters.device.rx_packets.get(), packets);
        assert_eq!(node.worker.counters.device.rx_bytes.get(), packets * 121);
        let sent = node.flush(&arena);
        assert_eq!((sent.len() as u64, node.drops()), (packets, vec![]));
        assert_eq!(node.outbound(&vnet, &mut arena, 0..len), Ok(None));
    }
}

/// A super-packet in VXLAN leaves as few messages as the kernel allows.
#[test]
fn a_super_packet_is_one_message() {
    let mut node = Node::new(1, Mode::Vxlan);
    let (vnet, mut arena) = Spec::tcp4(&[1; 64000]).build_gso(1400);
    let len = arena.len();
    node.outbound(&vnet, &mut arena, 0..len).unwrap();
    // 1400 + 40 + 22 = 1462; 44 of them are 64328 bytes.
    assert_eq!(summary(&node.outbox), [(44, 1462, 64328), (2, 1462, 1462 + 1000 + 62)]);
}
