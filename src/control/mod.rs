//! The control plane: everything that runs on tokio, beside the packet path and never on it.
//!
//! - [`engine`]: routes, peers and requirements: what there is to be
//! - [`host`]: the kernel's side: links, routes, what must hold before start
//! - [`source`]: where routes come from
//! - [`server`]: the control socket and the metrics endpoint
//! - [`daemon`]: start, supervision, end

pub mod daemon;
pub mod engine;
pub mod host;
pub mod server;
pub mod source;
