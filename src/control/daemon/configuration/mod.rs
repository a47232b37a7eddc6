//! What the daemon is to follow: the file, and a cluster where the file names one.
//!
//! ```text
//! file ────────┐
//!              ├─ compose ─▶ configuration ─▶ engine
//! cluster ─────┘                 │
//!    ▲                           └─▶ another start, where this node itself is another one
//!    └── announcement ◀── snapshot
//! ```

mod sources;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::handle::ReloadWish;
use super::runner::Inbox;
use crate::api::{SourceRefusal, SourceStatus};
use crate::config::Config;
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::port::HostView;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{Asked, Event, Reply, Snapshot, Update, look, needs_restart};
use crate::control::host::Host;
use crate::control::source::at;
use crate::control::source::cluster::{Announcement, Cluster, Said};
use crate::control::source::compose::Composed;
use crate::control::source::discovered::Refused;
use crate::route::Source;
pub(super) use sources::Sources;
use sources::{taken_by_additions, taken_by_routes};

/// From a refused configuration to the next try: the host may be another one by then.
const RETRY: Duration = Duration::from_secs(5);
/// Most refusals that are shown.
const SHOWN: usize = 32;

/// What follows the file and the cluster while the daemon runs.
pub(super) struct Follower {
    sources: Sources,
    around: Around,
    generation: u64,
    /// What is left out of what the cluster says, in order.
    refused: Vec<Refused>,
    /// Why what it says is not followed.
    trouble: Option<String>,
}

/// What it has to do with.
pub(super) struct Around {
    pub host: Host,
    pub inbox: Inbox,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub wishes: mpsc::Receiver<ReloadWish>,
    /// Where to say that this node is another one, so that everything has to begin anew.
    pub restart: mpsc::Sender<String>,
}

/// What is to be followed, on a host that looks like this.
struct Next {
    composed: Composed,
    view: Option<HostView>,
}

impl Follower {
    /// Follows `sources`, which the daemon has begun with.
    pub(super) fn new(sources: Sources, around: Around) -> Self {
        Self { sources, around, generation: 0, refused: Vec::new(), trouble: None }
    }

    /// Follows the file whenever somebody wishes, and the cluster whenever it says something new.
    pub(super) async fn run(mut self) {
        let mut said = self.sources.cluster.as_ref().map(Cluster::said);
        let mut snapshots = self.around.snapshots.clone();
        let mut retry = None;
        if let Some(said) = &mut said {
            let now = said.borrow_and_update().clone();
            retry = self.follow_cluster(&now).await;
        }
        loop {
            tokio::select! {
                wish = self.around.wishes.recv() => match wish {
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
            Err(refusal) => return self.update(Err(refusal), None, wait).await,
        };
        let Some(cluster) = self.sources.cluster.as_ref().filter(|_| base.cluster.is_some()) else {
            let view = self.look(&base).await;
            let done = self.update(Ok(base.clone()), view, wait).await;
            if done.is_ok() {
                self.sources.base = base;
            }
            return done;
        };
        let said = cluster.said().borrow().clone();
        let before = std::mem::replace(&mut self.sources.base, base);
        let Next { composed, view } = match self.next(&said).await {
            Ok(next) => next,
            Err(missing) => {
                self.sources.base = before;
                let mut culprits = Culprits::default();
                culprits.push(|| missing);
                return Err(Refusal::of(Kind::Conflict, culprits));
            }
        };
        // Who asks is told what the host has against it, also where nothing has changed.
        let view = match view {
            Some(view) => Some(view),
            None => self.look(&composed.config).await,
        };
        let done = self.update(Ok(composed.config), view, wait).await;
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
        let Next { composed, view } = self.next(said).await?;
        let running = Arc::clone(&self.around.snapshots.borrow().config);
        self.refuse(composed.refused);
        if *running == composed.config {
            return Ok(());
        }
        let anew = needs_restart(&running, &composed.config);
        if !anew.is_empty() {
            let _ = self
                .around
                .restart
                .send(format!("the cluster says of this node that {} is another", anew.join(", ")))
                .await;
            return Err("this node is another one, so the daemon begins anew".to_owned());
        }
        let (before, now) = (running.peers.len(), composed.config.peers.len());
        match self.update(Ok(composed.config), view, false).await {
            Ok(_) => {
                tracing::info!("source {}: {now} peers, {before} before", self.sources.name());
                Ok(())
            }
            Err(refusal) => {
                let culprit = refusal.culprits.first().cloned().unwrap_or_default();
                Err(format!("what the cluster says is refused: {refusal} {culprit}"))
            }
        }
    }

    /// What the file and the cluster make, without what clashes with additions by request or routes of this host.
    async fn next(&mut self, said: &Said) -> Result<Next, String> {
        let snapshot = Arc::clone(&self.around.snapshots.borrow());
        let running = Some(&*snapshot.config);
        let mut taken = taken_by_additions(&snapshot);
        let composed = self.sources.compose(&self.around.host, said, running, &taken).await?;
        if *snapshot.config == composed.config {
            return Ok(Next { composed, view: None });
        }
        let view = self.look(&composed.config).await;
        taken.prefixes =
            view.as_ref().map(|view| taken_by_routes(&composed.config, view)).unwrap_or_default();
        if taken.prefixes.is_empty() {
            return Ok(Next { composed, view });
        }
        let composed = self.sources.compose(&self.around.host, said, running, &taken).await?;
        Ok(Next { composed, view })
    }

    /// The host with the routes that matter to `config`.
    async fn look(&self, config: &Config) -> Option<HostView> {
        let uplink = self.around.snapshots.borrow().uplink.to_string();
        self.around.host.observe(&look(config, &uplink, None)).await.ok()
    }

    /// Has the engine follow `config` on a host that looks like `view`, or know why there is none.
    async fn update(
        &mut self,
        config: Result<Config, Refusal>,
        view: Option<HostView>,
        wait: bool,
    ) -> Result<Reply, Refusal> {
        self.generation += 1;
        let (source, generation) = (Source::Static, self.generation);
        let update = Update::Configuration { config: config.map(Box::new), view: view.map(Box::new) };
        let event = |asked: Asked| Event::Update { source, generation, update, request: Some(asked) };
        self.around.inbox.ask(wait, event).await
    }

    /// Notes what is left out; what was not before is logged.
    fn refuse(&mut self, refused: Vec<Refused>) {
        let is_new = |refused: &&Refused| self.refused.binary_search(refused).is_err();
        for new in refused.iter().filter(is_new).take(SHOWN) {
            let source = self.sources.name();
            tracing::warn!("source {source}: {} is left out: {}", new.object, new.reason);
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
        let state = if reason.is_some() { SourceStatus::DEGRADED } else { SourceStatus::FOLLOWING };
        let status = SourceStatus {
            name: self.sources.name().to_owned(),
            state: state.to_owned(),
            reason: reason.cloned().unwrap_or_default(),
            style: said.style.map(|style| style.name().to_owned()).unwrap_or_default(),
            nodes: said.nodes,
            refused: self.refused.len(),
            refusals: self.refused.iter().take(SHOWN).map(refusal).collect(),
            problems: said.problems.clone(),
            ..SourceStatus::default()
        };
        self.around.inbox.send(Event::Reported(Arc::new(status)));
    }

    /// Has the cluster told what this node is like.
    fn announce(&self) {
        let Some(cluster) = &self.sources.cluster else { return };
        let snapshot = self.around.snapshots.borrow();
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

async fn changed(said: &mut Option<watch::Receiver<Said>>) {
    let ended = match said {
        Some(said) => said.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}
