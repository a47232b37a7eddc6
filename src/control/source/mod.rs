//! Where routes come from: each source is an actor that only sends updates to the engine.
//!
//! A source counts its updates; the engine passes over what is not newer than what it has. When a source
//! cannot be reached its routes stay (`Lost`); when it is back, what it says now is compared with what is followed; when it is gone
//! for good all of it is withdrawn (`Withdrawn`).
//!
//! A cluster knows more than routes: pools, peers, and what this node is. What it says is put together with the file
//! (`compose`), and the result is followed as a configuration.

pub mod cluster;
pub mod compose;
pub mod discovered;
#[cfg(feature = "etcd")]
mod etcd;
pub mod file;
#[cfg(any(feature = "etcd", feature = "kubernetes"))]
mod flannel;
pub mod kernel;
#[cfg(feature = "kubernetes")]
mod kubernetes;
pub mod named;
pub mod names;
pub mod own_address;
#[cfg(any(feature = "etcd", feature = "kubernetes"))]
mod state_file;
#[cfg(any(feature = "etcd", feature = "kubernetes"))]
mod teller;

use tokio::time::{Instant, sleep_until};

/// An error and its causes in one line.
#[cfg(any(feature = "etcd", feature = "kubernetes"))]
fn plain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    discovered::shown(&text)
}

/// Waits for `moment`; where there is none, for ever.
pub async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
