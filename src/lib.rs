//! underpass
#![deny(unsafe_code)]
pub mod cli;
pub mod config;
pub mod control;
pub mod metrics;
pub mod net;
