//! Routes: which node owns a destination and how packets get there.
//!
//! ```text
//! sources ──edit──▶ Rib ──decide──▶ Fib ──publish──▶ workers
//!                   per source      immutable        one pin per batch
//! ```
//!
//! The control plane edits the [`Rib`], builds an immutable [`Fib`] from its best routes and
//! publishes it; workers read whatever was published last, without locks.

mod address;
mod decide;
mod entry;
mod family;
mod fib;
mod groups;
mod rib;
mod shared_map;

pub use decide::{Decision, DirectPath, EncapPolicy, Pool, Reason};
pub use entry::{GroupId, Route, RouteError, Source, Target};
pub use fib::{Fib, FibEditor, Group, HopsFull, NextHop, PeerId, PrefixTable, Via, Ways};
pub use rib::Rib;

#[cfg(test)]
mod tests;
