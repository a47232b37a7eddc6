//! Explicit congestion notification (RFC 6040) and DSCP across the tunnel.

/// The two ECN bits of a TOS or traffic class byte.
pub const MASK: u8 = 0b11;

const NOT_ECT: u8 = 0b00;
const ECT1: u8 = 0b01;
const ECT0: u8 = 0b10;
const CE: u8 = 0b11;

/// How outer TOS bytes are made. ECN is always copied (normal mode, §4.1); DSCP is a fixed value (the
/// pipe model of RFC 2983) or the inner one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Marking {
    keep: u8,
    set: u8,
}

impl Marking {
    /// The inner DSCP.
    pub const INHERIT: Self = Self { keep: 0xff, set: 0 };

    /// Always `dscp`, at most 63.
    pub const fn fixed(dscp: u8) -> Self {
        Self { keep: MASK, set: dscp << 2 }
    }

    /// The bits of the inner byte that are kept, and those that are set.
    pub const fn parts(self) -> (u64, u64) {
        (self.keep as u64, self.set as u64)
    }

    /// The outer TOS byte for an inner one.
    #[inline]
    pub const fn outer(self, inner: u8) -> u8 {
        inner & self.keep | self.set
    }
}

/// The inner TOS byte after decapsulation, or `None` when the packet must be dropped
/// (§4.2, figure 4).
#[inline]
pub const fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    let ecn = match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (ECT0, ECT1) => ECT1,
        (_, CE) => CE,
        (inner, _) => inner,
    };
    Some(inner & !MASK | ecn)
}

#[cfg(test)]
mod tests {
    use super::{Marking, decapsulate};

    #[test]
    fn figure_4() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer in the same order.
        let order = [0b00, 0b10, 0b01, 0b11];
        let table = [
            [Some(0b00), Some(0b00), Some(0b00), None],
            [Some(0b10), Some(0b10), Some(0b01), Some(0b11)],
            [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
            [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
        ];
        for (row, inner) in order.iter().enumerate() {
            for (column, outer) in order.iter().enumerate() {
                let expected = table[row][column].map(|ecn| 0xb8 | ecn);
                assert_eq!(decapsulate(0xb8 | inner, 0x40 | outer), expected, "{inner:02b}/{outer:02b}");
            }
        }
    }

    #[test]
    fn outer_copies_ecn_and_follows_the_dscp_policy() {
        for inner in 0..=255 {
            assert_eq!(Marking::INHERIT.outer(inner), inner);
            for dscp in 0..64 {
                assert_eq!(Marking::fixed(dscp).outer(inner), dscp << 2 | inner & 3);
            }
        }
    }
}
