//! The watchers: what may change while the daemon runs, and is followed.
//!
//! Each is a task of its own that sends events to the engine and decides nothing.

pub mod address_watch;
pub mod icmp;
pub mod peer_ways;
pub mod policy_watch;
pub mod strays;
pub mod tap_device;
mod tap_test;
pub mod tap_watch;
pub mod uplink_watch;
