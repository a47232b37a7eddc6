//! The control plane: everything that runs on tokio, beside the packet path and never on it.

pub mod host;
