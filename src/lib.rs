//! underpass: a userspace tunnel dataplane on TUN devices.
//!
//! It joins the pod networks of several Linux hosts without any kernel tunnel module. Each node
//! runs one daemon; the host kernel routes pod traffic for other nodes into one TUN, the daemon
//! finds the node that owns the destination and sends the packet there as IP-in-IP, as VXLAN, or
//! bare, as the pool of the destination says.
//!
//! ```text
//! outbound   device ─▶ classify ─▶ route ─▶ decide ─▶ split ─▶ encapsulate ─▶ underlay
//! inbound    underlay ─▶ strip ─▶ admit ─▶ merge ─▶ device
//! ```
//!
//! The map of modules, each using only those above it (`control`, `config` and `cli` use all):
//!
//! - [`net`]: values: prefixes, names, modes, drop reasons
//! - [`wire`]: headers as bytes
//! - [`offload`]: cutting and joining super-packets
//! - [`route`]: routes, the forwarding table, its publication, the mode decision
//! - [`encap`]: outer header templates
//! - [`capture`]: copies of packets for whoever asks
//! - [`metrics`]: per-worker counters
//! - [`forward`]: the two flows, composed
//! - [`device`]: the TUN edge
//! - [`underlay`]: the network edge
//! - [`pump`]: worker threads
//! - [`source`]: where routes come from
//! - [`control`]: the host kernel's side, the API, the daemon's life
//! - [`config`]: the configuration file
//! - [`cli`]: the command line

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod net;
pub mod route;
pub mod sync;
pub mod wire;
