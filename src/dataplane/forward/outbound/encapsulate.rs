//! Steps 4 and 6: the channel of a packet, and its outer headers.

use std::net::SocketAddr;
use std::ops::Range;

use super::prepare::Ready;
use crate::dataplane::encap::{frame, ipip, ipip_gso, ipip6, tunnel_gso};
use crate::dataplane::forward::tables::OuterIp;
use crate::dataplane::packet::{Channel, Family, Outbox, Paths, Piece};
use crate::dataplane::segment::flow::among;
use crate::net::Mode;
use crate::wire::{VnetHdr, vnet_hdr};

/// Most bytes of outer headers in front of an inner packet.
pub(super) const MAX_TEMPLATE: usize = tunnel_gso::TEMPLATE;

/// UDP source ports of one worker, by number of the socket.
#[derive(Debug)]
pub(super) struct SourcePorts(pub Vec<u16>);

impl SourcePorts {
    /// The same socket, and so source port, for the same flow; all equally likely (RFC 7348 §5).
    #[expect(clippy::cast_possible_truncation, reason = "below the number of sockets")]
    fn socket(&self, hash: u32) -> u16 {
        among(hash, self.0.len()) as u16
    }
}

/// A super-packet as it lies in the arena.
pub(super) struct SuperPacket<'a> {
    /// What is left to do to it.
    pub vnet: &'a VnetHdr,
    /// Bytes of its IP and transport header.
    pub header_len: usize,
    /// Where it is.
    pub at: Range<usize>,
}

impl<'a> Ready<'a> {
    /// The channel of a packet that fits its path as it is.
    pub(super) fn channel(&self, paths: Paths, ports: &SourcePorts) -> Channel {
        let outer = Family::of(self.peer.address);
        match (self.via.mode, outer) {
            (Mode::Vxlan, _) if self.in_fragments => Channel::FragmentingUdp(outer),
            (Mode::Ipip, _) if self.in_fragments => Channel::FragmentingRaw(outer),
            (Mode::Vxlan, Family::V4) => Channel::Udp(ports.socket(self.flow.hash)),
            (Mode::Vxlan, Family::V6) => Channel::Udp6(ports.socket(self.flow.hash)),
            (Mode::Ipip | Mode::Direct, _) if paths.packet && self.frame().is_some() => Channel::Packet,
            (Mode::Ipip, Family::V6) => Channel::Raw6,
            // A bare packet that the raw socket could not send was refused before.
            (Mode::Ipip | Mode::Direct, _) => Channel::Raw,
        }
    }

    /// The frame header for the packet socket, where the first hop is resolved.
    fn frame(&self) -> Option<&'a [u8; frame::TEMPLATE]> {
        match self.via.mode {
            Mode::Direct => self.peer.bare[self.family].frame.as_ref(),
            Mode::Ipip | Mode::Vxlan => self.peer.frame.as_ref(),
        }
    }

    /// Whether a packet or segment of `len` bytes has to be fragmented before it is encapsulated.
    pub(super) fn is_oversize(&self, len: usize) -> bool {
        len > usize::from(self.via.mtu) && !self.in_fragments
    }

    /// Bytes around an inner packet on the wire.
    pub(super) fn overhead(&self) -> usize {
        usize::from(self.via.mode.overhead(self.peer.address))
    }

    /// Where a socket sends the packet to, and the UDP port there: 0 without UDP, because a raw IPv6
    /// socket takes any other for a protocol that is not its own.
    pub(super) fn next_hop(&self) -> SocketAddr {
        match self.via.mode {
            Mode::Direct => SocketAddr::new(self.peer.bare[self.family].to, 0),
            Mode::Ipip => SocketAddr::new(self.peer.address, 0),
            Mode::Vxlan => SocketAddr::new(self.peer.address, self.peer.port),
        }
    }
}

/// Whether a channel takes a super-packet as it is. UDP ones never go through the TAP: a receiver
/// on a virtual link would get them whole and could not know their datagrams' size.
pub(super) fn takes_whole(ready: &Ready<'_>, paths: Paths, vnet: &VnetHdr, len: usize) -> bool {
    let tap = paths.tap && !ready.in_fragments && vnet.gso_type != vnet_hdr::GSO_UDP_L4;
    match ready.via.mode {
        Mode::Vxlan => tap && ready.peer.tap.is_some() && len <= tunnel_gso::MAX_INNER,
        Mode::Ipip => {
            tap && ready.peer.tap_ipip.is_some() && ready.family == Family::V4 && len <= ipip_gso::MAX_INNER
        }
        Mode::Direct => paths.packet && ready.frame().is_some(),
    }
}

/// Puts the outer headers for an inner packet of `inner_len` bytes into the slab, with room for
/// `extra` bytes of inner headers behind them. Returns the whole piece and that room.
#[inline]
pub(super) fn encapsulate<'a>(
    ready: &Ready<'_>,
    channel: Channel,
    inner_len: usize,
    extra: usize,
    out: &'a mut Outbox,
) -> (Piece, &'a mut [u8]) {
    let frame: &[u8] = match (channel, ready.frame()) {
        (Channel::Packet, Some(frame)) => frame,
        _ => &[],
    };
    let template: &[u8] = match ready.via.mode {
        Mode::Ipip if ready.in_fragments => &[],
        Mode::Ipip => ready.peer.ipip.header(ready.family),
        Mode::Vxlan => &ready.peer.vxlan[ready.family],
        Mode::Direct => &[],
    };
    let (piece, bytes) = out.head(frame.len() + template.len() + extra);
    let (link, bytes) = bytes.split_at_mut(frame.len());
    let (outer, inner) = bytes.split_at_mut(template.len());
    link.copy_from_slice(frame);
    outer.copy_from_slice(template);
    if ready.via.mode == Mode::Ipip && !ready.in_fragments {
        match ready.peer.ipip {
            OuterIp::V4(_) => ipip::patch(outer, ready.tos, inner_len),
            OuterIp::V6(_) => ipip6::patch(outer, ready.tos, ready.flow.hash, inner_len),
        }
    }
    (piece, inner)
}

/// Puts everything in front of a super-packet that its channel takes whole into the slab; `None` where
/// none does.
pub(super) fn encapsulate_whole(
    ready: &Ready<'_>,
    whole: &SuperPacket<'_>,
    ports: &SourcePorts,
    out: &mut Outbox,
) -> Option<(Channel, Piece)> {
    let (peer, tos) = (ready.peer, ready.tos);
    let (vnet, header_len) = (whole.vnet, whole.header_len);
    match ready.via.mode {
        Mode::Vxlan => {
            let (piece, bytes) = out.head(tunnel_gso::TEMPLATE);
            bytes.copy_from_slice(&peer.tap.as_ref()?[ready.family]);
            let source_port = ports.0[usize::from(ports.socket(ready.flow.hash))];
            let inner_len = whole.at.len();
            let packet = tunnel_gso::Super { vnet: *vnet, header_len, inner_len, tos, source_port };
            tunnel_gso::patch(bytes, &packet);
            Some((Channel::Tap, piece))
        }
        Mode::Ipip => {
            let (piece, bytes) = out.head(ipip_gso::TEMPLATE);
            bytes.copy_from_slice(peer.tap_ipip.as_ref()?);
            ipip_gso::patch(bytes, vnet, header_len, tos);
            Some((Channel::Tap, piece))
        }
        Mode::Direct => {
            let (piece, bytes) = out.head(frame::TEMPLATE);
            bytes.copy_from_slice(ready.frame()?);
            frame::patch(bytes, vnet, header_len);
            Some((Channel::Packet, piece))
        }
    }
}
