//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept as `u32` in big-endian meaning: `fold(sum)` is the 16-bit one's complement sum
//! whose complement goes on the wire with `to_be_bytes`. Sums of consecutive pieces add up as
//! long as every piece but the last has an even length.

use std::net::{Ipv4Addr, Ipv6Addr};

/// One's complement sum of `data`, at most 0xffff. An odd last byte counts as a high byte. Long data
/// is summed with the widest vectors this processor has, found out at run time.
#[inline]
pub fn sum(data: &[u8]) -> u32 {
    if data.len() < VECTOR_MIN { sum_lanes(data) } else { sum_vectors(data) }
}

/// Bytes from which the choice of vectors pays.
const VECTOR_MIN: usize = 256;

#[multiversion::multiversion(targets("x86_64+avx2", "x86_64+avx512f+avx512bw+avx512vl", "aarch64+neon"))]
fn sum_vectors(data: &[u8]) -> u32 {
    sum_lanes(data)
}

#[inline(always)]
fn sum_lanes(data: &[u8]) -> u32 {
    let mut lanes = [0u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        // Eight independent 32-bit lanes, widened: the compiler turns this into vector adds.
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u32::from(u16::from_be(fold64(total)))
}

/// Folds carries until 16 bits remain.
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum field for `sum`: its folded complement.
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The UDP checksum field for `sum`: like [`finish`], but never 0, which means "none" (RFC 768).
pub const fn finish_udp(sum: u32) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Pseudo-header sum for TCP and UDP over IPv4 (RFC 793 §3.1); `len` is the L4 length in bytes.
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u32) -> u32 {
    sum(&source.octets()) + sum(&destination.octets()) + u32::from(protocol) + split32(len)
}

/// Pseudo-header sum for TCP, UDP and ICMPv6 over IPv6 (RFC 8200 §8.1).
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> u32 {
    sum(&source.octets()) + sum(&destination.octets()) + u32::from(protocol) + split32(len)
}

/// The checksum field after one 16-bit word under it changed from `old` to `new`
/// (RFC 1624 equation 3).
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u32 + (!old) as u32 + new as u32)
}

/// The two 16-bit halves of `value`, added.
const fn split32(value: u32) -> u32 {
    (value >> 16) + (value & 0xffff)
}

fn fold64(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{finish, fold, sum, update};

    fn slow(data: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in data.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn rfc1071_example() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_slow_sum(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(fold(sum(&data)), slow(&data));
        }

        #[test]
        fn pieces_add_up(data in proptest::collection::vec(any::<u8>(), 0..500), cut in 0usize..250) {
            let cut = (cut * 2).min(data.len() & !1);
            let (a, b) = data.split_at(cut);
            prop_assert_eq!(fold(sum(a) + sum(b)), slow(&data));
        }

        #[test]
        fn update_equals_recomputation(mut data in proptest::collection::vec(any::<u8>(), 20), at in 0usize..10, new: u16) {
            data[0] = 0x45; // an IP header is never all zero, where +0 and -0 would differ
            let at = at.max(1) * 2 % 20;
            prop_assume!(at != 0);
            let before = finish(sum(&data));
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), finish(sum(&data)));
        }
    }
}
