//! Tests of segmentation and merging, both ways and against each other.

mod flow;
mod merge;
mod merge_properties;
mod split;

use super::Split;
use crate::dataplane::packet::{Delivery, Sink};
use crate::wire::VnetHdr;

/// Cuts a super-packet into whole packets.
fn cut(packet: &[u8], vnet: &VnetHdr) -> Vec<Vec<u8>> {
    let mut split = Split::new(packet, vnet).unwrap();
    // Not zero, so that a byte nobody wrote shows.
    let mut head = vec![0xa5; split.header_len()];
    let mut packets = Vec::new();
    while let Some(payload) = split.next_segment(&mut head) {
        packets.push([&head[..], &packet[payload]].concat());
    }
    packets
}

/// One delivery as the device would see it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Delivered {
    vnet: VnetHdr,
    packet: Vec<u8>,
    packets: u32,
    bytes: u64,
}

/// A sink that keeps everything.
#[derive(Default)]
struct Kept(Vec<Delivered>);

impl Sink for Kept {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let mut packet = vec![0xa5; delivery.len()];
        assert_eq!(delivery.gather(&mut packet), Some(packet.len()));
        let (vnet, packets, bytes) = (delivery.vnet, delivery.packets, delivery.bytes);
        self.0.push(Delivered { vnet, packet, packets, bytes });
    }
}
