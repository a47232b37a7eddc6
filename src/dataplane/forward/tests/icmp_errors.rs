//! What the senders of packets that go nowhere or do not fit are told, and what is cut instead.

use std::net::Ipv4Addr;

use super::sent::Sent;
use super::{Node, forwarding_with, peer, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::forward::icmp_errors::BURST;
use crate::dataplane::forward::{Peer, TunLink};
use crate::dataplane::packet::{Channel, Family};
use crate::net::{DropReason, Mode};
use crate::wire::icmp::{Problem, write};
use crate::wire::testing::{Spec, Transport};
use crate::wire::{Ipv4, be16, ipv4, put16};

/// The error that node 1 must send about `packet`.
fn expected(packet: &[u8], problem: Problem) -> Vec<u8> {
    let source = if packet[0] >> 4 == 4 { "10.244.1.0" } else { "fd00:10:244:1::" };
    let mut out = [0; 1280];
    let len = write(&mut out, source.parse().unwrap(), packet, problem).unwrap();
    out[..len].to_vec()
}

fn to(destination: &str) -> Spec {
    let destination: std::net::IpAddr = destination.parse().unwrap();
    let spec = if destination.is_ipv6() { Spec::tcp6(&[1; 90]) } else { Spec::tcp4(&[1; 90]) };
    Spec { destination, ..spec }
}

#[test]
fn too_big_tells_the_mtu_of_the_path() {
    for (mode, mtu) in [(Mode::Ipip, 1480), (Mode::Vxlan, 1450), (Mode::Direct, 1500)] {
        let mut node = Node::new(1, mode);
        let packet = Spec::udp4(&[1; 1600]).build();
        assert_eq!(node.send(&[plain(packet.clone())]), []);
        assert_eq!(node.drops(), [(DropReason::TooBig, 1)]);
        assert_eq!(node.replies(), [expected(&packet, Problem::TooBig { mtu })]);
        assert_eq!(
            (node.worker.counters.icmp_sent.get(), node.worker.counters.icmp_suppressed.get()),
            (1, 0)
        );
        assert_eq!(node.worker.counters.device.tx_packets.get(), 0, "no traffic of others");
        assert_eq!(node.replies(), Vec::<Vec<u8>>::new());
    }
    let mut node = Node::new(1, Mode::Vxlan);
    let packet = Spec::tcp6(&[1; 1600]).build();
    node.send(&[plain(packet.clone())]);
    assert_eq!(node.replies(), [expected(&packet, Problem::TooBig { mtu: 1450 })]);
}

/// Peers behind a path that carries outer packets of `mtu` bytes.
fn narrow(mtu: u16) -> impl Fn(u8) -> Peer {
    move |node| Peer { path_mtu: Some(mtu), ..peer(node) }
}

/// A router on the way to the peer has said what fits. Bare packets are no business of ours there.
#[test]
fn a_smaller_path_counts_where_there_is_an_outer_header() {
    for (mode, mtu) in [(Mode::Ipip, 1280), (Mode::Vxlan, 1250), (Mode::Direct, 1500)] {
        let mut node = Node::with(forwarding_with(narrow(1300), 1, mode, None, TUN));
        let packet = Spec::udp4(&vec![1; usize::from(mtu) - 27]).build();
        node.send(&[plain(packet.clone())]);
        assert_eq!(node.replies(), [expected(&packet, Problem::TooBig { mtu })]);
        assert_eq!(node.send(&[plain(Spec::udp4(&vec![1; usize::from(mtu) - 28]).build())]).len(), 1);
        // The uplink itself has no more than that.
        let mut node = Node::with(forwarding_with(narrow(9000), 1, mode, None, TUN));
        assert_eq!(node.send(&[plain(Spec::udp4(&[1; 1473]).build())]), []);
    }
}

fn udp6(payload: &[u8]) -> Spec {
    Spec::udp4(payload).v6()
}

/// What IPv6 demands of every link is carried: in fragments of the outer packet, which the kernel makes.
#[test]
fn a_path_too_narrow_for_ipv6_carries_1280_bytes_in_fragments() {
    let tun = TunLink { address6: Some("fd00:10:244:1::".parse().unwrap()), ..TUN };
    let head = 8 + 14;
    for (mode, udp, overhead) in [(Mode::Ipip, false, 0), (Mode::Vxlan, true, head)] {
        let way = if udp { Channel::FragmentingUdp(Family::V4) } else { Channel::FragmentingRaw(Family::V4) };
        let new = || Node::with(forwarding_with(narrow(1280), 1, mode, None, tun));
        let inner = |sent: &[Sent]| sent.iter().map(|one| one.bytes[overhead..].to_vec()).collect::<Vec<_>>();
        let of = |packet: usize| udp6(&vec![1; packet - 48]);

        let mut node = new();
        let sent = node.send(&[plain(of(1280).build())]);
        assert_eq!((sent[0].channel, inner(&sent)), (way, vec![of(1280).build()]));
        assert_ne!(node.send(&[plain(of(1200).build())])[0].channel, way);
        assert_eq!((node.replies(), node.drops()), (Vec::<Vec<u8>>::new(), vec![]));

        // One more than that is an error, as everywhere.
        let packet = of(1281).build();
        assert_eq!(node.send(&[plain(packet.clone())]), []);
        let mtu = if udp { 1230 } else { 1260 };
        assert_eq!(node.replies(), [expected(&packet, Problem::TooBig { mtu })]);

        for (spec, size) in [(Spec::tcp6(&[1; 9000]), 1220), (udp6(&[1; 9000]), 1232)] {
            let mut node = new();
            let sent = node.send(&[spec.build_gso(size)]);
            let segments: Vec<_> = spec.segments(size).iter().map(Spec::build).collect();
            assert_eq!(inner(&sent), segments);
            assert!(sent.iter().all(|one| one.channel == way));
            assert_eq!(node.send(&[spec.build_gso(size + 1)]), []);
        }
        // IPv4 has its own way: an error, or fragments inside.
        let mut node = new();
        assert_eq!(node.send(&[plain(Spec::udp4(&[1; 1252]).build())]), []);
        assert_eq!(node.replies().len(), 1);
    }
    let mut node = Node::with(forwarding_with(narrow(9000), 1, Mode::Direct, None, tun));
    assert_eq!(node.send(&[plain(udp6(&[1; 1501 - 48]).build())]), []);
}

const TUN: TunLink = TunLink {
    mtu: 1500,
    address: Some(Ipv4Addr::new(10, 244, 1, 0)),
    address6: None,
    answers_as_target: false,
    hairpin: false,
};

/// One error for all segments of a super-packet, by the size of the segments.
#[test]
fn of_a_super_packet_the_segment_size_counts() {
    for spec in [Spec::tcp4(&[1; 9000]), Spec::tcp6(&[1; 9000]), Spec::udp4(&[1; 9000])] {
        let mut node = Node::new(1, Mode::Vxlan);
        let fits = 1450 - (spec.build().len() - 9000) as u16;
        let (vnet, packet) = spec.build_gso(fits + 1);
        node.send(&[(vnet, packet.clone())]);
        assert_eq!(node.drops(), [(DropReason::TooBig, 7)]);
        assert_eq!(node.replies(), [expected(&packet, Problem::TooBig { mtu: 1450 })]);
        assert_eq!(node.send(&[spec.build_gso(fits)]).len(), 7);
        assert_eq!(node.replies(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn no_route_and_no_host() {
    for (destination, problem) in [
        ("203.0.113.1", Problem::NoRoute),
        ("10.244.9.1", Problem::NoRoute),
        ("2001:db8::1", Problem::NoRoute),
        ("10.244.1.77", Problem::NoHost),
        ("fd00:10:244:1::77", Problem::NoHost),
    ] {
        let mut node = Node::new(1, Mode::Ipip);
        let packet = to(destination).build();
        assert_eq!(node.send(&[plain(packet.clone())]), []);
        assert_eq!(node.drops(), [(DropReason::NoRoute, 1)]);
        assert_eq!(node.replies(), [expected(&packet, problem)], "{destination}");
    }
}

/// What came through the tunnel for a pod that does not exist, and that the kernel sends back in.
#[test]
fn a_packet_that_bounces_off_the_kernel_ends_here() {
    let mut node = Node::new(1, Mode::Vxlan);
    let bounced = Spec { source: [10, 244, 2, 20].into(), ..to("10.244.1.77") }.build();
    assert_eq!(node.send(&[plain(bounced.clone())]), []);
    assert_eq!(node.drops(), [(DropReason::NoRoute, 1)]);
    assert_eq!(node.replies(), [expected(&bounced, Problem::NoHost)]);
    // Of somebody unknown nobody is told anything.
    let stranger = Spec { source: [203, 0, 113, 1].into(), ..to("10.244.1.77") };
    node.send(&[plain(stranger.build())]);
    assert_eq!(node.drops(), [(DropReason::NoRoute, 1), (DropReason::SpoofedSource, 1)]);
    assert_eq!(node.replies(), Vec::<Vec<u8>>::new());
}

#[test]
fn silence() {
    let mut error = Spec { transport: Transport::Echo(1, 1), ..to("203.0.113.1") }.build();
    error[20] = 11;
    let mut fragment = Spec::udp4(&[1; 1600]).build();
    put16(&mut fragment, 6, ipv4::DF | 7);
    let spoofed = Spec { source: [10, 244, 2, 1].into(), ..to("203.0.113.1") }.build();
    for packet in [error, fragment, spoofed, to("224.0.0.1").build(), to("169.254.1.1").build()] {
        let mut node = Node::new(1, Mode::Vxlan);
        node.send(&[plain(packet)]);
        assert_eq!(node.dropped(), 1);
        assert_eq!(node.replies(), Vec::<Vec<u8>>::new());
        assert_eq!(
            (node.worker.counters.icmp_sent.get(), node.worker.counters.icmp_suppressed.get()),
            (0, 0)
        );
    }
    // A TUN without an address of the family.
    let tables = forwarding_with(peer, 1, Mode::Vxlan, None, TunLink::default());
    let mut node = Node::with(tables);
    node.send(&[plain(to("203.0.113.1").build()), plain(to("2001:db8::1").build())]);
    assert_eq!(node.replies(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_flood_is_answered_a_few_times_and_counted() {
    let mut node = Node::new(1, Mode::Vxlan);
    let count = 10 * BURST as usize;
    node.send(&vec![plain(to("203.0.113.1").build()); count]);
    assert_eq!(node.drops(), [(DropReason::NoRoute, count as u64)]);
    assert_eq!(node.replies().len(), BURST as usize);
    assert_eq!(node.worker.counters.icmp_suppressed.get(), u64::from(9 * BURST));
}

/// DF clear: what does not fit is cut, and counts as what it is cut into.
#[test]
fn packets_that_may_be_fragmented_are() {
    let spec = Spec { df: false, ..Spec::udp4(&[7; 4000]) };
    for (mode, mtu, count) in [(Mode::Ipip, 1480, 3), (Mode::Vxlan, 1450, 3), (Mode::Direct, 1500, 3)] {
        for input in [plain(spec.build()), spec.build_partial()] {
            let mut node = Node::new(1, mode);
            let sent = node.send(&[input]);
            assert_eq!((sent.len(), node.drops(), node.replies()), (count, vec![], vec![]));
            let bytes = (4028 + 2 * 20) as u64;
            assert_eq!(node.worker.counters.device.rx_packets.get(), count as u64);
            assert_eq!(node.worker.counters.device.rx_bytes.get(), bytes);
            let inner: Vec<Vec<u8>> = if mode == Mode::Direct {
                sent.into_iter().map(|one| one.bytes).collect()
            } else {
                assert!(sent.windows(2).all(|two| two[0].channel == two[1].channel), "one path");
                let (mut receiver, mut device) = (Node::new(2, mode), Memory::default());
                receiver.receive(super::address(1), &sent, true, &mut device);
                device.output.into_iter().map(|(_, packet)| packet).collect()
            };
            assert!(
                inner.iter().all(|packet| packet.len() <= mtu && Ipv4::parse(packet).unwrap().checksum_ok())
            );
            let payload: Vec<u8> = inner.iter().flat_map(|packet| packet[20..].to_vec()).collect();
            assert_eq!(payload, spec.build()[20..]);
            let offsets: Vec<u16> = inner.iter().map(|packet| be16(packet, 6) & 0x1fff).collect();
            assert!(offsets.is_sorted() && offsets[0] == 0);
        }
    }
}

/// DF clear: segments that do not fit are cut, too, as the kernel does where it forwards a super-packet.
#[test]
fn segments_that_may_be_fragmented_are() {
    let options = Spec { options: vec![0x94, 4, 0, 0, 1, 1, 1, 0], ..Spec::udp4(&[7; 4000]) };
    for base in [Spec::tcp4(&[3; 9000]), Spec::udp4(&[7; 9000]), options] {
        let spec = Spec { df: false, ..base };
        for (mode, mtu, size) in
            [(Mode::Ipip, 1480, 1460), (Mode::Vxlan, 1450, 1460), (Mode::Direct, 1500, 1999)]
        {
            let mut node = Node::new(1, mode);
            let sent = node.send(&[spec.build_gso(size)]);
            assert_eq!((node.drops(), node.replies()), (vec![], vec![]));
            let inner: Vec<Vec<u8>> = if mode == Mode::Direct {
                sent.iter().map(|one| one.bytes.clone()).collect()
            } else {
                let (mut receiver, mut device) = (Node::new(2, mode), Memory::default());
                receiver.receive(super::address(1), &sent, true, &mut device);
                device.output.into_iter().map(|(_, packet)| packet).collect()
            };
            assert_eq!(node.worker.counters.device.rx_packets.get(), sent.len() as u64);
            let bytes: usize = inner.iter().map(Vec::len).sum();
            assert_eq!(node.worker.counters.device.rx_bytes.get(), bytes as u64);
            let good = |packet: &Vec<u8>| packet.len() <= mtu && Ipv4::parse(packet).unwrap().checksum_ok();
            assert!(inner.iter().all(good));
            assert_eq!(reassembled(&inner), payloads(&spec, size));
        }
        // With DF the sender is told.
        let mut node = Node::new(1, Mode::Vxlan);
        assert_eq!(node.send(&[Spec { df: true, ..spec }.build_gso(1460)]).len(), 0);
        assert_eq!((node.drops()[0].0, node.replies().len()), (DropReason::TooBig, 1));
    }
}

/// What is behind the IP header of each segment, with its identification.
fn payloads(spec: &Spec, size: u16) -> Vec<(u16, Vec<u8>)> {
    let segments = spec.segments(size).into_iter().map(|segment| segment.build());
    segments.map(|packet| (be16(&packet, 4), Ipv4::parse(&packet).unwrap().payload().to_vec())).collect()
}

/// The same of fragments that are in order.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<(u16, Vec<u8>)> {
    let mut whole: Vec<(u16, Vec<u8>)> = Vec::new();
    for packet in fragments {
        let ip = Ipv4::parse(packet).unwrap();
        let offset = usize::from(ip.flags() & 0x1fff) * 8;
        if offset == 0 {
            whole.push((ip.id(), Vec::new()));
        }
        let (id, payload) = whole.last_mut().unwrap();
        assert_eq!((ip.id(), offset), (*id, payload.len()), "in order and without gaps");
        payload.extend_from_slice(ip.payload());
    }
    whole
}

#[test]
fn what_may_be_fragmented_but_cannot_is_dropped() {
    let mut packet = Spec { df: false, ..Spec::udp4(&[7; 4000]) }.build();
    put16(&mut packet, 6, 0x1ff0);
    let mut node = Node::new(1, Mode::Vxlan);
    assert_eq!(node.send(&[plain(packet)]), []);
    assert_eq!(node.drops(), [(DropReason::TooBig, 1)]);
}
