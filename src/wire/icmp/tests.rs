//! Errors about all kinds of packets, read back by etherparse.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv6};
use proptest::prelude::*;

use super::{MAX_V4, MAX_V6, Problem, may_answer, write};
use crate::wire::testing::{Spec, Transport, any_packet, bytes};
use crate::wire::{be16, ipv4, protocol, put16};

const PROBLEMS: [Problem; 3] = [Problem::TooBig { mtu: 1400 }, Problem::NoRoute, Problem::NoHost];

fn source(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 { [10, 244, 1, 0].into() } else { "fd00:10:244:1::".parse().unwrap() }
}

/// The error about `packet`, and what it quotes; etherparse says that it is whole.
fn error(packet: &[u8], problem: Problem) -> (Vec<u8>, Vec<u8>) {
    let mut out = [0xa5; 1300];
    let len = write(&mut out, source(packet), packet, problem).unwrap();
    assert!(out[len..].iter().all(|byte| *byte == 0xa5), "writes no more than it says");
    let out = &out[..len];
    let sliced = SlicedPacket::from_ip(out).unwrap();
    let quote = match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            let header = ip.header();
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            assert_eq!(usize::from(header.total_len()), len);
            assert_eq!(IpAddr::V4(header.source_addr()), source(packet));
            assert_eq!(header.destination(), packet[12..16]);
            let (kind, payload) = (icmp.icmp_type(), icmp.payload());
            let wanted = match problem {
                Problem::TooBig { mtu } => DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
                Problem::NoRoute => DestUnreachableHeader::Network,
                Problem::NoHost => DestUnreachableHeader::Host,
            };
            assert_eq!(kind, Icmpv4Type::DestinationUnreachable(wanted));
            assert_eq!(kind.calc_checksum(payload), icmp.checksum());
            payload.to_vec()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let header = ip.header();
            assert_eq!(usize::from(header.payload_length()) + 40, len);
            assert_eq!(IpAddr::V6(header.source_addr()), source(packet));
            assert_eq!(header.destination(), packet[8..24]);
            let (kind, payload) = (icmp.icmp_type(), icmp.payload());
            let wanted = match problem {
                Problem::TooBig { mtu } => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
                Problem::NoRoute => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute),
                Problem::NoHost => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address),
            };
            assert_eq!(kind, wanted);
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            payload.to_vec()
        }
        other => panic!("{other:?}"),
    };
    (out.to_vec(), quote)
}

proptest! {
    #[test]
    fn errors_are_whole_and_quote_what_they_are_about(spec in any_packet(bytes(0usize..2000))) {
        let packet = spec.build();
        for problem in PROBLEMS {
            let (out, quote) = error(&packet, problem);
            prop_assert!(packet.starts_with(&quote));
            if spec.is_v6() {
                prop_assert_eq!(quote.len(), packet.len().min(MAX_V6 - 48));
                continue;
            }
            let header = usize::from(packet[0] & 15) * 4;
            prop_assert!(out.len() <= MAX_V4);
            prop_assert!(quote.len() >= packet.len().min(header + 8));
            prop_assert!(out.len() <= packet.len() || quote.len() <= header + 8);
            // As much as the two limits leave.
            prop_assert!(out.len() + 1 > MAX_V4.min(packet.len()));
        }
    }

    #[test]
    fn any_bytes_are_judged_without_panic(packet in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
        let mut packet = packet;
        if let Some(first) = packet.first_mut() {
            *first = if v6 { 0x60 } else { 0x40 | *first & 15 };
        }
        let mut out = [0; 1300];
        for source in ["10.244.1.0".parse().unwrap(), "fd00::".parse().unwrap()] {
            let _ = write(&mut out, source, &packet, Problem::NoHost);
        }
        let _ = may_answer(&packet);
    }
}

#[test]
fn golden() {
    let spec = Spec { transport: Transport::Echo(0x1234, 1), ..Spec::tcp4(&[0xee; 100]) };
    let (out, _) = error(&spec.build(), Problem::TooBig { mtu: 1450 });
    assert_eq!(out[..10], [0x45, 0xc0, 0, 128, 0, 0, 0x40, 0, 64, 1]);
    assert_eq!(out[12..20], [10, 244, 1, 0, 10, 244, 1, 10]);
    assert_eq!(out[20..22], [3, 4]);
    assert_eq!(out[24..28], [0, 0, 0x05, 0xaa]);
    assert_eq!(out[28..48], spec.build()[..20]);
    let (out, _) = error(&Spec::tcp6(&[0xee; 100]).build(), Problem::TooBig { mtu: 1450 });
    assert_eq!(out[..8], [0x6c, 0, 0, 0, 0, 168, 58, 64]);
    assert_eq!(out[40..42], [2, 0]);
    assert_eq!(out[44..48], [0, 0, 0x05, 0xaa]);
}

#[test]
fn ipv6_hosts_are_told_no_mtu_that_they_ignore() {
    let mut out = [0; MAX_V6];
    let packet = Spec::tcp6(&[1; 1300]).build();
    write(&mut out, source(&packet), &packet, Problem::TooBig { mtu: 1250 }).unwrap();
    assert_eq!(out[44..48], [0, 0, 0x05, 0x00]);
}

#[test]
fn families_and_room_are_checked() {
    let (v4, v6) = (Spec::tcp4(&[1; 9]).build(), Spec::tcp6(&[1; 9]).build());
    let mut out = [0; 1280];
    assert!(write(&mut out, source(&v6), &v4, Problem::NoHost).is_err());
    assert!(write(&mut out, source(&v4), &v6, Problem::NoHost).is_err());
    let needed = write(&mut out, source(&v4), &v4, Problem::NoHost).unwrap();
    assert!(write(&mut out[..needed - 1], source(&v4), &v4, Problem::NoHost).is_err());
}

fn icmp4(kind: u8) -> Vec<u8> {
    let mut packet = Spec { transport: Transport::Echo(1, 1), ..Spec::tcp4(&[0; 20]) }.build();
    packet[20] = kind;
    packet
}

#[test]
fn no_error_about_an_error() {
    for (kind, answered) in
        [(0, true), (8, true), (13, true), (3, false), (4, false), (5, false), (11, false)]
    {
        assert_eq!(may_answer(&icmp4(kind)), answered, "{kind}");
    }
    let mut packet = Spec { transport: Transport::Echo(1, 1), ..Spec::tcp4(&[0; 20]) }.v6().build();
    assert_eq!((packet[6], packet[40]), (58, 128));
    assert!(may_answer(&packet));
    for kind in [1, 2, 3, 4, 127, 137] {
        packet[40] = kind;
        assert!(!may_answer(&packet), "{kind}");
    }
    // An ICMP packet without a type, and an echo whose IP header hides it behind its total length.
    let mut short = icmp4(8);
    put16(&mut short, 2, 20);
    assert!(!may_answer(&short));
}

/// An IPv6 packet with these extension headers, given without their first byte, and a payload.
fn chain(headers: &[(u8, &[u8])], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Spec::tcp6(&[]).build()[..40].to_vec();
    let kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([last]).collect();
    packet[6] = kinds[0];
    for ((_, rest), next) in headers.iter().zip(&kinds[1..]) {
        packet.push(*next);
        packet.extend_from_slice(rest);
    }
    packet.extend_from_slice(payload);
    let len = packet.len() as u16 - 40;
    put16(&mut packet, 4, len);
    packet
}

#[test]
fn no_error_about_an_error_behind_extension_headers() {
    const OPTIONS: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
    const LONG: (u8, &[u8]) = (0, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    const AH: (u8, &[u8]) = (51, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    const FIRST: (u8, &[u8]) = (44, &[0, 0, 1, 0, 0, 0, 9]);
    const LATER: (u8, &[u8]) = (44, &[0, 0, 8, 0, 0, 0, 9]);
    let (echo, error) = ([128, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]);
    for headers in [&[OPTIONS][..], &[LONG, OPTIONS, FIRST], &[AH], &[LONG, AH, OPTIONS]] {
        assert!(may_answer(&chain(headers, 58, &echo)), "{headers:?}");
        assert!(!may_answer(&chain(headers, 58, &error)), "{headers:?}");
        assert!(may_answer(&chain(headers, 17, &echo)), "{headers:?}");
        let whole = chain(headers, 58, &echo);
        for len in 41..whole.len() - 7 {
            let mut cut = whole[..len].to_vec();
            put16(&mut cut, 4, len as u16 - 40);
            assert!(!may_answer(&cut), "{headers:?} cut to {len}");
        }
    }
    assert!(!may_answer(&chain(&[LATER], 17, &echo)));
    assert!(!may_answer(&chain(&[OPTIONS; 9], 17, &echo)), "more than anybody looks through");
}

/// Of a packet that another error quotes only the beginning is there.
#[test]
fn errors_about_the_beginning_of_a_packet() {
    let options = chain(&[(60, &[0, 1, 4, 0, 0, 0, 0])], 17, &[1; 100]);
    for (packet, least) in [
        (Spec::tcp4(&[0xee; 100]).build(), 28),
        (Spec { options: vec![1; 8], ..Spec::udp4(&[0xee; 100]) }.build(), 36),
        (Spec::tcp6(&[0xee; 100]).build(), 40),
        (options, 48),
    ] {
        let mut out = [0; MAX_V6];
        for len in 0..packet.len() {
            let quote = &packet[..len];
            assert_eq!(may_answer(quote), len >= least, "{least}: {len}");
            if may_answer(quote) {
                let written = write(&mut out, source(&packet), quote, Problem::NoHost).unwrap();
                let headers = if packet[0] >> 4 == 4 { 28 } else { 48 };
                assert_eq!(out[headers..written], packet[..written - headers], "{least}: {len}");
            }
        }
    }
    let mut echo = Spec { transport: Transport::Echo(1, 1), ..Spec::tcp4(&[0; 20]) }.build();
    assert!(may_answer(&echo[..28]));
    echo[20] = 3;
    assert!(!may_answer(&echo[..28]), "an error");
}

#[test]
fn no_error_about_later_fragments() {
    let mut packet = Spec::udp4(&[0; 20]).build();
    for (flags, answered) in [(0, true), (ipv4::MF, true), (ipv4::MF | 1, false), (5, false), (0x1fff, false)]
    {
        put16(&mut packet, 6, flags);
        assert_eq!(may_answer(&packet), answered, "{flags:04x}");
    }
    assert_eq!(be16(&packet, 6), 0x1fff);
    assert_eq!(packet[9], protocol::UDP);
}

#[test]
fn no_error_to_or_about_more_or_less_than_one_host() {
    let with = |source: &str, destination: &str| {
        let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        let spec = if source.is_ipv6() { Spec::udp4(&[1; 9]).v6() } else { Spec::udp4(&[1; 9]) };
        Spec { source, destination, ..spec }.build()
    };
    assert!(may_answer(&with("10.0.0.1", "10.0.0.2")) && may_answer(&with("fd00::1", "fd00::2")));
    for bad in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.9.9.9", "255.255.255.255"] {
        assert!(!may_answer(&with(bad, "10.0.0.2")), "{bad}");
        assert!(!may_answer(&with("10.0.0.1", bad)), "{bad}");
    }
    for bad in ["::", "::1", "ff02::1"] {
        assert!(!may_answer(&with(bad, "fd00::2")), "{bad}");
        assert!(!may_answer(&with("fd00::1", bad)), "{bad}");
    }
}
