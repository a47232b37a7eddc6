//! What a receiving socket hands over.

use std::net::IpAddr;

/// How received bytes are wrapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// A UDP payload: VXLAN header, Ethernet frame.
    Vxlan,
    /// A whole IPv4 packet with protocol 4 or 41.
    Ipip,
    /// What follows an outer IPv6 header and its extension headers: IPv4 (next header 4).
    Ipip6V4,
    /// The same: IPv6 (next header 41).
    Ipip6V6,
}

/// One receive from a socket.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Offset in the arena.
    pub at: usize,
    /// Bytes received.
    pub len: usize,
    /// Bytes of each datagram but the last when the kernel coalesced several (UDP_GRO); 0 when
    /// this is one. Of a tunnel packet that holds an uncut UDP super-packet, what that is to be cut
    /// to.
    pub segment: usize,
    /// Outer source address.
    pub source: IpAddr,
    /// Outer TOS or traffic class byte.
    pub tos: u8,
}
