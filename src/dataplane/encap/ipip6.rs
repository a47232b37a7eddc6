//! IP-in-IPv6 (RFC 2473): one outer IPv6 header without extension headers, so without a tunnel
//! encapsulation limit.
//!
//! ```text
//! | outer IPv6 (40) next header 4 or 41 | inner packet … |
//! ```

use std::net::Ipv6Addr;

use super::OUTER_TTL;
use crate::wire::{ipv6, put32};

/// Bytes in front of the inner packet.
pub const OVERHEAD: usize = ipv6::LEN;

/// The outer header from `source` to `destination` for an inner packet of `inner_protocol`
/// (4 or 41).
pub fn template(source: Ipv6Addr, destination: Ipv6Addr, inner_protocol: u8) -> [u8; OVERHEAD] {
    ipv6::emit(inner_protocol, OUTER_TTL, source, destination)
}

/// Completes a copy of the template for one inner packet of `inner_len` bytes. The flow label is
/// the low 20 bits of `flow`, so that routers spread flows without looking inside (RFC 6438 §3).
#[inline]
pub fn patch(header: &mut [u8], traffic_class: u8, flow: u32, inner_len: usize) {
    put32(header, 0, 6 << 28 | u32::from(traffic_class) << 20 | flow & 0xf_ffff);
    ipv6::patch_payload_len(header, inner_len as u16);
}

#[cfg(test)]
mod tests {
    use super::{patch, template};

    #[test]
    fn golden() {
        let (source, destination) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let mut packet = template(source, destination, 41).to_vec();
        patch(&mut packet, 0x02, 0xfff1_2345, 84);
        #[rustfmt::skip]
        let expected = [
            0x60, 0x21, 0x23, 0x45, 0, 84, 41, 64,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        ];
        assert_eq!(packet, expected);
        packet.resize(40 + 84, 0);
        let (judged, payload) = etherparse::Ipv6Header::from_slice(&packet).unwrap();
        assert_eq!((judged.traffic_class, judged.flow_label.value()), (2, 0x1_2345));
        assert_eq!((judged.next_header.0, judged.hop_limit, payload.len()), (41, 64, 84));
        assert_eq!(judged.payload_length, 84);
    }
}
