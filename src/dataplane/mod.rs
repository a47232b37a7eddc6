//! The packet path: everything that runs in the workers' threads, and what is compiled for it.
//!
//! Nothing here knows the control plane. Each module uses only those above it:
//!
//! - [`packet`]: what the others hand to one another
//! - [`segment`]: cutting and joining super-packets
//! - [`encap`]: outer header templates
//! - [`observe`]: counters and captures
//! - [`steering`]: which worker a flow belongs to, here and in the kernel
//! - [`device`]: the TUN edge
//! - [`forward`]: the two flows, composed
//! - [`underlay`]: the network edge
//! - [`pump`]: worker threads

pub mod device;
pub mod encap;
pub mod forward;
pub mod observe;
pub mod packet;
pub mod pump;
pub mod segment;
pub mod steering;
pub mod underlay;
