//! The file, and what gives it what it leaves open: a cluster, the rules for this node's addresses, the resolver.
//! All of it goes on from one run to the next.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep, timeout};

use super::own_addresses::{Looked, OwnAddresses, has_rules};
use super::policies::Policies;
use crate::config::{AddressRule, Config};
use crate::control::engine::port::HostView;
use crate::control::engine::{NetworkPolicy, Snapshot, conflicts_by_prefix, look};
use crate::control::host::Host;
use crate::control::source::cluster::{Cluster, Said};
use crate::control::source::compose::{self, Taken};
use crate::control::source::discovered::{Discovered, OwnNode, Refused};
use crate::control::source::file::FileSource;
use crate::control::source::named::{resolve, without_unreachable};
use crate::control::source::names::{self, Names};
use crate::net::Prefix;

/// How long a start waits for the cluster when the state file has what is needed, for the resolver, and for an address
/// of the second family.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a start that waits says so.
const REMIND: Duration = Duration::from_secs(10);
/// From one look at the host's addresses to the next while a start waits for one.
const LOOK: Duration = Duration::from_millis(500);

/// The file and what it names, before and between runs.
pub(in crate::control::daemon) struct Sources {
    pub(super) file: FileSource,
    /// What the file says.
    pub(super) base: Config,
    pub(super) cluster: Option<Cluster>,
    /// What the cluster said last of this node.
    own: OwnNode,
    /// This node's addresses where the file has rules for them.
    pub(super) addresses: OwnAddresses,
    /// The host names in the file.
    pub(super) names: Names,
    /// What is enforced of network policy.
    pub(in crate::control::daemon) policies: Policies,
    /// Whether there was a run: the next one is not to wait for what the last did without.
    begun: bool,
}

/// What all of them make together.
pub(super) struct Made {
    /// What is to be followed.
    pub config: Config,
    /// What is left out.
    pub refusals: Refusals,
}

/// What is left out, and why.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Of what the cluster says.
    pub cluster: Vec<Refused>,
    /// Peers that cannot be reached by the addresses of this node.
    pub unreachable: Vec<Refused>,
    /// Peers whose names give no address.
    pub unresolved: Vec<Refused>,
}

impl Sources {
    /// The file, which says `base`, and what that names. Call it within the runtime of the control plane.
    pub(in crate::control::daemon) fn new(file: FileSource, base: Config) -> Self {
        let names = Names::follow(names::system);
        let (own, addresses) = (OwnNode::default(), OwnAddresses::default());
        let policies = Policies::default();
        Self { file, base, cluster: None, own, addresses, names, policies, begun: false }
    }

    /// Whether this node's address may be another one by now.
    pub(in crate::control::daemon) fn has_rules(&self) -> bool {
        has_rules(&self.base)
    }

    /// The name of the cluster's source.
    pub(super) fn name(&self) -> &'static str {
        self.cluster.as_ref().map_or("", |cluster| cluster.source().name())
    }

    /// Whether it depends on routes.
    pub(super) fn has_rules_by_routes(&self) -> bool {
        let mut rules = [true, false].into_iter().filter_map(|is_ipv4| self.base.node.rule(is_ipv4));
        rules.any(|rule| matches!(rule, AddressRule::CanReach(_)))
    }

    /// The first configuration. Waits until the host and the cluster say enough.
    ///
    /// # Errors
    /// When the cluster cannot be followed.
    pub(in crate::control::daemon) async fn first(&mut self, host: &Host) -> anyhow::Result<Config> {
        self.ask_for_names();
        if !self.begun {
            drop(timeout(PATIENCE, self.names.asked()).await);
        }
        self.await_addresses(host).await;
        self.begun = true;
        self.follow_cluster()?;
        let Some(cluster) = &self.cluster else {
            let made = self.compose(host, &Said::default(), None, &Taken::default()).await;
            return made.map(|made| made.config).map_err(anyhow::Error::msg);
        };
        let source = cluster.source().name();
        let mut said = cluster.said();
        // What the cluster says now is better than what it said before the start.
        let fresh = said.wait_for(|said| said.found.is_some() && (!said.is_old || said.lost.is_some()));
        drop(timeout(PATIENCE, fresh).await);
        self.await_policies().await;
        let mut last = String::new();
        loop {
            let now = said.borrow_and_update().clone();
            let missing = match self.compose(host, &now, None, &Taken::default()).await {
                Ok(made) => return self.without_conflicts(host, &now, made).await,
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

    /// The network policy that goes with `config`, by what the cluster has now.
    ///
    /// # Errors
    /// Why it cannot be enforced.
    pub(in crate::control::daemon) async fn network_policy(
        &mut self,
        config: &Config,
    ) -> Result<Option<NetworkPolicy>, String> {
        if let Some(cluster) = &self.cluster {
            cluster.want_policies(config.policy.is_some());
        }
        let known = self.cluster.as_ref().and_then(Cluster::policies);
        let world = known.and_then(|known| known.borrow().clone());
        self.policies.make(config, world).await
    }

    /// Waits until the cluster's policies are known, for a moment.
    async fn await_policies(&self) {
        let known = self.cluster.as_ref().filter(|_| self.base.policy.is_some()).and_then(Cluster::policies);
        let Some(mut known) = known else { return };
        if timeout(PATIENCE, known.wait_for(Option::is_some)).await.is_err() {
            tracing::warn!("beginning without the cluster's policies: nothing is known of them yet");
        }
    }

    /// Follows the cluster that the file names, as the node that this is now.
    fn follow_cluster(&mut self) -> anyhow::Result<()> {
        let Some(settings) = &self.base.cluster else { return Ok(()) };
        let mut config = self.base.clone();
        self.addresses.apply(&mut config);
        if !self.cluster.as_ref().is_some_and(|cluster| cluster.knows(&config.node)) {
            let cluster = Cluster::follow(settings, &config.node, config.policy.is_some());
            self.cluster = Some(cluster.with_context(|| format!("source {}", settings.source().name()))?);
        }
        Ok(())
    }

    /// Has the names that the file has, and no others, looked up.
    pub(super) fn ask_for_names(&self) {
        let peers = self.base.named_peers.iter().map(|peer| &peer.address);
        let rules = [true, false].into_iter().filter_map(|is_ipv4| self.base.node.rule(is_ipv4)?.host_name());
        self.names.want(peers.chain(rules).cloned().collect());
    }

    /// What the rules for this node's addresses choose now.
    pub(super) async fn look_at_addresses(&self, host: &Host) -> Looked {
        let names = Arc::clone(&self.names.known().borrow());
        self.addresses.look(host, &self.base, &names.answers).await
    }

    /// Waits until the rules have chosen an address; one of two families suffices after a moment.
    async fn await_addresses(&mut self, host: &Host) {
        if !self.has_rules() {
            return;
        }
        let begun = Instant::now();
        let (mut last, mut told) = (String::new(), begun);
        loop {
            let looked = self.look_at_addresses(host).await;
            self.addresses.follow(looked);
            self.addresses.forget_missing();
            let problems: Vec<String> = self.addresses.problems().collect();
            let mut config = self.base.clone();
            self.addresses.apply(&mut config);
            let has_one = config.node.addresses().next().is_some();
            if problems.is_empty() || has_one && (self.begun || begun.elapsed() >= PATIENCE) {
                for choice in self.addresses.chosen() {
                    tracing::info!("the address of this node is {choice}");
                }
                return;
            }
            let why = problems.join("; ");
            if why != last {
                tracing::warn!("waiting for an address of this node: {why}");
                (last, told) = (why, Instant::now());
            } else if told.elapsed() >= REMIND {
                tracing::warn!("still waiting for an address of this node: {why}");
                told = Instant::now();
            }
            sleep(LOOK).await;
        }
    }

    /// `made` without the nodes of the cluster whose subnets this host routes elsewhere.
    async fn without_conflicts(&mut self, host: &Host, said: &Said, made: Made) -> anyhow::Result<Config> {
        let own = made.config.node.addresses().next().context("this node has no underlay address")?;
        let uplink = host.uplink_of(own.addr()).await?;
        let Ok(view) = host.observe(&look(&made.config, &uplink.name, None)).await else {
            return Ok(made.config);
        };
        let taken = Taken { prefixes: taken_by_routes(&made.config, &view), ..Taken::default() };
        if taken.prefixes.is_empty() {
            return Ok(made.config);
        }
        let again = self.compose(host, said, None, &taken).await.map_err(anyhow::Error::msg)?;
        Ok(again.config)
    }

    /// What the file and `said` make together with the host and the resolver, where the daemon runs with `running`.
    pub(super) async fn compose(
        &mut self,
        host: &Host,
        said: &Said,
        running: Option<&Config>,
        taken: &Taken,
    ) -> Result<Made, String> {
        let mut config = self.base.clone();
        self.addresses.apply(&mut config);
        let found = match (&self.cluster, &config.cluster) {
            (Some(_), Some(_)) => Some(self.found(said)?),
            _ => None,
        };
        let mut own = compose::OwnAddresses::default();
        if let Some(found) = &found {
            own = self.own_addresses(host, found, &config, running).await?;
            config.node.address = config.node.address.or(own.address);
            config.node.address6 = config.node.address6.or(own.address6);
        }
        let mut refusals = Refusals { unreachable: without_unreachable(&mut config), ..Refusals::default() };
        let names = Arc::clone(&self.names.known().borrow());
        refusals.unresolved = resolve(&mut config, &names.answers, running, taken);
        let Some(found) = &found else { return Ok(Made { config, refusals }) };
        let composed = compose::compose(&config, found, own, taken)?;
        refusals.cluster = composed.refused;
        Ok(Made { config: composed.config, refusals })
    }

    /// What the cluster says, or said before where it says nothing of this node for a moment.
    fn found(&mut self, said: &Said) -> Result<Discovered, String> {
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
        Ok(found)
    }

    /// The addresses that the cluster says this node has, beside those of `file`.
    async fn own_addresses(
        &self,
        host: &Host,
        found: &Discovered,
        file: &Config,
        running: Option<&Config>,
    ) -> Result<compose::OwnAddresses, String> {
        let mut lengths = HashMap::new();
        for address in &found.own.addresses {
            let known =
                running.is_some_and(|config| config.node.addresses().any(|own| own.addr() == *address));
            if known {
                continue;
            }
            match host.uplink_of(*address).await {
                Ok(uplink) => drop(lengths.insert(*address, uplink.prefix_len)),
                Err(error) if file.node.addresses().next().is_none() => {
                    return Err(format!(
                        "the cluster says that this node is at {address}: {error}; give `address` under [node]"
                    ));
                }
                Err(_) => {}
            }
        }
        let length = |address: IpAddr| lengths.get(&address).copied();
        Ok(compose::own_addresses(found, running.map(|config| &config.node), length))
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
