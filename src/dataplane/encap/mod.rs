//! Outer headers: built once per peer, patched per packet.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of headers, and of packets, which are at most MAX_PACKET"
)]

pub mod direct;
pub mod ecn;
pub mod frame;
pub mod ipip;
pub mod ipip6;
pub mod ipip_gso;
pub mod outer;
pub mod probe;
pub mod tunnel_gso;
pub mod vxlan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Mode;

/// TTL of every outer header: a fresh one, never the inner packet's (RFC 2003 §3.1).
pub const OUTER_TTL: u8 = 64;

/// Bytes that the kernel puts in front of a VXLAN datagram over IPv4: IP and UDP header.
pub const UDP_OVERHEAD: usize = crate::wire::ipv4::LEN + crate::wire::udp::LEN;

/// The same over IPv6.
pub const UDP6_OVERHEAD: usize = crate::wire::ipv6::LEN + crate::wire::udp::LEN;

// The modes' overhead, which decides MTUs, is that of these headers.
const _: () = {
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    assert!(Mode::Ipip.overhead(v4) as usize == ipip::OVERHEAD);
    assert!(Mode::Ipip.overhead(v6) as usize == ipip6::OVERHEAD);
    assert!(Mode::Vxlan.overhead(v4) as usize == UDP_OVERHEAD + vxlan::TEMPLATE);
    assert!(Mode::Vxlan.overhead(v6) as usize == UDP6_OVERHEAD + vxlan::TEMPLATE);
    assert!(Mode::Direct.overhead(v4) == 0 && Mode::Direct.overhead(v6) == 0);
};
