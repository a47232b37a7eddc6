//! Outer headers of VXLAN from the IP header on, where no socket makes them: lengths, TOS and checksums are for whoever
//! completes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{UDP_OVERHEAD, UDP6_OVERHEAD, ipip6, vxlan};
use crate::wire::{ipv4, ipv6, protocol, put16};

/// Bytes of the outer headers of VXLAN over IPv4.
pub const VXLAN: usize = UDP_OVERHEAD + vxlan::TEMPLATE;
/// The same over IPv6.
pub const VXLAN6: usize = UDP6_OVERHEAD + vxlan::TEMPLATE;

/// The headers from the outer IPv4 header to the inner Ethernet header; the UDP checksum is 0, which says that there is
/// none (RFC 768).
pub fn vxlan(
    ttl: u8,
    (source, source_port): (Ipv4Addr, u16),
    (destination, port): (Ipv4Addr, u16),
    inner: &[u8; vxlan::TEMPLATE],
) -> [u8; VXLAN] {
    let ip = ipv4::Repr {
        tos: 0,
        total_len: 0,
        id: 0,
        flags: ipv4::DF,
        ttl,
        protocol: protocol::UDP,
        source,
        destination,
    };
    let mut bytes = [0; VXLAN];
    bytes[..ipv4::LEN].copy_from_slice(&ip.emit());
    put16(&mut bytes, ipv4::LEN, source_port);
    put16(&mut bytes, ipv4::LEN + 2, port);
    bytes[UDP_OVERHEAD..].copy_from_slice(inner);
    bytes
}

/// The same from the outer IPv6 header on, for peers that receive a UDP checksum of 0 (RFC 6935); the flow label is the
/// low 20 bits of `flow` (RFC 6438 §3).
pub fn vxlan6(
    flow: u32,
    (source, source_port): (Ipv6Addr, u16),
    (destination, port): (Ipv6Addr, u16),
    inner: &[u8; vxlan::TEMPLATE],
) -> [u8; VXLAN6] {
    let mut bytes = [0; VXLAN6];
    bytes[..ipv6::LEN].copy_from_slice(&ipip6::template(source, destination, protocol::UDP));
    ipip6::patch(&mut bytes, 0, flow, 0);
    put16(&mut bytes, ipv6::LEN, source_port);
    put16(&mut bytes, ipv6::LEN + 2, port);
    bytes[UDP6_OVERHEAD..].copy_from_slice(inner);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{vxlan, vxlan6};
    use crate::dataplane::encap::vxlan::template;
    use crate::net::{Mac, Vni};

    #[test]
    fn golden() {
        let inner = template(Vni::CALICO, Mac([0x66; 6]), Mac([0x64; 6]), 0x0800);
        let bytes = vxlan(64, ([192, 0, 2, 1].into(), 0xc001), ([192, 0, 2, 2].into(), 4789), &inner);
        assert_eq!(bytes[..10], [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
        assert_eq!(bytes[12..28], [192, 0, 2, 1, 192, 0, 2, 2, 0xc0, 0x01, 0x12, 0xb5, 0, 0, 0, 0]);
        assert_eq!(bytes[28..], inner);
    }

    #[test]
    fn golden_over_ipv6() {
        let inner = template(Vni::CALICO, Mac([0x66; 6]), Mac([0x64; 6]), 0x0800);
        let (from, to) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let bytes = vxlan6(0xfff1_2345, (from, 0xc001), (to, 4789), &inner);
        assert_eq!(bytes[..8], [0x60, 0x01, 0x23, 0x45, 0, 0, 17, 64]);
        assert_eq!(bytes[8..40], [from.octets(), to.octets()].concat());
        assert_eq!(bytes[40..48], [0xc0, 0x01, 0x12, 0xb5, 0, 0, 0, 0]);
        assert_eq!(bytes[48..], inner);
    }
}
