//! The kernel's routing tables, where a routing daemon such as BIRD or FRR writes what it found out.
//!
//! ```text
//! kernel ──▶ RouteTable ──┐
//!            per prefix   ├─ difference ──▶ changes for the engine
//! engine ──▶ snapshot ────┘            └──▶ next hops that are no peers, routes that cannot be used
//! ```

mod difference;
mod table;

pub use difference::{Difference, difference};
pub use table::RouteTable;
