//! The TUN edge.
//!
//! One [`Device`] is one queue of the TUN and belongs to one worker.

pub mod memory;
mod offload;
mod ownership;
mod plain;
pub(in crate::dataplane) mod sys;

pub use offload::{Offload, Offloads};
pub use ownership::{Origin, Ownership};
pub use plain::Plain;
