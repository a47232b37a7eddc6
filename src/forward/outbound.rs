//! Outbound: from the device to the underlay.
//!
//! 1. classify: what is this packet, which flow is it of;
//! 2. admit: may this source send, may this destination be sent to;
//! 3. route: who owns the destination, how does the packet travel, does it fit;
//! 4. split: a super-packet becomes segments;
//! 5. encapsulate: a copy of the peer's header template, patched.

use std::net::IpAddr;
use std::ops::Range;

use super::outbox::{Channel, Datagram, Full, Outbox};
use super::tables::{Forwarding, PeerHeaders};
use crate::encap::{ecn, ipip};
use crate::metrics::WorkerCounters;
use crate::net::{DropReason, Mode};
use crate::offload::{Flow, Piece, Split, split};
use crate::route::{NextHop, Via};
use crate::wire::{Malformed, VnetHdr};

/// Most bytes of outer template in front of an inner header.
const MAX_TEMPLATE: usize = 22;

/// The outbound flow of one worker.
#[derive(Debug)]
pub struct Outbound {
    source_ports: u32,
}

/// A packet ready to be encapsulated.
struct Ready<'a> {
    flow: Flow,
    via: Via,
    peer: &'a PeerHeaders,
    /// Index into the templates: 0 for IPv4 inside, 1 for IPv6.
    version: usize,
}

impl Outbound {
    /// For a worker that owns `source_ports` UDP sockets.
    pub fn new(source_ports: u16) -> Self {
        Self { source_ports: u32::from(source_ports) }
    }

    /// Takes the packet in `arena[at]`, described by `vnet`, and leaves its outer packets in `out`.
    /// Counts it as received from the device, and as dropped where it is.
    ///
    /// # Errors
    /// `Full` when `out` must be sent first; nothing was counted, call again.
    #[inline]
    pub fn packet(
        &self,
        forwarding: &Forwarding,
        vnet: &VnetHdr,
        arena: &mut [u8],
        at: Range<usize>,
        out: &mut Outbox,
        counters: &WorkerCounters,
    ) -> Result<(), Full> {
        let offset = at.start;
        let packet = &mut arena[at];
        if vnet.is_gso() {
            return self.super_packet(forwarding, vnet, packet, offset, out, counters);
        }
        out.reserve(1, MAX_TEMPLATE)?;
        counters.device.rx_packets.add(1);
        counters.device.rx_bytes.add(packet.len() as u64);
        match prepare(forwarding, packet, None).and_then(|ready| {
            if vnet.needs_csum() {
                split::finish_checksum(packet, vnet).map_err(|Malformed| DropReason::Malformed)?;
            }
            Ok(ready)
        }) {
            Ok(ready) => {
                let body = Piece::arena(offset, ready.flow.total_len);
                let (head, _) = self.template(&ready, ready.flow.total_len, 0, out);
                self.push(&ready, Datagram { head, body }, out);
            }
            Err(reason) => counters.dropped(reason, 1),
        }
        Ok(())
    }

    fn super_packet(
        &self,
        forwarding: &Forwarding,
        vnet: &VnetHdr,
        packet: &[u8],
        offset: usize,
        out: &mut Outbox,
        counters: &WorkerCounters,
    ) -> Result<(), Full> {
        let Ok(mut split) = Split::new(packet, vnet) else {
            counters.device.rx_packets.add(1);
            counters.device.rx_bytes.add(packet.len() as u64);
            counters.dropped(DropReason::Malformed, 1);
            return Ok(());
        };
        let (segments, header) = (split.segments(), split.header_len());
        out.reserve(segments, MAX_TEMPLATE + header)?;
        counters.device.rx_packets.add(segments as u64);
        counters.device.rx_bytes.add((packet.len() + (segments - 1) * header) as u64);
        let ready = match prepare(forwarding, packet, Some(split.largest())) {
            Ok(ready) => ready,
            Err(reason) => {
                counters.dropped(reason, segments as u64);
                return Ok(());
            }
        };
        let payload_len = packet.len() - header;
        for index in 0..segments {
            let rest = payload_len - index * usize::from(vnet.gso_size);
            let inner_len = header + rest.min(usize::from(vnet.gso_size));
            let (head, bytes) = self.template(&ready, inner_len, header, out);
            let Some(payload) = split.next_segment(bytes) else { break };
            let body = Piece::arena(offset + payload.start, payload.len());
            self.push(&ready, Datagram { head, body }, out);
        }
        Ok(())
    }

    /// Puts the outer template for an inner packet of `inner_len` bytes into the slab, with room
    /// for `extra` bytes of inner headers behind it. Returns the whole piece and that room.
    #[inline]
    fn template<'a>(
        &self,
        ready: &Ready<'_>,
        inner_len: usize,
        extra: usize,
        out: &'a mut Outbox,
    ) -> (Piece, &'a mut [u8]) {
        let template: &[u8] = match ready.via.mode {
            Mode::Ipip => &ready.peer.ipip[ready.version],
            Mode::Vxlan => &ready.peer.vxlan[ready.version],
            Mode::Direct => &[],
        };
        let (piece, bytes) = out.head(template.len() + extra);
        let (outer, inner) = bytes.split_at_mut(template.len());
        outer.copy_from_slice(template);
        if ready.via.mode == Mode::Ipip {
            ipip::patch(outer, ecn::encapsulate(ready.flow.tos), inner_len);
        }
        (piece, inner)
    }

    #[inline]
    fn push(&self, ready: &Ready<'_>, datagram: Datagram, out: &mut Outbox) {
        let channel = match ready.via.mode {
            Mode::Vxlan => Channel::Udp(self.source_port(ready.flow.hash)),
            Mode::Ipip | Mode::Direct => Channel::Raw,
        };
        out.push(channel, ready.peer.address, ecn::encapsulate(ready.flow.tos), datagram);
    }

    /// The same port for the same flow, all ports equally likely (RFC 7348 §5).
    fn source_port(&self, hash: u32) -> u16 {
        (u64::from(hash) * u64::from(self.source_ports) >> 32) as u16
    }
}

/// Steps 1 to 3. `largest` is the longest segment where the packet is a super-packet.
#[inline]
fn prepare<'a>(
    forwarding: &'a Forwarding,
    packet: &[u8],
    largest: Option<usize>,
) -> Result<Ready<'a>, DropReason> {
    let flow = Flow::of(packet).map_err(|Malformed| DropReason::Malformed)?;
    admit(forwarding, &flow)?;
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
    if via.mode == Mode::Direct && version == 1 {
        return Err(DropReason::Unsupported);
    }
    if largest.unwrap_or(flow.total_len) > usize::from(via.mtu) {
        return Err(DropReason::TooBig);
    }
    Ok(Ready { flow, via, peer, version })
}

/// Only our own pods, and the TUN's own address among them, may send into the tunnel, and only to
/// unicast destinations.
fn admit(forwarding: &Forwarding, flow: &Flow) -> Result<(), DropReason> {
    if flow.ttl == 0 {
        return Err(DropReason::Ttl);
    }
    if !carried_destination(flow.destination) {
        return Err(DropReason::Unsupported);
    }
    match forwarding.lookup(flow.source) {
        Some(NextHop::Local) => Ok(()),
        _ => Err(DropReason::SpoofedSource),
    }
}

/// Whether a destination is of a kind that may cross the tunnel at all.
fn carried_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !(a.is_multicast() || a.is_broadcast() || a.is_link_local() || a.is_loopback()),
        IpAddr::V6(a) => !(a.is_multicast() || a.is_unicast_link_local() || a.is_loopback()),
    }
}
