//! The file and the cluster that it names, before and between runs.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::timeout;

use crate::config::Config;
use crate::control::engine::port::HostView;
use crate::control::engine::{Snapshot, conflicts_by_prefix, look};
use crate::control::host::Host;
use crate::control::source::cluster::{Cluster, Said};
use crate::control::source::compose::{Composed, Taken, compose, own_addresses};
use crate::control::source::discovered::OwnNode;
use crate::control::source::file::FileSource;
use crate::net::Prefix;

/// How long a start waits for the cluster when the state file has what is needed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a start that waits says so.
const REMIND: Duration = Duration::from_secs(10);

/// The file and the cluster, before and between runs.
pub(in crate::control::daemon) struct Sources {
    pub(super) file: FileSource,
    /// What the file says.
    pub(super) base: Config,
    pub(super) cluster: Option<Cluster>,
    /// What the cluster said last of this node.
    own: OwnNode,
}

impl Sources {
    /// The file, which says `base`, and the cluster that it names.
    ///
    /// # Errors
    /// When the cluster cannot be followed.
    pub(in crate::control::daemon) fn new(
        file: FileSource,
        base: Config,
        cluster: Option<Cluster>,
    ) -> anyhow::Result<Self> {
        let cluster = match (&base.cluster, cluster) {
            (Some(_), Some(cluster)) => Some(cluster),
            (Some(settings), None) => {
                let source = settings.source().name();
                let cluster = Cluster::follow(settings, &base.node);
                Some(cluster.with_context(|| format!("source {source}"))?)
            }
            (None, _) => None,
        };
        Ok(Self { file, base, cluster, own: OwnNode::default() })
    }

    /// The cluster, to be followed by the next run as well.
    pub(in crate::control::daemon) fn cluster(&self) -> Option<Cluster> {
        self.cluster.clone()
    }

    /// The name of the cluster's source.
    pub(super) fn name(&self) -> &'static str {
        self.cluster.as_ref().map_or("", |cluster| cluster.source().name())
    }

    /// The first configuration. Waits until the cluster says enough.
    ///
    /// # Errors
    /// When the cluster cannot be followed.
    pub(in crate::control::daemon) async fn first(&mut self, host: &Host) -> anyhow::Result<Config> {
        let Some(cluster) = &self.cluster else { return Ok(self.base.clone()) };
        let source = cluster.source().name();
        let mut said = cluster.said();
        // What the cluster says now is better than what it said before the start.
        let fresh = said.wait_for(|said| said.found.is_some() && (!said.is_old || said.lost.is_some()));
        drop(timeout(PATIENCE, fresh).await);
        let mut last = String::new();
        loop {
            let now = said.borrow_and_update().clone();
            let missing = match self.compose(host, &now, None, &Taken::default()).await {
                Ok(composed) => return self.without_conflicts(host, &now, composed).await,
                Err(missing) => missing,
            };
            let why = now.lost.map_or(missing, |lost| lost);
            if why != last {
                tracing::info!("source {source}: waiting: {why}");
            }
            last.clone_from(&why);
            match timeout(REMIND, said.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => bail!("source {source}: its thread has ended"),
                Err(_) => tracing::warn!("source {source}: still waiting: {last}"),
            }
        }
    }

    /// `composed` without the nodes whose subnets this host routes elsewhere.
    async fn without_conflicts(
        &mut self,
        host: &Host,
        said: &Said,
        composed: Composed,
    ) -> anyhow::Result<Config> {
        let own = composed.config.node.addresses().next().context("this node has no underlay address")?;
        let uplink = host.uplink_of(own.addr()).await?;
        let Ok(view) = host.observe(&look(&composed.config, &uplink.name, None)).await else {
            return Ok(composed.config);
        };
        let taken = Taken { prefixes: taken_by_routes(&composed.config, &view), ..Taken::default() };
        if taken.prefixes.is_empty() {
            return Ok(composed.config);
        }
        let again = self.compose(host, said, None, &taken).await.map_err(anyhow::Error::msg)?;
        Ok(again.config)
    }

    /// What the file and `said` make together, where the daemon runs with `running`.
    pub(super) async fn compose(
        &mut self,
        host: &Host,
        said: &Said,
        running: Option<&Config>,
        taken: &Taken,
    ) -> Result<Composed, String> {
        let Some(found) = &said.found else { return Err("nothing is known of the cluster yet".to_owned()) };
        let mut found = (**found).clone();
        // A node that is made anew has no subnet for a moment. What it was goes on.
        if found.own.subnets.is_empty() || found.own.addresses.is_empty() {
            if !self.own.subnets.is_empty() {
                found.own.clone_from(&self.own);
            }
        } else {
            self.own.clone_from(&found.own);
        }
        let mut lengths = HashMap::new();
        for address in &found.own.addresses {
            let known =
                running.is_some_and(|config| config.node.addresses().any(|own| own.addr() == *address));
            if known {
                continue;
            }
            match host.uplink_of(*address).await {
                Ok(uplink) => drop(lengths.insert(*address, uplink.prefix_len)),
                Err(error) if self.base.node.addresses().next().is_none() => {
                    return Err(format!(
                        "the cluster says that this node is at {address}: {error}; give `address` under [node]"
                    ));
                }
                Err(_) => {}
            }
        }
        let length = |address: IpAddr| lengths.get(&address).copied();
        let own = own_addresses(&found, running.map(|config| &config.node), length);
        compose(&self.base, &found, own, taken)
    }
}

/// What was added by request, which no node of the cluster may take.
pub(super) fn taken_by_additions(snapshot: &Snapshot) -> Taken {
    let config = &snapshot.config;
    let configured: HashSet<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut taken = Taken::default();
    for added in snapshot.known().filter(|peer| !configured.contains(peer.name.as_str())) {
        taken.names.insert(added.name.to_string());
        taken.addresses.extend(added.senders());
        taken.macs.insert(added.vtep_mac);
    }
    taken
}

/// What routes of others on the host that looks like `view` keep out of the tunnel of `config`, and why.
pub(super) fn taken_by_routes(config: &Config, view: &HostView) -> HashMap<Prefix, String> {
    let conflicts = conflicts_by_prefix(config, view).into_iter();
    // A pool in the way of somebody is no node's fault.
    let of_nodes = |prefix: &Prefix| !config.pools.iter().any(|pool| pool.cidr == *prefix);
    let conflicts = conflicts.filter(|(prefix, _)| of_nodes(prefix));
    conflicts.map(|(prefix, error)| (prefix, format!("is not to be had here: {error}"))).collect()
}
