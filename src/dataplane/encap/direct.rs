//! Direct mode: no outer header. The inner packet leaves bare, with the peer as next hop.
//!
//! A frame for the packet socket can hold either family whatever the family of the next hop: only the
//! neighbour's link address counts. The raw socket of IPv4 routes a packet by the address given to
//! `sendto`; that of IPv6 looks for the packet's own destination on the link, which is a pod.

use crate::dataplane::packet::Family;

/// Whether a raw socket can send a bare packet of family `inner` to a next hop of family `next_hop`.
pub fn by_raw_socket(next_hop: Family, inner: Family) -> bool {
    next_hop == Family::V4 && inner == Family::V4
}
