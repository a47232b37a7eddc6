//! BFD control packets (RFC 5880 §4.1), without authentication.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::{Malformed, be32};

/// Bytes of a packet.
pub const LEN: usize = 24;
/// UDP port of single-hop sessions (RFC 5881 §4).
pub const PORT: u16 = 3784;
/// The first of the source ports of sessions (RFC 5881 §4).
pub const FIRST_SOURCE_PORT: u16 = 49152;
/// The TTL or hop limit that proves that no router was in between (RFC 5881 §5).
pub const TTL: u8 = 255;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATED: u8 = 0x04;
const MULTIPOINT: u8 = 0x01;

/// What an end says of a session (§4.1, "Sta").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Taken down by an administrator.
    AdminDown,
    /// Nothing is heard, or the other end hears nothing.
    Down,
    /// The other end is heard.
    Init,
    /// Both ends hear each other.
    Up,
}

/// Why a session went down last (§4.1, "Diag").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Diagnostic {
    /// It never did.
    None = 0,
    /// Nothing was heard for the detection time.
    Expired = 1,
    /// The other end said so.
    NeighborDown = 3,
}

/// A control packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Control {
    /// Why the sender's session went down last; what is received is not kept.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// Whether the sender asks for an answer at once.
    pub poll: bool,
    /// Whether this is that answer.
    pub is_final: bool,
    /// How many intervals without a packet end the session; not 0.
    pub detect_mult: u8,
    /// The sender's number of the session; not 0.
    pub mine: u32,
    /// The receiver's number of the session, as far as the sender knows it; 0 otherwise.
    pub yours: u32,
    /// Microseconds between the sender's packets, at least.
    pub min_tx: u32,
    /// Microseconds between packets that the sender wants to receive, at least; 0 for none at all.
    pub min_rx: u32,
}

impl Control {
    /// The packet at the start of `payload`, judged as §6.8.6 demands of a receiver without authentication.
    ///
    /// # Errors
    /// `Malformed` where such a packet must be discarded.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; LEN] = payload.first_chunk().ok_or(Malformed)?;
        let [first, flags, detect_mult, length, ..] = *bytes;
        let long_enough = usize::from(length) >= LEN && usize::from(length) <= payload.len();
        if first >> 5 != VERSION
            || !long_enough
            || detect_mult == 0
            || flags & (AUTHENTICATED | MULTIPOINT) != 0
        {
            return Err(Malformed);
        }
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        let (mine, yours) = (be32(bytes, 4), be32(bytes, 8));
        if mine == 0 || (yours == 0 && matches!(state, State::Init | State::Up)) {
            return Err(Malformed);
        }
        Ok(Self {
            diagnostic: Diagnostic::None,
            state,
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            detect_mult,
            mine,
            yours,
            min_tx: be32(bytes, 12),
            min_rx: be32(bytes, 16),
        })
    }

    /// The packet as bytes. There is no echo function.
    pub fn emit(&self) -> [u8; LEN] {
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let poll = if self.poll { POLL } else { 0 };
        let flags = (state << 6) | poll | if self.is_final { FINAL } else { 0 };
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&[
            (VERSION << 5) | self.diagnostic as u8,
            flags,
            self.detect_mult,
            LEN as u8,
        ]);
        let words = [self.mine, self.yours, self.min_tx, self.min_rx];
        for (place, word) in bytes[4..20].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Control, Diagnostic, LEN, State};

    const SAMPLE: Control = Control {
        diagnostic: Diagnostic::None,
        state: State::Up,
        poll: true,
        is_final: false,
        detect_mult: 3,
        mine: 0x0102_0304,
        yours: 0x0506_0708,
        min_tx: 250_000,
        min_rx: 300_000,
    };

    #[test]
    fn golden() {
        let bytes = SAMPLE.emit();
        let expected = [
            [0x20, 0xe0, 3, 24],
            [1, 2, 3, 4],
            [5, 6, 7, 8],
            [0x00, 0x03, 0xd0, 0x90],
            [0x00, 0x04, 0x93, 0xe0],
            [0; 4],
        ];
        assert_eq!(bytes, expected.as_flattened());
        assert_eq!(Control::parse(&bytes), Ok(SAMPLE));
        let down = Control { diagnostic: Diagnostic::Expired, state: State::Down, yours: 0, ..SAMPLE };
        assert_eq!(down.emit()[..2], [0x21, 0x60]);
        let answer = Control { poll: false, is_final: true, ..SAMPLE };
        assert_eq!(Control::parse(&answer.emit()), Ok(answer));
    }

    #[test]
    fn what_a_receiver_must_discard() {
        let with = |place: usize, byte: u8| {
            let mut bytes = SAMPLE.emit();
            bytes[place] = byte;
            Control::parse(&bytes)
        };
        assert!(with(0, 0x40).is_err(), "version 2");
        assert!(with(1, 0xc4).is_err(), "authenticated");
        assert!(with(1, 0xc1).is_err(), "multipoint");
        assert!(with(2, 0).is_err(), "no detection time");
        assert!(with(3, 23).is_err() && with(3, 25).is_err(), "length");
        assert!(Control::parse(&Control { mine: 0, ..SAMPLE }.emit()).is_err());
        assert!(Control::parse(&Control { yours: 0, ..SAMPLE }.emit()).is_err());
        assert!(Control::parse(&Control { yours: 0, state: State::Down, ..SAMPLE }.emit()).is_ok());
        assert!(Control::parse(&SAMPLE.emit()[..LEN - 1]).is_err());
        // Bytes behind the packet are nobody's.
        assert_eq!(Control::parse(&[&SAMPLE.emit()[..], &[9; 5]].concat()), Ok(SAMPLE));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(control) = Control::parse(&bytes) {
                assert_eq!(Control::parse(&control.emit()), Ok(control));
            }
        }
    }
}
