//! The immutable table that workers read.

use std::fmt;
use std::net::IpAddr;

use super::hops::{Group, HopTable, NextHop, Via};
use super::table::Snapshot;

/// Longest-prefix-match table over both families; immutable, cheap to clone.
#[derive(Clone, Default)]
pub struct Fib {
    pub(super) v4: Snapshot,
    pub(super) v6: Snapshot,
    pub(super) hops: HopTable,
}

impl Fib {
    /// The next hop of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        let id = match address {
            IpAddr::V4(a) => self.v4.lookup(a.to_bits()),
            IpAddr::V6(a) => self.v6.lookup(a.to_bits()),
        };
        self.hops.get(id)
    }

    /// The ways of an equal-cost group.
    #[inline]
    pub fn members(&self, group: Group) -> &[Via] {
        self.hops.members(group)
    }
}

impl fmt::Debug for Fib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fib").finish_non_exhaustive()
    }
}
