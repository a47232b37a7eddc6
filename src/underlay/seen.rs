//! Outer packets as captures show them: IP packets, whatever the channel wants in front.

use std::net::Ipv4Addr;

use crate::capture::{Hub, Point, Seen, vxlan_outer};
use crate::encap::{frame, ipip, ipip_gso, tunnel_gso};
use crate::forward::{Channel, Datagram, Message, Outbox};
use crate::net::DropReason;
use crate::wire::protocol;

/// What the kernel adds to a datagram of this sender.
pub struct Framing<'a> {
    /// Outer source address.
    pub address: Ipv4Addr,
    /// Outer UDP destination port.
    pub vxlan_port: u16,
    /// Outer UDP source ports, by number of the socket.
    pub ports: &'a [u16],
}

impl Framing<'_> {
    /// Shows every datagram of `outbox` as sent.
    #[cold]
    pub fn show_all(&self, hub: &Hub, outbox: &Outbox, arena: &[u8]) {
        let seen = Seen { point: Point::Underlay, inbound: false, reason: None };
        for message in outbox.messages() {
            for datagram in outbox.datagrams(message) {
                self.show(hub, seen, message, datagram, outbox, arena);
            }
        }
    }

    /// Shows the datagrams of a message that was refused.
    #[cold]
    pub fn show_dropped(
        &self,
        hub: &Hub,
        reason: DropReason,
        message: &Message,
        datagrams: &[Datagram],
        outbox: &Outbox,
        arena: &[u8],
    ) {
        let seen = Seen { point: Point::Drop, inbound: false, reason: Some(reason) };
        for datagram in datagrams {
            self.show(hub, seen, message, datagram, outbox, arena);
        }
    }

    fn show(
        &self,
        hub: &Hub,
        seen: Seen,
        message: &Message,
        datagram: &Datagram,
        outbox: &Outbox,
        arena: &[u8],
    ) {
        let head = datagram.head.resolve(outbox.slab(), arena);
        let body = datagram.body.resolve(outbox.slab(), arena);
        let len = head.len() + body.len();
        match message.channel {
            Channel::Udp(socket) => {
                let port = self.ports.get(usize::from(socket)).copied().unwrap_or_default();
                let (from, to) = ((self.address, port), (message.to, self.vxlan_port));
                let outer = vxlan_outer(from, to, message.tos, len);
                hub.record(seen, [&outer[..], head, body].into_iter());
            }
            Channel::Raw => hub.record(seen, [head, body].into_iter()),
            Channel::Packet => {
                hub.record(seen, [head.get(frame::TEMPLATE..).unwrap_or_default(), body].into_iter());
            }
            Channel::Tap if head.len() == ipip_gso::TEMPLATE => {
                let mut outer = ipip::template(self.address, message.to, protocol::IPIP);
                ipip::patch(&mut outer, message.tos, body.len());
                hub.record(seen, [&outer[..], body].into_iter());
            }
            Channel::Tap => {
                hub.record(seen, [head.get(tunnel_gso::OUTER_IP..).unwrap_or_default(), body].into_iter());
            }
        }
    }
}
