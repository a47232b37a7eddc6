//! underpass
#![deny(unsafe_code)]
pub mod config;
pub mod control;
pub mod device;
pub mod encap;
pub mod forward;
pub mod metrics;
pub mod net;
pub mod offload;
pub mod pump;
pub mod route;
pub mod underlay;
pub mod wire;
