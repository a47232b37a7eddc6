//! VXLAN header (RFC 7348 §5).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Reserved bits are zero on send and ignored on receipt, as the RFC demands.

use super::{Malformed, be32};
use crate::net::Vni;

/// Bytes of the header.
pub const LEN: usize = 8;
/// The I flag: the VNI is valid.
pub const FLAG_VNI: u8 = 0x08;

/// First UDP source port: RFC 7348 §5 recommends the dynamic range 49152–65535.
pub const FIRST_SOURCE_PORT: u16 = 49152;

/// The header for `vni`.
pub fn header(vni: Vni) -> [u8; LEN] {
    let mut bytes = [FLAG_VNI, 0, 0, 0, 0, 0, 0, 0];
    bytes[4..].copy_from_slice(&(vni.get() << 8).to_be_bytes());
    bytes
}

/// The VNI of `datagram` (`None` when the I flag is clear) and the inner Ethernet frame.
///
/// # Errors
/// `Malformed` when `datagram` is shorter than the header.
pub fn parse(datagram: &[u8]) -> Result<(Option<u32>, &[u8]), Malformed> {
    if datagram.len() < LEN {
        return Err(Malformed);
    }
    let vni = (datagram[0] & FLAG_VNI != 0).then(|| be32(datagram, 4) >> 8);
    Ok((vni, &datagram[LEN..]))
}

#[cfg(test)]
mod tests {
    use super::{header, parse};
    use crate::net::Vni;

    #[test]
    fn golden() {
        let bytes = header(Vni::try_from(0x123456).unwrap());
        assert_eq!(bytes, [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(parse(&bytes).unwrap(), (Some(0x123456), &[][..]));
    }

    #[test]
    fn reserved_bits_are_ignored_and_the_flag_is_not() {
        assert_eq!(parse(&[0xff, 1, 2, 3, 0, 0, 42, 9, 7]).unwrap(), (Some(42), &[7][..]));
        assert_eq!(parse(&[0xf7, 0, 0, 0, 0, 0, 42, 0]).unwrap(), (None, &[][..]));
        assert!(parse(&[8, 0, 0, 0, 0, 0, 42]).is_err());
    }
}
