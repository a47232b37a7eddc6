//! What is counted for each peer.

use super::{Node, address, forwarding, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::observe::PeerTotals;
use crate::net::{DropReason, Mode};
use crate::route::PeerId;
use crate::wire::testing::Spec;
use crate::wire::{ipv4, put16};

fn totals(node: &Node, peer: u16) -> PeerTotals {
    node.forwarding.peer(PeerId(peer)).unwrap().counters.totals()
}

#[test]
fn both_ends_count_inner_packets_of_a_pair() {
    for mode in [Mode::Ipip, Mode::Vxlan] {
        let (mut here, mut there) = (Node::new(1, mode), Node::new(2, mode));
        // A super-packet of four segments, the last of them short, and a packet.
        let spec = Spec::tcp4(&[7; 3500]);
        let (vnet, super_packet) = spec.build_gso(1000);
        let segments: Vec<usize> = spec.segments(1000).iter().map(|segment| segment.build().len()).collect();
        let packet = Spec::udp4(&[1; 100]).build();
        let bytes = (segments.iter().sum::<usize>() + packet.len()) as u64;
        let packets = segments.len() as u64 + 1;
        let sent = here.send(&[(vnet, super_packet), plain(packet)]);
        // Node 2 is the first peer of node 1, and the other way round.
        let expected = PeerTotals { tx_packets: packets, tx_bytes: bytes, ..PeerTotals::default() };
        assert_eq!(totals(&here, 0), expected, "{mode}");
        assert_eq!(totals(&here, 1), PeerTotals::default());
        there.receive(address(1), &sent, true, &mut Memory::default());
        let expected = PeerTotals { rx_packets: packets, rx_bytes: bytes, ..PeerTotals::default() };
        assert_eq!(totals(&there, 0), expected, "{mode}");
        assert_eq!(totals(&there, 1), PeerTotals::default());
    }
}

#[test]
fn drops_are_counted_for_the_peer_they_concern() {
    let mut here = Node::new(1, Mode::Vxlan);
    here.send(&[plain(Spec::tcp4(&[7; 1500]).build())]);
    let expected = PeerTotals { tx_dropped: 1, ..PeerTotals::default() };
    assert_eq!(totals(&here, 0), expected);
    // What node 2 may send, node 3 may not.
    let sent = here.send(&[plain(Spec::udp4(&[1; 100]).build())]);
    let mut there = Node::new(2, Mode::Vxlan);
    there.receive(address(3), &sent, false, &mut Memory::default());
    assert_eq!(totals(&there, 0), PeerTotals::default());
    assert_eq!(totals(&there, 1), PeerTotals { rx_dropped: 1, ..PeerTotals::default() });
    // Of strangers nobody keeps a count but the drop itself.
    there.receive(address(9), &sent, false, &mut Memory::default());
    assert_eq!((there.dropped(), totals(&there, 1).rx_dropped), (2, 1));
}

/// What is found to be wrong only once the way is known.
#[test]
fn drops_behind_the_routing_are_counted_for_the_peer() {
    let lying = |spec: Spec| {
        let (mut vnet, packet) = spec.build_partial();
        vnet.csum_start += 2;
        (vnet, packet)
    };
    let far = {
        let mut packet = Spec { df: false, ..Spec::udp4(&[7; 4000]) }.build();
        put16(&mut packet, 6, ipv4::MF | 0x1ff0);
        plain(packet)
    };
    let cut = lying(Spec { df: false, ..Spec::udp4(&[7; 4000]) });
    for (input, reason, packets) in [
        (lying(Spec::tcp4(&[7; 100])), DropReason::Malformed, 1),
        (far, DropReason::TooBig, 1),
        (cut, DropReason::Malformed, 3),
    ] {
        let mut here = Node::with(forwarding(1, Mode::Vxlan, None));
        assert_eq!(here.send(&[input]), []);
        assert_eq!(here.drops(), [(reason, packets)]);
        assert_eq!(totals(&here, 0), PeerTotals { tx_dropped: packets, ..PeerTotals::default() });
    }
}
