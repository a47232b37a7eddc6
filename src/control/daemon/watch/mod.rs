//! The watchers: what may change while the daemon runs, and is followed.
//!
//! Each is a task of its own that sends events to the engine and decides nothing.

pub(super) mod address_watch;
pub(super) mod icmp;
pub(super) mod peer_ways;
pub(super) mod policy_watch;
pub(super) mod strays;
pub(super) mod tap_device;
mod tap_test;
pub(super) mod tap_watch;
pub(super) mod uplink_watch;
