//! Every reason for which either flow drops, with the exact count.

use std::net::{IpAddr, Ipv4Addr};

use super::sent::Sent;
use super::{Node, address, address4, address6, forwarding, forwarding_to, outer, peer, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::forward::Peer;
use crate::dataplane::packet::Channel;
use crate::net::{DropReason, Mac, Mode};
use crate::wire::testing::Spec;
use crate::wire::{VnetHdr, be16, ipv4, ipv6, put16, vnet_hdr};

fn to(destination: &str) -> Spec {
    let destination: IpAddr = destination.parse().unwrap();
    let spec = if destination.is_ipv6() { Spec::tcp6(&[1; 90]) } else { Spec::tcp4(&[1; 90]) };
    Spec { destination, ..spec }
}

fn from(source: &str) -> Spec {
    Spec { source: source.parse().unwrap(), ..Spec::tcp4(&[1; 90]) }
}

/// Sends one packet out of node 1, which has a route that covers its peer's own address.
fn outbound(mode: Mode, packet: (VnetHdr, Vec<u8>), reason: DropReason, count: u64) {
    let mut node = Node::with(forwarding(1, mode, Some("192.0.2.0/24")));
    let bytes = packet.1.len() as u64;
    assert_eq!(node.send(&[packet]), []);
    assert_eq!(node.drops(), [(reason, count)]);
    assert_eq!(node.worker.counters.device.rx_packets.get(), count);
    assert!(node.worker.counters.device.rx_bytes.get() >= bytes);
}

/// The same packet alone and as a super-packet of ten, nine times 10 bytes and one header each.
fn outbound_both(mode: Mode, spec: &Spec, reason: DropReason) {
    outbound(mode, plain(spec.build()), reason, 1);
    outbound(mode, spec.build_partial(), reason, 1);
    outbound(mode, spec.build_gso(10), reason, 9);
}

#[test]
fn outbound_unicast_only() {
    for destination in [
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "169.254.1.1",
        "127.0.0.1",
        "ff02::1",
        "fe80::1",
        "::1",
    ] {
        outbound_both(Mode::Vxlan, &to(destination), DropReason::Unsupported);
    }
}

#[test]
fn outbound_ipv6_cannot_go_bare_through_the_raw_socket() {
    outbound_both(Mode::Direct, &Spec::tcp6(&[1; 90]), DropReason::Unsupported);
}

/// Bare packets leave as frames where the next hop is resolved, of either family whatever that of the
/// next hop; through the raw socket only IPv4 ones do, to an IPv4 next hop.
#[test]
fn bare_packets_need_a_way_for_their_family() {
    let hop = Some(Hop { destination: Mac([2; 6]), source: Mac([4; 6]) });
    let (four, six) = (address(2), address6(2).into());
    for (is_ipv6, first, second, packet, expected) in [
        (true, (four, None), None, false, Err(DropReason::Unsupported)),
        (true, (four, None), None, true, Err(DropReason::UnderlayDown)),
        (true, (four, hop), None, true, Ok((Channel::Packet, four))),
        (true, (four, hop), None, false, Err(DropReason::Unsupported)),
        (true, (four, hop), Some((six, None)), true, Err(DropReason::UnderlayDown)),
        (true, (four, None), Some((six, hop)), true, Ok((Channel::Packet, six))),
        (true, (six, hop), None, true, Ok((Channel::Packet, six))),
        (false, (six, hop), None, true, Ok((Channel::Packet, six))),
        (false, (six, hop), None, false, Err(DropReason::Unsupported)),
        (false, (six, hop), Some((four, None)), true, Ok((Channel::Raw, four))),
        (false, (four, None), Some((six, hop)), true, Ok((Channel::Raw, four))),
    ] {
        let peer = |n| Peer { address: first.0, hop: first.1, second, ..peer(n) };
        let mut node = Node::with(forwarding_to(peer, 1, Mode::Direct, None));
        node.paths.packet = packet;
        let spec = if is_ipv6 { Spec::tcp6(&[1; 90]) } else { Spec::tcp4(&[1; 90]) };
        let sent = node.send(&[plain(spec.build())]);
        let case = format!("IPv6 {is_ipv6}, {first:?}, {second:?}, packet socket {packet}");
        match expected {
            Ok((channel, to)) => {
                assert_eq!(
                    sent.iter().map(|one| (one.channel, one.to)).collect::<Vec<_>>(),
                    [(channel, to)],
                    "{case}"
                );
                assert!(sent[0].bytes.ends_with(&spec.build()));
                if channel == Channel::Packet {
                    let ethertype = if is_ipv6 { [0x86, 0xdd] } else { [8, 0] };
                    assert_eq!(sent[0].bytes[22..24], ethertype, "{case}");
                    assert_eq!(sent[0].bytes.len(), 24 + spec.len(), "{case}");
                }
            }
            Err(reason) => assert_eq!((sent.len(), node.drops()), (0, vec![(reason, 1)]), "{case}"),
        }
    }
}

#[test]
fn outbound_sources_must_be_local() {
    for source in ["10.244.2.10", "192.0.2.2", "192.0.2.3", "203.0.113.1", "0.0.0.0"] {
        outbound_both(Mode::Ipip, &from(source), DropReason::SpoofedSource);
    }
    let spec = Spec { source: "fd00:10:244:2::1".parse().unwrap(), ..Spec::tcp6(&[1; 90]) };
    outbound_both(Mode::Ipip, &spec, DropReason::SpoofedSource);
}

#[test]
fn outbound_destinations_need_a_route_to_a_peer() {
    for destination in ["203.0.113.1", "10.244.1.77", "10.244.4.1", "fd00:10:244:1::77", "2001:db8::1"] {
        outbound_both(Mode::Vxlan, &to(destination), DropReason::NoRoute);
    }
}

#[test]
fn outbound_loops_are_cut() {
    for mode in [Mode::Ipip, Mode::Vxlan, Mode::Direct] {
        outbound_both(mode, &to("192.0.2.2"), DropReason::Loop);
    }
}

#[test]
fn outbound_ttl() {
    outbound_both(Mode::Ipip, &Spec { ttl: 0, ..Spec::tcp4(&[1; 90]) }, DropReason::Ttl);
    outbound_both(Mode::Ipip, &Spec { ttl: 0, ..Spec::tcp6(&[1; 90]) }, DropReason::Ttl);
    for spec in [Spec::tcp4(&[]), Spec::tcp6(&[])] {
        let mut node = Node::new(1, Mode::Vxlan);
        assert_eq!(node.send(&[plain(Spec { ttl: 1, ..spec }.build())]).len(), 1);
    }
}

#[test]
fn outbound_too_big_by_one_byte() {
    for (mode, mtu) in [(Mode::Ipip, 1480), (Mode::Vxlan, 1450), (Mode::Direct, 1500)] {
        let fits = Spec::tcp4(&vec![1; mtu - 40]);
        assert_eq!(Node::new(1, mode).send(&[plain(fits.build())]).len(), 1);
        let big = Spec::tcp4(&vec![1; mtu - 39]);
        outbound(mode, plain(big.build()), DropReason::TooBig, 1);
        let whole = Spec::tcp4(&[1; 5000]);
        let segment = (mtu - 40) as u16;
        assert_eq!(Node::new(1, mode).send(&[whole.build_gso(segment)]).len(), 4);
        outbound(mode, whole.build_gso(segment + 1), DropReason::TooBig, 4);
    }
}

#[test]
fn outbound_malformed() {
    let good = Spec::tcp4(&[1; 90]).build();
    let mut version = good.clone();
    version[0] = 0x55;
    let mut header = good.clone();
    header[0] = 0x44;
    let mut total = good.clone();
    put16(&mut total, 2, 131);
    for packet in [vec![], vec![0x45], good[..129].to_vec(), version, header, total, vec![0x60; 39]] {
        outbound(Mode::Vxlan, plain(packet), DropReason::Malformed, 1);
    }
    let (partial, packet) = Spec::tcp4(&[1; 90]).build_partial();
    // Those inside the packet would change addresses, ports or data, which have been judged by then.
    let inside = [(0, 0), (19, 16), (20, 2), (20, 0), (20, 6), (0, 36), (2, 34), (36, 0), (20, 30)];
    for (csum_start, csum_offset) in [(131, 16), (115, 16), (u16::MAX, u16::MAX)].into_iter().chain(inside) {
        let vnet = VnetHdr { csum_start, csum_offset, ..partial };
        outbound(Mode::Vxlan, (vnet, packet.clone()), DropReason::Malformed, 1);
    }
    // A destination port that would become that of tunnels, and behind extension headers.
    let (partial, packet) = Spec::udp4(&[1; 90]).build_partial();
    outbound(Mode::Vxlan, (VnetHdr { csum_offset: 2, ..partial }, packet), DropReason::Malformed, 1);
    let (partial, packet) = behind_options(Spec::udp4(&[1; 90]).v6().build_partial());
    assert_eq!(Node::new(1, Mode::Vxlan).send(&[(partial, packet.clone())]).len(), 1);
    for (csum_start, csum_offset) in [(48, 2), (40, 6), (40, 14), (56, 6)] {
        let vnet = VnetHdr { csum_start, csum_offset, ..partial };
        outbound(Mode::Vxlan, (vnet, packet.clone()), DropReason::Malformed, 1);
    }
    // A super-packet that cannot be cut has no segments to count: it is one packet.
    let (gso, packet) = Spec::tcp4(&[1; 90]).build_gso(10);
    for vnet in [
        VnetHdr { gso_size: 0, ..gso },
        VnetHdr { gso_type: vnet_hdr::GSO_TCPV6, ..gso },
        VnetHdr { gso_type: 77, ..gso },
        VnetHdr { csum_start: 200, ..gso },
        // A channel that segments itself would write where this says.
        VnetHdr { csum_offset: 2, ..gso },
        VnetHdr { csum_offset: 6, ..gso },
        VnetHdr { flags: 0, ..gso },
        VnetHdr { gso_type: vnet_hdr::GSO_UDP_L4, ..gso },
    ] {
        outbound(Mode::Vxlan, (vnet, packet.clone()), DropReason::Malformed, 1);
    }
}

/// The same IPv6 packet with eight bytes of destination options before its transport header.
fn behind_options((vnet, mut packet): (VnetHdr, Vec<u8>)) -> (VnetHdr, Vec<u8>) {
    let options = [packet[6], 0, 1, 4, 0, 0, 0, 0];
    packet[6] = 60;
    let len = be16(&packet, 4) + 8;
    put16(&mut packet, 4, len);
    packet.splice(40..40, options);
    (VnetHdr { csum_start: vnet.csum_start + 8, hdr_len: vnet.hdr_len + 8, ..vnet }, packet)
}

#[test]
fn a_super_packet_says_where_its_transport_header_is() {
    let (gso, packet) = behind_options(Spec::tcp6(&[1; 3000]).build_gso(1000));
    assert_eq!(Node::new(1, Mode::Ipip).send(&[(gso, packet.clone())]).len(), 3);
    for csum_start in [40, 44, 56] {
        outbound(Mode::Ipip, (VnetHdr { csum_start, ..gso }, packet.clone()), DropReason::Malformed, 1);
    }
}

/// RFC 7112.
#[test]
fn a_first_fragment_says_what_it_carries() {
    let fragment = |chain: &[u8]| {
        let mut packet = Spec::udp4(&[]).v6().build();
        packet.truncate(40);
        packet[6] = 44;
        put16(&mut packet, 4, 8 + chain.len() as u16);
        packet.extend([60, 0, 0, 1, 0, 0, 0, 7]);
        packet.extend(chain);
        packet
    };
    for chain in [&[17, 1, 1, 12, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0, 0xc3, 0x50, 0x12, 0xb5]] {
        outbound(Mode::Vxlan, plain(fragment(chain)), DropReason::Malformed, 1);
        for channel in EACH {
            inbound(&wrap(channel, fragment(chain)), DropReason::Malformed);
        }
    }
}

/// What looks like a self-test is counted as one, and nothing else is.
#[test]
fn probes_are_counted_by_themselves() {
    let mut ipip = wrap(Channel::Raw, Vec::new());
    ipip.bytes.truncate(20);
    ipv4::patch_len_id(&mut ipip.bytes, 40, 0);
    ipip.bytes.extend(crate::dataplane::encap::probe::ipip([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 7));
    let bytes = crate::dataplane::encap::probe::VXLAN.to_vec();
    let vxlan = Sent { channel: Channel::Udp(0), to: outer(Channel::Udp(0), 2), tos: 0, bytes };
    for probe in [ipip, vxlan] {
        let (mut node, mut device) = (Node::for_channel(probe.channel, 2, Mode::Vxlan), Memory::default());
        node.receive(outer(probe.channel, 1), &vec![probe.clone(); 5], true, &mut device);
        assert_eq!((node.worker.counters.probes.get(), node.drops(), device.output.len()), (5, vec![], 0));
        assert_eq!(node.worker.counters.underlay.rx_packets.get(), 0);
        // A stranger's is no probe.
        inbound_from([203, 0, 113, 1].into(), &probe, DropReason::UnknownPeer);
    }
}

/// Outer headers of what node 1 sends to node 2.
fn wrap(channel: Channel, inner: Vec<u8>) -> Sent {
    let v6 = inner.first().is_some_and(|byte| byte >> 4 == 6);
    let head = match channel {
        Channel::Raw => {
            let total_len = 20 + inner.len() as u16;
            let (source, destination) = (address4(1), address4(2));
            let protocol = if v6 { 41 } else { 4 };
            ipv4::Repr { tos: 0, total_len, id: 0, flags: 0, ttl: 9, protocol, source, destination }
                .emit()
                .to_vec()
        }
        Channel::Raw6 => {
            let mut head = ipv6::emit(if v6 { 41 } else { 4 }, 9, address6(1), address6(2)).to_vec();
            ipv6::patch_payload_len(&mut head, inner.len() as u16);
            head
        }
        _ => {
            let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
            [&[8, 0, 0, 0, 0, 0x10, 0, 0][..], &[0x66; 12], &ethertype].concat()
        }
    };
    Sent { channel, to: outer(channel, 2), tos: 0, bytes: [head, inner].concat() }
}

const EACH: [Channel; 4] = [Channel::Raw, Channel::Udp(0), Channel::Raw6, Channel::Udp6(0)];

/// Three copies of `sent` reach node 2 from `source`.
fn inbound_from(source: IpAddr, sent: &Sent, reason: DropReason) {
    let (mut node, mut device) = (Node::for_channel(sent.channel, 2, Mode::Vxlan), Memory::default());
    node.receive(source, &[sent.clone(), sent.clone(), sent.clone()], true, &mut device);
    assert_eq!(node.drops(), [(reason, 3)], "{sent:02x?}");
    assert_eq!(device.output, []);
    let overhead = match sent.channel {
        // Of a stranger nobody knows how it would have been answered, but the family is seen.
        Channel::Udp(_) | Channel::Udp6(_) if source.is_ipv4() => 28,
        Channel::Udp(_) | Channel::Udp6(_) => 48,
        _ => 0,
    };
    assert_eq!(node.worker.counters.underlay.rx_packets.get(), 3);
    assert_eq!(node.worker.counters.underlay.rx_bytes.get(), 3 * (sent.bytes.len() + overhead) as u64);
    assert_eq!(node.worker.counters.device.tx_packets.get(), 0);
}

fn inbound(sent: &Sent, reason: DropReason) {
    inbound_from(outer(sent.channel, 1), sent, reason);
}

#[test]
fn inbound_from_peers_only() {
    for channel in EACH {
        let sent = wrap(channel, Spec::tcp4(&[1]).build());
        let strangers = match channel {
            Channel::Raw | Channel::Udp(_) => [IpAddr::from([203, 0, 113, 1]), Ipv4Addr::UNSPECIFIED.into()],
            _ => ["2001:db8:1::1", "fe80::1"].map(|text| text.parse().unwrap()),
        };
        for stranger in strangers.into_iter().chain([2, 9].map(|node| outer(channel, node))) {
            inbound_from(stranger, &sent, DropReason::UnknownPeer);
        }
        // A peer, but not the one the source belongs to.
        inbound_from(outer(channel, 3), &sent, DropReason::SpoofedSource);
    }
}

#[test]
fn inbound_sources_belong_to_their_sender() {
    let sources = ["10.244.3.1", "10.244.2.1", "192.0.2.3", "203.0.113.1", "255.255.255.255"];
    for (channel, source) in EACH.into_iter().flat_map(|channel| sources.map(|source| (channel, source))) {
        inbound(&wrap(channel, from(source).build()), DropReason::SpoofedSource);
        let v6 = Spec { source: "fd00:10:244:3::1".parse().unwrap(), ..Spec::tcp6(&[1]) };
        inbound(&wrap(channel, v6.build()), DropReason::SpoofedSource);
    }
}

#[test]
fn inbound_destinations_are_local() {
    let destinations = ["10.244.3.1", "10.244.1.1", "192.0.2.2", "224.0.0.1", "ff02::1", "fd00:10:244:1::1"];
    for (channel, destination) in EACH.into_iter().flat_map(|channel| destinations.map(|d| (channel, d))) {
        inbound(&wrap(channel, to(destination).build()), DropReason::NotLocal);
    }
}

#[test]
fn inbound_ttl() {
    for channel in EACH {
        inbound(&wrap(channel, Spec { ttl: 0, ..Spec::tcp4(&[1]) }.build()), DropReason::Ttl);
        inbound(&wrap(channel, Spec { ttl: 0, ..Spec::tcp6(&[1]) }.build()), DropReason::Ttl);
    }
}

#[test]
fn inbound_ecn() {
    for channel in [Channel::Udp(0), Channel::Udp6(0)] {
        let mut vxlan = wrap(channel, Spec::tcp4(&[1]).build());
        vxlan.tos = 3;
        inbound(&vxlan, DropReason::Ecn);
    }
    let mut ipip6 = wrap(Channel::Raw6, Spec::tcp4(&[1]).build());
    ipv6::patch_traffic_class(&mut ipip6.bytes, 0xff);
    inbound(&ipip6, DropReason::Ecn);
    let mut ipip = wrap(Channel::Raw, Spec::tcp6(&[1]).build());
    ipv4::patch_tos(&mut ipip.bytes, 0xff);
    inbound(&ipip, DropReason::Ecn);
}

#[test]
fn inbound_vni() {
    let good = wrap(Channel::Udp(0), Spec::tcp4(&[1]).build());
    for (at, value) in [(0, 0x00), (0, 0xf7), (4, 1), (5, 0x11), (6, 1)] {
        let mut bad = good.clone();
        bad.bytes[at] = value;
        inbound(&bad, DropReason::BadVni);
    }
}

#[test]
fn inbound_kinds_that_are_not_carried() {
    let mut arp = wrap(Channel::Udp(0), Spec::tcp4(&[1]).build());
    arp.bytes[20..22].copy_from_slice(&[8, 6]);
    inbound(&arp, DropReason::Unsupported);
    let mut gre = wrap(Channel::Raw, Spec::tcp4(&[1]).build());
    gre.bytes[9] = 47;
    inbound(&gre, DropReason::Unsupported);
}

#[test]
fn inbound_malformed() {
    let good = Spec::tcp4(&[1; 9]).build();
    let bad = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    let mut no_protocol = Spec::tcp4(&[1; 9]);
    no_protocol.options = vec![0; 4];
    let mut no_protocol = no_protocol.build();
    let checksum = be16(&no_protocol, 10);
    no_protocol[9] = 0;
    put16(&mut no_protocol, 10, crate::wire::checksum::update(checksum, 6, 0));
    // Truncated, header length, total length, checksum, an address without its checksum, protocol 0.
    let inner = [good[..48].to_vec(), bad(0, 0x44), bad(3, 99), bad(10, 0), bad(15, 11), no_protocol, vec![]];
    for (channel, inner) in EACH.into_iter().flat_map(|c| inner.clone().map(|inner| (c, inner))) {
        inbound(&wrap(channel, inner), DropReason::Malformed);
        inbound(&wrap(channel, Spec::tcp6(&[1; 9]).build()[..68].to_vec()), DropReason::Malformed);
    }
    for len in 0..22 {
        let mut sent = wrap(Channel::Udp(0), good.clone());
        sent.bytes.truncate(len);
        inbound(&sent, DropReason::Malformed);
    }
    for len in 0..69 {
        let mut sent = wrap(Channel::Raw, good.clone());
        sent.bytes.truncate(len);
        inbound(&sent, DropReason::Malformed);
    }
    // Outer and inner disagree about the version.
    let mut sent = wrap(Channel::Udp(0), good.clone());
    sent.bytes[20..22].copy_from_slice(&[0x86, 0xdd]);
    inbound(&sent, DropReason::Malformed);
    let mut sent = wrap(Channel::Raw, good.clone());
    sent.bytes[9] = 41;
    inbound(&sent, DropReason::Malformed);
    let mut sent = wrap(Channel::Raw6, good.clone());
    sent.bytes[6] = 41;
    inbound(&sent, DropReason::Malformed);
    // The kernel hands over whole outer IPv6 headers only, so it is the inner packet that ends early.
    for len in 0..good.len() {
        inbound(&wrap(Channel::Raw6, good[..len].to_vec()), DropReason::Malformed);
    }
}

#[test]
fn one_bad_packet_of_a_batch_is_the_only_one_dropped() {
    let good = wrap(Channel::Udp(0), Spec::tcp4(&[1; 9]).build());
    let mut bad = good.clone();
    bad.bytes[5] = 0;
    let (mut node, mut device) = (Node::new(2, Mode::Vxlan), Memory::default());
    node.receive(peer(1).address, &[good.clone(), bad, good], true, &mut device);
    assert_eq!(node.drops(), [(DropReason::BadVni, 1)]);
    assert_eq!(device.output, vec![plain(Spec::tcp4(&[1; 9]).build()); 2]);
    assert_eq!(node.worker.counters.device.tx_packets.get(), 2);
}
