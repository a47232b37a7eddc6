//! IPv6 header (RFC 8200 §3).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic Class |           Flow Label                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                        Source Address (16)                    +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                     Destination Address (16)                  +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv6Addr;

use super::{Malformed, be16, put16};

/// Bytes of the fixed header.
pub const LEN: usize = 40;
/// The smallest MTU of a link that carries IPv6, in bytes (RFC 8200 §5).
pub const MIN_MTU: u16 = 1280;

/// Offset of the payload length.
pub const FIELD_PAYLOAD_LEN: usize = 4;
/// Offset of the next header.
pub const FIELD_NEXT_HEADER: usize = 6;
const FIELD_HOP_LIMIT: usize = 7;
/// Offset of the source address.
pub const FIELD_SOURCE: usize = 8;
/// Offset of the destination address.
pub const FIELD_DESTINATION: usize = 24;

/// A view of one IPv6 packet whose lengths have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a>(&'a [u8]);

impl<'a> Ipv6<'a> {
    /// The packet at the start of `bytes`; anything behind its payload length is cut off.
    ///
    /// # Errors
    /// `Malformed` unless version is 6 and 40 + payload length ≤ `bytes`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        bytes.get(..total_len(bytes)?).map(Self).ok_or(Malformed)
    }

    /// The beginning of a packet, as an ICMP error quotes it: the fixed header at least. The view ends where the
    /// quote does.
    ///
    /// # Errors
    /// `Malformed` unless version is 6 and the fixed header is there.
    pub fn parse_quote(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self(&bytes[..total_len(bytes)?.min(bytes.len())]))
    }

    /// Bytes of the packet, header included.
    #[inline]
    pub fn total_len(self) -> usize {
        self.0.len()
    }

    /// The packet, without anything behind its payload length.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// What follows the fixed header, extension headers included.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[LEN..]
    }

    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(self) -> u8 {
        (be16(self.0, 0) >> 4) as u8
    }

    /// Protocol number of what follows the fixed header.
    pub fn next_header(self) -> u8 {
        self.0[FIELD_NEXT_HEADER]
    }

    /// Hop limit.
    pub fn hop_limit(self) -> u8 {
        self.0[FIELD_HOP_LIMIT]
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> Ipv6Addr {
        addr(self.0, FIELD_SOURCE)
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> Ipv6Addr {
        addr(self.0, FIELD_DESTINATION)
    }
}

/// Bytes of the packet at the start of `bytes`, as its header says them.
#[inline]
fn total_len(bytes: &[u8]) -> Result<usize, Malformed> {
    if bytes.len() < LEN || bytes[0] >> 4 != 6 {
        return Err(Malformed);
    }
    Ok(LEN + usize::from(be16(bytes, FIELD_PAYLOAD_LEN)))
}

fn addr(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

/// A header with these fields; traffic class, flow label and payload length are 0.
pub fn emit(next_header: u8, hop_limit: u8, source: Ipv6Addr, destination: Ipv6Addr) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[0] = 0x60;
    (bytes[FIELD_NEXT_HEADER], bytes[FIELD_HOP_LIMIT]) = (next_header, hop_limit);
    bytes[FIELD_SOURCE..FIELD_DESTINATION].copy_from_slice(&source.octets());
    bytes[FIELD_DESTINATION..].copy_from_slice(&destination.octets());
    bytes
}

/// Writes a new payload length. `header` holds at least the fixed header.
#[inline]
pub fn patch_payload_len(header: &mut [u8], len: u16) {
    put16(header, FIELD_PAYLOAD_LEN, len);
}

/// Writes a new traffic class. `header` holds at least the fixed header.
#[inline]
pub fn patch_traffic_class(header: &mut [u8], class: u8) {
    let word = be16(header, 0) & 0xf00f | u16::from(class) << 4;
    put16(header, 0, word);
}

#[cfg(test)]
mod tests {
    use super::{Ipv6, patch_payload_len, patch_traffic_class};

    fn golden() -> Vec<u8> {
        let mut bytes = vec![0x6a, 0xb1, 0x23, 0x45, 0, 4, 17, 63];
        bytes.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend([0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend([1, 2, 3, 4, 0xa5, 0xa5]);
        bytes
    }

    #[test]
    fn golden_parse() {
        let bytes = golden();
        let view = Ipv6::parse(&bytes).unwrap();
        assert_eq!((view.total_len(), view.payload()), (44, &[1, 2, 3, 4][..]));
        assert_eq!((view.traffic_class(), view.next_header(), view.hop_limit()), (0xab, 17, 63));
        assert_eq!(view.source(), "fd00:1::2".parse::<std::net::Ipv6Addr>().unwrap());
        assert_eq!(view.destination(), "fd00:2::3".parse::<std::net::Ipv6Addr>().unwrap());
        for len in 0..44 {
            assert!(Ipv6::parse(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn patches_touch_only_their_field() {
        let mut bytes = golden();
        patch_traffic_class(&mut bytes, 0x01);
        patch_payload_len(&mut bytes, 2);
        assert_eq!(bytes[..8], [0x60, 0x11, 0x23, 0x45, 0, 2, 17, 63]);
    }
}
