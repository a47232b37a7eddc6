//! Segmentation: golden bytes, a slow oracle, hostile input.

use etherparse::SlicedPacket;
use proptest::prelude::*;

use super::cut;
use crate::dataplane::segment::Split;
use crate::dataplane::segment::split::{MAX_HEADER, MAX_SEGMENTS, finish_checksum};
use crate::wire::testing::{Spec, bytes, set_flags, tcp_or_udp};
use crate::wire::{Ipv4, Ipv6, VnetHdr, put16, vnet_hdr};

/// A super-packet of 1 2 3 4 5 in segments of two, with CWR, PSH and FIN.
#[test]
fn golden_tcp() {
    let mut spec = Spec::tcp4(&[1, 2, 3, 4, 5]);
    set_flags(spec.tcp(), 0x99);
    let (vnet, packet) = spec.build_gso(2);
    #[rustfmt::skip]
    assert_eq!(packet, [
        0x45, 0x00, 0x00, 0x2d, 0x01, 0x00, 0x40, 0x00, 0x3f, 0x06, 0x21, 0xc6, 10, 244, 1, 10, 10, 244, 2, 20,
        0x9c, 0x40, 0x00, 0x50, 0, 0, 0x03, 0xe8, 0, 0, 0, 0x4d, 0x50, 0x99, 0x20, 0, 0x19, 0x25, 0, 0, 1, 2, 3, 4, 5,
    ]);
    assert_eq!(vnet.emit(), [1, 0x81, 40, 0, 2, 0, 20, 0, 16, 0]);
    #[rustfmt::skip]
    assert_eq!(cut(&packet, &vnet), [
        &[
            0x45, 0x00, 0x00, 0x2a, 0x01, 0x00, 0x40, 0x00, 0x3f, 0x06, 0x21, 0xc9, 10, 244, 1, 10, 10, 244, 2, 20,
            0x9c, 0x40, 0x00, 0x50, 0, 0, 0x03, 0xe8, 0, 0, 0, 0x4d, 0x50, 0x90, 0x20, 0, 0xd4, 0x85, 0, 0, 1, 2,
        ][..],
        &[
            0x45, 0x00, 0x00, 0x2a, 0x01, 0x01, 0x40, 0x00, 0x3f, 0x06, 0x21, 0xc8, 10, 244, 1, 10, 10, 244, 2, 20,
            0x9c, 0x40, 0x00, 0x50, 0, 0, 0x03, 0xea, 0, 0, 0, 0x4d, 0x50, 0x10, 0x20, 0, 0xd3, 0x01, 0, 0, 3, 4,
        ],
        &[
            0x45, 0x00, 0x00, 0x29, 0x01, 0x02, 0x40, 0x00, 0x3f, 0x06, 0x21, 0xc8, 10, 244, 1, 10, 10, 244, 2, 20,
            0x9c, 0x40, 0x00, 0x50, 0, 0, 0x03, 0xec, 0, 0, 0, 0x4d, 0x50, 0x19, 0x20, 0, 0xd0, 0xfb, 0, 0, 5,
        ],
    ]);
}

#[test]
fn golden_udp() {
    let (vnet, packet) = Spec::udp4(&[1, 2, 3, 4, 5]).build_gso(3);
    assert_eq!(vnet.emit(), [1, 5, 28, 0, 3, 0, 20, 0, 6, 0]);
    #[rustfmt::skip]
    assert_eq!(cut(&packet, &vnet), [
        &[
            0x45, 0x00, 0x00, 0x1f, 0x01, 0x00, 0x40, 0x00, 0x3f, 0x11, 0x21, 0xc9, 10, 244, 1, 10, 10, 244, 2, 20,
            0x13, 0x88, 0x17, 0x70, 0x00, 0x0b, 0xb7, 0xd8, 1, 2, 3,
        ][..],
        &[
            0x45, 0x00, 0x00, 0x1e, 0x01, 0x01, 0x40, 0x00, 0x3f, 0x11, 0x21, 0xc9, 10, 244, 1, 10, 10, 244, 2, 20,
            0x13, 0x88, 0x17, 0x70, 0x00, 0x0a, 0xb7, 0xd7, 4, 5,
        ],
    ]);
}

/// Sizes that are interesting: tiny, odd, those of real networks, the limit.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    bytes(prop_oneof![0usize..200, 1000usize..9000, 60000usize..=65000, Just(65535 - 120)])
}

fn check_segments(spec: &Spec, size: u16) -> Result<(), TestCaseError> {
    let (vnet, packet) = spec.build_gso(size);
    let Ok(split) = Split::new(&packet, &vnet) else {
        prop_assert!(spec.payload.len().div_ceil(size.into()) > MAX_SEGMENTS);
        return Ok(());
    };
    let (segments, largest) = (split.segments(), split.largest());
    prop_assert_eq!(split.header_len(), spec.header_len());
    let got = cut(&packet, &vnet);
    let wanted: Vec<_> = spec.segments(size).iter().map(Spec::build).collect();
    prop_assert_eq!(got.len(), segments);
    prop_assert_eq!(got.iter().map(Vec::len).max(), Some(largest));
    // Byte by byte: lengths, identification, sequence, flags, both checksums, payload.
    for (got, wanted) in got.iter().zip(&wanted) {
        prop_assert_eq!(got, wanted);
        prop_assert!(SlicedPacket::from_ip(got).is_ok());
    }
    prop_assert_eq!(got.len(), wanted.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn segments_equal_packets_built_one_by_one(
        spec in tcp_or_udp(payload()), size in prop_oneof![1u16..100, 1u16..=1460],
    ) {
        check_segments(&spec, size)?;
    }

    #[test]
    fn finished_checksums_equal_etherparse_s(spec in tcp_or_udp(payload())) {
        let (vnet, mut packet) = spec.build_partial();
        finish_checksum(&mut packet, &vnet).unwrap();
        prop_assert_eq!(packet, spec.build());
    }
}

fn any_vnet() -> impl Strategy<Value = VnetHdr> {
    let offset = || prop_oneof![4 => 0u16..100, 1 => any::<u16>()];
    let kind = prop_oneof![Just(1u8), Just(4), Just(5), Just(0x81), Just(0x84), Just(3), any::<u8>()];
    (any::<u8>(), kind, offset(), offset(), offset(), offset()).prop_map(
        |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHdr {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}

/// Bytes that often have a version and the length of the slice.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    (bytes(prop_oneof![0usize..200, 0usize..5000]), 0u8..4, 5u8..9).prop_map(|(mut bytes, what, words)| {
        let len = bytes.len();
        if len > 60 && what < 3 {
            bytes[0] = if what == 0 { 0x60 } else { 0x40 | words };
            put16(&mut bytes, if what == 0 { 4 } else { 2 }, (if what == 0 { len - 40 } else { len }) as u16);
        }
        bytes
    })
}

/// Whatever a vnet header says: bounded work, bounded reads, and packets whose IP header holds.
fn check_hostile(packet: &[u8], vnet: &VnetHdr) -> Result<(), TestCaseError> {
    let Ok(mut split) = Split::new(packet, vnet) else { return Ok(()) };
    let (segments, header, largest) = (split.segments(), split.header_len(), split.largest());
    prop_assert!((1..=MAX_SEGMENTS).contains(&segments));
    prop_assert!(header <= MAX_HEADER && header <= packet.len() && largest <= packet.len());
    let (mut head, mut count, mut next) = (vec![0; header], 0, header);
    while let Some(payload) = split.next_segment(&mut head) {
        prop_assert_eq!(payload.start, next);
        prop_assert!(payload.end <= packet.len() && header + payload.len() <= largest);
        (count, next) = (count + 1, payload.end);
        let segment = [&head[..], &packet[payload]].concat();
        let total = match segment[0] >> 4 {
            4 => Ipv4::parse(&segment).unwrap().total_len(),
            _ => Ipv6::parse(&segment).unwrap().total_len(),
        };
        prop_assert_eq!(total, segment.len());
    }
    prop_assert_eq!((count, next), (segments, packet.len()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn hostile_bytes_are_refused_or_cut_within_bounds(packet in any_bytes(), vnet in any_vnet()) {
        check_hostile(&packet, &vnet)?;
    }

    #[test]
    fn hostile_vnet_headers_on_real_packets(
        spec in tcp_or_udp(bytes(0usize..3000)), vnet in any_vnet(), near: bool,
    ) {
        let (real, packet) = spec.build_gso(vnet.gso_size);
        let vnet = if near { VnetHdr { csum_start: real.csum_start, ..vnet } } else { vnet };
        check_hostile(&packet, &vnet)?;
    }

    #[test]
    fn hostile_checksum_offsets_write_inside_the_packet_or_not_at_all(
        packet in bytes(0usize..300), vnet in any_vnet(),
    ) {
        let mut after = packet.clone();
        let field = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset);
        let result = finish_checksum(&mut after, &vnet);
        prop_assert_eq!(result.is_ok(), field + 2 <= packet.len());
        let at = field.min(packet.len());
        prop_assert_eq!(&after[..at], &packet[..at]);
        prop_assert_eq!(&after[(at + 2).min(packet.len())..], &packet[(at + 2).min(packet.len())..]);
    }
}

#[test]
fn a_vnet_header_must_fit_its_packet() {
    let (vnet, packet) = Spec::tcp4(&[7; 100]).build_gso(10);
    assert!(Split::new(&packet, &vnet).is_ok());
    let refused = [
        VnetHdr { gso_size: 0, ..vnet },
        VnetHdr { gso_type: vnet_hdr::GSO_NONE, ..vnet },
        VnetHdr { gso_type: vnet_hdr::GSO_TCPV6, ..vnet },
        VnetHdr { gso_type: 3, ..vnet },
        VnetHdr { gso_type: vnet_hdr::GSO_UDP_L4, ..vnet },
        VnetHdr { csum_start: 0, ..vnet },
        VnetHdr { csum_start: 19, ..vnet },
        VnetHdr { csum_start: 24, ..vnet },
        VnetHdr { csum_start: 141, ..vnet },
    ];
    for vnet in refused {
        assert!(Split::new(&packet, &vnet).is_err(), "{vnet:?}");
    }
    for len in 0..packet.len() {
        assert!(Split::new(&packet[..len], &vnet).is_err(), "{len}");
    }
    assert!(Split::new(&[packet, vec![0]].concat(), &vnet).is_err());
}

#[test]
fn a_super_packet_has_a_limited_number_of_segments() {
    let mut spec = Spec::tcp4(&[0; MAX_SEGMENTS]);
    let (vnet, packet) = spec.build_gso(1);
    assert_eq!(cut(&packet, &vnet).len(), MAX_SEGMENTS);
    spec.payload.push(0);
    let (vnet, packet) = spec.build_gso(1);
    assert!(Split::new(&packet, &vnet).is_err());
}
