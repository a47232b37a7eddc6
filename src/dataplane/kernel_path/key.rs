//! What the programs know a flow by: exactly its inner packets, in one direction.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dataplane::packet::Direction;
use crate::dataplane::segment::Flow;
use crate::dataplane::segment::flow::fold_multiply;
use crate::wire::be32;

/// One direction of a TCP or UDP flow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowKey {
    /// Inner source address.
    pub source: IpAddr,
    /// Inner destination address.
    pub destination: IpAddr,
    /// Source and destination port, as four bytes of the packet.
    pub ports: u32,
    /// TCP or UDP.
    pub protocol: u8,
    /// Through this node.
    pub direction: Direction,
}

/// Bytes of a key.
pub(super) const LEN: usize = 40;

// Offsets in a key; IPv4 addresses are the last four bytes of their field.
pub(super) const SOURCE: i16 = 0;
pub(super) const DESTINATION: i16 = 16;
pub(super) const PORTS: i16 = 32;
pub(super) const PROTOCOL: i16 = 36;
pub(super) const DIRECTION: i16 = 37;
pub(super) const VERSION: i16 = 38;

impl FlowKey {
    /// The flow of `packet`, classified as `flow`; `None` where programs do not repeat packets like it.
    #[inline]
    pub fn of(flow: &Flow, packet: &[u8], direction: Direction) -> Option<Self> {
        Some(Self {
            source: flow.source,
            destination: flow.destination,
            ports: flow.plain_ports(packet)?,
            protocol: flow.protocol,
            direction,
        })
    }

    /// Source and destination port.
    pub fn port_pair(&self) -> (u16, u16) {
        ((self.ports >> 16) as u16, self.ports as u16)
    }

    /// The other direction of its flow.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: self.ports.rotate_left(16),
            protocol: self.protocol,
            direction: match self.direction {
                Direction::Outbound => Direction::Inbound,
                Direction::Inbound => Direction::Outbound,
            },
        }
    }

    /// A number of the flow that it is of, the same for both directions; never 0.
    #[inline]
    pub fn flow(&self) -> u64 {
        let (source, destination) = (number(self.source), number(self.destination));
        let (from, to) = (u64::from(self.ports >> 16), u64::from(self.ports & 0xffff));
        let end = |address: u128, port: u64| {
            fold_multiply(address as u64 ^ KEYS[0] ^ port << 48, (address >> 64) as u64 ^ KEYS[1])
        };
        let ends = end(source, from).wrapping_add(end(destination, to));
        fold_multiply(ends ^ u64::from(self.protocol), KEYS[2]) | 1
    }

    /// As the programs write it.
    pub(super) fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |at: i16, address: IpAddr| {
            let at = at as usize;
            match address {
                IpAddr::V4(address) => bytes[at + 12..at + 16].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes[at..at + 16].copy_from_slice(&address.octets()),
            }
        };
        put(SOURCE, self.source);
        put(DESTINATION, self.destination);
        bytes[PORTS as usize..PROTOCOL as usize].copy_from_slice(&self.ports.to_be_bytes());
        bytes[PROTOCOL as usize] = self.protocol;
        bytes[DIRECTION as usize] = self.direction as u8;
        bytes[VERSION as usize] = if self.source.is_ipv4() { 4 } else { 6 };
        bytes
    }

    /// From [`Self::bytes`].
    pub(super) fn parse(bytes: &[u8; LEN]) -> Self {
        let address = |at: i16| {
            let at = at as usize;
            let (_, field) = bytes.split_at(at);
            if bytes[VERSION as usize] == 4 {
                IpAddr::V4(Ipv4Addr::from_bits(be32(field, 12)))
            } else {
                let halves = [0, 4, 8, 12].map(|word| u128::from(be32(field, word)));
                let [a, b, c, d] = halves;
                IpAddr::V6(Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | d))
            }
        };
        let direction = match bytes[DIRECTION as usize] {
            0 => Direction::Outbound,
            _ => Direction::Inbound,
        };
        Self {
            source: address(SOURCE),
            destination: address(DESTINATION),
            ports: be32(bytes, PORTS as usize),
            protocol: bytes[PROTOCOL as usize],
            direction,
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Odd numbers with well-spread bits (from the digits of pi).
const KEYS: [u64; 3] = [0x082e_fa98_ec4e_6c89, 0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6d];

#[cfg(test)]
mod tests {
    use super::FlowKey;
    use crate::dataplane::packet::Direction;
    use crate::wire::protocol;

    #[test]
    fn keys_are_what_they_were() {
        for (source, destination) in [("10.0.0.1", "10.1.0.2"), ("2001:db8::1", "2001:db8:1::2")] {
            let key = FlowKey {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                ports: 0x1234_0050,
                protocol: protocol::TCP,
                direction: Direction::Inbound,
            };
            assert_eq!(FlowKey::parse(&key.bytes()), key);
            assert_eq!(key.flow(), key.reversed().flow());
            assert_ne!(key.flow(), FlowKey { ports: 0x1234_0051, ..key }.flow());
            assert_ne!(key.flow(), FlowKey { protocol: protocol::UDP, ..key }.flow());
        }
    }
}
