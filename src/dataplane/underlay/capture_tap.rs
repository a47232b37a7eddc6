//! Outer packets as captures show them: IP packets, whatever the channel wants in front.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dataplane::encap::{frame, ipip_gso, tunnel_gso};
use crate::dataplane::observe::capture::{Hub, Outer, Point, Seen};
use crate::dataplane::packet::{Channel, Datagram, Message, Outbox};
use crate::net::DropReason;
use crate::wire::protocol;

/// What the kernel adds to a datagram of this sender.
pub struct Framing<'a> {
    /// Outer source address over IPv4.
    pub address: Ipv4Addr,
    /// Outer source address over IPv6.
    pub address6: Ipv6Addr,
    /// Outer UDP source ports over IPv4, by number of the socket.
    pub ports: &'a [u16],
    /// The same over IPv6.
    pub ports6: &'a [u16],
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
                let outer = self.udp((self.address.into(), self.ports, socket), message, len);
                hub.record(seen, [outer.bytes(), head, body].into_iter());
            }
            Channel::Udp6(socket) => {
                let outer = self.udp((self.address6.into(), self.ports6, socket), message, len);
                hub.record(seen, [outer.bytes(), head, body].into_iter());
            }
            Channel::Raw | Channel::Raw6 => hub.record(seen, [head, body].into_iter()),
            Channel::Packet => {
                hub.record(seen, [head.get(frame::TEMPLATE..).unwrap_or_default(), body].into_iter());
            }
            Channel::Tap if head.len() == ipip_gso::TEMPLATE => {
                let between = (self.address.into(), message.to);
                let outer = Outer::ipip(between, protocol::IPIP, message.tos, body.len());
                hub.record(seen, [outer.bytes(), body].into_iter());
            }
            Channel::Tap => {
                hub.record(seen, [head.get(tunnel_gso::OUTER_IP..).unwrap_or_default(), body].into_iter());
            }
        }
    }

    /// What the kernel puts around a datagram of `len` bytes that leaves through a UDP socket.
    fn udp(&self, (from, ports, socket): (IpAddr, &[u16], u16), message: &Message, len: usize) -> Outer {
        let port = ports.get(usize::from(socket)).copied().unwrap_or_default();
        Outer::udp((from, port), (message.to, message.port), message.tos, len)
    }
}
