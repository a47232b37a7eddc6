//! VXLAN (RFC 7348) as this side builds it: VXLAN and inner Ethernet header in one template. The
//! outer IP and UDP headers are the kernel's, by the socket the datagram leaves through.
//!
//! ```text
//! | outer IPv4 (20) | UDP (8) | VXLAN (8) | inner Ethernet (14) | inner packet … |
//!   `------- kernel --------'   `---------- template ---------'
//! ```

use crate::net::{Mac, Vni};
pub use crate::wire::vxlan::FIRST_SOURCE_PORT;
use crate::wire::{ethernet, vxlan};

/// Bytes of the template.
pub const TEMPLATE: usize = vxlan::LEN + ethernet::LEN;

/// The headers in front of an inner packet of `ethertype`.
pub fn template(vni: Vni, destination: Mac, source: Mac, ethertype: u16) -> [u8; TEMPLATE] {
    let mut bytes = [0; TEMPLATE];
    bytes[..vxlan::LEN].copy_from_slice(&vxlan::header(vni));
    bytes[vxlan::LEN..].copy_from_slice(&ethernet::header(destination, source, ethertype));
    bytes
}

#[cfg(test)]
mod tests {
    use super::template;
    use crate::net::{Mac, Vni};

    #[test]
    fn golden() {
        let bytes = template(Vni::CALICO, Mac([0x66, 1, 1, 1, 1, 1]), Mac([0x66, 2, 2, 2, 2, 2]), 0x86dd);
        let expected = [8, 0, 0, 0, 0, 0x10, 0, 0, 0x66, 1, 1, 1, 1, 1, 0x66, 2, 2, 2, 2, 2, 0x86, 0xdd];
        assert_eq!(bytes, expected);
    }
}
