//! IP-in-IP (RFC 2003; RFC 4213 §3 for IPv6 inside): one outer IPv4 header without options.
//!
//! ```text
//! | outer IPv4 (20) protocol 4 or 41 | inner packet … |
//! ```

use std::net::Ipv4Addr;

use super::OUTER_TTL;
use crate::wire::ipv4;

/// Bytes in front of the inner packet.
pub const OVERHEAD: usize = ipv4::LEN;

/// The outer header from `source` to `destination` for an inner packet of `inner_protocol`
/// (4 or 41). DF is always set: allowed by RFC 2003 §3.1 for a tunnel that keeps its MTU, and it
/// makes identification meaningless (RFC 6864 §4.1).
pub fn template(source: Ipv4Addr, destination: Ipv4Addr, inner_protocol: u8) -> [u8; OVERHEAD] {
    ipv4::Repr {
        tos: 0,
        total_len: 0,
        id: 0,
        flags: ipv4::DF,
        ttl: OUTER_TTL,
        protocol: inner_protocol,
        source,
        destination,
    }
    .emit()
}

/// Completes a copy of the template for one inner packet of `inner_len` bytes.
#[inline]
pub fn patch(header: &mut [u8], tos: u8, inner_len: usize) {
    ipv4::patch_tos(header, tos);
    ipv4::patch_len_id(header, (OVERHEAD + inner_len) as u16, 0);
}

#[cfg(test)]
mod tests {
    use super::{patch, template};
    use crate::wire::Ipv4;

    #[test]
    fn golden() {
        let mut packet = template([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 4).to_vec();
        packet.resize(104, 0);
        patch(&mut packet, 0x02, 84);
        assert_eq!(
            packet[..20],
            [0x45, 0x02, 0, 104, 0, 0, 0x40, 0, 0x40, 4, 0xb6, 0x8c, 192, 0, 2, 1, 192, 0, 2, 2]
        );
        assert!(Ipv4::parse(&packet).unwrap().checksum_ok());
    }
}
