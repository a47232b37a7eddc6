//! Ethernet II header, as carried inside VXLAN (no FCS, no VLAN tag).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      Destination address                      |
//! +                               +-------------------------------+
//! |                               |                               |
//! +-------------------------------+        Source address         +
//! |                                                               |
//! +-------------------------------+-------------------------------+
//! |           EtherType           |
//! +-------------------------------+
//! ```

use super::{Malformed, be16};
use crate::net::Mac;

/// Bytes of the header.
pub const LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// The header for `ethertype` from `source` to `destination`.
pub fn header(destination: Mac, source: Mac, ethertype: u16) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..6].copy_from_slice(&destination.0);
    bytes[6..12].copy_from_slice(&source.0);
    bytes[12..].copy_from_slice(&ethertype.to_be_bytes());
    bytes
}

/// The EtherType of `frame` and what follows the header.
///
/// # Errors
/// `Malformed` when `frame` is shorter than the header.
pub fn parse(frame: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    if frame.len() < LEN {
        return Err(Malformed);
    }
    Ok((be16(frame, 12), &frame[LEN..]))
}

#[cfg(test)]
mod tests {
    use super::{IPV4, header, parse};
    use crate::net::Mac;

    #[test]
    fn golden() {
        let bytes = header(Mac([0x66, 1, 2, 3, 4, 5]), Mac([0x66, 6, 7, 8, 9, 10]), IPV4);
        assert_eq!(bytes, [0x66, 1, 2, 3, 4, 5, 0x66, 6, 7, 8, 9, 10, 8, 0]);
        assert_eq!(parse(&bytes).unwrap(), (IPV4, &[][..]));
        assert!(parse(&bytes[..13]).is_err());
    }
}
