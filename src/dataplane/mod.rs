//! The packet path: everything that runs in the workers' threads, and what is compiled for it.
//!
//! Nothing here knows the control plane. Each module uses only those above it, and below all of them lie
//! `net`, `wire`, `route` and `sync`:
//!
//! - [`packet`]: what the others hand to one another, and the traits they meet by
//! - [`segment`]: cutting and joining super-packets
//! - [`encap`]: outer header templates
//! - [`observe`]: counters and captures, and the [`observe::Worker`] that everything is counted with
//! - [`steering`]: which worker a flow belongs to: the hash and its programs for the kernel
//! - [`policy`]: compiled rules of network policy, and the connections of a worker
//! - [`device`]: the TUN edge
//! - [`forward`]: the two flows, composed, without I/O; of [`device`] only its tests know
//! - [`underlay`]: the network edge
//! - [`pump`]: worker threads

pub mod device;
mod ebpf;
pub mod encap;
pub mod forward;
pub mod kernel_path;
pub mod observe;
pub mod packet;
pub mod policy;
pub mod pump;
pub mod segment;
pub mod steering;
pub mod underlay;
