//! An etcd with flannel's layout as a source: a thread of its own that watches, claims this node's subnet, and tells what
//! etcd says.
//!
//! ```text
//! etcd ──watch──▶ facts ──discover──▶ Discovered ──▶ configuration (source/compose.rs)
//!   ▲               │
//!   │            acquire
//!   │               ▼
//!   └──claim, keep alive──── own record
//!                   └──────▶ subnet.env, state file
//! ```

mod acquire;
mod discover;
mod facts;
mod follower;
mod layout;
mod previous;
mod record;
mod session;
mod sessions;
mod store;
#[cfg(test)]
mod tests;

use std::io;

use follower::Follower;

use super::cluster::Ends;
use crate::config;

/// Follows the etcd of `settings` in a thread of its own, until nobody is at the other ends.
///
/// # Errors
/// When `node` cannot be known there, or there can be no thread.
pub(super) fn follow(settings: config::Etcd, node: config::Node, ends: Ends) -> io::Result<()> {
    let follower = Follower::new(settings, &node, ends).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("etcd".to_owned());
    thread.spawn(move || runtime.block_on(sessions::run(follower)))?;
    Ok(())
}
