//! The forwarding table: longest prefix match for IPv4 and IPv6.
//!
//! ```text
//! root: 16 bits ─▶ slot ─▶ level (1–8 bits) ─▶ … ─▶ block: borders, binary search
//!                                                      └▶ (IPv6) slot of the next 48 bits
//! ```
//!
//! A [`Fib`] is immutable and shares everything with its predecessor but the way to what changed,
//! so that one change among a million routes copies some kilobytes. [`FibEditor`] makes them.

mod block;
mod editor;
mod hops;
mod slot;
mod table;

use std::fmt;
use std::net::IpAddr;

pub use editor::FibEditor;
use hops::HopTable;
pub use hops::{Group, HopsFull, NextHop, PeerId, Via, Ways};
use table::Snapshot;

/// Small id of a next hop, so that it fits a word beside 48 bits of an address.
type HopId = u16;
/// No next hop.
const NONE: HopId = HopId::MAX;

/// One route of a family.
#[derive(Clone, Copy, Debug)]
struct Route<A> {
    address: A,
    len: u8,
    hop: HopId,
}

/// Longest-prefix-match table over both families; immutable, cheap to clone.
#[derive(Clone, Default)]
pub struct Fib {
    v4: Snapshot,
    v6: Snapshot,
    hops: HopTable,
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

#[cfg(test)]
mod tests;
