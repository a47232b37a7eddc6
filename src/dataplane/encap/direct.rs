//! Direct mode: no outer header. The inner packet leaves bare, with the peer as next hop.
//!
//! A frame for the packet socket can hold either family whatever the family of the next hop: only the
//! neighbour's link address counts. The raw socket of IPv4 routes a packet by the address given to
//! `sendto`; that of IPv6 looks for the packet's own destination on the link, which is a pod.

use std::net::IpAddr;

/// Whether a raw socket can send a bare packet, IPv4 or not, to `next_hop`.
pub const fn by_raw_socket(next_hop: IpAddr, is_ipv4: bool) -> bool {
    next_hop.is_ipv4() && is_ipv4
}
