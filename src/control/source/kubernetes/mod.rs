//! The API server of a cluster as a source: a thread of its own that watches, and tells what the cluster says.
//!
//! ```text
//! API server ──watch──▶ tables of facts ──style──▶ Discovered ──▶ configuration (source/configuration.rs)
//!            ◀─patch─── own node ◀────────── announcement of the daemon
//!                          │
//!                          └──▶ state file, for a start without the API server
//! ```

mod announce;
mod calico;
mod facts;
mod flannel;
mod follower;
mod native;
mod objects;
mod session;
mod sessions;
mod state_file;
mod table;
#[cfg(test)]
mod tests;

use std::io;

use facts::Facts;
use follower::Follower;

use super::cluster::Ends;
use super::discovered::{Discovered, shown};
use crate::config::{self, Style};
use crate::net::Mac;

/// Follows the cluster of `settings` in a thread of its own, until nobody is at the other ends.
///
/// # Errors
/// When there can be no thread.
pub(super) fn follow(settings: config::Kubernetes, ends: Ends) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("kubernetes".to_owned());
    thread.spawn(move || runtime.block_on(sessions::run(Follower::new(settings, ends))))?;
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

/// The Ethernet address of a tunnel device.
fn unicast_mac(text: &str) -> Result<Mac, String> {
    let mac = text.parse::<Mac>().map_err(|error| error.to_string())?;
    mac.is_unicast().then_some(mac).ok_or_else(|| format!("{mac} is no host's"))
}

/// The name of the peer that is the IPv6 half of a node, where the tunnel has a device for each family. Calico's rule for
/// the Ethernet address of the second one is over this name, too.
fn second_peer(node: &str) -> String {
    format!("{node}-v6")
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

/// An error and its causes in one line.
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
    shown(&text)
}
