//! IP-in-IP super-packets for the kernel to segment: the head of the frame that is written to the
//! TAP in front of the inner super-packet. The outer IPv4 header is pushed there by the program of
//! `underlay/tap`, which reads its destination and TOS from the frame's source address field.
//!
//! ```text
//! | vnet (24) | Ethernet (14): TAP address, destination · TOS · mark, 0800 | inner packet … |
//! ```

use std::net::Ipv4Addr;

use super::ipip;
use crate::dataplane::packet::MAX_PACKET;
use crate::net::Mac;
use crate::wire::vnet_hdr::TUNNEL_LEN;
use crate::wire::{VnetHdr, ethernet};

/// Bytes of the template.
pub const TEMPLATE: usize = TUNNEL_LEN + ethernet::LEN;
/// Last byte of the source address field of frames that get an outer header.
pub const MARK: u8 = 0x04;
/// Source address field of frames that do not.
pub const UNMARKED: Mac = Mac([2, 0, 0, 0, 0, 0]);
/// Bytes of the largest inner packet whose outer total length still fits its field.
pub const MAX_INNER: usize = MAX_PACKET - ipip::OVERHEAD;

const FIELD_TOS: usize = TUNNEL_LEN + 10;

/// The template towards `destination` through the TAP with address `tap`; IPv4 inside.
pub fn template(tap: Mac, destination: Ipv4Addr) -> [u8; TEMPLATE] {
    let [a, b, c, d] = destination.octets();
    let mut bytes = [0; TEMPLATE];
    let frame = ethernet::header(tap, Mac([a, b, c, d, 0, MARK]), ethernet::IPV4);
    bytes[TUNNEL_LEN..].copy_from_slice(&frame);
    bytes
}

/// Completes a copy of the template for the super-packet that `vnet` describes, whose IP and
/// transport headers have `header_len` bytes.
pub fn patch(header: &mut [u8], vnet: &VnetHdr, header_len: usize, tos: u8) {
    let vnet = VnetHdr {
        hdr_len: (ethernet::LEN + header_len) as u16,
        csum_start: ethernet::LEN as u16 + vnet.csum_start,
        ..*vnet
    };
    header[..TUNNEL_LEN].copy_from_slice(&vnet.emit_tunnel(0, 0));
    header[FIELD_TOS] = tos;
}

/// The super-packet's own vnet header and the outer TOS, back from a patched head.
pub fn unpatch(header: &[u8]) -> Option<(VnetHdr, u8)> {
    let vnet = VnetHdr::parse(header.first_chunk()?);
    let csum_start = vnet.csum_start.checked_sub(ethernet::LEN as u16)?;
    Some((VnetHdr { csum_start, ..vnet }, *header.get(FIELD_TOS)?))
}

#[cfg(test)]
mod tests {
    use super::{patch, template, unpatch};
    use crate::net::Mac;
    use crate::wire::VnetHdr;

    #[test]
    fn golden() {
        let mut bytes = template(Mac([2, 0, 0, 0, 0, 9]), [192, 0, 2, 2].into());
        let vnet =
            VnetHdr { flags: 1, gso_type: 1, hdr_len: 52, gso_size: 1428, csum_start: 20, csum_offset: 16 };
        patch(&mut bytes, &vnet, 52, 3);
        assert_eq!(bytes[..10], [1, 1, 66, 0, 0x94, 0x05, 34, 0, 16, 0]);
        assert_eq!(bytes[10..24], [0; 14]);
        assert_eq!(bytes[24..], [2, 0, 0, 0, 0, 9, 192, 0, 2, 2, 3, 4, 8, 0]);
        assert_eq!(unpatch(&bytes), Some((VnetHdr { hdr_len: 66, ..vnet }, 3)));
    }
}
