//! The watchers: what may change while the daemon runs, and is followed.
//!
//! Addresses, strays, routers, direct paths, the network configuration for container runtimes, the kernel's routes of
//! others and the uplink with all that belongs to it are a task each. They tell the engine by events what they see.

pub(super) mod address_watch;
pub(super) mod cni;
pub(super) mod direct_paths;
pub(super) mod icmp;
pub(super) mod kernel_routes;
pub(super) mod peer_ways;
pub(super) mod policy_watch;
pub(super) mod strays;
pub(super) mod tap_device;
mod tap_test;
pub(super) mod tap_watch;
pub(super) mod uplink_watch;
