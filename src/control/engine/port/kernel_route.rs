//! A route that others wrote to a table of the kernel.

use std::net::IpAddr;

use crate::net::Prefix;

/// A unicast route of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelRoute {
    /// The number of its routing table.
    pub table: u32,
    /// Its destination.
    pub prefix: Prefix,
    /// Its metric; of several routes to one prefix the least counts.
    pub metric: u32,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// The addresses of its next hops; none for what lies on the link.
    pub next_hops: Vec<IpAddr>,
}
