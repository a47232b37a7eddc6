//! RFC 6040 on whole packets: what leaves, and what arrives after the path marked it.

use super::{Node, address, address6, peer, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::encap::ecn;
use crate::net::{DropReason, Mode};
use crate::wire::testing::Spec;
use crate::wire::{Ipv6, ipv4, ipv6};

fn inner(tos: u8, v6: bool) -> Spec {
    let spec = Spec { tos, ..Spec::udp4(&[1, 2, 3]) };
    if v6 { spec.v6() } else { spec }
}

/// Encapsulations, and whether over IPv6.
const WAYS: [(Mode, bool); 4] =
    [(Mode::Ipip, false), (Mode::Vxlan, false), (Mode::Ipip, true), (Mode::Vxlan, true)];

fn node(number: u8, mode: Mode, over_ipv6: bool) -> Node {
    if over_ipv6 { Node::over_ipv6(number, mode) } else { Node::new(number, mode) }
}

#[test]
fn the_outer_header_copies_ecn_and_hides_dscp() {
    for (mode, over_ipv6) in WAYS {
        for (tos, v6) in (0..=255u8).flat_map(|tos| [(tos, false), (tos, true)]) {
            let sent = node(1, mode, over_ipv6).send(&[plain(inner(tos, v6).build())]);
            assert_eq!(sent[0].tos, tos & 3);
            if mode == Mode::Ipip && over_ipv6 {
                assert_eq!(Ipv6::parse(&sent[0].bytes).unwrap().traffic_class(), tos & 3);
            } else if mode == Mode::Ipip {
                assert_eq!(sent[0].bytes[1], tos & 3);
            }
            assert!(sent[0].bytes.ends_with(&inner(tos, v6).build()));
        }
    }
}

#[test]
fn marks_of_the_path_reach_the_inner_packet_or_drop_it() {
    for (mode, over_ipv6) in WAYS {
        for (ecn, outer, v6) in (0..32u8).map(|n| (n & 3, n >> 2 & 3, n >> 4 == 1)) {
            let tos = 0xb8 | ecn;
            let mut sent = node(1, mode, over_ipv6).send(&[plain(inner(tos, v6).build())]);
            sent[0].tos = 0x40 | outer;
            if mode == Mode::Ipip && over_ipv6 {
                ipv6::patch_traffic_class(&mut sent[0].bytes, 0x40 | outer);
            } else if mode == Mode::Ipip {
                // The raw socket shows the outer header; the ancillary TOS plays no part.
                ipv4::patch_tos(&mut sent[0].bytes, 0x40 | outer);
                sent[0].tos = 0;
            }
            let from = if over_ipv6 { address6(1).into() } else { address(1) };
            let (mut node, mut device) = (node(2, mode, over_ipv6), Memory::default());
            node.receive(from, &sent, false, &mut device);
            match ecn::decapsulate(tos, outer) {
                Some(tos) => {
                    assert_eq!(device.output, [plain(inner(tos, v6).build())], "{ecn} {outer}");
                    assert_eq!(node.drops(), []);
                }
                None => {
                    assert_eq!((ecn, outer), (0, 3));
                    assert_eq!(device.output, []);
                    assert_eq!(node.drops(), [(DropReason::Ecn, 1)]);
                }
            }
        }
    }
}

/// Congestion on the path marks one segment of several: it must not spread to the others.
#[test]
fn a_marked_segment_does_not_merge_with_unmarked_ones() {
    let spec = Spec { tos: 2, ..Spec::tcp4(&[5; 3000]) };
    let mut sent = Node::new(1, Mode::Vxlan).send(&[spec.build_gso(1000)]);
    assert_eq!(sent.iter().map(|one| (one.to, one.tos)).collect::<Vec<_>>(), [(address(2), 2); 3]);
    sent[1].tos = 3;
    let (mut node, mut device) = (Node::new(2, Mode::Vxlan), Memory::default());
    node.receive(peer(1).address, &sent, true, &mut device);
    let tos: Vec<_> = device.output.iter().map(|(_, packet)| packet[1]).collect();
    assert_eq!(tos, [2, 3, 2]);
}
