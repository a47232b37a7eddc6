//! Classification: one look at an inner packet that answers everything later steps ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{Ipv4, Ipv6, Malformed, be32, protocol, tcp};

/// What a packet is and which flow it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Inner source address.
    pub source: IpAddr,
    /// Inner destination address.
    pub destination: IpAddr,
    /// Bytes of the packet by its own header.
    pub total_len: usize,
    /// Offset of the transport header: IPv4 header length, or 40.
    pub l4: usize,
    /// Protocol or next header number.
    pub protocol: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether this is a fragment (IPv6: the next header is a fragment header).
    pub fragment: bool,
    /// Hash of addresses, protocol and, for unfragmented TCP and UDP, ports.
    pub hash: u32,
}

impl Flow {
    /// Looks at the packet at the start of `bytes`.
    ///
    /// # Errors
    /// `Malformed` when the IP header contradicts `bytes`; transport headers are not judged.
    #[inline]
    pub fn of(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Ok(Self::of_v4(Ipv4::parse(bytes)?)),
            Some(6) => Ok(Self::of_v6(Ipv6::parse(bytes)?)),
            _ => Err(Malformed),
        }
    }

    /// Both ports, as four bytes of `packet`, of which this is the flow, where it is a packet of TCP or UDP like most of
    /// its flow: no fragment, with a whole TCP header or both ports of UDP, and without a TCP flag that begins or ends
    /// something.
    #[inline]
    pub fn plain_ports(&self, packet: &[u8]) -> Option<u32> {
        let body = packet.get(self.l4..self.total_len.min(packet.len()))?;
        let plain = match self.protocol {
            protocol::TCP => body.len() >= tcp::LEN && body[tcp::FIELD_FLAGS] & tcp::TELLING == 0,
            protocol::UDP => body.len() >= 4,
            _ => false,
        };
        (plain && !self.fragment).then(|| be32(body, 0))
    }

    fn of_v4(ip: Ipv4<'_>) -> Self {
        let fragment = ip.is_fragment();
        let ports = ports(ip.protocol(), fragment, ip.payload());
        Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            total_len: ip.total_len(),
            l4: ip.header_len(),
            protocol: ip.protocol(),
            tos: ip.tos(),
            ttl: ip.ttl(),
            fragment,
            hash: hash4(ip.source(), ip.destination(), ports, ip.protocol()),
        }
    }

    fn of_v6(ip: Ipv6<'_>) -> Self {
        let fragment = ip.next_header() == protocol::IPV6_FRAGMENT;
        let ports = ports(ip.next_header(), fragment, ip.payload());
        Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            total_len: ip.total_len(),
            l4: crate::wire::ipv6::LEN,
            protocol: ip.next_header(),
            tos: ip.traffic_class(),
            ttl: ip.hop_limit(),
            fragment,
            hash: hash6(ip.source(), ip.destination(), ports, ip.next_header()),
        }
    }
}

/// [`Flow::hash`] of unfragmented packets between these addresses; `ports` are both ports of TCP and UDP, as the
/// packet has them, and 0 of other protocols.
pub fn hash_of(source: IpAddr, destination: IpAddr, ports: u32, protocol: u8) -> u32 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => hash4(source, destination, ports, protocol),
        (IpAddr::V6(source), IpAddr::V6(destination)) => hash6(source, destination, ports, protocol),
        _ => 0,
    }
}

#[inline]
fn hash4(source: Ipv4Addr, destination: Ipv4Addr, ports: u32, protocol: u8) -> u32 {
    mix(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()), ports, protocol)
}

#[inline]
fn hash6(source: Ipv6Addr, destination: Ipv6Addr, ports: u32, protocol: u8) -> u32 {
    let (source, destination) = (source.to_bits(), destination.to_bits());
    let halves = [source >> 64, source, destination >> 64, destination].map(|half| half as u64);
    mix(halves.iter().fold(0, |hash, half| fold_multiply(hash ^ half, KEYS[2])), ports, protocol)
}

/// A place among `count` for a hash, every one equally likely; another count moves few flows (hash-threshold, RFC 2992).
#[inline]
pub fn among(hash: u32, count: usize) -> usize {
    ((u64::from(hash) * count as u64) >> u32::BITS) as usize
}

/// Both ports as one number, 0 where the packet has none to show. Every fragment of a datagram
/// answers 0, so that all of them take the same path.
fn ports(protocol: u8, fragment: bool, payload: &[u8]) -> u32 {
    match payload {
        [a, b, c, d, ..] if !fragment && matches!(protocol, protocol::TCP | protocol::UDP) => {
            u32::from_be_bytes([*a, *b, *c, *d])
        }
        _ => 0,
    }
}

/// Odd constants with well-spread bits (from the digits of pi), for multiplicative hashing.
const KEYS: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

fn mix(addresses: u64, ports: u32, protocol: u8) -> u32 {
    let tail = u64::from(ports) << 8 | u64::from(protocol);
    let hash = fold_multiply(addresses ^ KEYS[0], tail ^ KEYS[1]);
    (hash ^ hash >> 32) as u32
}

/// 128-bit product folded to 64 bits: every input bit reaches every output bit.
pub(crate) fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::Flow;
    use crate::wire::ipv4;

    fn udp(id: u16, flags: u16, port: u16) -> Vec<u8> {
        let mut packet = ipv4::Repr {
            tos: 0x02,
            total_len: 28,
            id,
            flags,
            ttl: 63,
            protocol: 17,
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
        }
        .emit()
        .to_vec();
        packet.extend([(port >> 8) as u8, port as u8, 0, 53, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn hash_is_of_the_flow_and_nothing_else() {
        let a = Flow::of(&udp(1, ipv4::DF, 1000)).unwrap();
        let b = Flow::of(&udp(2, 0, 1000)).unwrap();
        let other = Flow::of(&udp(1, ipv4::DF, 1001)).unwrap();
        assert_eq!(a.hash, b.hash);
        assert_ne!(a.hash, other.hash);
        assert_eq!((a.l4, a.total_len, a.protocol, a.tos, a.ttl), (20, 28, 17, 2, 63));
    }

    #[test]
    fn all_fragments_share_a_hash() {
        let first = Flow::of(&udp(7, ipv4::MF, 1000)).unwrap();
        let later = Flow::of(&udp(7, 185, 0xabcd)).unwrap();
        assert!(first.fragment && later.fragment);
        assert_eq!(first.hash, later.hash);
    }

    #[test]
    fn neither_version_is_malformed() {
        for bytes in [&[][..], &[0x50; 40], &[0x45; 19]] {
            assert!(Flow::of(bytes).is_err());
        }
    }
}
