//! What tells connections apart.

use std::net::IpAddr;

use crate::dataplane::policy::subject::Query;
use crate::dataplane::policy::tuple::Tuple;
use crate::dataplane::segment::flow::fold_multiply;
use crate::wire::protocol;

/// The two ends of a connection, the same for both ways of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dataplane::policy) struct Key {
    /// Address of the lower and of the higher end, IPv4 ones mapped into IPv6 (RFC 4291 §2.5.5.2).
    pub(super) addresses: [u128; 2],
    /// Ports of both in this order, or the number that other packets of it have in common.
    pub(super) numbers: u32,
    pub(super) protocol: u8,
    /// What `numbers` are.
    pub(super) kind: u8,
}

/// A connection of a protocol with ports, or without numbers.
pub(super) const ENDS: u8 = 0;
/// The fragments of one datagram.
pub(super) const DATAGRAM: u8 = 1;
/// A query of ICMP.
pub(super) const QUERY: u8 = 2;

impl Key {
    /// The connection of a tuple, and whether the sender is its lower end.
    #[inline]
    pub(in crate::dataplane::policy) fn of(tuple: &Tuple) -> (Self, bool) {
        let (from, to) = tuple.ports.unwrap_or_default();
        let source = (number(tuple.source), from);
        let destination = (number(tuple.destination), to);
        let lower = source <= destination;
        let (low, high) = if lower { (source, destination) } else { (destination, source) };
        let numbers = u32::from(low.1) << 16 | u32::from(high.1);
        let addresses = [low.0, high.0];
        (Self { addresses, numbers, protocol: tuple.protocol, kind: ENDS }, lower)
    }

    /// That of a query of ICMP, or of the answer to one. Both ends may ask with the same identifier.
    pub(in crate::dataplane::policy) fn query(tuple: &Tuple, query: Query) -> (Self, bool) {
        let (key, lower) = Self::of(&Tuple { ports: None, ..*tuple });
        let by_lower = u32::from(lower != query.is_answer) << 8;
        let numbers = u32::from(query.identifier) << 16 | by_lower | u32::from(query.request);
        (Self { numbers, kind: QUERY, ..key }, lower)
    }

    /// That of the fragments of a datagram with this identification.
    pub(in crate::dataplane::policy) fn datagram(tuple: &Tuple, id: u32) -> (Self, bool) {
        let (key, lower) = Self::of(&Tuple { ports: None, ..*tuple });
        (Self { numbers: id, kind: DATAGRAM, ..key }, lower)
    }

    /// The upper-layer protocol.
    pub(in crate::dataplane::policy) fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether it is that of fragments.
    pub(super) fn is_datagram(&self) -> bool {
        self.kind == DATAGRAM
    }

    /// A hash that nobody can foresee who does not know `seed`.
    #[inline]
    pub(super) fn hash(&self, seed: [u64; 2]) -> u64 {
        let tail = u64::from(self.numbers) << 16 | u64::from(self.protocol) << 8 | u64::from(self.kind);
        let halves = self.addresses.iter().flat_map(|address| [(address >> 64) as u64, *address as u64]);
        halves.fold(tail ^ seed[0], |hash, half| fold_multiply(hash ^ half, seed[1]))
    }

    /// The tuple of a packet from the lower end, or from the higher one.
    pub(super) fn tuple(&self, from_lower: bool) -> Tuple {
        let ends = [self.addresses[0], self.addresses[1]].map(address);
        let ports = (self.kind == ENDS && protocol::has_ports(self.protocol))
            .then_some(((self.numbers >> 16) as u16, self.numbers as u16));
        // A query has one type in one direction, and code 0.
        let icmp = (self.kind == QUERY).then_some((self.numbers as u8, 0));
        let tuple = Tuple { source: ends[0], destination: ends[1], protocol: self.protocol, ports, icmp };
        if from_lower { tuple } else { tuple.reversed() }
    }
}

#[inline]
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => MAPPED | u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128) -> IpAddr {
    std::net::Ipv6Addr::from_bits(number).to_canonical()
}

/// `::ffff:0:0/96`
const MAPPED: u128 = 0xffff << 32;
