//! Outer packets as captures show them: IP packets, whatever the channel wants in front.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dataplane::encap::{frame, ipip_gso, tunnel_gso};
use crate::dataplane::observe::capture::{Hub, Outer, Point, Seen};
use crate::dataplane::packet::{Batch, Channel, Datagram, Direction, Family, Message, PerFamily};
use crate::net::DropReason;
use crate::wire::protocol;

/// What the kernel adds to a datagram of this sender.
pub(super) struct Framing<'a> {
    /// Outer source address over IPv4.
    pub address: Ipv4Addr,
    /// Outer source address over IPv6.
    pub address6: Ipv6Addr,
    /// Outer UDP source ports over IPv4, by number of the socket.
    pub ports: &'a [u16],
    /// The same over IPv6.
    pub ports6: &'a [u16],
    /// Outer UDP source ports of what the kernel fragments.
    pub fragmenting: PerFamily<Option<u16>>,
}

impl Framing<'_> {
    /// Shows every datagram of the batch as sent.
    #[cold]
    pub(super) fn show_all(&self, hub: &Hub, batch: Batch<'_>) {
        let seen = Seen::at(Point::Underlay, Direction::Outbound);
        for message in batch.outbox.messages() {
            self.show(hub, seen.clone(), message, batch.datagrams(message), batch);
        }
    }

    /// Shows the datagrams of a message that was refused.
    #[cold]
    pub(super) fn show_dropped(
        &self,
        hub: &Hub,
        reason: DropReason,
        message: &Message,
        datagrams: &[Datagram],
        batch: Batch<'_>,
    ) {
        let seen = Seen { reason: Some(reason), ..Seen::at(Point::Drop, Direction::Outbound) };
        self.show(hub, seen, message, datagrams, batch);
    }

    fn show(&self, hub: &Hub, seen: Seen, message: &Message, datagrams: &[Datagram], batch: Batch<'_>) {
        for datagram in datagrams.iter().filter(|datagram| datagram.packets > 0) {
            let (head, body) = (batch.bytes(datagram.head), batch.bytes(datagram.body));
            self.show_datagram(hub, seen.clone(), message, head, body);
        }
    }

    fn source(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.address.into(),
            Family::V6 => self.address6.into(),
        }
    }

    fn show_datagram(&self, hub: &Hub, seen: Seen, message: &Message, head: &[u8], body: &[u8]) {
        let len = head.len() + body.len();
        match message.channel {
            Channel::Udp(socket) => {
                let from = SocketAddr::new(self.address.into(), port(self.ports, socket));
                let outer = Outer::udp(from, message.to, message.tos, len);
                hub.record(seen, [outer.bytes(), head, body].into_iter());
            }
            Channel::Udp6(socket) => {
                let from = SocketAddr::new(self.address6.into(), port(self.ports6, socket));
                let outer = Outer::udp(from, message.to, message.tos, len);
                hub.record(seen, [outer.bytes(), head, body].into_iter());
            }
            Channel::FragmentingUdp(family) => {
                let from = SocketAddr::new(self.source(family), self.fragmenting[family].unwrap_or_default());
                let outer = Outer::udp(from, message.to, message.tos, len);
                hub.record(seen, [outer.bytes(), head, body].into_iter());
            }
            Channel::FragmentingRaw(family) => {
                let (from, to) = (self.source(family), message.to.ip());
                let outer = Outer::ipip(from, to, protocol::IPV6, message.tos, len);
                hub.record(seen, [outer.bytes(), head, body].into_iter());
            }
            Channel::Raw | Channel::Raw6 => hub.record(seen, [head, body].into_iter()),
            Channel::Packet => {
                hub.record(seen, [head.get(frame::TEMPLATE..).unwrap_or_default(), body].into_iter());
            }
            Channel::Tap if head.len() == ipip_gso::TEMPLATE => {
                let (from, to) = (self.address.into(), message.to.ip());
                let outer = Outer::ipip(from, to, protocol::IPIP, message.tos, body.len());
                hub.record(seen, [outer.bytes(), body].into_iter());
            }
            Channel::Tap => {
                hub.record(seen, [head.get(tunnel_gso::OUTER_IP..).unwrap_or_default(), body].into_iter());
            }
        }
    }
}

/// The source port of the UDP socket with this number.
fn port(ports: &[u16], socket: u16) -> u16 {
    ports.get(usize::from(socket)).copied().unwrap_or_default()
}
