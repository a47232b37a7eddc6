//! TCP header (RFC 9293 §3.1), as far as segmentation and merging need it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source Port          |       Destination Port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Sequence Number                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Acknowledgment Number                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Data |       |C|E|U|A|P|R|S|F|                               |
//! | Offset| Rsrvd |W|C|R|C|S|S|Y|I|            Window             |
//! |       |       |R|E|G|K|H|T|N|N|                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           Checksum            |         Urgent Pointer        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                           [Options]                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::{Malformed, be16, be32};

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Offset of the sequence number.
pub const FIELD_SEQUENCE: usize = 4;
/// Offset of the data offset nibble.
pub const FIELD_DATA_OFFSET: usize = 12;
/// Offset of the flags byte.
pub const FIELD_FLAGS: usize = 13;
/// Offset of the window.
pub const FIELD_WINDOW: usize = 14;
/// Offset of the checksum.
pub const FIELD_CHECKSUM: usize = 16;

/// FIN flag.
pub const FIN: u8 = 0x01;
/// Flag: the beginning of a connection.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// Flags that say something about the state of a connection.
pub const TELLING: u8 = SYN | FIN | RST;
/// PSH flag.
pub const PSH: u8 = 0x08;
/// ACK flag.
pub const ACK: u8 = 0x10;
/// CWR flag (RFC 3168).
pub const CWR: u8 = 0x80;

/// A view of one TCP segment whose header length has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a>(&'a [u8]);

impl<'a> Tcp<'a> {
    /// The segment `bytes`, all of it.
    ///
    /// # Errors
    /// `Malformed` unless 20 ≤ data offset ≤ `bytes`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < LEN {
            return Err(Malformed);
        }
        let view = Self(bytes);
        if view.header_len() < LEN || bytes.len() < view.header_len() {
            return Err(Malformed);
        }
        Ok(view)
    }

    /// Bytes of the header with options, 20 to 60.
    #[inline]
    pub fn header_len(self) -> usize {
        usize::from(self.0[FIELD_DATA_OFFSET] >> 4) * 4
    }

    /// What follows the header.
    pub fn payload(self) -> &'a [u8] {
        &self.0[self.header_len()..]
    }

    /// Source port.
    pub fn source_port(self) -> u16 {
        be16(self.0, 0)
    }

    /// Destination port.
    pub fn destination_port(self) -> u16 {
        be16(self.0, 2)
    }

    /// Sequence number.
    pub fn sequence(self) -> u32 {
        be32(self.0, FIELD_SEQUENCE)
    }

    /// Acknowledgment number.
    pub fn acknowledgment(self) -> u32 {
        be32(self.0, 8)
    }

    /// The flags byte, CWR to FIN.
    pub fn flags(self) -> u8 {
        self.0[FIELD_FLAGS]
    }

    /// Window.
    pub fn window(self) -> u16 {
        be16(self.0, FIELD_WINDOW)
    }

    /// Checksum field.
    pub fn checksum(self) -> u16 {
        be16(self.0, FIELD_CHECKSUM)
    }

    /// Options, padding included.
    pub fn options(self) -> &'a [u8] {
        &self.0[LEN..self.header_len()]
    }
}

#[cfg(test)]
mod tests {
    use super::{ACK, PSH, Tcp};

    #[test]
    fn golden() {
        let bytes = [
            0xc0,
            0x01,
            0x00,
            0x50,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            2,
            0x60,
            ACK | PSH,
            0x10,
            0x00,
            0xab,
            0xcd,
            0,
            0,
            1,
            1,
            1,
            0,
            0x55,
        ];
        let view = Tcp::parse(&bytes).unwrap();
        assert_eq!((view.source_port(), view.destination_port()), (0xc001, 80));
        assert_eq!((view.sequence(), view.acknowledgment()), (1, 2));
        assert_eq!((view.flags(), view.window(), view.checksum()), (ACK | PSH, 0x1000, 0xabcd));
        assert_eq!((view.options(), view.payload()), (&[1, 1, 1, 0][..], &[0x55][..]));
        for len in 0..24 {
            assert!(Tcp::parse(&bytes[..len]).is_err());
        }
        let mut low = bytes;
        low[12] = 0x40;
        assert!(Tcp::parse(&low).is_err());
    }
}
