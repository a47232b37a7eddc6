//! Classification against etherparse.

use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;

use crate::dataplane::segment::Flow;
use crate::wire::testing::{Random, any_packet, bytes};

proptest! {
    #[test]
    fn a_flow_says_what_etherparse_says(spec in any_packet(bytes(0usize..60)), behind in bytes(0usize..4)) {
        let packet = [spec.build(), behind].concat();
        let flow = Flow::of(&packet).unwrap();
        let sliced = SlicedPacket::from_ip(&packet).unwrap();
        let number = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => ip.header().protocol(),
            NetSlice::Ipv6(ip) => ip.header().next_header(),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!((flow.source, flow.destination), (spec.source, spec.destination));
        prop_assert_eq!((flow.total_len, flow.l4), (spec.len(), spec.l4()));
        prop_assert_eq!((flow.protocol, flow.tos, flow.ttl), (number.0, spec.tos, spec.ttl));
        prop_assert!(!flow.fragment);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in bytes(0usize..100), first: u8) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        if let Ok(flow) = Flow::of(&bytes) {
            prop_assert!(flow.l4 <= flow.total_len && flow.total_len <= bytes.len());
        }
    }
}

/// Source ports are taken from the hash, so it must spread flows that differ in one field only.
#[test]
fn hashes_spread_over_ports_and_addresses() {
    use crate::wire::testing::Spec;
    let mut random = Random::new(7);
    for vary_port in [true, false] {
        for v6 in [true, false] {
            let mut buckets = [0u32; 64];
            for index in 0..6400u16 {
                let mut spec = if v6 { Spec::tcp6(&[]) } else { Spec::tcp4(&[]) };
                if vary_port {
                    spec.tcp().source_port = index + 1024;
                } else {
                    spec.source = match spec.source {
                        std::net::IpAddr::V4(_) => (0x0a00_0000 + u32::from(index)).to_be_bytes().into(),
                        std::net::IpAddr::V6(_) => ((0xfd << 120) + u128::from(index)).to_be_bytes().into(),
                    };
                    spec.tcp().window_size = random.next() as u16;
                }
                let hash = Flow::of(&spec.build()).unwrap().hash;
                buckets[(hash >> 26) as usize] += 1;
            }
            // 100 each on average; five standard deviations either way.
            assert!(buckets.iter().all(|count| (50..=150).contains(count)), "{buckets:?}");
        }
    }
}
