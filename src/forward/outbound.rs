//! Outbound: from the device to the underlay.
//!
//! 1. classify: what is this packet, which flow is it of;
//! 2. admit: may this source send, may this destination be sent to;
//! 3. route: who owns the destination, how does the packet travel, does it fit;
//! 4. choose the channel: the fastest the worker has for this mode and this packet;
//! 5. split: a super-packet becomes segments, unless the channel takes it whole;
//! 6. encapsulate: a copy of the peer's header template, patched.

use std::net::IpAddr;
use std::ops::Range;

use super::outbox::{Channel, Datagram, Full, Outbox};
use super::scope::{is_special, is_tunnel};
use super::tables::{Forwarding, PeerHeaders};
use crate::encap::{UDP_OVERHEAD, direct, ecn, frame, ipip, ipip_gso, tunnel_gso, vxlan};
use crate::metrics::WorkerCounters;
use crate::net::{DropReason, Mode};
use crate::offload::{Flow, Piece, Split, split};
use crate::route::{NextHop, Via};
use crate::wire::{Malformed, VnetHdr, vnet_hdr};

/// Most bytes of outer headers in front of an inner packet.
const MAX_TEMPLATE: usize = tunnel_gso::TEMPLATE;

/// The optional ways out of one worker, as they are now: each may be absent, or given up at run
/// time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Paths {
    /// The TAP takes VXLAN and, where its table says so, IP-in-IP super-packets.
    pub tap: bool,
    /// The packet socket takes IP-in-IP and direct packets.
    pub packet: bool,
}

/// The outbound flow of one worker.
#[derive(Debug)]
pub struct Outbound {
    /// UDP source ports of this worker, by socket.
    source_ports: Vec<u16>,
}

/// A packet ready to be encapsulated.
struct Ready<'a> {
    flow: Flow,
    via: Via,
    peer: &'a PeerHeaders,
    /// Index into the templates: 0 for IPv4 inside, 1 for IPv6.
    version: usize,
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
        Self { source_ports }
    }

    /// Takes the packet in `arena[at]`, described by `vnet`, and leaves its outer packets in `out`.
    /// Counts it as received from the device, and as dropped where it is.
    ///
    /// # Errors
    /// `Full` when `out` must be sent first; nothing was counted, call again.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the one entry of the flow, called from one place")]
    pub fn packet(
        &self,
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
        count(counters, Weight { packets: 1, bytes: packet.len() });
        let ready = prepare(forwarding, packet, None).and_then(|ready| {
            if vnet.needs_csum() {
                // Not over what may lie behind the packet: only the packet leaves. And not into the IP
                // header, which has been judged.
                let packet = &mut packet[..ready.flow.total_len];
                if usize::from(vnet.csum_start) < ready.flow.l4 {
                    return Err(DropReason::Malformed);
                }
                split::finish_checksum(packet, vnet).map_err(|Malformed| DropReason::Malformed)?;
            }
            Ok(ready)
        });
        match ready {
            Ok(ready) => {
                let channel = self.channel(&ready, paths);
                let len = ready.flow.total_len;
                let (head, _) = encapsulate(&ready, channel, len, 0, out);
                self.push(&ready, channel, head, Piece::arena(offset, len), len, out);
            }
            Err(reason) => counters.dropped_packet(reason, 1, false, [&*packet].into_iter()),
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the super-packet half of `packet`")]
    fn super_packet(
        &self,
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
        match prepare(forwarding, packet, Some(split.largest())) {
            Ok(ready) if takes_whole(&ready, paths, vnet, packet.len()) => {
                self.push_whole(&ready, vnet, header, offset, packet.len(), weight, out);
            }
            Ok(ready) => self.push_segments(&ready, self.channel(&ready, paths), split, offset, out),
            Err(reason) => counters.dropped_packet(reason, segments as u64, false, [packet].into_iter()),
        }
        Ok(())
    }

    /// The way of a packet that fits its path as it is.
    fn channel(&self, ready: &Ready<'_>, paths: Paths) -> Channel {
        match ready.via.mode {
            Mode::Vxlan => Channel::Udp(self.socket(ready.flow.hash)),
            Mode::Ipip | Mode::Direct if paths.packet && ready.peer.frame.is_some() => Channel::Packet,
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
        let wire_bytes = (inner_len + overhead(ready.via.mode)) as u32;
        let datagram = Datagram { head, body, packets: 1, wire_bytes };
        out.push(channel, ready.peer.address, ecn::encapsulate(ready.flow.tos), datagram);
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
        let tos = ecn::encapsulate(ready.flow.tos);
        let peer = ready.peer;
        let (channel, head) = match (ready.via.mode, &peer.tap, &peer.tap_ipip, &peer.frame) {
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
        let wire_bytes = (weight.bytes + weight.packets * overhead(ready.via.mode)) as u32;
        let body = Piece::arena(offset, inner_len);
        out.push(
            channel,
            ready.peer.address,
            tos,
            Datagram { head, body, packets: weight.packets as u16, wire_bytes },
        );
    }

    /// The same socket, and so source port, for the same flow; all equally likely (RFC 7348 §5).
    fn socket(&self, hash: u32) -> u16 {
        ((u64::from(hash) * self.source_ports.len() as u64) >> 32) as u16
    }
}

fn count(counters: &WorkerCounters, weight: Weight) {
    counters.device.rx_packets.add(weight.packets as u64);
    counters.device.rx_bytes.add(weight.bytes as u64);
}

/// Bytes around an inner packet on the wire.
fn overhead(mode: Mode) -> usize {
    match mode {
        Mode::Ipip => ipip::OVERHEAD,
        Mode::Vxlan => UDP_OVERHEAD + vxlan::TEMPLATE,
        Mode::Direct => direct::OVERHEAD,
    }
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
        Mode::Direct => paths.packet && ready.peer.frame.is_some(),
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
    let frame: &[u8] = match (channel, &ready.peer.frame) {
        (Channel::Packet, Some(frame)) => frame,
        _ => &[],
    };
    let template: &[u8] = match ready.via.mode {
        Mode::Ipip => &ready.peer.ipip[ready.version],
        Mode::Vxlan => &ready.peer.vxlan[ready.version],
        Mode::Direct => &[],
    };
    let (piece, bytes) = out.head(frame.len() + template.len() + extra);
    let (link, bytes) = bytes.split_at_mut(frame.len());
    let (outer, inner) = bytes.split_at_mut(template.len());
    link.copy_from_slice(frame);
    outer.copy_from_slice(template);
    if ready.via.mode == Mode::Ipip {
        ipip::patch(outer, ecn::encapsulate(ready.flow.tos), inner_len);
    }
    (piece, inner)
}

/// Steps 1 to 3. `largest` is the longest segment where the packet is a super-packet.
#[inline]
fn prepare<'a>(
    forwarding: &'a Forwarding,
    packet: &[u8],
    largest: Option<usize>,
) -> Result<Ready<'a>, DropReason> {
    let flow = Flow::of(packet).map_err(|Malformed| DropReason::Malformed)?;
    admit(forwarding, &flow, packet)?;
    let via = match forwarding.lookup(flow.destination) {
        Some(NextHop::Peer(via)) => via,
        // Our own subnets are the kernel's to route; it has no such pod if it gave us the packet.
        Some(NextHop::Local) | None => return Err(DropReason::NoRoute),
    };
    let peer = forwarding.peer(via.peer).ok_or(DropReason::NoRoute)?;
    if flow.destination == IpAddr::V4(peer.address) {
        return Err(DropReason::Loop);
    }
    let version = usize::from(flow.source.is_ipv6());
    if via.mode == Mode::Direct && !direct::carries(packet[0]) {
        return Err(DropReason::Unsupported);
    }
    if largest.unwrap_or(flow.total_len) > usize::from(via.mtu) {
        return Err(DropReason::TooBig);
    }
    Ok(Ready { flow, via, peer, version })
}

/// Only our own pods, and the TUN's own address among them, may send into the tunnel, only to
/// unicast destinations, and no tunnel packets of their own unless they are allowed to.
fn admit(forwarding: &Forwarding, flow: &Flow, packet: &[u8]) -> Result<(), DropReason> {
    if flow.ttl == 0 {
        return Err(DropReason::Ttl);
    }
    if is_special(flow.destination) {
        return Err(DropReason::Unsupported);
    }
    match forwarding.lookup(flow.source) {
        Some(NextHop::Local) if !is_special(flow.source) => {}
        _ => return Err(DropReason::SpoofedSource),
    }
    if !forwarding.scope().allow_nested && is_tunnel(flow, packet, forwarding.underlay().vxlan_port) {
        return Err(DropReason::Nested);
    }
    Ok(())
}
