//! Packets that go back to the device they came from, because the kernel is to deliver them: what pods of this node send
//! one another or to the outside, and what comes to them from there.
//!
//! The kernel leads such packets to the device where everything of local pods is to be judged
//! ([`TunLink::hairpin`](crate::dataplane::forward::TunLink)), and never leads back what was written to it.

use std::net::IpAddr;
use std::ops::Range;

use super::{OutboundCx, Weight, count, dropped};
use crate::dataplane::forward::scope::{is_link_local, is_special};
use crate::dataplane::forward::tables::Forwarding;
use crate::dataplane::packet::{Delivery, Direction};
use crate::dataplane::policy::Ends;
use crate::dataplane::segment::{Flow, unfinished};
use crate::net::DropReason;
use crate::route::NextHop;
use crate::wire::VnetHdr;

/// A packet or super-packet to be written to the device it was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hairpin {
    /// What is left to do to it.
    vnet: VnetHdr,
    /// Where it lies in the arena.
    at: Range<usize>,
    /// The number of packets it stands for.
    packets: u32,
    /// Their bytes on the wire, each with its own headers.
    bytes: u64,
}

impl Hairpin {
    /// The same for the device: `arena` is where it was read to.
    pub fn delivery<'a>(&self, arena: &'a [u8]) -> Delivery<'a> {
        let (vnet, head) = (self.vnet, &arena[self.at.clone()]);
        Delivery { vnet, head, pieces: &[], arena: &[], packets: self.packets, bytes: self.bytes }
    }
}

/// A packet that the kernel is to deliver.
pub(super) struct Local {
    /// What it is.
    pub flow: Flow,
    /// Whose rules it is judged by.
    pub ends: Ends,
}

/// Takes the packet in `cx.arena[at]`, which is `local`, and counts it.
pub(super) fn packet(
    cx: &mut OutboundCx<'_>,
    local: &Local,
    vnet: &VnetHdr,
    at: Range<usize>,
) -> Option<Hairpin> {
    let (flow, packet) = (&local.flow, &cx.arena[at.clone()]);
    count(cx.worker, Weight { packets: 1, bytes: packet.len() });
    // Only the packet goes back, not what lies behind it.
    let (at, packet) = (at.start..at.start + flow.total_len, &packet[..flow.total_len]);
    let vnet = match vnet.needs_csum() {
        true if !unfinished::is_of_transport(flow, packet, vnet) => {
            dropped(cx.worker, None, (DropReason::Malformed, None), 1, packet);
            return None;
        }
        true => *vnet,
        false => VnetHdr::default(),
    };
    judged(cx, local, vnet, at, Weight { packets: 1, bytes: flow.total_len })
}

/// Takes the super-packet in `cx.arena[at]`, which is `local`, has so many bytes of headers and was counted.
#[expect(clippy::cast_possible_truncation, reason = "at most MAX_HEADER")]
pub(super) fn super_packet(
    cx: &mut OutboundCx<'_>,
    local: &Local,
    vnet: &VnetHdr,
    at: Range<usize>,
    (header_len, weight): (usize, Weight),
) -> Option<Hairpin> {
    // Of so many bytes the kernel makes a buffer in one piece.
    judged(cx, local, VnetHdr { hdr_len: header_len as u16, ..*vnet }, at, weight)
}

/// Judges a packet by the rules of both ends that are here, and counts what goes back.
#[expect(clippy::cast_possible_truncation, reason = "segments of one super-packet")]
fn judged(
    cx: &mut OutboundCx<'_>,
    local: &Local,
    vnet: VnetHdr,
    at: Range<usize>,
    weight: Weight,
) -> Option<Hairpin> {
    let packets = weight.packets as u64;
    if let Some(policy) = cx.tables.policy() {
        let packet = &cx.arena[at.clone()];
        let ends = (Direction::Outbound, local.ends);
        if let Err(denied) = cx.judge.judge(policy, ends, &local.flow, packet, (packets, cx.worker)) {
            let reason = (denied.reason, cx.tables.policy_of(denied.by));
            dropped(cx.worker, None, reason, weight.packets, packet);
            return None;
        }
    }
    cx.worker.counters.hairpinned_packets.add(packets);
    Some(Hairpin { vnet, at, packets: packets as u32, bytes: weight.bytes as u64 })
}

impl Forwarding {
    /// The ends to be judged of a packet from the device, between addresses with these owners, where it is for the
    /// kernel to deliver: it is to a pod of this node, or from one to where neither a route nor a pool leads.
    pub(super) fn hairpins(
        &self,
        flow: &Flow,
        owner: Option<NextHop>,
        target: Option<NextHop>,
    ) -> Option<Ends> {
        if !self.underlay().tun.hairpin {
            return None;
        }
        let (egress, ingress) = (owner == Some(NextHop::Local), target == Some(NextHop::Local));
        let outwards = || egress && target.is_none() && !self.is_in_pool(flow.destination);
        (ingress || outwards()).then(|| Ends {
            egress,
            ingress,
            source_is_pod: egress && !self.is_of_host(flow.source),
            destination_is_pod: ingress && !self.is_of_host(flow.destination),
        })
    }

    /// The owners of both addresses of a packet where one is special: the kernel forwards link-local ones of IPv4, by
    /// which clouds tell machines about themselves, between our pods and the outside. Others have nobody's packets.
    #[cold]
    pub(super) fn special_owners(&self, flow: &Flow) -> [Option<NextHop>; 2] {
        let ends = [flow.source, flow.destination];
        if ends.iter().any(|address| is_special(*address) && !is_link_local(*address)) {
            return [None; 2];
        }
        ends.map(|address: IpAddr| (!is_special(address)).then(|| self.lookup(address)).flatten())
    }
}
