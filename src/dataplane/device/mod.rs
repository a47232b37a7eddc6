//! The TUN edge.
//!
//! One [`Device`] is one queue of the TUN and belongs to one worker.

pub mod memory;
mod ownership;
mod plain_tun;
pub(in crate::dataplane) mod sys;
mod vnet_tun;

pub use ownership::{Origin, Ownership};
pub use plain_tun::PlainTun;
pub use vnet_tun::{Offloads, VnetTun};
