//! IPv4 header (RFC 791 §3.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |Type of Service|          Total Length         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Identification        |Flags|      Fragment Offset    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Time to Live |    Protocol   |         Header Checksum       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Source Address                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      Destination Address                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Options (IHL > 5)                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use super::{Malformed, be16, checksum, put16};

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Don't Fragment, in the flags word.
pub const DF: u16 = 0x4000;
/// More Fragments, in the flags word.
pub const MF: u16 = 0x2000;
/// MF and the fragment offset, in the flags word: something but in packets that are whole.
pub const FRAGMENT: u16 = MF | 0x1fff;

/// Bytes behind the header that an error quotes at least (RFC 792).
const QUOTED: usize = 8;

const FIELD_TOS: usize = 1;
/// Offset of the total length.
pub const FIELD_TOTAL_LEN: usize = 2;
const FIELD_ID: usize = 4;
const FIELD_FLAGS: usize = 6;
const FIELD_TTL: usize = 8;
const FIELD_PROTOCOL: usize = 9;
/// Offset of the header checksum.
pub const FIELD_CHECKSUM: usize = 10;
const FIELD_SOURCE: usize = 12;
const FIELD_DESTINATION: usize = 16;

/// A view of one IPv4 packet whose lengths have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a>(&'a [u8]);

impl<'a> Ipv4<'a> {
    /// The packet at the start of `bytes`; anything behind its total length is cut off.
    ///
    /// # Errors
    /// `Malformed` unless version is 4 and 20 ≤ header length ≤ total length ≤ `bytes`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (_, total) = lengths(bytes)?;
        bytes.get(..total).map(Self).ok_or(Malformed)
    }

    /// The beginning of a packet, as an ICMP error quotes it: the header and eight bytes at least. The view ends
    /// where the quote does.
    ///
    /// # Errors
    /// `Malformed` unless version is 4 and 20 ≤ header length ≤ total length, and so much is there.
    pub fn parse_quote(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, total) = lengths(bytes)?;
        if bytes.len() < total.min(header + QUOTED) {
            return Err(Malformed);
        }
        Ok(Self(&bytes[..total.min(bytes.len())]))
    }

    /// Bytes of the header with options, 20 to 60.
    #[inline]
    pub fn header_len(self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    /// Bytes of the packet, header included.
    #[inline]
    pub fn total_len(self) -> usize {
        self.0.len()
    }

    /// The packet, without anything behind its total length.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// What follows the header.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.0[self.header_len()..]
    }

    /// DSCP and ECN.
    pub fn tos(self) -> u8 {
        self.0[FIELD_TOS]
    }

    /// Identification.
    pub fn id(self) -> u16 {
        be16(self.0, FIELD_ID)
    }

    /// Flags and fragment offset as one word.
    pub fn flags(self) -> u16 {
        be16(self.0, FIELD_FLAGS)
    }

    /// Whether this is a fragment, first or later.
    pub fn is_fragment(self) -> bool {
        self.flags() & FRAGMENT != 0
    }

    /// Time to live.
    pub fn ttl(self) -> u8 {
        self.0[FIELD_TTL]
    }

    /// Protocol number of the payload.
    pub fn protocol(self) -> u8 {
        self.0[FIELD_PROTOCOL]
    }

    /// Source address.
    #[inline]
    pub fn source(self) -> Ipv4Addr {
        addr(self.0, FIELD_SOURCE)
    }

    /// Destination address.
    #[inline]
    pub fn destination(self) -> Ipv4Addr {
        addr(self.0, FIELD_DESTINATION)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn checksum_ok(self) -> bool {
        checksum::fold(checksum::sum(&self.0[..self.header_len()])) == 0xffff
    }
}

/// Header length and total length of the packet at the start of `bytes`, as its header says them.
#[inline]
fn lengths(bytes: &[u8]) -> Result<(usize, usize), Malformed> {
    if bytes.len() < LEN || bytes[0] >> 4 != 4 {
        return Err(Malformed);
    }
    let header = usize::from(bytes[0] & 0x0f) * 4;
    let total = usize::from(be16(bytes, FIELD_TOTAL_LEN));
    if header < LEN || total < header { Err(Malformed) } else { Ok((header, total)) }
}

fn addr(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

/// What an optionless header says, for emission.
#[derive(Clone, Copy, Debug)]
pub struct Repr {
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes of the whole packet.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub flags: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Repr {
    /// The header's bytes, checksum included.
    pub fn emit(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = 0x45;
        bytes[FIELD_TOS] = self.tos;
        put16(&mut bytes, FIELD_TOTAL_LEN, self.total_len);
        put16(&mut bytes, FIELD_ID, self.id);
        put16(&mut bytes, FIELD_FLAGS, self.flags);
        bytes[FIELD_TTL] = self.ttl;
        bytes[FIELD_PROTOCOL] = self.protocol;
        bytes[FIELD_SOURCE..FIELD_DESTINATION].copy_from_slice(&self.source.octets());
        bytes[FIELD_DESTINATION..].copy_from_slice(&self.destination.octets());
        let sum = checksum::finish(checksum::sum(&bytes));
        put16(&mut bytes, FIELD_CHECKSUM, sum);
        bytes
    }
}

/// Writes a new total length and identification and corrects the checksum. `header` holds at least
/// 20 bytes of a header.
#[inline]
pub fn patch_len_id(header: &mut [u8], total_len: u16, id: u16) {
    let mut sum = be16(header, FIELD_CHECKSUM);
    sum = checksum::update(sum, be16(header, FIELD_TOTAL_LEN), total_len);
    sum = checksum::update(sum, be16(header, FIELD_ID), id);
    put16(header, FIELD_TOTAL_LEN, total_len);
    put16(header, FIELD_ID, id);
    put16(header, FIELD_CHECKSUM, sum);
}

/// Writes a new total length and flags word and recomputes the checksum. `header` is a whole header.
pub fn finish_fragment(header: &mut [u8], total_len: u16, flags: u16) {
    put16(header, FIELD_TOTAL_LEN, total_len);
    put16(header, FIELD_FLAGS, flags);
    put16(header, FIELD_CHECKSUM, 0);
    let sum = checksum::finish(checksum::sum(header));
    put16(header, FIELD_CHECKSUM, sum);
}

/// Writes a new TOS byte and corrects the checksum. `header` holds at least 20 bytes of a header.
#[inline]
pub fn patch_tos(header: &mut [u8], tos: u8) {
    let old = be16(header, 0);
    header[FIELD_TOS] = tos;
    let sum = checksum::update(be16(header, FIELD_CHECKSUM), old, be16(header, 0));
    put16(header, FIELD_CHECKSUM, sum);
}

#[cfg(test)]
mod tests {
    use super::{DF, Ipv4, Repr, patch_len_id, patch_tos};

    const GOLDEN: [u8; 20] =
        [0x45, 0x00, 0x00, 0x54, 0x12, 0x34, 0x40, 0x00, 0x40, 0x04, 0xa4, 0x6e, 192, 0, 2, 1, 192, 0, 2, 2];

    fn repr() -> Repr {
        Repr {
            tos: 0,
            total_len: 0x54,
            id: 0x1234,
            flags: DF,
            ttl: 64,
            protocol: 4,
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
        }
    }

    #[test]
    fn golden_emit_and_parse() {
        assert_eq!(repr().emit(), GOLDEN);
        let mut packet = GOLDEN.to_vec();
        packet.resize(0x54 + 3, 0xa5);
        let view = Ipv4::parse(&packet).unwrap();
        assert!(view.checksum_ok());
        assert_eq!((view.header_len(), view.total_len(), view.payload().len()), (20, 0x54, 0x40));
        assert_eq!((view.id(), view.flags(), view.ttl(), view.protocol()), (0x1234, DF, 64, 4));
        assert!(!view.is_fragment());
    }

    #[test]
    fn patches_keep_the_checksum() {
        let mut packet = GOLDEN.to_vec();
        packet.resize(2000, 0);
        patch_len_id(&mut packet, 1500, 0xffff);
        patch_tos(&mut packet, 0xfe);
        let view = Ipv4::parse(&packet).unwrap();
        assert!(view.checksum_ok());
        assert_eq!((view.total_len(), view.id(), view.tos()), (1500, 0xffff, 0xfe));
    }

    #[test]
    fn lengths_must_agree() {
        let full = {
            let mut p = GOLDEN.to_vec();
            p.resize(0x54, 0);
            p
        };
        for len in 0..full.len() {
            assert!(Ipv4::parse(&full[..len]).is_err(), "{len}");
        }
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x40), (3, 19), (3, 0), (3, 0x55)] {
            let mut bad = full.clone();
            bad[at] = value;
            assert!(Ipv4::parse(&bad).is_err(), "byte {at} = {value}");
        }
        let mut short = full;
        short[0] = 0x4f;
        short[3] = 40; // IHL 60 over a total length of 40
        assert!(Ipv4::parse(&short).is_err());
    }
}
