//! Outer packets as Ethernet frames, for a packet socket on the uplink: what the raw socket's
//! kernel path would add is built here, with the next hop's link address from the neighbour table.
//!
//! ```text
//! | vnet (10) | Ethernet (14) | outer IPv4 or the bare inner packet … |
//! ```

use crate::net::Mac;
use crate::wire::{VnetHdr, ethernet, vnet_hdr};

/// Bytes of the template.
pub const TEMPLATE: usize = vnet_hdr::LEN + ethernet::LEN;

/// The link addresses of a hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hop {
    /// The next hop's.
    pub destination: Mac,
    /// The uplink's own.
    pub source: Mac,
}

/// The headers towards `hop`; the vnet header says "one plain packet".
pub fn template(hop: Hop, ethertype: u16) -> [u8; TEMPLATE] {
    let mut bytes = [0; TEMPLATE];
    bytes[vnet_hdr::LEN..].copy_from_slice(&ethernet::header(hop.destination, hop.source, ethertype));
    bytes
}

/// Turns a copy of the template into the head of a super-packet that the kernel segments. `vnet`
/// is the super-packet's own; its offsets count from the IP header, here from the frame's start.
pub fn patch(header: &mut [u8], vnet: &VnetHdr, header_len: usize) {
    let vnet = VnetHdr {
        hdr_len: (ethernet::LEN + header_len) as u16,
        csum_start: ethernet::LEN as u16 + vnet.csum_start,
        ..*vnet
    };
    header[..vnet_hdr::LEN].copy_from_slice(&vnet.emit());
}

#[cfg(test)]
mod tests {
    use super::{Hop, patch, template};
    use crate::net::Mac;
    use crate::wire::VnetHdr;

    #[test]
    fn golden() {
        let hop = Hop { destination: Mac([2, 0, 0, 0, 0, 1]), source: Mac([2, 0, 0, 0, 0, 2]) };
        let mut bytes = template(hop, 0x0800);
        assert_eq!(bytes[..10], [0; 10]);
        assert_eq!(bytes[10..], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        let vnet =
            VnetHdr { flags: 1, gso_type: 1, hdr_len: 9, gso_size: 1448, csum_start: 20, csum_offset: 16 };
        patch(&mut bytes, &vnet, 52);
        assert_eq!(bytes[..10], [1, 1, 66, 0, 0xa8, 0x05, 34, 0, 16, 0]);
    }
}
