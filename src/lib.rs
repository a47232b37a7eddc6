//! underpass: a userspace tunnel dataplane on TUN devices.
//!
//! It joins the pod networks of several Linux hosts without any kernel tunnel module. Each node
//! runs one daemon; the host kernel routes pod traffic for other nodes into one TUN, the daemon
//! finds the node that owns the destination and sends the packet there as IP-in-IP, as VXLAN, or
//! bare, as the pool of the destination says.
//!
//! ```text
//! outbound   device ─▶ classify ─▶ route ─▶ judge ─▶ decide ─▶ split ─▶ encapsulate ─▶ underlay
//! inbound    underlay ─▶ strip ─▶ admit ─▶ judge ─▶ merge ─▶ device
//! ```
//!
//! Two wings on a common ground; docs/architecture.md has the whole table, and `tests/architecture.rs` holds it:
//!
//! - ground: [`net`] (values), [`wire`] (headers as bytes), [`sync`], [`files`] (replaced as a whole),
//!   [`route`] (routes and the forwarding table)
//! - [`dataplane`]: the packet path
//! - [`control`]: the engine, the host's side, sources, the API's server, the daemon's life
//! - [`policy`] (network policy: objects that users write, and their compilation to rules), [`config`] (the file),
//!   [`api`] (types of the control API), [`client`], [`cni`] (the plugin of container runtimes), [`cli`] (the command
//!   line)
//!
//! This is a binary with a library for its own tests and benches: nothing here is promised to others.

// Tests may: a test that panics has said what is wrong.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod api;
pub mod cli;
pub mod client;
pub mod cni;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod files;
pub mod net;
pub mod policy;
pub mod route;
pub mod sync;
pub mod wire;
