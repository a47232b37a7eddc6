//! The API server of a cluster as a source: a thread of its own that watches, and tells what the cluster says.
//!
//! ```text
//! API server ──watch──▶ tables of facts ──style──▶ Discovered ──▶ configuration (source/compose.rs)
//!     │      ◀─patch─── own node ◀────────── announcement of the daemon
//!     │                    └──▶ state file, for a start without the API server
//!     └──────watch──▶ policies, and what they speak of ──▶ World ──▶ rules of the workers
//!                          └──▶ state file of its own
//! ```

mod announce;
mod calico;
mod facts;
mod flannel;
mod follower;
mod native;
mod objects;
mod policies;
mod session;
mod sessions;
mod table;
#[cfg(test)]
mod tests;
mod watches;

use std::io;

use facts::Facts;
use follower::Follower;

use super::cluster::{Ends, PolicyEnds};
use super::discovered::{Discovered, shown};
use super::flannel::node::{second_peer, unicast_mac};
use super::plain;
use crate::config::{self, Style};

/// Follows the cluster of `settings` in a thread of its own, until nobody is at the other ends.
///
/// # Errors
/// When there can be no thread.
pub(super) fn follow(settings: config::Kubernetes, ends: Ends, policies: PolicyEnds) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("kubernetes".to_owned());
    thread.spawn(move || runtime.block_on(sessions::run(Follower::new(settings, ends, policies))))?;
    Ok(())
}

/// What `facts` say to node `own`, in `style`.
fn discover(facts: &Facts, style: Style, own: &str) -> Discovered {
    match style {
        Style::Flannel => flannel::discover(facts, own),
        Style::Calico => calico::discover(facts, own),
        Style::Native => native::discover(facts, own),
    }
}

/// How the cluster says what its pod network is, by what it has.
fn style_of(facts: &Facts) -> (Style, &'static str) {
    let flannel = facts.nodes.values().any(flannel::is_managed);
    match () {
        () if !facts.affinities.is_empty() => (Style::Calico, "it has Calico's block affinities"),
        () if flannel => (Style::Flannel, "nodes have flannel's annotations"),
        () if !facts.pools.is_empty() => (Style::Calico, "it has Calico's IP pools"),
        () => (Style::Native, "it has nothing of flannel or Calico"),
    }
}
