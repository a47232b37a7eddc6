//! The TUN edge.
//!
//! One [`Device`](crate::dataplane::packet::Device) is one queue of the TUN and belongs to one worker.

mod deliver;
pub mod memory;
mod origin;
mod ownership;
mod plain_tun;
pub(in crate::dataplane) mod sys;
mod vnet_tun;

pub use deliver::{Deliver, write_icmp_errors};
pub use origin::Origin;
pub use ownership::Ownership;
pub use plain_tun::PlainTun;
pub use vnet_tun::{Offloads, VnetTun};
