//! Direct mode: no outer header. The inner packet leaves bare, with the peer as next hop.

/// Bytes in front of the inner packet.
pub const OVERHEAD: usize = 0;

/// Whether a packet that starts with `first_byte` can leave bare over an IPv4 underlay: a bare IPv6
/// packet would need an IPv6 next hop.
#[inline]
pub const fn carries(first_byte: u8) -> bool {
    first_byte >> 4 == 4
}
