//! ICMP errors have the hash of what they quote.

use std::net::IpAddr;

use super::back;
use super::queue::queue;
use crate::dataplane::steering::hash::reference;
use crate::wire::testing::Spec;
use crate::wire::{icmp, ipv4, ipv6, protocol};

/// The hash, which the queue's program makes too.
fn hash(packet: &[u8]) -> u32 {
    let hash = reference(packet).unwrap();
    assert_eq!(queue(packet), i64::from(hash), "{packet:02x?}");
    hash
}

/// The hash of the addresses alone: the packet as one of a protocol without ports.
fn by_addresses(packet: &[u8]) -> u32 {
    let mut packet = packet.to_vec();
    let at = if packet[0] >> 4 == 4 { 9 } else { 6 };
    packet[at] = protocol::GRE;
    hash(&packet)
}

/// An ICMP error of this type from a router at `router`, to whoever: behind it comes `quote`, whatever it is.
fn error(router: &str, kind: u8, quote: &[u8]) -> Vec<u8> {
    let router: IpAddr = router.parse().unwrap();
    let (about, header) = match router {
        IpAddr::V4(_) => (Spec::udp4(b""), ipv4::LEN),
        IpAddr::V6(_) => (Spec::udp4(b"").v6(), ipv6::LEN),
    };
    let mut out = [0; icmp::MAX_V6];
    icmp::write(&mut out, router, &about.build(), icmp::Problem::NoHost).unwrap();
    out[header] = kind;
    [&out[..header + icmp::LEN], quote].concat()
}

const ROUTER: &str = "192.0.2.77";
const ROUTER6: &str = "2001:db8::77";

#[test]
fn an_error_has_the_hash_of_its_flow() {
    for spec in [Spec::tcp4(b"data"), Spec::udp4(b"data")] {
        for options in [vec![], vec![1; 12]] {
            let there = Spec { options, ..spec.clone() }.build();
            for kind in icmp::ERRORS {
                for packet in [there.clone(), back(&there)] {
                    assert_eq!(hash(&error(ROUTER, kind, &packet)), hash(&there));
                }
            }
            let no_error = error(ROUTER, icmp::ECHO, &there);
            assert_eq!(hash(&no_error), by_addresses(&no_error));
        }
    }
    for spec in [Spec::tcp6(b"data"), Spec::udp4(b"data").v6()] {
        let there = spec.build();
        for kind in [icmp::UNREACHABLE6, icmp::PACKET_TOO_BIG, icmp::TIME_EXCEEDED6, 4, 0, 127] {
            assert_eq!(hash(&error(ROUTER6, kind, &back(&there))), hash(&there));
        }
        for kind in [icmp::ECHO6, icmp::ECHO_REPLY6, 135, 255] {
            let no_error = error(ROUTER6, kind, &there);
            assert_eq!(hash(&no_error), by_addresses(&no_error));
        }
    }
}

#[test]
fn an_error_with_options_is_read_behind_them() {
    let there = Spec::tcp4(b"data").build();
    let plain = error(ROUTER, icmp::UNREACHABLE, &there);
    let mut longer = [&plain[..ipv4::LEN], &[1; 8], &plain[ipv4::LEN..]].concat();
    longer[0] = 0x47;
    assert_eq!(hash(&longer), hash(&there));
}

#[test]
fn where_the_quote_ends_decides_what_it_tells() {
    for (spec, router, header, kind) in [
        (Spec::tcp4(b"data"), ROUTER, ipv4::LEN, icmp::UNREACHABLE),
        (Spec::tcp6(b"data"), ROUTER6, ipv6::LEN, icmp::PACKET_TOO_BIG),
    ] {
        let there = spec.build();
        let whole = error(router, kind, &there);
        let quote = header + icmp::LEN;
        assert_eq!(hash(&whole[..quote + header + 4]), hash(&there));
        for cut in 0..4 {
            assert_eq!(hash(&whole[..quote + header + cut]), by_addresses(&there));
        }
        for cut in header..quote + header {
            assert_eq!(hash(&whole[..cut]), by_addresses(&whole));
        }
    }
}

#[test]
fn quotes_of_what_has_no_ports() {
    let mut fragment = Spec::udp4(b"data").build();
    (fragment[6], fragment[7]) = (0, 9);
    assert_eq!(hash(&error(ROUTER, icmp::TIME_EXCEEDED, &fragment)), by_addresses(&fragment));
    let mut fragment = Spec::udp4(b"data").v6().build();
    fragment[6] = protocol::IPV6_FRAGMENT;
    assert_eq!(hash(&error(ROUTER6, icmp::TIME_EXCEEDED6, &fragment)), by_addresses(&fragment));
    // A quoted error is not followed.
    let inner = error("10.244.9.9", icmp::UNREACHABLE, &Spec::tcp4(b"data").build());
    assert_eq!(hash(&error(ROUTER, icmp::UNREACHABLE, &inner)), by_addresses(&inner));
}

#[test]
fn what_is_no_error_has_its_own_hash() {
    let there = Spec::tcp4(b"data").build();
    // Of the other version.
    let longer = [&there[..], &[0; 40]].concat();
    for (router, quote) in [(ROUTER, Spec::tcp6(b"data").build()), (ROUTER6, longer)] {
        let other = error(router, icmp::UNREACHABLE, &quote);
        assert_eq!(hash(&other), by_addresses(&other));
    }
    // A fragment of an error, the first or a later one.
    for (flags, offset) in [(0x20, 0), (0, 1)] {
        let mut fragment = error(ROUTER, icmp::UNREACHABLE, &there);
        (fragment[6], fragment[7]) = (flags, offset);
        assert_eq!(hash(&fragment), by_addresses(&fragment));
    }
    // The protocol of the other version.
    let mut wrong = error(ROUTER, icmp::UNREACHABLE, &there);
    wrong[9] = protocol::ICMPV6;
    assert_eq!(hash(&wrong), by_addresses(&wrong));
}

#[test]
fn wrong_header_lengths_are_harmless() {
    let there = Spec::tcp4(b"data").build();
    for words in 0..16 {
        let mut outer = error(ROUTER, icmp::UNREACHABLE, &there);
        outer[0] = 0x40 | words;
        hash(&outer);
        let mut quoted = there.clone();
        quoted[0] = 0x40 | words;
        // The ports, if there are any, are where this header says.
        assert_eq!(hash(&error(ROUTER, icmp::UNREACHABLE, &quoted)), hash(&quoted));
    }
}
