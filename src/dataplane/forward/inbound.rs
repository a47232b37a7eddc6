//! Inbound: from the underlay to the device.
//!
//! 1. strip: find the inner packet in its outer headers;
//! 2. admit: who sent it, may they send from this source, is it for us, do policies let it;
//! 3. merge: join segments of one flow;
//! 4. deliver.
//!
//! Every format is decapsulated at all times, whatever this node itself sends, so that modes can
//! be changed node by node without loss.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use super::neighbour_replies::NeighbourReplies;
use super::scope::is_special;
use super::tables::{Forwarding, OuterSource};
use crate::dataplane::encap::{UDP_OVERHEAD, UDP6_OVERHEAD, ecn, ipip6, probe};
use crate::dataplane::kernel_path::{Arrived, Candidates, FlowKey};
use crate::dataplane::observe::capture::{Outer, Point, Seen};
use crate::dataplane::observe::{Worker, WorkerCounters};
use crate::dataplane::packet::{Direction, Family, Format, Received, Sink};
use crate::dataplane::policy::{Denied, Ends, Judge, Origin};
use crate::dataplane::segment::merge::{Candidate, Cut, Grouping, Rules, UnknownSize};
use crate::dataplane::segment::{Flow, Merge, MetadataSource};
use crate::net::{DropReason, Mode};
use crate::route::NextHop;
use crate::wire::{Ipv4, Malformed, be16, ethernet, ipv4, ipv6, protocol, vxlan};

/// The inbound flow of one worker.
#[derive(Debug)]
pub struct Inbound {
    merge: Merge,
    replies: NeighbourReplies,
}

/// What the receives of one batch have in common.
#[derive(Debug)]
pub struct InboundCx<'a, M, S> {
    /// Who may send, and who is here.
    pub tables: &'a Forwarding,
    /// How the packets are wrapped.
    pub format: Format,
    /// Where they lie.
    pub arena: &'a mut [u8],
    /// What the receiving socket does not say of them.
    pub metadata: &'a mut M,
    /// Where inner packets go.
    pub sink: &'a mut S,
    /// Where packets are counted.
    pub worker: &'a Worker,
    /// Who judges them by policies.
    pub judge: &'a mut Judge,
    /// Which flows the kernel may carry, where it carries any.
    pub proofs: Option<&'a mut Candidates>,
}

impl Inbound {
    /// With the given rules of merging.
    pub fn new(rules: Rules) -> Self {
        Self { merge: Merge::new(rules), replies: NeighbourReplies::default() }
    }

    /// The answers to kernel tunnels that the packets so far have asked for, to be sent to the underlay.
    pub fn replies(&mut self) -> &mut NeighbourReplies {
        &mut self.replies
    }

    /// Takes one receive from `cx.arena` and delivers what is finished to `cx.sink`. Counts outer packets
    /// as received and as dropped where they are.
    #[inline]
    pub fn receive<M: MetadataSource, S: Sink>(&mut self, cx: &mut InboundCx<'_, M, S>, received: Received) {
        let (tables, format, worker) = (cx.tables, cx.format, cx.worker);
        let sender = tables.outer_source(received.source);
        let headers = match sender {
            Some(OuterSource::Peer(peer)) => tables.peer(peer),
            Some(OuterSource::External) | None => None,
        };
        let from = headers.and_then(|headers| headers.counters.worker(worker.index));
        let unseen = unseen(format, Family::of(received.source));
        let (mut at, end) = (received.at, received.at + received.len);
        let uncut = format == Format::Vxlan && is_uncut(&cx.arena[at..end], received.segment);
        let (segment, grouping) = match received.segment {
            0 if format == Format::Vxlan => (received.len.max(1), Grouping::Tcp),
            0 => (received.len.max(1), Grouping::Any),
            size if uncut => (received.len, Grouping::Datagrams(u16::try_from(size).unwrap_or(u16::MAX))),
            size => (size, Grouping::Single),
        };
        if segment < received.len {
            worker.counters.joined_datagrams.add(received.len.div_ceil(segment) as u64);
        }
        loop {
            let datagram = at..(at + segment).min(end);
            at = datagram.end;
            // A peer that tests its own way to us; no traffic, so not counted as any but for itself.
            if sender.is_some() && is_probe(format, &cx.arena[datagram.clone()]) {
                worker.counters.probes.add(1);
                if at >= end {
                    return;
                }
                continue;
            }
            let len = datagram.len();
            let inner = sender
                .ok_or(Refused::from(DropReason::UnknownPeer))
                .and_then(|sender| admit(cx, sender, received.tos, datagram))
                .map(|candidate| Candidate { grouping, ..candidate });
            let cut = inner.and_then(|candidate| {
                match self.merge.push(candidate, cx.arena, cx.metadata, cx.sink) {
                    Ok(cut) => Ok((candidate, cut)),
                    Err(UnknownSize) => Err(DropReason::UnknownSegmentSize.into()),
                }
            });
            match cut {
                Ok((candidate, Cut { packets, repeated, recut })) => {
                    let overhead = len - candidate.flow.total_len;
                    let bytes = len + repeated + (packets as usize - 1) * overhead;
                    count(&worker.counters, packets, bytes, unseen);
                    if let Some(from) = from {
                        from.rx_packets.add(u64::from(packets));
                        from.rx_bytes.add((candidate.flow.total_len + repeated) as u64);
                    }
                    if recut {
                        worker.counters.recut_super_packets.add(1);
                    }
                    if let Some(proofs) = cx.proofs.as_deref_mut() {
                        prove(proofs, (format, received.source), &candidate, cx.arena);
                    }
                }
                Err(Refused { reason, .. })
                    if format == Format::Vxlan
                        && self.is_question(tables, sender, reason, &received, &cx.arena[at - len..at]) =>
                {
                    worker.counters.questions.add(1);
                }
                Err(refused) => {
                    count(&worker.counters, 1, len, unseen);
                    worker.counters.dropped(refused.reason, 1);
                    if let Some(from) = from {
                        from.rx_dropped.add(1);
                    }
                    if worker.capture.wants(Point::Drop) {
                        show_drop(cx, &received, refused, at - len..at);
                    }
                }
            }
            if at >= end {
                return;
            }
        }
    }

    /// Whether a refused datagram is a kernel tunnel's question, which is answered then.
    fn is_question(
        &mut self,
        tables: &Forwarding,
        sender: Option<OuterSource>,
        reason: DropReason,
        received: &Received,
        datagram: &[u8],
    ) -> bool {
        // ARP; a multicast destination; a link-local source.
        let may_be =
            matches!(reason, DropReason::Unsupported | DropReason::NotLocal | DropReason::SpoofedSource);
        match sender {
            Some(OuterSource::Peer(peer)) if may_be => {
                self.replies.answer(tables, peer, received.source, datagram)
            }
            _ => false,
        }
    }

    /// Ends the batch: delivers what still waits to be merged.
    pub fn finish<M, S: Sink>(&mut self, cx: &mut InboundCx<'_, M, S>) {
        self.merge.finish(cx.arena, cx.sink);
    }
}

/// Why a datagram is not delivered.
#[derive(Clone, Copy)]
struct Refused {
    reason: DropReason,
    /// The rule that denied it, if one did.
    by: Option<Origin>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, by: None }
    }
}

impl From<Denied> for Refused {
    fn from(Denied { reason, by }: Denied) -> Self {
        Self { reason, by }
    }
}

/// Shows a dropped datagram to the capture. The sender's UDP port is not known here, so it is 0.
#[cold]
fn show_drop<M, S>(cx: &InboundCx<'_, M, S>, received: &Received, refused: Refused, at: Range<usize>) {
    let policy = cx.tables.policy_of(refused.by);
    let seen = Seen {
        reason: Some(refused.reason),
        policy: policy.map(Arc::clone),
        ..Seen::at(Point::Drop, Direction::Inbound)
    };
    let datagram = &cx.arena[at];
    let outer = outer(cx.tables, cx.format, received, 0, datagram.len());
    cx.worker.capture.record(seen, [outer.bytes(), datagram].into_iter());
}

/// The outer headers that the kernel kept to itself when it handed over a datagram of `len` bytes,
/// rebuilt from what it said about them. `port` is the sender's UDP port.
pub fn outer(tables: &Forwarding, format: Format, received: &Received, port: u16, len: usize) -> Outer {
    let underlay = tables.underlay();
    let (from, to, tos) = (received.source, underlay.facing(received.source), received.tos);
    match format {
        Format::Vxlan => {
            let (from, to) = (SocketAddr::new(from, port), SocketAddr::new(to, underlay.vxlan_port));
            Outer::udp(from, to, tos, len)
        }
        Format::Ipip => Outer::NONE,
        Format::Ipip6V4 => Outer::ipip(from, to, protocol::IPIP, tos, len),
        Format::Ipip6V6 => Outer::ipip(from, to, protocol::IPV6, tos, len),
    }
}

/// Takes note that a packet of a flow has come in as it is meant to.
#[inline]
fn prove(proofs: &mut Candidates, (format, from): (Format, IpAddr), candidate: &Candidate, arena: &[u8]) {
    let mode = match format {
        Format::Vxlan => Mode::Vxlan,
        Format::Ipip | Format::Ipip6V4 | Format::Ipip6V6 => Mode::Ipip,
    };
    let packet = arena.get(candidate.at..).unwrap_or_default();
    if let Some(key) = FlowKey::of(&candidate.flow, packet, Direction::Inbound) {
        proofs.received(key, Arrived { from, mode });
    }
}

fn is_probe(format: Format, datagram: &[u8]) -> bool {
    match format {
        Format::Vxlan => probe::is_vxlan(datagram),
        Format::Ipip => probe::is_ipip(datagram),
        // Only the TAP needs probes, and it has no IPv6 underlay.
        Format::Ipip6V4 | Format::Ipip6V6 => false,
    }
}

/// Whether the first inner packet fills a receive that looks like several coalesced datagrams. A
/// kernel tunnel on a virtual link sends UDP super-packets uncut, and the receiving kernel then
/// announces their segment size the way it announces that of coalesced datagrams.
pub fn is_uncut(datagram: &[u8], segment: usize) -> bool {
    const INNER: usize = vxlan::LEN + ethernet::LEN;
    if segment == 0 || segment >= datagram.len() || datagram.len() < INNER + ipv4::LEN {
        return false;
    }
    let inner = &datagram[INNER..];
    let total = match inner[0] >> 4 {
        4 => usize::from(be16(inner, 2)),
        _ => usize::from(be16(inner, 4)) + ipv6::LEN,
    };
    // Whatever only claims that length is not to swallow the datagrams behind it.
    INNER + total == datagram.len()
        && Flow::of(inner).is_ok_and(|flow| flow.protocol == protocol::UDP && !flow.fragment)
}

/// Bytes of each outer packet that the receiving socket does not show.
fn unseen(format: Format, outer: Family) -> usize {
    match (format, outer) {
        (Format::Vxlan, Family::V4) => UDP_OVERHEAD,
        (Format::Vxlan, Family::V6) => UDP6_OVERHEAD,
        (Format::Ipip, _) => 0,
        (Format::Ipip6V4 | Format::Ipip6V6, _) => ipip6::OVERHEAD,
    }
}

/// Counts `packets` of `len` bytes together and `unseen` bytes more each.
fn count(counters: &WorkerCounters, packets: u32, len: usize, unseen: usize) {
    counters.underlay.rx_packets.add(u64::from(packets));
    counters.underlay.rx_bytes.add(len as u64 + u64::from(packets) * unseen as u64);
}

/// Steps 1 and 2 for one datagram.
#[inline]
fn admit<M, S>(
    cx: &mut InboundCx<'_, M, S>,
    sender: OuterSource,
    outer_tos: u8,
    datagram: Range<usize>,
) -> Result<Candidate, Refused> {
    let InboundCx { tables, format, arena, worker, judge, .. } = cx;
    let (tables, format) = (*tables, *format);
    let (inner_at, outer_tos) = match format {
        Format::Vxlan => (strip_vxlan(tables, &arena[datagram.clone()])?, outer_tos),
        Format::Ipip => strip_ipip(&arena[datagram.clone()])?,
        Format::Ipip6V4 => (expect(Family::V4, &arena[datagram.clone()])?, outer_tos),
        Format::Ipip6V6 => (expect(Family::V6, &arena[datagram.clone()])?, outer_tos),
    };
    let at = datagram.start + inner_at;
    let inner = &mut arena[at..datagram.end];
    let mut flow = inner_flow(inner)?;
    check_addresses(tables, sender, &flow)?;
    tables.judge_content(&flow, inner)?;
    if flow.ttl == 0 {
        return Err(DropReason::Ttl.into());
    }
    let tos = ecn::decapsulate(flow.tos, outer_tos).ok_or(DropReason::Ecn)?;
    if let Some(policy) = tables.policy() {
        let destination_is_pod = policy.settings.deny_unknown && !tables.is_of_host(flow.destination);
        let ends = Ends { ingress: true, destination_is_pod, ..Ends::default() };
        judge.judge(policy, (Direction::Inbound, ends), &flow, inner, (1, worker))?;
    }
    if tos != flow.tos {
        set_tos(inner, tos);
        flow.tos = tos;
    }
    Ok(Candidate { flow, at, grouping: Grouping::Single })
}

/// Offset of the inner packet in a VXLAN datagram. The inner destination MAC is not compared: the
/// VNI and the addresses decide.
fn strip_vxlan(tables: &Forwarding, datagram: &[u8]) -> Result<usize, DropReason> {
    let (vni, frame) = vxlan::parse(datagram).map_err(|Malformed| DropReason::Malformed)?;
    if vni != Some(tables.underlay().vni.get()) {
        return Err(DropReason::BadVni);
    }
    let (ethertype, payload) = ethernet::parse(frame).map_err(|Malformed| DropReason::Malformed)?;
    let family = match ethertype {
        ethernet::IPV4 => Family::V4,
        ethernet::IPV6 => Family::V6,
        _ => return Err(DropReason::Unsupported),
    };
    Ok(vxlan::LEN + ethernet::LEN + expect(family, payload)?)
}

/// Offset 0, where `packet` begins as one of this family does.
fn expect(family: Family, packet: &[u8]) -> Result<usize, DropReason> {
    match packet.first() {
        Some(byte) if byte >> 4 == family.version() => Ok(0),
        _ => Err(DropReason::Malformed),
    }
}

/// Offset of the inner packet behind an outer IPv4 header, and the outer TOS byte.
fn strip_ipip(packet: &[u8]) -> Result<(usize, u8), DropReason> {
    let outer = Ipv4::parse(packet).map_err(|Malformed| DropReason::Malformed)?;
    let family = match outer.protocol() {
        protocol::IPIP => Family::V4,
        protocol::IPV6 => Family::V6,
        _ => return Err(DropReason::Unsupported),
    };
    expect(family, outer.payload())?;
    Ok((outer.header_len(), outer.tos()))
}

/// The inner packet's flow; its IPv4 header checksum must be right, and it must carry something.
fn inner_flow(inner: &[u8]) -> Result<Flow, DropReason> {
    let flow = Flow::of(inner).map_err(|Malformed| DropReason::Malformed)?;
    if flow.source.is_ipv4() {
        let ip = Ipv4::parse(inner).map_err(|Malformed| DropReason::Malformed)?;
        if !ip.checksum_ok() {
            return Err(DropReason::Malformed);
        }
    }
    if flow.protocol == 0 && flow.source.is_ipv4() {
        return Err(DropReason::Malformed);
    }
    Ok(flow)
}

/// The inner source must be one that the sender may use, and the destination must belong to us.
fn check_addresses(tables: &Forwarding, sender: OuterSource, flow: &Flow) -> Result<(), DropReason> {
    if !tables.may_come(sender, flow.source) || is_special(flow.source) {
        return Err(DropReason::SpoofedSource);
    }
    match tables.lookup(flow.destination) {
        Some(NextHop::Local) if !is_special(flow.destination) => Ok(()),
        _ => Err(DropReason::NotLocal),
    }
}

fn set_tos(inner: &mut [u8], tos: u8) {
    if inner[0] >> 4 == 4 {
        ipv4::patch_tos(inner, tos);
    } else {
        ipv6::patch_traffic_class(inner, tos);
    }
}
