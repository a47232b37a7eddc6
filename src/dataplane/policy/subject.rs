//! What a packet is to policies: its tuple, and what it has to do with other packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::tuple::Tuple;
use crate::dataplane::segment::Flow;
use crate::wire::chain::{self, End};
use crate::wire::{be16, be32, icmp, ipv4, ipv6, protocol, tcp};

/// A packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Subject {
    /// What rules ask of it.
    pub tuple: Tuple,
    /// What it is.
    pub kind: Kind,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A packet of a connection, or one that begins it.
    Plain,
    /// TCP, with these flags.
    Tcp(u8),
    /// The first fragment of a datagram with this identification.
    First(u32),
    /// A later one, which shows no ports; the identification where it could be found.
    Later(Option<u32>),
    /// A query of ICMP, or an answer to one.
    Query(Query),
    /// An ICMP error about a packet of this tuple; `None` where it does not say.
    Error(Option<Subjected>),
    /// Neighbour discovery (RFC 4861), without which there is no IPv6.
    Discovery,
}

/// A query of ICMP, or an answer to one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Query {
    /// What both have in common.
    pub identifier: u16,
    /// The type of the query.
    pub request: u8,
    /// Whether this is an answer.
    pub is_answer: bool,
}

/// What an ICMP error quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Subjected {
    pub tuple: Tuple,
    /// The query, where the quoted packet is one.
    pub query: Option<Query>,
}

impl Subject {
    /// `packet`, which is classified as `flow`.
    #[inline]
    pub(super) fn of(flow: &Flow, packet: &[u8]) -> Self {
        let packet = packet.get(..flow.total_len).unwrap_or(packet);
        let whole = |protocol, at, kind| upper(flow, packet, protocol, at, kind);
        match (flow.protocol, flow.fragment) {
            (protocol::TCP | protocol::UDP | protocol::ICMP | protocol::SCTP, false)
                if flow.source.is_ipv4() =>
            {
                whole(flow.protocol, flow.l4, None)
            }
            (protocol::TCP | protocol::UDP | protocol::ICMPV6 | protocol::SCTP, false)
                if flow.source.is_ipv6() =>
            {
                whole(flow.protocol, flow.l4, None)
            }
            _ => rare(flow, packet),
        }
    }
}

/// Fragments, and what has extension headers.
#[cold]
fn rare(flow: &Flow, packet: &[u8]) -> Subject {
    let is_v4 = flow.source.is_ipv4();
    if is_v4 {
        let id = u32::from(be16(packet, 4));
        return match (flow.fragment, be16(packet, 6) & 0x1fff) {
            (false, _) => upper(flow, packet, flow.protocol, flow.l4, None),
            (true, 0) => upper(flow, packet, flow.protocol, flow.l4, Some(id)),
            (true, _) => later(flow, flow.protocol, Some(id)),
        };
    }
    // Only where the fragment header is the first: others say nothing for certain, and are judged by addresses.
    let id = (flow.protocol == protocol::IPV6_FRAGMENT && packet.len() >= flow.l4 + 8)
        .then(|| be32(packet, flow.l4 + 4));
    match chain::follow(packet, flow.protocol, flow.l4) {
        End::Upper { number, at, fragment: false } => upper(flow, packet, number, at, None),
        End::Upper { number, at, fragment: true } => match id {
            Some(id) => upper(flow, packet, number, at, Some(id)),
            None => upper(flow, packet, number, at, Some(0)),
        },
        End::Later { number } => later(flow, number, id),
        End::Cut | End::Long => later(flow, flow.protocol, None),
    }
}

fn later(flow: &Flow, number: u8, id: Option<u32>) -> Subject {
    let (source, destination) = (flow.source, flow.destination);
    let tuple = Tuple { source, destination, protocol: number, ports: None, icmp: None };
    Subject { tuple, kind: Kind::Later(id) }
}

/// A packet whose upper-layer header begins at `at`; `fragment` is the identification where it is a first fragment.
#[inline]
fn upper(flow: &Flow, packet: &[u8], number: u8, at: usize, fragment: Option<u32>) -> Subject {
    let body = packet.get(at..).unwrap_or_default();
    let (source, destination) = (flow.source, flow.destination);
    let mut tuple = Tuple { source, destination, protocol: number, ports: None, icmp: None };
    let kind = match number {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            tuple.ports = ports(body);
            match body.get(tcp::FIELD_FLAGS) {
                Some(flags) if number == protocol::TCP => Kind::Tcp(*flags),
                _ => Kind::Plain,
            }
        }
        protocol::ICMP | protocol::ICMPV6 if body.len() >= icmp::LEN => {
            tuple.icmp = Some((body[0], body[1]));
            if fragment.is_some() { Kind::Plain } else { icmp_kind(number, body) }
        }
        _ => Kind::Plain,
    };
    let kind = match fragment {
        Some(id) => Kind::First(id),
        None => kind,
    };
    Subject { tuple, kind }
}

fn ports(body: &[u8]) -> Option<(u16, u16)> {
    (body.len() >= 4).then(|| (be16(body, 0), be16(body, 2)))
}

/// What an ICMP message is.
fn icmp_kind(number: u8, body: &[u8]) -> Kind {
    if let Some(query) = query(number, body) {
        return Kind::Query(query);
    }
    match (number, body[0]) {
        (protocol::ICMP, 3 | 4 | 5 | 11 | 12) => Kind::Error(quoted_v4(&body[icmp::LEN..])),
        (protocol::ICMPV6, 0..=127) => Kind::Error(quoted_v6(&body[icmp::LEN..])),
        (protocol::ICMPV6, 133..=136) => Kind::Discovery,
        _ => Kind::Plain,
    }
}

/// The query or answer that a message is (RFC 792, RFC 4443 §4).
fn query(number: u8, body: &[u8]) -> Option<Query> {
    let (request, is_answer) = match (number, body[0]) {
        (protocol::ICMP, icmp::ECHO) | (protocol::ICMPV6, icmp::ECHO6) => (body[0], false),
        (protocol::ICMP, icmp::ECHO_REPLY) => (icmp::ECHO, true),
        (protocol::ICMPV6, icmp::ECHO_REPLY6) => (icmp::ECHO6, true),
        // Timestamp, information, address mask.
        (protocol::ICMP, kind @ (13 | 15 | 17)) => (kind, false),
        (protocol::ICMP, kind @ (14 | 16 | 18)) => (kind - 1, true),
        _ => return None,
    };
    Some(Query { identifier: be16(body, 4), request, is_answer })
}

/// The tuple of a packet of which an error quotes the beginning.
fn quoted_v4(quote: &[u8]) -> Option<Subjected> {
    if quote.len() < ipv4::LEN || quote[0] >> 4 != 4 || be16(quote, 6) & 0x1fff != 0 {
        return None;
    }
    let at = usize::from(quote[0] & 0xf) * 4;
    let body = quote.get(at..).filter(|_| at >= ipv4::LEN)?;
    let source = Ipv4Addr::from_bits(be32(quote, 12)).into();
    quoted(source, Ipv4Addr::from_bits(be32(quote, 16)).into(), quote[9], body)
}

fn quoted_v6(quote: &[u8]) -> Option<Subjected> {
    let header = quote.get(..ipv6::LEN).filter(|header| header[0] >> 4 == 6)?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    match chain::follow(quote, header[6], ipv6::LEN) {
        End::Upper { number, at, .. } => quoted(address(8), address(24), number, quote.get(at..)?),
        End::Later { .. } | End::Cut | End::Long => None,
    }
}

fn quoted(source: IpAddr, destination: IpAddr, number: u8, body: &[u8]) -> Option<Subjected> {
    let mut tuple = Tuple { source, destination, protocol: number, ports: None, icmp: None };
    let mut about = None;
    match number {
        protocol::TCP | protocol::UDP | protocol::SCTP => tuple.ports = Some(ports(body)?),
        protocol::ICMP | protocol::ICMPV6 if body.len() >= icmp::LEN => about = Some(query(number, body)?),
        protocol::ICMP | protocol::ICMPV6 => return None,
        _ => {}
    }
    Some(Subjected { tuple, query: about })
}
