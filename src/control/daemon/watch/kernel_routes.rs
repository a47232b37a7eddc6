//! `[source.kernel]`: follows the routes of others in the kernel's tables.
//!
//! Notifications say what changed; all is read again when some were lost, when interfaces or addresses changed, and now
//! and then. What is followed is compared with what the engine has, so nothing is remembered as already sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::api::{NewPeer, SourceRefusal, SourceStatus};
use crate::config::{Config, KernelRoutes};
use crate::control::daemon::runner::Inbox;
use crate::control::engine::refusal::Refusal;
use crate::control::engine::{Asked, Event, Reply, Request, Snapshot, Update};
use crate::control::host::{RouteFeed, RouteFilter, RouteNews, read_routes};
use crate::control::source::at;
use crate::control::source::kernel::{Difference, RouteTable, difference};
use crate::net::Prefix;
use crate::route::Source;

/// From a change of interfaces to the next reading: they come in crowds.
const SETTLE: Duration = Duration::from_millis(50);
/// The longest time between two readings of all routes.
const LONGEST: Duration = Duration::from_secs(30);
/// From a failure to the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Most refusals that are shown.
const SHOWN: usize = 32;
/// Next hops that are made known, or forgotten, in one request: the engine has others to serve.
const TOGETHER: usize = 1024;

/// Follows the section of the configuration for as long as the engine is there.
pub(crate) async fn follow(inbox: Inbox, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut source = KernelSource::new(inbox, snapshots.clone());
    loop {
        let scope = Scope::of(&snapshots.borrow_and_update().config);
        match scope {
            Some(scope) => {
                let Err(lost) = source.run(&scope, &mut snapshots).await;
                match lost {
                    Ended::Gone => return,
                    Ended::Another => {}
                    Ended::Lost(why) => {
                        source.lose(&why);
                        sleep(RETRY).await;
                    }
                }
            }
            None => {
                source.withdraw().await;
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Which routes are followed.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Scope {
    settings: KernelRoutes,
    within: Vec<Prefix>,
}

impl Scope {
    fn of(config: &Config) -> Option<Self> {
        let settings = config.kernel_routes.clone()?;
        let within = match settings.prefixes.is_empty() {
            true => config.pools.iter().map(|pool| pool.cidr).collect(),
            false => settings.prefixes.clone(),
        };
        Some(Self { settings, within })
    }

    fn filter(&self) -> RouteFilter {
        RouteFilter { tables: self.settings.tables.clone(), protocols: self.settings.protocols.clone() }
    }
}

/// Why routes are not followed any more.
enum Ended {
    /// The engine is gone.
    Gone,
    /// The configuration says something else.
    Another,
    /// The kernel refuses.
    Lost(String),
}

struct KernelSource {
    inbox: Inbox,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    generation: u64,
    table: RouteTable,
    /// What cannot be used, and why.
    refused: BTreeMap<Prefix, String>,
    /// Peers that next hops became, and whether the last reading had no route by way of them.
    implicit: HashMap<IpAddr, bool>,
    /// Next hops that could not become peers, and why.
    unfit: HashMap<IpAddr, String>,
    overruns: u64,
    /// What the last reading took.
    cost: Duration,
    reported: Option<SourceStatus>,
}

impl KernelSource {
    fn new(inbox: Inbox, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self {
            inbox,
            snapshots,
            generation: 0,
            table: RouteTable::default(),
            refused: BTreeMap::new(),
            implicit: HashMap::new(),
            unfit: HashMap::new(),
            overruns: 0,
            cost: Duration::ZERO,
            reported: None,
        }
    }

    /// Follows the routes in `scope` until something ends it.
    async fn run(
        &mut self,
        scope: &Scope,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    ) -> Result<std::convert::Infallible, Ended> {
        // First the notifications, then what there is: so nothing comes between both.
        let mut feed = RouteFeed::connect(scope.filter()).map_err(lost)?;
        self.table = RouteTable::new(scope.settings.tables.clone(), scope.within.clone());
        let mut next_reading = self.read(scope, &mut feed).await?;
        // What has changed during the reading is still to be looked at.
        let mut known = Arc::clone(&snapshots.borrow());
        let mut news = Vec::new();
        loop {
            tokio::select! {
                done = feed.next(&mut news) => {
                    done.map_err(lost)?;
                    if let Some(pause) = self.take(scope, &mut news).await {
                        next_reading = next_reading.min(Instant::now() + pause);
                    }
                }
                () = at(Some(next_reading)) => next_reading = self.read(scope, &mut feed).await?,
                changed = snapshots.changed() => {
                    changed.map_err(|_| Ended::Gone)?;
                    let now = Arc::clone(&snapshots.borrow_and_update());
                    if Scope::of(&now.config).as_ref() != Some(scope) {
                        return Err(Ended::Another);
                    }
                    if !now.shares_roster_of(&known) {
                        // Next hops may be peers now, or no peers any more.
                        self.unfit.clear();
                        self.follow_all(scope).await;
                    }
                    known = now;
                }
            }
        }
    }

    /// Reads all routes and follows them. Returns when to do so again.
    async fn read(&mut self, scope: &Scope, feed: &mut RouteFeed) -> Result<Instant, Ended> {
        self.overruns += feed.forget().map_err(lost)?;
        let (filter, begun) = (scope.filter(), Instant::now());
        let read = tokio::task::spawn_blocking(move || read_routes(&filter)).await;
        let routes = read.map_err(|error| Ended::Lost(error.to_string()))?.map_err(lost)?;
        self.table.replace(routes);
        self.follow_all(scope).await;
        self.forget_unused().await;
        self.cost = begun.elapsed();
        Ok(Instant::now() + LONGEST)
    }

    /// Takes news. Returns in what time all has to be read again, if it has to: readings take half of the time at most.
    async fn take(&mut self, scope: &Scope, news: &mut Vec<RouteNews>) -> Option<Duration> {
        let mut changed = HashSet::new();
        let mut again = None;
        for news in news.drain(..) {
            match news {
                RouteNews::Added(route) if self.table.add(&route) => drop(changed.insert(route.prefix)),
                RouteNews::Removed(route) if self.table.remove(&route) => drop(changed.insert(route.prefix)),
                RouteNews::Replaced(table, prefix, metric) if self.table.clear(table, prefix, metric) => {
                    changed.insert(prefix);
                }
                RouteNews::Added(_) | RouteNews::Removed(_) | RouteNews::Replaced(..) => {}
                RouteNews::Links => again = Some(SETTLE.max(self.cost)),
                RouteNews::Overrun => {
                    self.overruns += 1;
                    again = Some(SETTLE.max(self.cost));
                }
            }
        }
        for prefix in &changed {
            self.refused.remove(prefix);
        }
        self.follow_some(scope, changed).await;
        again
    }

    /// Compares everything.
    async fn follow_all(&mut self, scope: &Scope) {
        self.refused.clear();
        let followed = self.snapshots.borrow().prefixes_of(Source::Kernel);
        let all: HashSet<Prefix> = self.table.prefixes().chain(followed).collect();
        self.follow_some(scope, all).await;
    }

    /// Has the engine follow what is different of `prefixes`.
    async fn follow_some(&mut self, scope: &Scope, prefixes: HashSet<Prefix>) {
        let implicit = &scope.settings.implicit_peers;
        let mut found = self.compare(&prefixes, implicit);
        let strangers: Vec<IpAddr> =
            found.strangers.iter().filter(|hop| !self.unfit.contains_key(hop)).copied().collect();
        if !strangers.is_empty() {
            self.make_known(strangers).await;
            found = self.compare(&prefixes, implicit);
        }
        self.refused.append(&mut found.refused);
        if !self.unfit.is_empty() {
            self.refuse_unfit(&prefixes);
        }
        if !found.batch.is_empty() {
            let changes = self.update(Update::Changes(found.batch));
            match self.inbox.ask(false, |asked| changes(Some(asked))).await {
                Ok(Reply::Followed(left_out)) => self.refused.extend(left_out),
                Ok(_) => {}
                Err(refusal) => tracing::warn!("source kernel: routes are not followed: {refusal}"),
            }
        }
        self.report("");
    }

    fn compare(&self, prefixes: &HashSet<Prefix>, implicit: &[Prefix]) -> Difference {
        difference(&self.table, &self.snapshots.borrow(), prefixes.iter().copied(), implicit)
    }

    /// Makes peers of next hops, each by its address as its name, many at a time.
    async fn make_known(&mut self, next_hops: Vec<IpAddr>) {
        for some in next_hops.chunks(TOGETHER) {
            let peers = some.iter().map(|address| implicit(*address)).collect();
            let done = self.inbox.ask(false, |asked| Event::Request(asked, Request::AddPeers(peers))).await;
            let refused: Vec<(IpAddr, Refusal)> = match done {
                Ok(Reply::PeersAdded(refused)) => refused,
                Ok(_) => Vec::new(),
                Err(refusal) => some.iter().map(|address| (*address, refusal.clone())).collect(),
            };
            self.implicit.extend(some.iter().map(|address| (*address, false)));
            for (address, refusal) in refused {
                let reason = refusal.culprits.first().cloned().unwrap_or_else(|| refusal.to_string());
                self.implicit.remove(&address);
                self.unfit.insert(address, reason);
            }
        }
    }

    /// Notes of the routes to `prefixes` those whose next hops cannot become peers.
    fn refuse_unfit(&mut self, prefixes: &HashSet<Prefix>) {
        for prefix in prefixes {
            let mut hops = self.table.next_hops(*prefix).unwrap_or_default().iter();
            if let Some((hop, reason)) = hops.find_map(|hop| Some((hop, self.unfit.get(hop)?))) {
                self.refused.insert(*prefix, format!("its next hop {hop} cannot become a peer: {reason}"));
            }
        }
    }

    /// Forgets the peers that were made of next hops which two readings in turn did not have.
    async fn forget_unused(&mut self) {
        let used = self.table.all_next_hops();
        let mut gone = Vec::new();
        self.implicit.retain(|address, unused| {
            let was = std::mem::replace(unused, !used.contains(address));
            let keep = !(was && *unused);
            if !keep {
                gone.push(*address);
            }
            keep
        });
        self.forget(gone).await;
    }

    /// Has peers forgotten, many at a time. Somebody else may have forgotten one already.
    async fn forget(&self, gone: Vec<IpAddr>) {
        for some in gone.chunks(TOGETHER) {
            let names = some.iter().map(|address| name_of(*address)).collect();
            let _ = self.inbox.ask(false, |asked| Event::Request(asked, Request::DeletePeers(names))).await;
        }
    }

    /// The configuration does not ask for it any more.
    async fn withdraw(&mut self) {
        if self.reported.take().is_none() {
            return;
        }
        let withdrawn = self.update(Update::Withdrawn);
        self.inbox.send(withdrawn(None));
        self.inbox.send(Event::Unreported(Source::Kernel.name()));
        let gone = self.implicit.drain().map(|(address, _)| address).collect();
        self.forget(gone).await;
    }

    /// The kernel's tables cannot be followed; what is known stays.
    fn lose(&mut self, why: &str) {
        let lost = self.update(Update::Lost(why.to_owned()));
        self.inbox.send(lost(None));
        self.report(why);
    }

    /// The next thing to say, to be given who waits for an answer.
    fn update(&mut self, update: Update) -> impl FnOnce(Option<Asked>) -> Event + use<> {
        self.generation += 1;
        let (source, generation) = (Source::Kernel, self.generation);
        move |request| Event::Update { source, generation, update, request }
    }

    /// Tells readers how it is going; `trouble` is empty when all is well.
    fn report(&mut self, trouble: &str) {
        let state = if trouble.is_empty() { SourceStatus::FOLLOWING } else { SourceStatus::DEGRADED };
        let refusal = |(prefix, reason): (&Prefix, &String)| SourceRefusal {
            object: format!("route {prefix}"),
            reason: reason.clone(),
        };
        let status = SourceStatus {
            name: Source::Kernel.name().to_owned(),
            state: state.to_owned(),
            reason: trouble.to_owned(),
            routes: self.table.count(),
            overruns: self.overruns,
            refused: self.refused.len(),
            refusals: self.refused.iter().take(SHOWN).map(refusal).collect(),
            ..SourceStatus::default()
        };
        if self.reported.as_ref() == Some(&status) {
            return;
        }
        let known = self.reported.as_ref().map_or(&[][..], |before| &before.refusals);
        for new in status.refusals.iter().filter(|refusal| !known.contains(refusal)) {
            tracing::warn!("source kernel: {} is left out: {}", new.object, new.reason);
        }
        self.inbox.send(Event::Reported(Arc::new(status.clone())));
        self.reported = Some(status);
    }
}

/// The peer that a next hop becomes.
fn implicit(address: IpAddr) -> NewPeer {
    NewPeer {
        name: name_of(address),
        address,
        address6: None,
        also_from: Vec::new(),
        subnets: Vec::new(),
        sends_for: Vec::new(),
        port: None,
        vtep_mac: None,
    }
}

/// The name of a peer that is known by its address alone.
fn name_of(address: IpAddr) -> String {
    address.to_string().replace(':', "-")
}

fn lost(error: std::io::Error) -> Ended {
    Ended::Lost(format!("the kernel's routes cannot be read: {error}"))
}
