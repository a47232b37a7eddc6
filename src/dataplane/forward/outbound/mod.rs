//! Outbound: from the device to the underlay.
//!
//! 1. classify: what is this packet, which flow is it of;
//! 2. admit: may this source send, may this destination be sent to, do policies let it;
//! 3. route: who owns the destination, how does the packet travel, does it fit (prepare.rs);
//! 4. choose the channel: the fastest the worker has for this mode and this packet;
//! 5. split: a super-packet becomes segments, unless the channel takes it whole; a packet or segment
//!    that is too large for its path and may be fragmented becomes fragments (oversize.rs), and of IPv6, where
//!    the path carries less than IPv6 demands, the outer packet does, in the kernel;
//! 6. encapsulate: a copy of the peer's header template, patched (encapsulate.rs).
//!
//! What the kernel is to deliver, because it is to or from a pod here and for no other node, goes back to the device
//! instead (hairpin.rs).
//! The sender of a packet that goes nowhere or does not fit is told by ICMP ([`IcmpErrors`]).

mod encapsulate;
mod hairpin;
mod oversize;
mod prepare;

use std::iter::once;
use std::ops::Range;
use std::sync::Arc;

use super::icmp_errors::IcmpErrors;
use super::tables::{Forwarding, PeerHeaders};
use crate::dataplane::kernel_path::{Candidates, FlowKey};
use crate::dataplane::observe::Worker;
use crate::dataplane::packet::{Channel, Datagram, Direction, Full, Outbox, Paths, Piece};
use crate::dataplane::policy::Judge;
use crate::dataplane::segment::Split;
use crate::dataplane::segment::{split, unfinished};
use crate::net::{DropReason, Mode};
use crate::wire::{Malformed, VnetHdr};
use encapsulate::{MAX_TEMPLATE, SourcePorts, SuperPacket, encapsulate, encapsulate_whole, takes_whole};
pub use hairpin::Hairpin;
use prepare::{NotSent, Ready, Refused, prepare};

/// The outbound flow of one worker.
#[derive(Debug)]
pub struct Outbound {
    ports: SourcePorts,
    errors: IcmpErrors,
}

/// What the packets of one batch have in common.
#[derive(Debug)]
pub struct OutboundCx<'a> {
    /// Where packets go.
    pub tables: &'a Forwarding,
    /// The worker's ways out.
    pub paths: Paths,
    /// Where the packets lie.
    pub arena: &'a mut [u8],
    /// Where their outer packets are left.
    pub out: &'a mut Outbox,
    /// Where they are counted.
    pub worker: &'a Worker,
    /// Who judges them by policies.
    pub judge: &'a mut Judge,
    /// Which flows the kernel may carry, where it carries any.
    pub proofs: Option<&'a mut Candidates>,
}

/// The packets a read from the device stands for.
#[derive(Clone, Copy)]
struct Weight {
    packets: usize,
    bytes: usize,
}

impl Outbound {
    /// For a worker whose UDP sockets are bound to `source_ports`.
    pub fn new(source_ports: Vec<u16>) -> Self {
        Self { ports: SourcePorts(source_ports), errors: IcmpErrors::default() }
    }

    /// The ICMP errors that the packets so far have caused, to be written to the device.
    pub fn errors(&mut self) -> &mut IcmpErrors {
        &mut self.errors
    }

    /// Takes the packet in `cx.arena[at]`, described by `vnet`, and leaves its outer packets in `cx.out`.
    /// Counts it as received from the device, and as dropped where it is. Returns what is to be written back to the
    /// device.
    ///
    /// # Errors
    /// `Full` when `cx.out` must be sent first; nothing was counted, call again.
    #[inline]
    pub fn packet(
        &mut self,
        cx: &mut OutboundCx<'_>,
        vnet: &VnetHdr,
        at: Range<usize>,
    ) -> Result<Option<Hairpin>, Full> {
        if vnet.is_gso() {
            return self.super_packet(cx, vnet, at);
        }
        cx.out.reserve(1, MAX_TEMPLATE)?;
        let offset = at.start;
        let packet = &mut cx.arena[at.clone()];
        match prepare(cx.tables, cx.paths, packet, None, (cx.judge, 1, cx.worker)) {
            Ok(ready) if ready.is_oversize(ready.flow.total_len) => {
                let channel = ready.channel(cx.paths, &self.ports);
                oversize::packet(&ready, channel, cx, vnet, at)?;
            }
            Ok(ready) => {
                count(cx.worker, Weight { packets: 1, bytes: packet.len() });
                let len = ready.flow.total_len;
                // Not over what may lie behind the packet: only the packet leaves.
                if finish_checksum(&ready, vnet, &mut packet[..len]).is_err() {
                    dropped(cx.worker, Some(ready.peer), (DropReason::Malformed, None), 1, packet);
                    return Ok(None);
                }
                sent(&ready, cx.worker, Weight { packets: 1, bytes: len }, len);
                prove(cx.proofs.as_deref_mut(), &ready, packet);
                let channel = ready.channel(cx.paths, &self.ports);
                let (head, _) = encapsulate(&ready, channel, len, 0, cx.out);
                push(&ready, channel, head, Piece::arena(offset, len), len, cx.out);
            }
            Err(NotSent::Hairpin(local)) => return Ok(hairpin::packet(cx, &local, vnet, at)),
            Err(NotSent::Refused(refused)) => {
                count(cx.worker, Weight { packets: 1, bytes: packet.len() });
                self.refuse(refused, cx, at, 1);
            }
        }
        Ok(None)
    }

    fn super_packet(
        &mut self,
        cx: &mut OutboundCx<'_>,
        vnet: &VnetHdr,
        at: Range<usize>,
    ) -> Result<Option<Hairpin>, Full> {
        let packet = &cx.arena[at.clone()];
        let Ok(split) = Split::new(packet, vnet) else {
            count(cx.worker, Weight { packets: 1, bytes: packet.len() });
            dropped(cx.worker, None, (DropReason::Malformed, None), 1, packet);
            return Ok(None);
        };
        let (segments, header) = (split.segments(), split.header_len());
        cx.out.reserve(segments, MAX_TEMPLATE + header)?;
        let weight = Weight { packets: segments, bytes: packet.len() + (segments - 1) * header };
        let largest = split.largest();
        let prepared =
            prepare(cx.tables, cx.paths, packet, Some(largest), (cx.judge, segments as u64, cx.worker));
        if let Ok(ready) = &prepared
            && ready.is_oversize(largest)
        {
            let channel = ready.channel(cx.paths, &self.ports);
            oversize::segments(ready, channel, split, at, (cx.out, cx.worker))?;
            return Ok(None);
        }
        count(cx.worker, weight);
        match prepared {
            Ok(ready) if takes_whole(&ready, cx.paths, vnet, packet.len()) => {
                sent(&ready, cx.worker, weight, largest);
                prove(cx.proofs.as_deref_mut(), &ready, packet);
                let whole = SuperPacket { vnet, header_len: header, at };
                push_whole(&ready, &whole, weight, &self.ports, cx.out);
            }
            Ok(ready) => {
                sent(&ready, cx.worker, weight, largest);
                prove(cx.proofs.as_deref_mut(), &ready, packet);
                push_segments(&ready, ready.channel(cx.paths, &self.ports), split, at.start, cx.out);
            }
            Err(NotSent::Hairpin(local)) => {
                return Ok(hairpin::super_packet(cx, &local, vnet, at, (header, weight)));
            }
            Err(NotSent::Refused(refused)) => self.refuse(refused, cx, at, segments),
        }
        Ok(None)
    }

    /// Counts the packet in `cx.arena[at]`, which stands for `packets`, as dropped and tells its sender.
    fn refuse(&mut self, refused: Refused, cx: &OutboundCx<'_>, at: Range<usize>, packets: usize) {
        let packet = &cx.arena[at];
        let peer = refused.peer.and_then(|peer| cx.tables.peer(peer));
        let policy = cx.tables.policy_of(refused.by);
        dropped(cx.worker, peer, (refused.reason, policy), packets, packet);
        if let Some((sender, problem)) = refused.problem {
            self.errors.answer(&cx.tables.underlay().tun, sender, packet, problem, &cx.worker.counters);
        }
    }
}

/// Completes the transport checksum where the device left that to us, and writes nothing else: the rest of
/// the packet has been judged.
fn finish_checksum(ready: &Ready<'_>, vnet: &VnetHdr, packet: &mut [u8]) -> Result<(), Malformed> {
    if !vnet.needs_csum() {
        return Ok(());
    }
    if !unfinished::is_of_transport(&ready.flow, packet, vnet) {
        return Err(Malformed);
    }
    split::finish_checksum(packet, vnet)
}

/// Cuts a super-packet that begins at `offset` and queues its segments.
fn push_segments(ready: &Ready<'_>, channel: Channel, mut split: Split<'_>, offset: usize, out: &mut Outbox) {
    let header = split.header_len();
    while let Some(len) = split.next_len() {
        let (head, inner) = encapsulate(ready, channel, len, header, out);
        let Some(payload) = split.next_segment(inner) else { break };
        let body = Piece::arena(offset + payload.start, payload.len());
        push(ready, channel, head, body, len, out);
    }
}

/// Queues one outer packet around an inner one of `inner_len` bytes.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "at most MAX_PACKET and an overhead")]
fn push(ready: &Ready<'_>, channel: Channel, head: Piece, body: Piece, inner_len: usize, out: &mut Outbox) {
    let wire_bytes = (inner_len + ready.overhead()) as u32;
    out.push(channel, ready.next_hop(), ready.tos, Datagram { head, body, packets: 1, wire_bytes });
}

/// Queues a super-packet for a channel that segments it itself.
#[expect(clippy::cast_possible_truncation, reason = "segments of one super-packet")]
fn push_whole(
    ready: &Ready<'_>,
    whole: &SuperPacket<'_>,
    weight: Weight,
    ports: &SourcePorts,
    out: &mut Outbox,
) {
    // `takes_whole` has said that there is one.
    let Some((channel, head)) = encapsulate_whole(ready, whole, ports, out) else { return };
    let wire_bytes = (weight.bytes + weight.packets * ready.overhead()) as u32;
    let body = Piece::arena(whole.at.start, whole.at.len());
    let datagram = Datagram { head, body, packets: weight.packets as u16, wire_bytes };
    out.push(channel, ready.next_hop(), ready.tos, datagram);
}

/// Takes note that a packet of a flow has left as it is meant to.
#[inline]
fn prove(proofs: Option<&mut Candidates>, ready: &Ready<'_>, packet: &[u8]) {
    if let Some(proofs) = proofs
        && let Some(key) = FlowKey::of(&ready.flow, packet, Direction::Outbound)
    {
        // Bare packets come to the pods without us.
        proofs.sent(key, ready.via.mode == Mode::Direct);
    }
}

fn count(worker: &Worker, weight: Weight) {
    worker.counters.device.rx_packets.add(weight.packets as u64);
    worker.counters.device.rx_bytes.add(weight.bytes as u64);
}

/// Counts `packet`, which stands for `packets`, as dropped, also for the peer that it was for where that is known.
fn dropped(
    worker: &Worker,
    peer: Option<&PeerHeaders>,
    reason: (DropReason, Option<&Arc<str>>),
    packets: usize,
    packet: &[u8],
) {
    worker.dropped_packet(reason, packets as u64, Direction::Outbound, once(packet));
    if let Some(peer) = peer.and_then(|peer| peer.counters.worker(worker.index)) {
        peer.tx_dropped.add(packets as u64);
    }
}

/// Counts packets for their peer, the largest of which has `largest` bytes.
fn sent(ready: &Ready<'_>, worker: &Worker, weight: Weight, largest: usize) {
    if let Some(peer) = ready.peer.counters.worker(worker.index) {
        peer.tx_packets.add(weight.packets as u64);
        peer.tx_bytes.add(weight.bytes as u64);
        // No packet on the wire is longer than its path, in fragments or not.
        peer.largest.note(worker.clock.now(), largest.min(usize::from(ready.via.mtu)));
    }
}
