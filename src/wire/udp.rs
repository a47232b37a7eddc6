//! UDP header (RFC 768).
//!
//! ```text
//!  0      7 8     15 16    23 24    31
//! +--------+--------+--------+--------+
//! |     Source      |   Destination   |
//! |      Port       |      Port       |
//! +--------+--------+--------+--------+
//! |     Length      |    Checksum     |
//! +--------+--------+--------+--------+
//! ```

use super::{Malformed, be16};

/// Bytes of the header.
pub const LEN: usize = 8;
/// Offset of the destination port.
pub const FIELD_DESTINATION: usize = 2;
/// Offset of the length.
pub const FIELD_LENGTH: usize = 4;
/// Offset of the checksum.
pub const FIELD_CHECKSUM: usize = 6;

/// A view of one UDP datagram whose lengths have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a>(&'a [u8]);

impl<'a> Udp<'a> {
    /// The datagram that fills `bytes` exactly.
    ///
    /// # Errors
    /// `Malformed` unless the length field equals `bytes` and holds the header.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < LEN || usize::from(be16(bytes, FIELD_LENGTH)) != bytes.len() {
            return Err(Malformed);
        }
        Ok(Self(bytes))
    }

    /// What follows the header.
    pub fn payload(self) -> &'a [u8] {
        &self.0[LEN..]
    }

    /// Source port.
    pub fn source_port(self) -> u16 {
        be16(self.0, 0)
    }

    /// Destination port.
    pub fn destination_port(self) -> u16 {
        be16(self.0, 2)
    }

    /// Checksum field; 0 means none (IPv4 only).
    pub fn checksum(self) -> u16 {
        be16(self.0, FIELD_CHECKSUM)
    }
}

#[cfg(test)]
mod tests {
    use super::Udp;

    #[test]
    fn golden() {
        let bytes = [0xc0, 0x00, 0x12, 0xb5, 0x00, 0x0a, 0x12, 0x34, 0x55, 0xaa];
        let view = Udp::parse(&bytes).unwrap();
        assert_eq!((view.source_port(), view.destination_port(), view.checksum()), (0xc000, 4789, 0x1234));
        assert_eq!(view.payload(), [0x55, 0xaa]);
        assert!(Udp::parse(&bytes[..9]).is_err());
        assert!(Udp::parse(&bytes[..7]).is_err());
        assert!(Udp::parse(&[0; 8]).is_err());
    }
}
