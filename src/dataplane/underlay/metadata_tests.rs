//! Which packets the metadata socket takes, and what it knows of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

use super::metadata::{Known, MetadataSocket, key};
use super::metadata_filter::{inner_at, link_header};
use super::setup::Setup;
use super::sys;
use crate::dataplane::encap::{ipip, ipip6, vxlan};
use crate::dataplane::segment::{Metadata, MetadataSource};
use crate::net::{Mac, Vni};
use crate::wire::testing::Spec;
use crate::wire::{VnetHdr, ethernet, ipv6, protocol, put16, vnet_hdr};

const PORT: u16 = 4789;
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const HERE6: Ipv6Addr = Ipv6Addr::LOCALHOST;

fn sized(gso_size: u16) -> Metadata {
    Metadata { gso_size, ..Metadata::default() }
}

#[test]
fn what_is_known_is_taken_once_and_oldest_first() {
    let mut known = Known::default();
    for (key, size) in [(7, 1), (8, 2), (7, 3)] {
        known.push(key, sized(size));
    }
    let sizes = [7, 9, 7, 7, 8, 8].map(|key| known.take(key).map(|metadata| metadata.gso_size));
    assert_eq!(sizes, [Some(1), None, Some(3), None, Some(2), None]);
}

#[test]
fn what_nobody_asks_about_goes_away() {
    let mut known = Known::default();
    for count in 0..u64::from(u16::MAX) {
        known.push(1 + count, sized(count as u16));
    }
    assert_eq!(known.take(1), None);
    let newest = known.take(u64::from(u16::MAX)).map(|metadata| metadata.gso_size);
    assert_eq!(newest, Some(u16::MAX - 1));
    // Much older than a packet that has just come.
    assert_eq!(known.take(u64::from(u16::MAX) - 2000), None);
    assert_eq!(known.take(u64::from(u16::MAX) - 500), Some(sized(u16::MAX - 501)));
}

#[test]
fn a_key_tells_packets_apart_and_forgives_what_changes_on_the_way() {
    for spec in [Spec::tcp4(&[1; 500]), Spec::udp4(&[1; 500]), Spec::tcp6(&[1; 500])] {
        let packet = spec.build();
        let whole = key(&packet, 5);
        assert!(whole.is_some());
        assert_eq!(key(&packet[..spec.l4() + 40], 5), whole, "of the beginning alone");
        assert_eq!(key(&packet[..spec.l4() + 39], 5), None);
        assert_ne!(key(&packet, 6), whole, "with another seed");
        let marked = Spec { tos: 3, ..spec.clone() }.build();
        assert_eq!(key(&marked, 5), whole);
        for change in 0..spec.l4() + 40 {
            let mut other = packet.clone();
            other[change] ^= 0x10;
            let same = if spec.is_v6() { change < 4 } else { [0, 1, 2, 10, 11].contains(&change) };
            assert!(same || key(&other, 5) != whole, "byte {change}");
        }
    }
    for short in [&[][..], &[0x45; 19], &[0x60; 39], &[0x4f; 60]] {
        let _ = key(short, 5);
    }
}

#[test]
fn the_inner_packet_is_found_in_every_outer_one() {
    for (outer, at) in [
        (ipip::template(HERE, HERE, protocol::IPIP).to_vec(), Some(20)),
        (ipip6::template(HERE6, HERE6, protocol::IPV6).to_vec(), Some(40)),
        (options6(protocol::IPIP), Some(48)),
        (udp_header(), Some(50)),
        (vec![0x45; 9], None),
        (vec![0x45; 20], None),
        (vec![], None),
    ] {
        assert_eq!(inner_at(&outer), at, "{outer:02x?}");
    }
    assert_eq!(link_header(libc::ARPHRD_ETHER), Some(14));
    assert_eq!(link_header(libc::ARPHRD_NONE), Some(0));
    assert_eq!(link_header(libc::ARPHRD_IEEE80211_RADIOTAP), None);
}

/// An outer IPv6 header with the tunnel encapsulation limit of Linux (RFC 2473 §4.1.1).
fn options6(number: u8) -> Vec<u8> {
    let mut outer = ipip6::template(HERE6, HERE6, 60).to_vec();
    outer.extend([number, 0, 4, 1, 4, 1, 1, 0]);
    outer
}

fn udp_header() -> Vec<u8> {
    let mut outer = ipip::template(HERE, HERE, protocol::UDP).to_vec();
    outer.extend(40_000u16.to_be_bytes());
    outer.extend(PORT.to_be_bytes());
    outer.extend([0; 4]);
    outer.extend(vxlan::template(Vni::CALICO, Mac::default(), Mac::default(), ethernet::IPV4));
    outer
}

/// What a receiver sees of `inner` in each kind of tunnel.
fn tunnelled(inner: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let number = if inner[0] >> 4 == 6 { protocol::IPV6 } else { protocol::IPIP };
    let mut four = ipip::template(HERE, HERE, number);
    ipip::patch(&mut four, 0, inner.len());
    let mut datagram = udp_header();
    let len = datagram.len() + inner.len();
    put16(&mut datagram, 24, (len - 20) as u16);
    let mut header: [u8; 20] = datagram[..20].try_into().expect("20 bytes");
    ipip::patch(&mut header, 0, len - 20);
    datagram[..20].copy_from_slice(&header);
    let mut six = ipip6::template(HERE6, HERE6, number).to_vec();
    let mut limited = options6(number);
    for outer in [&mut six, &mut limited] {
        let payload = outer.len() - ipv6::LEN + inner.len();
        put16(outer, 4, payload as u16);
    }
    [("IPv4", four.to_vec()), ("VXLAN", datagram), ("IPv6", six), ("limited", limited)]
        .map(|(name, outer)| (name, [outer, inner.to_vec()].concat()))
        .to_vec()
}

/// Sends a frame that this host receives over its loopback interface.
fn loop_back(sender: &Socket, vnet: &VnetHdr, packet: &[u8]) {
    let ethertype = if packet[0] >> 4 == 6 { ethernet::IPV6 } else { ethernet::IPV4 };
    let mut frame = vnet.emit().to_vec();
    frame.extend([0; 12]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    let sent = sender.send(&frame);
    assert!(sent.is_ok(), "{sent:?}: {vnet:?} {:02x?}", &packet[..60]);
}

fn sender() -> Socket {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).expect("CAP_NET_RAW");
    sys::set_packet_vnet_header(&socket).expect("a vnet header");
    sys::bind_to_interface(&socket, 1).expect("the loopback interface");
    socket
}

fn open(workers: u16) -> Vec<MetadataSocket> {
    let (address, address6) = (Some(HERE), Some(HERE6));
    let segment_sizes = true;
    let setup = Setup { address, address6, vxlan_port: PORT, workers, segment_sizes, ..Setup::default() };
    (0..workers).map(|index| MetadataSocket::open(&setup, index).expect("CAP_NET_RAW")).collect()
}

/// A vnet header in front of a frame whose inner packet begins at `inner`.
fn vnet_of(metadata: &Metadata, spec: &Spec, inner: usize) -> VnetHdr {
    let Some(start) = metadata.csum_start else { return VnetHdr::default() };
    let at = (ethernet::LEN + inner) as u16;
    VnetHdr {
        flags: vnet_hdr::NEEDS_CSUM,
        hdr_len: at + spec.header_len() as u16,
        csum_start: at + start,
        csum_offset: if spec.is_tcp() { 16 } else { 6 },
        ..VnetHdr::default()
    }
}

#[test]
#[ignore = "needs root, and a network of its own"]
fn the_kernel_tells_of_every_unfinished_packet_once() {
    let (mut sockets, sender) = (open(3), sender());
    let options = Spec { options: vec![1, 1, 1, 0], ..Spec::tcp4(&[3; 4000]) };
    let mut used = [0; 3];
    for (number, spec) in (0u16..).zip(
        [
            Spec::tcp4(&[3; 4000]),
            Spec::udp4(&[7; 4000]),
            Spec::tcp6(&[3; 4000]),
            Spec::udp4(&[7; 999]).v6(),
            options,
        ]
        .into_iter()
        .cycle()
        .take(60),
    ) {
        let spec = Spec { id: number, source: flow_of(&spec, number), ..spec };
        // Super-packets inside a tunnel cannot be sent from here; the namespace tests have some.
        let (vnet, partial) = spec.build_partial();
        let single = Metadata { csum_start: Some(vnet.csum_start), ..Metadata::default() };
        for (packet, known, wanted) in [
            (&partial, single, Some(single)),
            // It only looks unfinished.
            (&partial, Metadata::default(), Some(Metadata::default())),
            (&spec.build(), Metadata::default(), None),
        ] {
            for (tunnel, outer) in tunnelled(packet) {
                let at = outer.len() - packet.len();
                loop_back(&sender, &vnet_of(&known, &spec, at), &outer);
                let told: Vec<_> = sockets.iter_mut().map(|socket| socket.of(packet)).collect();
                let one: Vec<_> = told.iter().flatten().copied().collect();
                assert_eq!(one, wanted.into_iter().collect::<Vec<_>>(), "{tunnel}: {spec:?}");
                if let Some(who) = told.iter().position(Option::is_some) {
                    used[who] += 1;
                }
            }
        }
    }
    assert!(used.iter().all(|count| *count > 20), "all have their share: {used:?}");
    // What is no tunnel packet to here, or already joined with others.
    let (_, partial) = Spec::tcp4(&[9; 100]).build_partial();
    let mut elsewhere = tunnelled(&partial)[0].1.clone();
    elsewhere[19] ^= 2;
    let mut fragment = tunnelled(&partial)[0].1.clone();
    put16(&mut fragment, 6, 0x2000);
    let mut joined = tunnelled(&partial)[1].1.clone();
    joined.extend(&partial);
    put16(&mut joined, 24, 4000);
    let mut port = tunnelled(&partial)[1].1.clone();
    port[22] ^= 1;
    for packet in [&elsewhere, &fragment, &joined, &port, &partial] {
        loop_back(&sender, &VnetHdr::default(), packet);
        assert!(sockets.iter_mut().all(|socket| socket.of(&partial).is_none()), "{packet:02x?}");
    }
}

/// Another address for every number, so that flows spread.
fn flow_of(spec: &Spec, number: u16) -> IpAddr {
    match spec.source {
        IpAddr::V4(_) => Ipv4Addr::new(10, 244, 1, number as u8).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, number).into(),
    }
}

#[test]
#[ignore = "needs root, and a network of its own"]
fn once_asked_for_the_kernel_tells_of_every_packet_in_ipip() {
    let (mut sockets, sender) = (open(1), sender());
    let packet = Spec::udp4(&[7; 300]).build();
    let told = |socket: &mut MetadataSocket| -> Vec<bool> {
        tunnelled(&packet)
            .into_iter()
            .map(|(_, outer)| {
                loop_back(&sender, &VnetHdr::default(), &outer);
                socket.of(&packet).is_some()
            })
            .collect()
    };
    assert_eq!(told(&mut sockets[0]), [false; 4]);
    assert!(!sockets[0].knows_all());
    sockets[0].want_all();
    assert!(sockets[0].knows_all());
    assert_eq!(told(&mut sockets[0]), [true, false, true, true]);
}

#[test]
#[ignore = "needs root, and a network of its own"]
fn many_more_than_fit_are_survived() {
    let (mut sockets, sender) = (open(1), sender());
    let packets: Vec<_> =
        (0..6000u16).map(|id| Spec { id, df: false, ..Spec::udp4(&[1; 100]) }.build_partial().1).collect();
    for packet in &packets {
        loop_back(&sender, &VnetHdr::default(), &tunnelled(packet)[0].1);
    }
    let known = packets.iter().filter(|packet| sockets[0].of(packet).is_some()).count();
    assert!((1000..=packets.len()).contains(&known), "{known}");
    // And then it goes on.
    let next = Spec { id: 7000, ..Spec::udp4(&[1; 100]) }.build_partial().1;
    loop_back(&sender, &VnetHdr::default(), &tunnelled(&next)[0].1);
    assert!(sockets[0].of(&next).is_some());
}
