//! Packets in the form that an ordinary socket takes, back from the form of a channel that refused
//! them.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of templates, of packets and a number of a socket"
)]

use std::net::{IpAddr, SocketAddr};

use crate::dataplane::encap::{frame, ipip, ipip_gso, tunnel_gso, vxlan};
use crate::dataplane::packet::{Channel, Datagram, Outbox, Piece};
use crate::dataplane::segment::Split;
use crate::wire::{VnetHdr, be16, ethernet, ipv6, udp, vnet_hdr};

/// How to cut a super-packet whose whole form was refused.
#[derive(Clone, Copy)]
pub(super) struct Uncut {
    channel: Channel,
    /// Outer headers of each segment: `outer[..outer_len]`.
    outer: [u8; vxlan::TEMPLATE],
    outer_len: usize,
    /// The inner packet's own vnet header.
    vnet: VnetHdr,
    tos: u8,
}

impl Uncut {
    fn new(channel: Channel, template: &[u8], vnet: VnetHdr, tos: u8) -> Self {
        let mut outer = [0; vxlan::TEMPLATE];
        outer[..template.len()].copy_from_slice(template);
        Self { channel, outer, outer_len: template.len(), vnet, tos }
    }

    fn template(&self) -> &[u8] {
        &self.outer[..self.outer_len]
    }

    /// Of a frame for the TAP: VXLAN datagrams from the UDP socket with the same source port, or
    /// raw IP-in-IP packets.
    pub(super) fn of_tap(head: &[u8], ports: &[u16], ipip: &[u8; ipip::OVERHEAD]) -> Option<Self> {
        if head.len() == ipip_gso::TEMPLATE {
            let (vnet, tos) = ipip_gso::unpatch(head)?;
            return Some(Self::new(Channel::Raw, ipip, vnet, tos));
        }
        let port = be16(head, tunnel_gso::OUTER_UDP);
        let socket = ports.iter().position(|candidate| *candidate == port)?;
        let vnet = VnetHdr::parse(head.first_chunk()?);
        let inner = (tunnel_gso::TEMPLATE - vnet_hdr::TUNNEL_LEN) as u16;
        let vnet = VnetHdr {
            gso_type: vnet.gso_type & !vnet_hdr::GSO_UDP_TUNNEL_IPV4,
            csum_start: vnet.csum_start.checked_sub(inner)?,
            ..vnet
        };
        let template = &head[tunnel_gso::OUTER_UDP + udp::LEN..];
        Some(Self::new(Channel::Udp(socket as u16), template, vnet, head[tunnel_gso::OUTER_IP + 1]))
    }

    /// Of a frame for the packet socket: bare packets.
    pub(super) fn of_frame(head: &[u8]) -> Option<Self> {
        let vnet = VnetHdr::parse(head.first_chunk()?);
        let csum_start = vnet.csum_start.checked_sub(ethernet::LEN as u16)?;
        Some(Self::new(Channel::Raw, &[], VnetHdr { csum_start, ..vnet }, 0))
    }

    /// The segments of `datagram`; `None` where it can have none.
    pub(super) fn split<'a>(&self, datagram: &Datagram, arena: &'a [u8]) -> Option<Split<'a>> {
        Split::new(datagram.body.resolve(&[], arena), &self.vnet).ok()
    }

    /// Queues the segments of `datagram`.
    pub(super) fn queue(&self, mut split: Split<'_>, to: SocketAddr, datagram: &Datagram, out: &mut Outbox) {
        let header = split.header_len();
        let packets = usize::from(datagram.packets);
        let overhead = (datagram.wire_bytes as usize)
            .saturating_sub(datagram.body.len as usize + packets.saturating_sub(1) * header)
            / packets.max(1);
        while let Some(len) = split.next_len() {
            let (head, bytes) = out.head(self.template().len() + header);
            let (outer, inner) = bytes.split_at_mut(self.template().len());
            outer.copy_from_slice(self.template());
            if self.channel == Channel::Raw && !outer.is_empty() {
                ipip::patch(outer, self.tos, len);
            }
            let Some(payload) = split.next_segment(inner) else { break };
            let body = Piece::arena(datagram.body.at as usize + payload.start, payload.len());
            let wire_bytes = (len + overhead) as u32;
            out.push(self.channel, to, self.tos, Datagram { head, body, packets: 1, wire_bytes });
        }
    }
}

/// A plain packet in a frame of the packet socket.
pub(super) struct Bare<'a> {
    /// The head of the frame: link header, and outer IP header if there is one.
    pub frame: &'a [u8],
    /// The next hop.
    pub to: SocketAddr,
}

impl Bare<'_> {
    /// Queues it for the raw socket, without its link header.
    pub(super) fn queue(&self, datagram: &Datagram, out: &mut Outbox) {
        let (head, bytes) = out.head(self.frame.len() - frame::TEMPLATE);
        bytes.copy_from_slice(&self.frame[frame::TEMPLATE..]);
        let channel = match self.to {
            SocketAddr::V4(_) => Channel::Raw,
            SocketAddr::V6(_) => Channel::Raw6,
        };
        out.push(channel, self.to, 0, Datagram { head, ..*datagram });
    }
}

/// Whether the raw socket can send what a frame for the packet socket towards `to` holds. The ethertype
/// tells the family; of IPv6, only tunnel packets have an outer header in `head` that is addressed
/// to the next hop itself.
pub(super) fn raw_takes(head: &[u8], to: IpAddr) -> bool {
    let ethertype = be16(head, frame::TEMPLATE - 2);
    match to {
        IpAddr::V4(_) => ethertype == ethernet::IPV4,
        IpAddr::V6(to) => {
            let outer = head.get(frame::TEMPLATE + 24..frame::TEMPLATE + ipv6::LEN);
            ethertype == ethernet::IPV6 && outer == Some(&to.octets()[..])
        }
    }
}
