//! Direct mode: no outer header. The inner packet leaves bare, with the peer as next hop.
//!
//! Inner IPv4 only: a bare IPv6 packet needs an IPv6 next hop.

use crate::wire;

/// Whether a packet of this version can leave bare over an IPv4 underlay.
pub fn carries(first_byte: u8) -> bool {
    first_byte >> 4 == 4
}

/// Bytes of the largest inner packet: the uplink's own MTU.
pub const OVERHEAD: usize = 0;

/// Bytes a bare packet must have at least to be handed to a raw socket.
pub const MIN_LEN: usize = wire::ipv4::LEN;
