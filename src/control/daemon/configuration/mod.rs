//! What the daemon is to follow: the file, and what that leaves to others.
//!
//! ```text
//! file ─────────────────────────┐
//! cluster ──────────────────────┼─ compose ─▶ configuration ─▶ engine
//!    ▲     this host's addresses┤                 │
//!    │     resolver ────────────┘                 └─▶ another start, where this node itself is another one
//!    └── announcement ◀── snapshot
//! ```

mod own_addresses;
pub(super) mod policies;
mod reports;
mod sources;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::handle::ReloadWish;
use super::runner::Inbox;
use crate::api::SourceStatus;
use crate::config::Config;
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::port::{HostView, Notice};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{Asked, Event, Reply, Snapshot, Update, look, needs_restart};
use crate::control::host::Host;
use crate::control::source::at;
use crate::control::source::cluster::{Announcement, Cluster, Said};
use crate::route::Source;
use reports::{Reports, changes, status, tell_new};
pub(super) use sources::Sources;
use sources::{Made, Refusals, taken_by_additions, taken_by_routes};
use waits::{changed, moved};

/// From a refused configuration to the next try: the host may be another one by then.
const RETRY: Duration = Duration::from_secs(5);
/// How long a reload waits for the resolver.
const PATIENCE: Duration = Duration::from_secs(1);
/// From a notification to the look at this node's addresses: one change comes in several.
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// From one look at them to the next, however many notifications come.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// The same where none comes.
const SLOW_LOOK: Duration = Duration::from_secs(30);

/// What follows the file, the cluster, the host's addresses and the resolver while the daemon runs.
pub(super) struct Follower {
    sources: Sources,
    around: Around,
    generation: u64,
    /// What is left out.
    refusals: Refusals,
    /// Why what the others say is not followed.
    trouble: Option<String>,
    /// What readers were told.
    reports: Reports,
}

/// What it has to do with.
pub(super) struct Around {
    pub host: Host,
    pub inbox: Inbox,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub wishes: mpsc::Receiver<ReloadWish>,
    /// What the kernel tells of.
    pub news: broadcast::Receiver<Notice>,
    /// Where to say that this node is another one, so that everything has to begin anew.
    pub restart: mpsc::Sender<Anew>,
}

/// Why everything has to begin anew, and with what.
pub(super) struct Anew {
    pub why: String,
    pub sources: Sources,
}

/// What is to be followed, on a host that looks like this.
struct Next {
    made: Made,
    view: Option<HostView>,
}

/// What came of following.
enum Followed {
    /// It is followed, or cannot be for now: when to try again.
    Done(Option<Instant>),
    /// This node is another one.
    Anew(String),
}

impl Follower {
    /// Follows `sources`, which the daemon has begun with.
    pub(super) fn new(sources: Sources, around: Around) -> Self {
        let (refusals, reports) = (Refusals::default(), Reports::default());
        Self { sources, around, generation: 0, refusals, trouble: None, reports }
    }

    /// Follows the file whenever somebody wishes, and everything else whenever there is something new.
    pub(super) async fn run(mut self) {
        let mut said = self.sources.cluster.as_ref().map(Cluster::said);
        let mut known = self.sources.names.known();
        let mut policies = self.sources.cluster.as_ref().and_then(Cluster::policies);
        let mut snapshots = self.around.snapshots.clone();
        let mut looked = Instant::now();
        let mut next_look = Some(looked);
        let mut followed = self.follow().await;
        loop {
            let retry = match followed {
                Followed::Done(retry) => retry,
                Followed::Anew(why) => {
                    let Self { sources, around, .. } = self;
                    // Nobody listens at the end.
                    let _ = around.restart.send(Anew { why, sources }).await;
                    return;
                }
            };
            followed = Followed::Done(retry);
            let (has_rules, by_routes) = (self.sources.has_rules(), self.sources.has_rules_by_routes());
            tokio::select! {
                wish = self.around.wishes.recv() => match wish {
                    Some((wait, answer)) => {
                        let done = self.reload(wait).await;
                        // Who wished it may have gone.
                        let _ = answer.send(done);
                        next_look = Some(Instant::now());
                    }
                    None => return,
                },
                () = changed(&mut said) => followed = self.follow().await,
                () = changed(&mut policies) => self.follow_policies().await,
                () = at(retry) => followed = self.follow().await,
                changed = known.changed() => match changed {
                    Ok(()) => {
                        next_look = Some(Instant::now());
                        followed = self.follow().await;
                    }
                    Err(_) => return,
                },
                () = moved(&mut self.around.news, by_routes), if has_rules => {
                    let soon = (Instant::now() + NEWS_PAUSE).max(looked + LOOK_PAUSE);
                    next_look = Some(next_look.map_or(soon, |next| next.min(soon)));
                }
                () = at(next_look), if has_rules => {
                    looked = Instant::now();
                    let settling = self.look_at_addresses().await;
                    next_look = Some(settling.unwrap_or(looked + SLOW_LOOK));
                    followed = self.follow().await;
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.announce();
                }
            }
        }
    }

    /// Looks at what the rules choose. Returns when to look again, where that has changed.
    async fn look_at_addresses(&mut self) -> Option<Instant> {
        let before: Vec<String> = self.sources.addresses.problems().collect();
        let now = self.sources.look_at_addresses(&self.around.host).await;
        let settling = self.sources.addresses.settle(now, Instant::now());
        let problems: Vec<String> = self.sources.addresses.problems().collect();
        if before.is_empty() && !problems.is_empty() {
            tracing::warn!("the address of this node: {}", problems.join("; "));
        } else if problems.is_empty() && !before.is_empty() {
            tracing::info!("the rule for the address of this node finds one again");
        }
        settling
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
        let before = std::mem::replace(&mut self.sources.base, base);
        let addresses = self.sources.addresses.clone();
        let done = self.follow_file(wait).await;
        if done.is_err() {
            self.sources.base = before;
            self.sources.addresses = addresses;
            self.sources.ask_for_names();
        }
        self.report();
        done
    }

    /// Follows what the file says now, with what the others say.
    async fn follow_file(&mut self, wait: bool) -> Result<Reply, Refusal> {
        self.sources.ask_for_names();
        // A name that is new has an address at once, if the resolver is there.
        drop(timeout(PATIENCE, self.sources.names.asked()).await);
        let looked = self.sources.look_at_addresses(&self.around.host).await;
        self.sources.addresses.follow(looked);
        let Next { made, view } = self.next().await.map_err(refused)?;
        // Who asks is told what the host has against it, also where nothing has changed.
        let view = match view {
            Some(view) => Some(view),
            None => self.look(&made.config).await,
        };
        let reply = self.update(Ok(made.config), view, wait).await?;
        self.refuse(made.refusals);
        Ok(reply)
    }

    /// Follows what all say now.
    async fn follow(&mut self) -> Followed {
        let said = self.said();
        let mut retry = None;
        // Before a cluster has said something there is nothing to follow.
        if self.sources.cluster.is_none() || said.found.is_some() {
            self.trouble = match self.try_follow().await {
                Ok(None) => None,
                Ok(Some(anew)) => return Followed::Anew(anew),
                Err(trouble) => {
                    retry = Some(Instant::now() + RETRY);
                    Some(trouble)
                }
            };
        }
        self.report();
        self.announce();
        Followed::Done(retry)
    }

    /// Returns why everything has to begin anew, if so.
    async fn try_follow(&mut self) -> Result<Option<String>, String> {
        let Next { made, view } = self.next().await?;
        let running = Arc::clone(&self.around.snapshots.borrow().config);
        self.refuse(made.refusals);
        if *running == made.config {
            return Ok(None);
        }
        let anew = needs_restart(&running, &made.config);
        if !anew.is_empty() {
            return Ok(Some(format!("{} is another one now", anew.join(", "))));
        }
        let changes = changes(&running, &made.config);
        match self.update(Ok(made.config), view, false).await {
            Ok(_) => {
                changes.iter().for_each(|change| tracing::info!("{change}"));
                Ok(None)
            }
            Err(refusal) => {
                let culprit = refusal.culprits.first().cloned().unwrap_or_default();
                Err(format!("what is known of this node and its peers is refused: {refusal} {culprit}"))
            }
        }
    }

    /// Enforces what the cluster has of network policy now.
    async fn follow_policies(&mut self) {
        let running = Arc::clone(&self.around.snapshots.borrow().config);
        let trouble = match self.sources.network_policy(&running).await {
            Ok(policy) => {
                self.around.inbox.send(Event::NetworkPolicy(policy));
                None
            }
            Err(trouble) => Some(trouble),
        };
        self.sources.policies.trouble(trouble);
    }

    /// What the cluster says.
    fn said(&self) -> Said {
        self.sources.cluster.as_ref().map(|cluster| cluster.said().borrow().clone()).unwrap_or_default()
    }

    /// What all make together, without what clashes with additions by request or routes of this host.
    async fn next(&mut self) -> Result<Next, String> {
        let snapshot = Arc::clone(&self.around.snapshots.borrow());
        let (said, running) = (self.said(), Some(&*snapshot.config));
        let mut taken = taken_by_additions(&snapshot);
        let made = self.sources.compose(&self.around.host, &said, running, &taken).await?;
        if *snapshot.config == made.config {
            return Ok(Next { made, view: None });
        }
        let view = self.look(&made.config).await;
        taken.prefixes = view.as_ref().map(|view| taken_by_routes(&made.config, view)).unwrap_or_default();
        if self.sources.cluster.is_none() || taken.prefixes.is_empty() {
            return Ok(Next { made, view });
        }
        let made = self.sources.compose(&self.around.host, &said, running, &taken).await?;
        Ok(Next { made, view })
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
        let network_policy = match &config {
            Ok(config) => self.sources.network_policy(config).await.map_err(refused)?,
            Err(_) => None,
        };
        self.generation += 1;
        let (source, generation) = (Source::Static, self.generation);
        let (config, view) = (config.map(Box::new), view.map(Box::new));
        let update = Update::Configuration { config, view, network_policy };
        let event = |asked: Asked| Event::Update { source, generation, update, request: Some(asked) };
        self.around.inbox.ask(wait, event).await
    }

    /// Notes what is left out; what was not before is logged.
    fn refuse(&mut self, refusals: Refusals) {
        let before = std::mem::replace(&mut self.refusals, refusals);
        let now = &self.refusals;
        tell_new(&format!("source {}: ", self.sources.name()), &before.cluster, &now.cluster);
        tell_new("", &before.unreachable, &now.unreachable);
        tell_new("", &before.unresolved, &now.unresolved);
    }

    /// Tells readers how the others are followed.
    fn report(&mut self) {
        let sources = &self.sources;
        let names = Arc::clone(&sources.names.known().borrow());
        let known = (&sources.addresses, &names.answers);
        let trouble = self.trouble.as_ref().filter(|_| sources.cluster.is_none());
        self.reports.tell(&self.around.inbox, &sources.base, known, (&self.refusals, trouble));
        if sources.cluster.is_none() {
            return;
        }
        let said = self.said();
        let reason = said.lost.as_ref().or(self.trouble.as_ref()).cloned().unwrap_or_default();
        let status = SourceStatus {
            style: said.style.map(|style| style.name().to_owned()).unwrap_or_default(),
            nodes: said.nodes,
            problems: said.problems,
            ..status(self.sources.name(), reason, &self.refusals.cluster)
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

/// A single sentence against a change.
fn refused(why: String) -> Refusal {
    let mut culprits = Culprits::default();
    culprits.push(|| why);
    Refusal::of(Kind::Conflict, culprits)
}
