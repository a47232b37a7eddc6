//! Addresses as the table cuts them: 16 bits for the root, then stages of 48 bits.
//!
//! ```text
//! IPv4   | root 16 | stage 0: 16 bits, then zeros |
//! IPv6   | root 16 | stage 0: 48 bits | stage 1: 48 bits | stage 2: 16 bits, then zeros |
//! ```
//!
//! A stage is handled as a *word*: its bits left-aligned in 64, so that the low 16 are free for the
//! id of a next hop.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{BitAnd, BitOr, Not};

/// Bits that index the root.
pub(super) const ROOT: u8 = 16;
/// Bits of one stage.
pub(super) const STAGE: u8 = 48;
/// The distance between neighbouring words of a stage.
pub(super) const STEP: u64 = 1 << (64 - STAGE as u32);

/// An address as a number, first bit highest.
pub(super) trait Address:
    Copy
    + Debug
    + Hash
    + Ord
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + Not<Output = Self>
    + Send
    + Sync
    + 'static
{
    /// Bits of an address.
    const BITS: u8;

    /// All bits behind the first `len`.
    fn behind(len: u8) -> Self;
    /// The address itself.
    fn ip(self) -> IpAddr;
    /// The first 16 bits.
    fn root(self) -> usize;
    /// The address of 16 bits, all others zero.
    fn from_root(root: usize) -> Self;
    /// The word of `stage`; zero behind the last bit.
    fn word(self, stage: u8) -> u64;
    /// This address, whose bits from `stage` on are zero, with those of `word` there.
    fn with_word(self, stage: u8, word: u64) -> Self;

    /// The address with its first `len` bits only, the others zero.
    fn truncate(self, len: u8) -> Self {
        self & !Self::behind(len)
    }

    /// The address with all bits behind the first `len` set.
    fn last(self, len: u8) -> Self {
        self | Self::behind(len)
    }
}

impl Address for u32 {
    const BITS: u8 = 32;

    fn behind(len: u8) -> Self {
        Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn ip(self) -> IpAddr {
        Ipv4Addr::from_bits(self).into()
    }

    #[inline]
    fn root(self) -> usize {
        (self >> 16) as usize
    }

    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    fn from_root(root: usize) -> Self {
        (root as Self) << 16
    }

    #[inline]
    fn word(self, stage: u8) -> u64 {
        if stage == 0 { u64::from(self) << 48 } else { 0 }
    }

    fn with_word(self, stage: u8, word: u64) -> Self {
        if stage == 0 { self | (word >> 48) as Self } else { self }
    }
}

impl Address for u128 {
    const BITS: u8 = 128;

    fn behind(len: u8) -> Self {
        Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from_bits(self).into()
    }

    #[inline]
    fn root(self) -> usize {
        (self >> 112) as usize
    }

    fn from_root(root: usize) -> Self {
        (root as Self) << 112
    }

    #[inline]
    fn word(self, stage: u8) -> u64 {
        let aligned = self.checked_shl(stage_start(stage).into()).unwrap_or(0);
        (aligned >> 64) as u64 & !(STEP - 1)
    }

    fn with_word(self, stage: u8, word: u64) -> Self {
        let aligned = Self::from(word & !(STEP - 1)) << 64;
        self | aligned.checked_shr(stage_start(stage).into()).unwrap_or(0)
    }
}

/// Leading bits that are fixed where `stage` begins.
pub(super) const fn stage_start(stage: u8) -> u8 {
    ROOT + STAGE * stage
}

/// Leading bits that are fixed where `stage` ends: the longest prefix it holds.
pub(super) fn stage_end<A: Address>(stage: u8) -> u8 {
    stage_start(stage + 1).min(A::BITS)
}
