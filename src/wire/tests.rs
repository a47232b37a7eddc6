//! Property tests: parsing never panics, emitting is its inverse, and etherparse agrees.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Ipv4Header, Ipv4Slice, Ipv6Header, Ipv6Slice, SlicedPacket, TcpHeaderSlice, TcpSlice, TransportSlice,
    UdpHeader, UdpSlice, checksum::Sum16BitWords,
};
use proptest::prelude::*;

use super::testing::{Spec, any_packet, bytes, tcp_header};
use super::{Ipv4, Ipv6, Tcp, Udp, VnetHdr, checksum, ethernet, ipv4, ipv6, put16, vxlan};
use crate::net::{Mac, Vni};

/// Bytes that get past the first checks often: a version, a plausible header length, a length
/// field near the truth.
fn almost_ip() -> impl Strategy<Value = Vec<u8>> {
    (bytes(0usize..140), prop_oneof![Just(0x40u8), Just(0x60), any::<u8>()], 4u8..8, -4i32..4, 0u8..4)
        .prop_map(|(mut bytes, version, words, off, what)| {
            if bytes.len() < 8 || what == 0 {
                return bytes;
            }
            bytes[0] = version & 0xf0 | words;
            let len = bytes.len() as i32 + off;
            put16(
                &mut bytes,
                if version >> 4 == 6 { 4 } else { 2 },
                if version >> 4 == 6 { len - 40 } else { len } as u16,
            );
            bytes
        })
}

fn touch_v4(view: Ipv4<'_>) -> usize {
    let _ = (view.tos(), view.id(), view.flags(), view.is_fragment(), view.ttl(), view.protocol());
    let _ = (view.source(), view.destination(), view.checksum_ok());
    assert_eq!(view.bytes().len(), view.total_len());
    view.header_len() + view.payload().len()
}

fn touch_v6(view: Ipv6<'_>) -> usize {
    let _ = (view.traffic_class(), view.next_header(), view.hop_limit());
    let _ = (view.source(), view.destination());
    assert_eq!(view.bytes().len(), view.total_len());
    ipv6::LEN + view.payload().len()
}

fn touch_tcp(view: Tcp<'_>) -> usize {
    let _ = (view.source_port(), view.destination_port(), view.sequence(), view.acknowledgment());
    let _ = (view.flags(), view.window(), view.checksum());
    assert_eq!(view.options().len() + super::tcp::LEN, view.header_len());
    view.header_len() + view.payload().len()
}

/// Next headers that etherparse looks into and we do not: it may refuse what is behind the IP
/// header, which is no business of an IP parser that forwards.
fn etherparse_looks_into(number: u8) -> bool {
    matches!(number, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn views_of_arbitrary_bytes_never_panic(bytes in prop_oneof![almost_ip(), bytes(0usize..200)]) {
        if let Ok(view) = Ipv4::parse(&bytes) {
            prop_assert_eq!(touch_v4(view), view.total_len());
        }
        if let Ok(view) = Ipv6::parse(&bytes) {
            prop_assert_eq!(touch_v6(view), view.total_len());
        }
        if let Ok(view) = Tcp::parse(&bytes) {
            prop_assert_eq!(touch_tcp(view), bytes.len());
        }
        if let Ok(view) = Udp::parse(&bytes) {
            let _ = (view.source_port(), view.destination_port(), view.checksum());
            prop_assert_eq!(view.payload().len() + 8, bytes.len());
        }
        prop_assert_eq!(ethernet::parse(&bytes).is_ok(), bytes.len() >= 14);
        prop_assert_eq!(vxlan::parse(&bytes).is_ok(), bytes.len() >= 8);
    }

    #[test]
    fn ipv4_is_accepted_as_by_etherparse(bytes in almost_ip()) {
        // Difference: etherparse also demands a whole authentication header (protocol 51).
        prop_assume!(bytes.get(9).is_none_or(|number| *number != 51));
        let (ours, theirs) = (Ipv4::parse(&bytes), Ipv4Slice::from_slice(&bytes));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.payload(), theirs.payload().payload);
            prop_assert_eq!(ours.is_fragment(), theirs.header().is_fragmenting_payload());
            prop_assert_eq!(ours.bytes().len(), usize::from(theirs.header().total_len()));
        }
    }

    #[test]
    fn ipv6_is_accepted_as_by_etherparse(bytes in almost_ip()) {
        // Differences: etherparse walks extension headers, and takes a payload length of 0 for a
        // jumbogram that fills the slice, where we see a packet without payload.
        prop_assume!(bytes.get(6).is_none_or(|number| !etherparse_looks_into(*number)));
        prop_assume!(bytes.len() <= 40 || bytes[4..6] != [0, 0]);
        let (ours, theirs) = (Ipv6::parse(&bytes), Ipv6Slice::from_slice(&bytes));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.payload(), theirs.payload().payload);
        }
    }

    #[test]
    fn tcp_is_accepted_as_by_etherparse(bytes in bytes(0usize..80)) {
        prop_assert_eq!(Tcp::parse(&bytes).is_ok(), TcpHeaderSlice::from_slice(&bytes).is_ok());
    }

    #[test]
    fn udp_is_accepted_as_by_etherparse(bytes in bytes(0usize..40), near in 0usize..4) {
        let mut bytes = bytes;
        if let (Some(len), true) = ((bytes.len() + 1).checked_sub(near), bytes.len() >= 8) {
            put16(&mut bytes, 4, len as u16);
        }
        // Difference: a length field below the bytes there are (or 0, "all of them") is fine with
        // etherparse and malformed here, because nothing may hide behind a datagram.
        let theirs = UdpSlice::from_slice(&bytes).is_ok_and(|udp| usize::from(udp.length()) == bytes.len());
        prop_assert_eq!(Udp::parse(&bytes).is_ok(), theirs);
    }
}

type Checked = Result<(), TestCaseError>;

fn check_ipv4(spec: &Spec, packet: &[u8]) -> Checked {
    let view = Ipv4::parse(packet).unwrap();
    let header = Ipv4Header::from_slice(packet).unwrap().0;
    prop_assert_eq!((view.tos() >> 2, view.tos() & 3), (header.dscp.into(), header.ecn.into()));
    prop_assert_eq!((view.id(), view.ttl()), (header.identification, header.time_to_live));
    prop_assert_eq!(view.flags(), if spec.df { ipv4::DF } else { 0 });
    prop_assert_eq!(view.protocol(), header.protocol.0);
    prop_assert_eq!((view.header_len(), view.total_len()), (header.header_len(), spec.len()));
    prop_assert_eq!(view.source().octets(), header.source);
    prop_assert_eq!(view.destination().octets(), header.destination);
    prop_assert!(view.checksum_ok());
    check_transport(spec, packet, view.payload())
}

fn check_ipv6(spec: &Spec, packet: &[u8]) -> Checked {
    let view = Ipv6::parse(packet).unwrap();
    let header = Ipv6Header::from_slice(packet).unwrap().0;
    prop_assert_eq!((view.traffic_class(), view.next_header()), (header.traffic_class, header.next_header.0));
    prop_assert_eq!((view.hop_limit(), view.total_len()), (header.hop_limit, spec.len()));
    prop_assert_eq!(view.source(), header.source_addr());
    prop_assert_eq!(view.destination(), header.destination_addr());
    check_transport(spec, packet, view.payload())
}

fn check_transport(spec: &Spec, packet: &[u8], l4: &[u8]) -> Checked {
    match SlicedPacket::from_ip(packet).unwrap().transport {
        Some(TransportSlice::Tcp(theirs)) => check_tcp(l4, &theirs),
        Some(TransportSlice::Udp(theirs)) => {
            let view = Udp::parse(l4).unwrap();
            prop_assert_eq!(view.source_port(), theirs.source_port());
            prop_assert_eq!(view.destination_port(), theirs.destination_port());
            prop_assert_eq!((view.checksum(), view.payload()), (theirs.checksum(), theirs.payload()));
            Ok(())
        }
        _ => {
            prop_assert_eq!(&l4[8..], &spec.payload[..]);
            Ok(())
        }
    }
}

fn check_tcp(l4: &[u8], theirs: &TcpSlice<'_>) -> Checked {
    let view = Tcp::parse(l4).unwrap();
    prop_assert_eq!(view.source_port(), theirs.source_port());
    prop_assert_eq!(view.destination_port(), theirs.destination_port());
    prop_assert_eq!(view.sequence(), theirs.sequence_number());
    prop_assert_eq!(view.acknowledgment(), theirs.acknowledgment_number());
    prop_assert_eq!((view.window(), view.checksum()), (theirs.window_size(), theirs.checksum()));
    let flags = [theirs.fin(), theirs.syn(), theirs.rst(), theirs.psh(), theirs.ack(), theirs.urg()];
    let flags = flags.into_iter().chain([theirs.ece(), theirs.cwr()]);
    prop_assert_eq!(view.flags(), flags.rev().fold(0, |byte, flag| byte << 1 | u8::from(flag)));
    prop_assert_eq!((view.options(), view.payload()), (theirs.options(), theirs.payload()));
    Ok(())
}

fn check_emit(repr: ipv4::Repr) -> Checked {
    let emitted = repr.emit();
    let mut packet = emitted.to_vec();
    packet.resize(repr.total_len.into(), 0xa5);
    let view = Ipv4::parse(&packet).unwrap();
    prop_assert!(view.checksum_ok());
    prop_assert_eq!((view.tos(), view.id(), view.flags()), (repr.tos, repr.id, repr.flags));
    prop_assert_eq!((view.ttl(), view.protocol()), (repr.ttl, repr.protocol));
    prop_assert_eq!((view.source(), view.destination()), (repr.source, repr.destination));
    let header = Ipv4Header::from_slice(&packet).unwrap().0;
    prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
    let theirs = header.to_bytes();
    prop_assert_eq!(theirs.as_slice(), &emitted[..]);
    Ok(())
}

/// The finished sum over `l4` between these addresses of either family, without the UDP rule.
fn finished(v4: [[u8; 4]; 2], v6: [[u8; 16]; 2], number: u8, l4: &[u8]) -> [u32; 2] {
    let (len, sum) = (l4.len() as u32, checksum::sum(l4));
    [
        checksum::pseudo_v4(Ipv4Addr::from(v4[0]), Ipv4Addr::from(v4[1]), number, len) + sum,
        checksum::pseudo_v6(Ipv6Addr::from(v6[0]), Ipv6Addr::from(v6[1]), number, len) + sum,
    ]
}

fn address_pairs() -> impl Strategy<Value = ([[u8; 4]; 2], [[u8; 16]; 2])> {
    any::<([[u8; 4]; 2], [[u8; 16]; 2])>()
}

proptest! {
    #[test]
    fn fields_equal_etherparse_s(spec in any_packet(bytes(0usize..100)), behind in bytes(0usize..4)) {
        let packet = [spec.build(), behind].concat();
        if spec.is_v6() {
            check_ipv6(&spec, &packet)?;
        } else {
            check_ipv4(&spec, &packet)?;
        }
    }

    #[test]
    fn ipv4_emit_is_the_inverse_of_parse_and_equals_etherparse(
        (tos, id, flags, ttl) in any::<(u8, u16, u16, u8)>(),
        (number, source, destination) in any::<(u8, [u8; 4], [u8; 4])>(), payload in 0u16..100,
    ) {
        // The top bit of the flags is reserved and etherparse has no place for it.
        let (flags, total_len) = (flags & 0x7fff, 20 + payload);
        let (source, destination) = (source.into(), destination.into());
        check_emit(ipv4::Repr { tos, total_len, id, flags, ttl, protocol: number, source, destination })?;
    }

    #[test]
    fn ipv4_patches_equal_etherparse(spec in any_packet(bytes(0usize..30)), len in 60u16.., id: u16, tos: u8) {
        prop_assume!(!spec.is_v6());
        let mut packet = spec.build();
        ipv4::patch_len_id(&mut packet, len, id);
        ipv4::patch_tos(&mut packet, tos);
        let mut header = Ipv4Header::from_slice(&spec.build()).unwrap().0;
        (header.total_len, header.identification) = (len, id);
        (header.dscp, header.ecn) = ((tos >> 2).try_into().unwrap(), (tos & 3).try_into().unwrap());
        header.header_checksum = header.calc_header_checksum();
        let theirs = header.to_bytes();
        prop_assert_eq!(&packet[..spec.l4()], theirs.as_slice());
    }

    #[test]
    fn ipv6_patches_equal_etherparse(spec in any_packet(bytes(0usize..30)), len: u16, class: u8) {
        let spec = spec.v6();
        let mut packet = spec.build();
        ipv6::patch_payload_len(&mut packet, len);
        ipv6::patch_traffic_class(&mut packet, class);
        let mut header = Ipv6Header::from_slice(&spec.build()).unwrap().0;
        (header.payload_length, header.traffic_class) = (len, class);
        prop_assert_eq!(&packet[..40], header.to_bytes());
    }

    #[test]
    fn small_headers_parse_what_they_emit(
        raw in any::<[u8; 10]>(), macs in any::<[[u8; 6]; 2]>(), ethertype: u16, vni in 0i64..1 << 24,
    ) {
        prop_assert_eq!(VnetHdr::parse(&raw).emit(), raw);
        let frame = ethernet::header(Mac(macs[0]), Mac(macs[1]), ethertype);
        prop_assert_eq!((&frame[..6], &frame[6..12]), (&macs[0][..], &macs[1][..]));
        prop_assert_eq!(ethernet::parse(&frame).unwrap(), (ethertype, &[][..]));
        let header = vxlan::header(Vni::try_from(vni).unwrap());
        prop_assert_eq!(vxlan::parse(&header).unwrap(), (Some(vni as u32), &[][..]));
    }

    #[test]
    fn checksums_equal_etherparse_s(data in bytes(0usize..3000)) {
        let (sum, theirs) = (checksum::sum(&data), Sum16BitWords::new().add_slice(&data));
        prop_assert_eq!(checksum::finish(sum).to_be(), theirs.ones_complement());
        prop_assert_eq!(checksum::finish_udp(sum).to_be(), theirs.to_ones_complement_with_no_zero());
    }

    #[test]
    fn tcp_checksums_equal_etherparse_s(
        header in tcp_header(), payload in bytes(0usize..200), (v4, v6) in address_pairs(),
    ) {
        let l4 = [header.to_bytes().as_slice(), &payload].concat();
        let theirs = [
            header.calc_checksum_ipv4_raw(v4[0], v4[1], &payload).unwrap(),
            header.calc_checksum_ipv6_raw(v6[0], v6[1], &payload).unwrap(),
        ];
        prop_assert_eq!(finished(v4, v6, 6, &l4).map(checksum::finish), theirs);
    }

    #[test]
    fn udp_checksums_equal_etherparse_s(
        ports in any::<(u16, u16)>(), payload in bytes(0usize..200), (v4, v6) in address_pairs(),
    ) {
        let length = 8 + payload.len() as u16;
        let header = UdpHeader { source_port: ports.0, destination_port: ports.1, length, checksum: 0 };
        let l4 = [&header.to_bytes()[..], &payload].concat();
        let theirs = [
            header.calc_checksum_ipv4_raw(v4[0], v4[1], &payload).unwrap(),
            header.calc_checksum_ipv6_raw(v6[0], v6[1], &payload).unwrap(),
        ];
        prop_assert_eq!(finished(v4, v6, 17, &l4).map(checksum::finish_udp), theirs);
    }
}

#[test]
fn where_we_and_etherparse_differ() {
    // A whole IPv6 packet without payload, followed by bytes that are not its own.
    let mut packet = Spec::tcp6(&[]).build();
    put16(&mut packet, 4, 0);
    assert_eq!(Ipv6::parse(&packet).unwrap().total_len(), 40);
    assert_eq!(Ipv6Slice::from_slice(&packet).unwrap().payload().payload.len(), 20);
    // A UDP length of 0 or below the bytes there are.
    let datagram = [0, 1, 0, 2, 0, 8, 0, 0, 9];
    assert!(Udp::parse(&datagram).is_err() && UdpSlice::from_slice(&datagram).is_ok());
    // An authentication header that is cut off.
    let mut packet = Spec::udp4(&[]).build();
    packet[9] = 51;
    assert!(Ipv4::parse(&packet).is_ok() && Ipv4Slice::from_slice(&packet).is_err());
}
