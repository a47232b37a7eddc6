//! The CNI plugin `underpass-cni`: the stock plugins make the interfaces of pods, this one tells them the subnets and
//! the MTU of the node, keeps a record of each pod and tells the daemon of it.
//!
//! ```text
//! runtime ──▶ underpass-cni ──▶ ptp ──▶ host-local
//!                 │   ▲
//!          record │   │ subnets, MTU
//!                 ▼   │
//!               daemon
//! ```
//!
//! It works while the daemon is away: a pod starts with what the network configuration says, and is deleted all the
//! same.

mod conf;
pub mod conflist;
mod delegate;
mod gc;
mod input;
mod link;
pub mod records;
mod verbs;

use std::io::Write;
use std::process::ExitCode;

use rscni_plugin::cni::Plugin;
use rscni_plugin::error::Error;
use rscni_plugin::types::ErrorResult;
use rscni_plugin::version::SpecVersion;

/// Does what the environment says; returns the exit code of the process.
pub fn main() -> ExitCode {
    let asked = std::env::var_os("CNI_COMMAND").is_some();
    if let Err(error) = if asked { input::bound() } else { Ok(()) } {
        let error = ErrorResult::new(SpecVersion::CURRENT, &Error::IOFailure(error.to_string()));
        let text = serde_json::to_vec(&error).unwrap_or_default();
        // Nobody may be there to read it.
        let _ = std::io::stdout().write_all(&text);
        return ExitCode::FAILURE;
    }
    // What went wrong is on standard output already, as CNI wants it.
    match Plugin::default().run(&verbs::Underpass) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
