//! Outer headers of VXLAN over IPv4 from the IP header on, where no socket makes them: lengths, TOS and checksums are
//! for whoever completes them.

use std::net::Ipv4Addr;

use super::{UDP_OVERHEAD, vxlan};
use crate::wire::{ipv4, protocol, put16};

/// Bytes of the outer headers of VXLAN over IPv4.
pub const VXLAN: usize = UDP_OVERHEAD + vxlan::TEMPLATE;

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

#[cfg(test)]
mod tests {
    use super::vxlan;
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
}
