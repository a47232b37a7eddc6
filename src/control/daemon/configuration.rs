//! What the daemon is to follow: the file, and a cluster where the file names one.
//!
//! ```text
//! file ────────┐
//!              ├─ compose ─▶ configuration ─▶ engine
//! cluster ─────┘                 │
//!    ▲                           └─▶ another start, where this node itself is another one
//!    └── announcement ◀── snapshot
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::handle::ReloadWish;
use super::runner::Inbox;
use crate::api::{SourceRefusal, SourceStatus};
use crate::config::Config;
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{
    Asked, Event, Reply, Snapshot, Update, conflicts_by_prefix, look, needs_restart,
};
use crate::control::host::Host;
use crate::control::source::cluster::{Announcement, Cluster, Said};
use crate::control::source::compose::{Composed, Taken, compose, own_addresses};
use crate::control::source::discovered::{OwnNode, Refused};
use crate::control::source::file::FileSource;
use crate::net::Prefix;
use crate::route::Source;

/// How long a start waits for the API server when the state file has what is needed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a start that waits says so.
const REMIND: Duration = Duration::from_secs(10);
/// From a refused configuration to the next try: the host may be another one by then.
const RETRY: Duration = Duration::from_secs(5);
/// Most refusals that are shown.
const SHOWN: usize = 32;

/// The file and the cluster, before and between runs.
pub(super) struct Sources {
    file: FileSource,
    /// What the file says.
    base: Config,
    cluster: Option<Cluster>,
    /// What the cluster said last of this node.
    own: OwnNode,
}

/// The same, while the daemon runs.
pub(super) struct Follower {
    pub sources: Sources,
    pub host: Host,
    pub inbox: Inbox,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub wishes: mpsc::Receiver<ReloadWish>,
    /// Where to say that this node is another one, so that everything has to begin anew.
    pub restart: mpsc::Sender<String>,
    pub generation: u64,
    /// What is left out of what the cluster says.
    pub refused: Vec<Refused>,
    /// Why what it says is not followed.
    pub trouble: Option<String>,
}

impl Sources {
    /// The file, which says `base`, and the cluster that it names.
    ///
    /// # Errors
    /// When the cluster cannot be followed.
    pub(super) fn new(file: FileSource, base: Config, cluster: Option<Cluster>) -> anyhow::Result<Self> {
        let cluster = match (&base.kubernetes, cluster) {
            (Some(_), Some(cluster)) => Some(cluster),
            (Some(settings), None) => Some(Cluster::follow(settings).context("source kubernetes")?),
            (None, _) => None,
        };
        Ok(Self { file, base, cluster, own: OwnNode::default() })
    }

    /// The cluster, to be followed by the next run as well.
    pub(super) fn cluster(&self) -> Option<Cluster> {
        self.cluster.clone()
    }

    /// The first configuration. Waits until the cluster says enough.
    ///
    /// # Errors
    /// When the cluster cannot be followed.
    pub(super) async fn first(&mut self, host: &Host) -> anyhow::Result<Config> {
        let Some(cluster) = &self.cluster else { return Ok(self.base.clone()) };
        let mut said = cluster.said();
        // What the API server says now is better than what it said before the start.
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
                tracing::info!("source kubernetes: waiting: {why}");
            }
            last.clone_from(&why);
            match timeout(REMIND, said.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => bail!("source kubernetes: its thread has ended"),
                Err(_) => tracing::warn!("source kubernetes: still waiting: {last}"),
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
        let taken = taken_by_routes(host, &composed.config, &uplink.name).await;
        if taken.prefixes.is_empty() {
            return Ok(composed.config);
        }
        let again = self.compose(host, said, None, &taken).await.map_err(anyhow::Error::msg)?;
        Ok(again.config)
    }

    /// What the file and `said` make together, where the daemon runs with `running`.
    async fn compose(
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

impl Follower {
    /// Follows the file whenever somebody wishes, and the cluster whenever it says something new.
    pub(super) async fn run(mut self) {
        let mut said = self.sources.cluster.as_ref().map(Cluster::said);
        let mut snapshots = self.snapshots.clone();
        let mut retry = None;
        if let Some(said) = &mut said {
            let now = said.borrow_and_update().clone();
            retry = self.follow_cluster(&now).await;
        }
        loop {
            tokio::select! {
                wish = self.wishes.recv() => match wish {
                    Some((wait, answer)) => {
                        let done = self.reload(wait).await;
                        // Who wished it may have gone.
                        let _ = answer.send(done);
                    }
                    None => return,
                },
                () = changed(&mut said) => retry = self.follow_now(&mut said).await,
                () = at(retry) => retry = self.follow_now(&mut said).await,
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.announce();
                }
            }
        }
    }

    async fn follow_now(&mut self, said: &mut Option<watch::Receiver<Said>>) -> Option<Instant> {
        let said = said.as_mut()?.borrow_and_update().clone();
        self.follow_cluster(&said).await
    }

    /// Reads the file again and follows it.
    async fn reload(&mut self, wait: bool) -> Result<Reply, Refusal> {
        let done = self.try_reload(wait).await;
        let file = self.sources.file.path().display();
        match &done {
            Ok(_) => tracing::info!("{file}: reloaded"),
            Err(refusal) => {
                tracing::error!("{file}: not reloaded, the running configuration stays: {refusal}");
                refusal.culprits.iter().for_each(|culprit| tracing::error!("{culprit}"));
            }
        }
        self.announce();
        done
    }

    async fn try_reload(&mut self, wait: bool) -> Result<Reply, Refusal> {
        let base = match self.sources.file.read_again().await {
            Ok(base) => base,
            Err(refusal) => return self.update(Err(refusal), wait).await,
        };
        let Some(cluster) = self.sources.cluster.as_ref().filter(|_| base.kubernetes.is_some()) else {
            let done = self.update(Ok(base.clone()), wait).await;
            if done.is_ok() {
                self.sources.base = base;
            }
            return done;
        };
        let said = cluster.said().borrow().clone();
        let before = std::mem::replace(&mut self.sources.base, base);
        let composed = match self.composed(&said).await {
            Ok(composed) => composed,
            Err(missing) => {
                self.sources.base = before;
                let mut culprits = Culprits::default();
                culprits.push(|| missing);
                return Err(Refusal::of(Kind::Conflict, culprits));
            }
        };
        let done = self.update(Ok(composed.config), wait).await;
        match done {
            Ok(_) => self.refuse(composed.refused),
            Err(_) => self.sources.base = before,
        }
        self.report(&said);
        done
    }

    /// Follows what the cluster says. Returns when to try again.
    async fn follow_cluster(&mut self, said: &Said) -> Option<Instant> {
        let mut retry = None;
        if said.found.is_some() {
            self.trouble = match self.try_follow(said).await {
                Ok(()) => None,
                Err(trouble) => {
                    retry = Some(Instant::now() + RETRY);
                    Some(trouble)
                }
            };
        }
        self.report(said);
        self.announce();
        retry
    }

    async fn try_follow(&mut self, said: &Said) -> Result<(), String> {
        let composed = self.composed(said).await?;
        let running = Arc::clone(&self.snapshots.borrow().config);
        self.refuse(composed.refused);
        if *running == composed.config {
            return Ok(());
        }
        let anew = needs_restart(&running, &composed.config);
        if !anew.is_empty() {
            let _ = self
                .restart
                .send(format!("the cluster says of this node that {} is another", anew.join(", ")))
                .await;
            return Err("this node is another one, so the daemon begins anew".to_owned());
        }
        let (before, now) = (running.peers.len(), composed.config.peers.len());
        match self.update(Ok(composed.config), false).await {
            Ok(_) => {
                tracing::info!("source kubernetes: {now} peers, {before} before");
                Ok(())
            }
            Err(refusal) => {
                let culprit = refusal.culprits.first().cloned().unwrap_or_default();
                Err(format!("what the cluster says is refused: {refusal} {culprit}"))
            }
        }
    }

    /// What the file and the cluster make, without what clashes with additions by request or routes of this host.
    async fn composed(&mut self, said: &Said) -> Result<Composed, String> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let running = Arc::clone(&snapshot.config);
        let mut taken = taken_by_additions(&snapshot);
        let composed = self.sources.compose(&self.host, said, Some(&running), &taken).await?;
        if *running == composed.config {
            return Ok(composed);
        }
        taken.prefixes = taken_by_routes(&self.host, &composed.config, &snapshot.uplink).await.prefixes;
        if taken.prefixes.is_empty() {
            return Ok(composed);
        }
        self.sources.compose(&self.host, said, Some(&running), &taken).await
    }

    /// Has the engine follow `config`, or know why there is none.
    async fn update(&mut self, config: Result<Config, Refusal>, wait: bool) -> Result<Reply, Refusal> {
        self.generation += 1;
        let config = config.map(Box::new);
        let uplink = self.snapshots.borrow().uplink.to_string();
        let view = match &config {
            Ok(config) => self.host.observe(&look(config, &uplink, None)).await.ok().map(Box::new),
            Err(_) => None,
        };
        let (source, generation) = (Source::Static, self.generation);
        let update = Update::Configuration { config, view };
        let event = |asked: Asked| Event::Update { source, generation, update, request: Some(asked) };
        self.inbox.ask(wait, event).await
    }

    /// Notes what is left out; what was not before is logged.
    fn refuse(&mut self, refused: Vec<Refused>) {
        for new in refused.iter().filter(|new| !self.refused.contains(new)).take(SHOWN) {
            tracing::warn!("source kubernetes: {} is left out: {}", new.object, new.reason);
        }
        self.refused = refused;
    }

    /// Tells readers how the cluster is followed.
    fn report(&self, said: &Said) {
        let reason = said.lost.as_ref().or(self.trouble.as_ref());
        let refusal = |refused: &Refused| SourceRefusal {
            object: refused.object.clone(),
            reason: refused.reason.clone(),
        };
        let state = if reason.is_some() { "degraded" } else { "following" };
        let status = SourceStatus {
            name: Source::Kubernetes.name().to_owned(),
            state: state.to_owned(),
            reason: reason.cloned().unwrap_or_default(),
            style: said.style.map(|style| style.name().to_owned()).unwrap_or_default(),
            nodes: said.nodes,
            refused: self.refused.len(),
            refusals: self.refused.iter().take(SHOWN).map(refusal).collect(),
            problems: said.problems.clone(),
        };
        self.inbox.send(Event::Reported(Arc::new(status)));
    }

    /// Has the cluster told what this node is like.
    fn announce(&self) {
        let Some(cluster) = &self.sources.cluster else { return };
        let snapshot = self.snapshots.borrow();
        let config = &snapshot.config;
        cluster.announce(Announcement {
            vtep_mac: snapshot.underlay.vtep_mac,
            address: config.node.address.map(|net| net.addr()),
            address6: config.node.address6.map(|net| net.addr()),
            subnets: config.local_subnets.clone(),
            networks: config.pools.iter().map(|pool| pool.cidr).collect(),
            mtu: snapshot.underlay.tun.mtu,
            masquerades: config.pools.iter().any(|pool| pool.nat_outgoing),
        });
    }
}

/// What was added by request, which no node of the cluster may take.
fn taken_by_additions(snapshot: &Snapshot) -> Taken {
    let config = &snapshot.config;
    let configured: std::collections::HashSet<&str> =
        config.peers.iter().map(|peer| peer.name.as_str()).collect();
    let mut taken = Taken::default();
    for added in snapshot.known().filter(|peer| !configured.contains(peer.name.as_str())) {
        taken.names.insert(added.name.to_string());
        taken.addresses.extend(added.senders());
        taken.macs.insert(added.vtep_mac);
    }
    taken
}

/// What routes of others on this host keep out of the tunnel of `config`.
async fn taken_by_routes(host: &Host, config: &Config, uplink: &str) -> Taken {
    let mut taken = Taken::default();
    let Ok(view) = host.observe(&look(config, uplink, None)).await else { return taken };
    let conflicts = conflicts_by_prefix(config, &view).into_iter();
    // A pool in the way of somebody is no node's fault.
    let of_nodes = |prefix: &Prefix| !config.pools.iter().any(|pool| pool.cidr == *prefix);
    let conflicts = conflicts.filter(|(prefix, _)| of_nodes(prefix));
    taken.prefixes =
        conflicts.map(|(prefix, error)| (prefix, format!("is not to be had here: {error}"))).collect();
    taken
}

async fn changed(said: &mut Option<watch::Receiver<Said>>) {
    let ended = match said {
        Some(said) => said.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
