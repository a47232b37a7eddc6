//! The forwarding table: longest prefix match for IPv4 and IPv6.
//!
//! ```text
//! root: 16 bits ─▶ slot ─▶ level (1–8 bits) ─▶ … ─▶ block: borders, binary search
//!                                                      └▶ (IPv6) slot of the next 48 bits
//! ```
//!
//! A [`Fib`] is immutable and shares everything with its predecessor but the way to what changed,
//! so that one change among a million routes copies some kilobytes. [`FibEditor`] makes them.
#![expect(
    clippy::cast_possible_truncation,
    reason = "parts of words are cut out on purpose; counts are at most those of HopId"
)]

mod block;
mod editor;
mod hop_id;
mod hops;
mod lookup;
mod prefixes;
mod slot;
mod table;

pub use editor::FibEditor;
pub use hops::{Group, HopsFull, NextHop, PeerId, Via, Ways};
pub use lookup::Fib;
pub use prefixes::PrefixTable;

#[cfg(test)]
mod tests;
