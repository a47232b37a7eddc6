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
mod fib;
mod rib;

pub use decide::{Decision, EncapPolicy, Pool, Reason};
pub use fib::{Fib, FibEditor, Group, HopsFull, NextHop, PeerId, Via, Ways};
pub use rib::{GroupId, Rib, Route, RouteError, Source, Target};

#[cfg(test)]
mod tests;
