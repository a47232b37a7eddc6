//! Outbound: from the device to the underlay.
//!
//! 1. classify: what is this packet, which flow is it of;
//! 2. admit: may this source send, may this destination be sent to;
//! 3. route: who owns the destination, how does the packet travel, does it fit;
//! 4. choose the channel: the fastest the worker has for this mode and this packet;
//! 5. split: a super-packet becomes segments, unless the channel takes it whole; a packet that is
//!    too large for its path and may be fragmented becomes fragments;
//! 6. encapsulate: a copy of the peer's header template, patched.
//!
//! The sender of a packet that goes nowhere or does not fit is told by ICMP ([`Replies`]).

use std::net::IpAddr;
use std::ops::Range;

use super::icmp_errors::Replies;
use super::scope::is_special;
use super::tables::{Forwarding, OuterIp, PeerHeaders};
use crate::dataplane::encap::{frame, ipip, ipip_gso, ipip6, tunnel_gso};
use crate::dataplane::observe::WorkerCounters;
use crate::dataplane::packet::{Channel, Datagram, Full, Outbox, Paths, Piece};
use crate::dataplane::segment::fragment::{self, Fragments};
use crate::dataplane::segment::{Flow, Split, split};
use crate::net::{DropReason, Mode};
use crate::route::{NextHop, PeerId, Via};
use crate::wire::icmp::Problem;
use crate::wire::{Malformed, VnetHdr, vnet_hdr};

/// Most bytes of outer headers in front of an inner packet.
const MAX_TEMPLATE: usize = tunnel_gso::TEMPLATE;

/// The outbound flow of one worker.
#[derive(Debug)]
pub struct Outbound {
    /// UDP source ports of this worker, by socket.
    source_ports: Vec<u16>,
    replies: Replies,
}

/// A packet ready to be encapsulated.
struct Ready<'a> {
    flow: Flow,
    via: Via,
    peer: &'a PeerHeaders,
    /// Index into the templates: 0 for IPv4 inside, 1 for IPv6.
    version: usize,
    /// Outer TOS byte.
    tos: u8,
}

/// Why a packet is not sent, and what its sender is told.
#[derive(Clone, Copy)]
struct Refused {
    reason: DropReason,
    problem: Option<(IpAddr, Problem)>,
    /// The peer that the packet was for, once that is known.
    peer: Option<PeerId>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, problem: None, peer: None }
    }
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
        Self { source_ports, replies: Replies::default() }
    }

    /// The ICMP errors that the packets so far have caused, to be written to the device.
    pub fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }

    /// Takes the packet in `arena[at]`, described by `vnet`, and leaves its outer packets in `out`.
    /// Counts it as received from the device, and as dropped where it is.
    ///
    /// # Errors
    /// `Full` when `out` must be sent first; nothing was counted, call again.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the one entry of the flow, called from one place")]
    pub fn packet(
        &mut self,
        forwarding: &Forwarding,
        paths: Paths,
        vnet: &VnetHdr,
        arena: &mut [u8],
        at: Range<usize>,
        out: &mut Outbox,
        counters: &WorkerCounters,
    ) -> Result<(), Full> {
        let offset = at.start;
        let packet = &mut arena[at];
        if vnet.is_gso() {
            return self.super_packet(forwarding, paths, vnet, packet, offset, out, counters);
        }
        out.reserve(1, MAX_TEMPLATE)?;
        match prepare(forwarding, paths, packet, None) {
            Ok(ready) if ready.flow.total_len > usize::from(ready.via.mtu) => {
                return self.fragments(&ready, paths, vnet, packet, offset, out, counters);
            }
            Ok(ready) => {
                count(counters, Weight { packets: 1, bytes: packet.len() });
                let len = ready.flow.total_len;
                // Not over what may lie behind the packet: only the packet leaves.
                if finish_checksum(&ready, vnet, &mut packet[..len]).is_err() {
                    counters.dropped_packet(DropReason::Malformed, 1, false, [&*packet].into_iter());
                    return Ok(());
                }
                sent(&ready, counters, Weight { packets: 1, bytes: len });
                let channel = self.channel(&ready, paths);
                let (head, _) = encapsulate(&ready, channel, len, 0, out);
                self.push(&ready, channel, head, Piece::arena(offset, len), len, out);
            }
            Err(refused) => {
                count(counters, Weight { packets: 1, bytes: packet.len() });
                self.refuse(forwarding, refused, packet, 1, counters);
            }
        }
        Ok(())
    }

    /// Cuts a packet that is too large for its path and queues the fragments. Like a super-packet it
    /// counts as what it is cut into.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "the rare half of `packet`")]
    fn fragments(
        &self,
        ready: &Ready<'_>,
        paths: Paths,
        vnet: &VnetHdr,
        packet: &mut [u8],
        offset: usize,
        out: &mut Outbox,
        counters: &WorkerCounters,
    ) -> Result<(), Full> {
        let packet = &mut packet[..ready.flow.total_len];
        let mtu = usize::from(ready.via.mtu);
        let cut = Fragments::new(packet, mtu).map(|cut| (cut.count(), cut.header_len()));
        let Ok((fragments, header)) = cut else {
            count(counters, Weight { packets: 1, bytes: packet.len() });
            counters.dropped_packet(DropReason::TooBig, 1, false, [&*packet].into_iter());
            return Ok(());
        };
        out.reserve(fragments, MAX_TEMPLATE + header)?;
        let bytes = packet.len() + (fragments - 1) * header;
        count(counters, Weight { packets: fragments, bytes });
        if finish_checksum(ready, vnet, packet).is_err() {
            let shown = [&*packet].into_iter();
            counters.dropped_packet(DropReason::Malformed, fragments as u64, false, shown);
            return Ok(());
        }
        sent(ready, counters, Weight { packets: fragments, bytes });
        let Ok(mut cut) = Fragments::new(packet, mtu) else { return Ok(()) };
        let channel = self.channel(ready, paths);
        while let Some(len) = cut.next_len() {
            let (head, inner) = encapsulate(ready, channel, len, header, out);
            let Some(payload) = cut.next_fragment(inner) else { break };
            let body = Piece::arena(offset + payload.start, payload.len());
            self.push(ready, channel, head, body, len, out);
        }
        Ok(())
    }

    /// Counts a packet that stands for `packets` as dropped and tells its sender.
    fn refuse(
        &mut self,
        forwarding: &Forwarding,
        refused: Refused,
        packet: &[u8],
        packets: usize,
        counters: &WorkerCounters,
    ) {
        counters.dropped_packet(refused.reason, packets as u64, false, [packet].into_iter());
        let peer = refused.peer.and_then(|peer| forwarding.peer(peer)?.counters.worker(counters.index));
        if let Some(peer) = peer {
            peer.tx_dropped.add(packets as u64);
        }
        if let Some((sender, problem)) = refused.problem {
            self.replies.answer(&forwarding.underlay().tun, sender, packet, problem, counters);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the super-packet half of `packet`")]
    fn super_packet(
        &mut self,
        forwarding: &Forwarding,
        paths: Paths,
        vnet: &VnetHdr,
        packet: &[u8],
        offset: usize,
        out: &mut Outbox,
        counters: &WorkerCounters,
    ) -> Result<(), Full> {
        let Ok(split) = Split::new(packet, vnet) else {
            count(counters, Weight { packets: 1, bytes: packet.len() });
            counters.dropped_packet(DropReason::Malformed, 1, false, [packet].into_iter());
            return Ok(());
        };
        let (segments, header) = (split.segments(), split.header_len());
        out.reserve(segments, MAX_TEMPLATE + header)?;
        let weight = Weight { packets: segments, bytes: packet.len() + (segments - 1) * header };
        count(counters, weight);
        match prepare(forwarding, paths, packet, Some(split.largest())) {
            Ok(ready) if takes_whole(&ready, paths, vnet, packet.len()) => {
                sent(&ready, counters, weight);
                self.push_whole(&ready, vnet, header, offset, packet.len(), weight, out);
            }
            Ok(ready) => {
                sent(&ready, counters, weight);
                self.push_segments(&ready, self.channel(&ready, paths), split, offset, out);
            }
            Err(refused) => self.refuse(forwarding, refused, packet, segments, counters),
        }
        Ok(())
    }

    /// The way of a packet that fits its path as it is.
    fn channel(&self, ready: &Ready<'_>, paths: Paths) -> Channel {
        let over_ipv4 = ready.peer.address.is_ipv4();
        match ready.via.mode {
            Mode::Vxlan if over_ipv4 => Channel::Udp(self.socket(ready.flow.hash)),
            Mode::Vxlan => Channel::Udp6(self.socket(ready.flow.hash)),
            Mode::Ipip | Mode::Direct if paths.packet && frame_of(ready).is_some() => Channel::Packet,
            Mode::Ipip if !over_ipv4 => Channel::Raw6,
            // A bare packet that the raw socket could not send was refused before.
            Mode::Ipip | Mode::Direct => Channel::Raw,
        }
    }

    /// Cuts a super-packet and queues its segments.
    fn push_segments(
        &self,
        ready: &Ready<'_>,
        channel: Channel,
        mut split: Split<'_>,
        offset: usize,
        out: &mut Outbox,
    ) {
        let header = split.header_len();
        while let Some(len) = split.next_len() {
            let (head, inner) = encapsulate(ready, channel, len, header, out);
            let Some(payload) = split.next_segment(inner) else { break };
            let body = Piece::arena(offset + payload.start, payload.len());
            self.push(ready, channel, head, body, len, out);
        }
    }

    /// Queues one outer packet around an inner one of `inner_len` bytes.
    #[inline]
    fn push(
        &self,
        ready: &Ready<'_>,
        channel: Channel,
        head: Piece,
        body: Piece,
        inner_len: usize,
        out: &mut Outbox,
    ) {
        let wire_bytes = (inner_len + overhead(ready)) as u32;
        let datagram = Datagram { head, body, packets: 1, wire_bytes };
        out.push(channel, next_hop(ready), ready.tos, datagram);
    }

    /// Queues a super-packet for a channel that segments it itself.
    #[expect(clippy::too_many_arguments, reason = "plain facts of one packet")]
    fn push_whole(
        &self,
        ready: &Ready<'_>,
        vnet: &VnetHdr,
        header_len: usize,
        offset: usize,
        inner_len: usize,
        weight: Weight,
        out: &mut Outbox,
    ) {
        let (tos, peer) = (ready.tos, ready.peer);
        let (channel, head) = match (ready.via.mode, &peer.tap, &peer.tap_ipip, frame_of(ready)) {
            (Mode::Vxlan, Some(templates), ..) => {
                let (piece, bytes) = out.head(tunnel_gso::TEMPLATE);
                bytes.copy_from_slice(&templates[ready.version]);
                let source_port = self.source_ports[usize::from(self.socket(ready.flow.hash))];
                tunnel_gso::patch(
                    bytes,
                    &tunnel_gso::Super { vnet: *vnet, header_len, inner_len, tos, source_port },
                );
                (Channel::Tap, piece)
            }
            (Mode::Ipip, _, Some(template), _) => {
                let (piece, bytes) = out.head(ipip_gso::TEMPLATE);
                bytes.copy_from_slice(template);
                ipip_gso::patch(bytes, vnet, header_len, tos);
                (Channel::Tap, piece)
            }
            (Mode::Direct, _, _, Some(template)) => {
                let (piece, bytes) = out.head(frame::TEMPLATE);
                bytes.copy_from_slice(template);
                frame::patch(bytes, vnet, header_len);
                (Channel::Packet, piece)
            }
            // `takes_whole` asked for one of these.
            _ => return,
        };
        let wire_bytes = (weight.bytes + weight.packets * overhead(ready)) as u32;
        let body = Piece::arena(offset, inner_len);
        out.push(
            channel,
            next_hop(ready),
            tos,
            Datagram { head, body, packets: weight.packets as u16, wire_bytes },
        );
    }

    /// The same socket, and so source port, for the same flow; all equally likely (RFC 7348 §5).
    fn socket(&self, hash: u32) -> u16 {
        ((u64::from(hash) * self.source_ports.len() as u64) >> 32) as u16
    }
}

/// Completes the transport checksum where the device left that to us, but never writes to the IP
/// header, which has been judged.
fn finish_checksum(ready: &Ready<'_>, vnet: &VnetHdr, packet: &mut [u8]) -> Result<(), Malformed> {
    if !vnet.needs_csum() {
        return Ok(());
    }
    if usize::from(vnet.csum_start) < ready.flow.l4 {
        return Err(Malformed);
    }
    split::finish_checksum(packet, vnet)
}

fn count(counters: &WorkerCounters, weight: Weight) {
    counters.device.rx_packets.add(weight.packets as u64);
    counters.device.rx_bytes.add(weight.bytes as u64);
}

/// Counts packets for their peer.
fn sent(ready: &Ready<'_>, counters: &WorkerCounters, weight: Weight) {
    if let Some(peer) = ready.peer.counters.worker(counters.index) {
        peer.tx_packets.add(weight.packets as u64);
        peer.tx_bytes.add(weight.bytes as u64);
    }
}

/// Bytes around an inner packet on the wire.
fn overhead(ready: &Ready<'_>) -> usize {
    usize::from(ready.via.mode.overhead(ready.peer.address))
}

/// Where a socket sends the packet to, and the UDP port there: 0 without UDP, because a raw IPv6 socket
/// takes any other for a protocol that is not its own.
fn next_hop(ready: &Ready<'_>) -> (IpAddr, u16) {
    let peer = ready.peer;
    let to = if ready.via.mode == Mode::Direct { peer.bare[ready.version].to } else { peer.address };
    (to, if ready.via.mode == Mode::Vxlan { peer.port } else { 0 })
}

/// The frame header for the packet socket, where the first hop is resolved.
fn frame_of<'a>(ready: &Ready<'a>) -> Option<&'a [u8; frame::TEMPLATE]> {
    let bare = ready.via.mode == Mode::Direct;
    if bare { ready.peer.bare[ready.version].frame.as_ref() } else { ready.peer.frame.as_ref() }
}

/// Whether a channel takes a super-packet as it is. UDP ones never go through the TAP: a receiver
/// on a virtual link would get them whole and could not know their datagrams' size.
fn takes_whole(ready: &Ready<'_>, paths: Paths, vnet: &VnetHdr, len: usize) -> bool {
    let tap = paths.tap && vnet.gso_type != vnet_hdr::GSO_UDP_L4;
    match ready.via.mode {
        Mode::Vxlan => tap && ready.peer.tap.is_some() && len <= tunnel_gso::MAX_INNER,
        Mode::Ipip => {
            tap && ready.peer.tap_ipip.is_some() && ready.version == 0 && len <= ipip_gso::MAX_INNER
        }
        Mode::Direct => paths.packet && frame_of(ready).is_some(),
    }
}

/// Puts the outer headers for an inner packet of `inner_len` bytes into the slab, with room for
/// `extra` bytes of inner headers behind them. Returns the whole piece and that room.
#[inline]
fn encapsulate<'a>(
    ready: &Ready<'_>,
    channel: Channel,
    inner_len: usize,
    extra: usize,
    out: &'a mut Outbox,
) -> (Piece, &'a mut [u8]) {
    let frame: &[u8] = match (channel, frame_of(ready)) {
        (Channel::Packet, Some(frame)) => frame,
        _ => &[],
    };
    let template: &[u8] = match ready.via.mode {
        Mode::Ipip => ready.peer.ipip.header(ready.version),
        Mode::Vxlan => &ready.peer.vxlan[ready.version],
        Mode::Direct => &[],
    };
    let (piece, bytes) = out.head(frame.len() + template.len() + extra);
    let (link, bytes) = bytes.split_at_mut(frame.len());
    let (outer, inner) = bytes.split_at_mut(template.len());
    link.copy_from_slice(frame);
    outer.copy_from_slice(template);
    if ready.via.mode == Mode::Ipip {
        match ready.peer.ipip {
            OuterIp::V4(_) => ipip::patch(outer, ready.tos, inner_len),
            OuterIp::V6(_) => ipip6::patch(outer, ready.tos, ready.flow.hash, inner_len),
        }
    }
    (piece, inner)
}

/// Steps 1 to 3. `largest` is the longest segment where the packet is a super-packet. A plain packet
/// that is longer than its path carries comes out only where it may be fragmented.
#[inline]
fn prepare<'a>(
    forwarding: &'a Forwarding,
    paths: Paths,
    packet: &[u8],
    largest: Option<usize>,
) -> Result<Ready<'a>, Refused> {
    let flow = Flow::of(packet).map_err(|Malformed| DropReason::Malformed)?;
    let via = admit(forwarding, &flow, packet)?;
    let peer = forwarding.peer(via.peer).ok_or(DropReason::NoRoute)?;
    let version = usize::from(flow.source.is_ipv6());
    let refused = |reason| Refused { reason, problem: None, peer: Some(via.peer) };
    if peer.own[version] == Some(flow.destination) {
        return Err(refused(DropReason::Loop));
    }
    if via.mode == Mode::Direct {
        peer.bare[version].usable(paths.packet).map_err(refused)?;
    }
    let too_big = largest.unwrap_or(flow.total_len) > usize::from(via.mtu);
    if too_big && (largest.is_some() || !fragment::allowed(packet)) {
        let problem = Problem::TooBig { mtu: via.mtu };
        return Err(Refused { problem: Some((flow.source, problem)), ..refused(DropReason::TooBig) });
    }
    let tos = forwarding.underlay().marking.outer(flow.tos);
    Ok(Ready { flow, via, peer, version, tos })
}

/// Only our own pods, and the TUN's own address among them, may send into the tunnel, only to
/// unicast destinations, and no tunnel packets of their own unless they are allowed to; returns the
/// way there.
fn admit(forwarding: &Forwarding, flow: &Flow, packet: &[u8]) -> Result<Via, Refused> {
    if flow.ttl == 0 {
        return Err(DropReason::Ttl.into());
    }
    if is_special(flow.destination) {
        return Err(DropReason::Unsupported.into());
    }
    let nowhere =
        |problem| Refused { problem: Some((flow.source, problem)), ..Refused::from(DropReason::NoRoute) };
    // A special address belongs to nobody, whoever's subnet covers it.
    let owner = forwarding.lookup(flow.source).filter(|_| !is_special(flow.source));
    match (owner, forwarding.lookup(flow.destination)) {
        (Some(NextHop::Local), _) | (Some(_), Some(NextHop::Local)) if forwarding.is_nested(flow, packet) => {
            Err(DropReason::Nested.into())
        }
        // Our own subnets are the kernel's to route; it has no such pod if it gave us the packet, be
        // it a pod's or one that has just come through the tunnel.
        (Some(_), Some(NextHop::Local)) => Err(nowhere(Problem::NoHost)),
        (Some(NextHop::Local), Some(hop)) => {
            forwarding.choose(hop, flow.hash).ok_or_else(|| nowhere(Problem::NoRoute))
        }
        (Some(NextHop::Local), None) => Err(nowhere(Problem::NoRoute)),
        _ => Err(DropReason::SpoofedSource.into()),
    }
}
