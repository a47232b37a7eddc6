//! underpass
#![deny(unsafe_code)]
pub mod config;
pub mod metrics;
pub mod net;
pub mod route;
pub mod wire;
