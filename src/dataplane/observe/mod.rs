//! What the workers count, and the packets they show: counters and captures.
//!
//! Every counter has one writer, the worker that owns it, and any number of readers. A writer
//! therefore adds with a plain load and store; readers add up all workers and may be a few packets
//! behind, never ahead.

pub mod capture;
mod counters;
mod largest;
mod peer;
mod policy;
mod totals;
mod worker;

pub use counters::{Counter, EdgeCounters, Fallback, WorkerCounters};
pub use largest::Clock;
pub use peer::{PeerCounters, PeerTotals, PeerWorkerCounters};
pub use policy::{LoggedPacket, PolicyCounters, PolicyLog, PolicyWorkerCounters};
pub use totals::{Counters, EdgeTotals, Totals};
pub use worker::Worker;
