//! The program that chooses the queue of an outbound packet.

use super::{back, packets};
use crate::dataplane::ebpf::machine::run;
use crate::dataplane::steering::hash::reference;
use crate::dataplane::steering::queue_ebpf::program;
use crate::wire::testing::Spec;

pub(super) fn queue(packet: &[u8]) -> i64 {
    let outcome = run(&program(), packet, false);
    assert_eq!(outcome.packet, packet, "it only looks");
    outcome.result
}

#[test]
fn it_is_the_hash() {
    let packets = packets(20_000);
    let hashed = packets.iter().filter(|packet| reference(packet).is_some()).count();
    assert!(hashed > 10_000, "{hashed}");
    for packet in packets {
        let wanted = i64::from(reference(&packet).unwrap_or_default());
        assert_eq!(queue(&packet), wanted, "{packet:02x?}");
    }
}

#[test]
fn both_ways_of_a_flow_have_one_queue() {
    for spec in [Spec::tcp4(b"data"), Spec::tcp6(b"data"), Spec::udp4(b"data"), Spec::udp4(b"data").v6()] {
        let there = spec.build();
        assert_ne!(queue(&there), 0);
        assert_eq!(queue(&there), queue(&back(&there)));
    }
}
