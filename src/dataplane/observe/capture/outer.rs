//! Outer headers that a socket neither takes nor hands over, rebuilt for the file.
//!
//! ```text
//! udp   | IPv4 (20) or IPv6 (40) | UDP (8) | datagram …
//! ipip  | IPv6 (40)              | inner packet …
//! ```
//!
//! Addresses, ports, TOS and lengths are those on the wire. What the socket does not say is not:
//! TTL and hop limit are 64, DF is set (also where the kernel fragments the packet afterwards), UDP checksum and
//! flow label are 0, and there are no options.

use std::net::{IpAddr, SocketAddr};

use crate::dataplane::encap::{OUTER_TTL, UDP6_OVERHEAD, ipip6};
use crate::wire::{ipv4, ipv6, protocol, put16, udp};

/// The headers; without bytes where the socket knows them all.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    bytes: [u8; UDP6_OVERHEAD],
    len: usize,
}

impl Outer {
    /// No bytes.
    pub const NONE: Self = Self { bytes: [0; UDP6_OVERHEAD], len: 0 };

    /// Around a UDP payload of `len` bytes.
    pub fn udp(from: SocketAddr, to: SocketAddr, tos: u8, len: usize) -> Self {
        let mut outer = Self::NONE;
        outer.ip(from.ip(), to.ip(), protocol::UDP, tos, udp::LEN + len);
        if outer.len > 0 {
            let header = &mut outer.bytes[outer.len..outer.len + udp::LEN];
            put16(header, 0, from.port());
            put16(header, 2, to.port());
            put16(header, udp::FIELD_LENGTH, clamp(udp::LEN + len));
            outer.len += udp::LEN;
        }
        outer
    }

    /// Around an inner packet of `len` bytes with this protocol number, 4 or 41.
    pub fn ipip(from: IpAddr, to: IpAddr, inner: u8, tos: u8, len: usize) -> Self {
        let mut outer = Self::NONE;
        outer.ip(from, to, inner, tos, len);
        outer
    }

    /// Nothing between addresses of two families.
    fn ip(&mut self, from: IpAddr, to: IpAddr, next: u8, tos: u8, len: usize) {
        self.len = match (from, to) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ip = ipv4::Repr {
                    tos,
                    total_len: clamp(ipv4::LEN + len),
                    id: 0,
                    flags: ipv4::DF,
                    ttl: OUTER_TTL,
                    protocol: next,
                    source,
                    destination,
                };
                self.bytes[..ipv4::LEN].copy_from_slice(&ip.emit());
                ipv4::LEN
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = ipip6::template(source, destination, next);
                ipip6::patch(&mut header, tos, 0, len.min(usize::from(u16::MAX)));
                self.bytes[..ipv6::LEN].copy_from_slice(&header);
                ipv6::LEN
            }
            _ => 0,
        };
    }

    /// The bytes in front.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A super-packet is longer than its length field can say.
fn clamp(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::Outer;
    use crate::wire::{Ipv4, Ipv6};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn around_a_datagram_over_ipv4() {
        let outer = Outer::udp(at("192.0.2.1:50000"), at("192.0.2.2:4789"), 3, 100);
        let packet = [outer.bytes(), &[0; 100]].concat();
        let ip = Ipv4::parse(&packet).unwrap();
        assert!(ip.checksum_ok());
        assert_eq!(
            (ip.total_len(), ip.tos(), ip.payload()[..6].to_vec()),
            (128, 3, vec![0xc3, 0x50, 0x12, 0xb5, 0, 108])
        );
    }

    #[test]
    fn over_ipv6() {
        let [from, to] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        let outer = Outer::udp(SocketAddr::new(from, 50000), SocketAddr::new(to, 4789), 3, 100);
        let packet = [outer.bytes(), &[0; 100]].concat();
        let ip = Ipv6::parse(&packet).unwrap();
        assert_eq!((ip.total_len(), ip.traffic_class(), ip.next_header(), ip.hop_limit()), (148, 3, 17, 64));
        assert_eq!((ip.source(), ip.destination()), (from_v6(1), from_v6(2)));
        assert_eq!(ip.payload()[..8], [0xc3, 0x50, 0x12, 0xb5, 0, 108, 0, 0]);

        let outer = Outer::ipip(from, to, 41, 2, 60);
        let packet = [outer.bytes(), &[0; 60]].concat();
        let ip = Ipv6::parse(&packet).unwrap();
        assert_eq!((ip.total_len(), ip.traffic_class(), ip.next_header()), (100, 2, 41));
    }

    fn from_v6(last: u16) -> std::net::Ipv6Addr {
        std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
    }

    #[test]
    fn too_long_or_impossible() {
        let outer = Outer::udp(at("192.0.2.1:1"), at("192.0.2.2:2"), 0, 70_000);
        assert_eq!((&outer.bytes()[2..4], &outer.bytes()[24..26]), (&[0xff; 2][..], &[0xff; 2][..]));
        assert!(Outer::udp(at("192.0.2.1:1"), at("[::1]:2"), 0, 9).bytes().is_empty());
    }
}
