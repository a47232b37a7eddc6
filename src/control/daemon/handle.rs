//! The daemon as its API sees it: reads from the last snapshot and the counters, changes by the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use super::connections;
use super::gate::Gate;
use super::kernel_path::Carrier;
use super::log;
use super::pods::{self, Endpoints};
use super::runner::Inbox;
use crate::api::{
    CniFacts, DirectStatus, Drops, EdgeCounters, Endpoint, Missing, NewPeer, PeerStatus, PolicyEntry,
    PolicyStatus, PolicyTrace, Reloaded, RouteEntry, RoutesChanged, SourceStatus, Status, TunnelStatus,
};
use crate::control::engine::edits::batch::Batch;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{Changed, Event, Page, Reply, Request, Snapshot};
use crate::control::server::backend::{Ask, Backend};
use crate::control::server::render::{Now, PolicySample, SourceSample};
use crate::dataplane::observe::capture::Hub;
use crate::dataplane::observe::{Counters, Fallback};
use crate::dataplane::packet::Offloaded;
use crate::dataplane::policy::{Answer, Connection};
use crate::dataplane::pump::Queries;
use crate::net::Prefix;
use crate::policy::{Compiled, Question, Unclear};

/// What was chosen at start.
#[derive(Clone, Debug)]
pub struct Choices {
    /// `offload` or `plain`.
    pub backend: &'static str,
    /// Each offload and whether it is active.
    pub offloads: Vec<(&'static str, Offloaded)>,
    /// Address on the TUN.
    pub address: IpAddr,
}

/// A wish to have the configuration read again: whether to wait until packets see it, and who does.
pub type ReloadWish = (bool, oneshot::Sender<Result<Reply, Refusal>>);

/// The ways to the parts of a running daemon.
#[derive(Clone)]
pub struct Links {
    /// To the engine.
    pub inbox: Inbox,
    /// From it.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// To whom reads the configuration.
    pub reloads: mpsc::Sender<ReloadWish>,
    /// To who keeps strangers away.
    pub gate: Arc<Gate>,
    /// The pods of this node.
    pub endpoints: Endpoints,
    /// To the workers' connections.
    pub queries: Queries,
    /// To what the kernel carries.
    pub carrier: Carrier,
}

/// The way to everything that the API shows and changes.
#[derive(Clone)]
pub struct Handle {
    links: Links,
    counters: Counters,
    choices: Arc<Choices>,
    started: Instant,
}

impl Handle {
    /// A handle on a daemon that starts now.
    pub fn new(links: Links, counters: Counters, choices: Choices) -> Self {
        Self { links, counters, choices: Arc::new(choices), started: Instant::now() }
    }

    /// The last snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.links.snapshots.borrow())
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// Everything that speaks against it; nothing has changed then.
    pub async fn reload(&self, wait: bool) -> Result<Reply, Refusal> {
        let (answer, answered) = oneshot::channel();
        let _ = self.links.reloads.send((wait, answer)).await;
        answered.await.unwrap_or_else(|_| Err(Refusal::new(Kind::Busy, "the daemon is ending")))
    }

    /// Table sizes and offloads, for metrics.
    pub fn now(&self) -> Now {
        self.links.carrier.count();
        let snapshot = self.snapshot();
        let offloads = self.offloads(&snapshot);
        Now {
            routes: snapshot.routes(),
            peers: snapshot.peer_count(),
            offloads: offloads
                .into_iter()
                .map(|(name, state)| (name.to_owned(), state.is_active()))
                .collect(),
            reloaded: snapshot.reloaded,
            log_lines_lost: log::lines_lost(),
            socket_drops: self.links.gate.dropped(),
            strangers_refused: self.links.gate.is_closed(),
            sources: snapshot.sources.iter().map(|source| sample(source)).collect(),
            direct_paths: snapshot.direct_paths(),
            direct_path_failures: snapshot.direct_path_failures,
            policies: Self::enforced(&snapshot).map(|policy| samples(policy)).unwrap_or_default(),
        }
    }

    /// The policies that are enforced.
    ///
    /// # Errors
    /// When policies are off.
    fn enforced(snapshot: &Snapshot) -> Result<&Arc<Compiled>, Refusal> {
        let off = || {
            let text = "policies are off on this node: its configuration has no [policy]";
            Refusal::new(Kind::Missing, text)
        };
        snapshot.network_policy.as_ref().map(|policy| &policy.compiled).ok_or_else(off)
    }

    /// How policies do, while they are on.
    fn policy_status(&self, snapshot: &Snapshot) -> Option<PolicyStatus> {
        let enforced = snapshot.policy_status(self.counters.workers())?;
        let (connections, untracked) = self.counters.connections();
        let log_lost = self.counters.policy_log().map_or(0, |log| log.lost());
        Some(PolicyStatus { connections, untracked, log_lost, ..enforced })
    }

    /// Each offload as it is now: what a worker has given up is off until it takes it up again.
    fn offloads(&self, snapshot: &Snapshot) -> BTreeMap<&'static str, Offloaded> {
        let mut offloads: BTreeMap<_, _> = self.choices.offloads.iter().cloned().collect();
        offloads.insert("tap", snapshot.tap_state.clone());
        offloads.insert("kernel_path", self.links.carrier.state());
        for fallback in Fallback::ALL {
            if self.counters.has_given_up(fallback) {
                offloads.insert(fallback.offload(), Offloaded::off("refused by the kernel at run time"));
            }
        }
        offloads
    }

    async fn change(&self, request: Request, wait: bool) -> Result<Reply, Refusal> {
        self.links.inbox.ask(wait, |asked| Event::Request(asked, request)).await
    }

    async fn change_routes(&self, request: Request, wait: bool) -> Result<RoutesChanged, Refusal> {
        let (changed, routes) = match self.change(request, wait).await? {
            Reply::Routes(changed, routes) => (changed, routes),
            _ => (Changed::default(), self.snapshot().routes()),
        };
        Ok(RoutesChanged { added: changed.added, deleted: changed.deleted, routes })
    }
}

impl Backend for Handle {
    fn status(&self) -> Status {
        self.links.carrier.count();
        let totals = self.counters.totals();
        let snapshot = self.snapshot();
        let config = &snapshot.config;
        Status {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            node: config.node.name.to_string(),
            workers: self.counters.workers(),
            backend: self.choices.backend.to_owned(),
            offloads: texts(self.offloads(&snapshot)),
            tunnel: TunnelStatus {
                device: config.tunnel.device.clone(),
                mtu: snapshot.underlay.tun.mtu,
                address: Some(self.choices.address),
                vtep_mac: snapshot.underlay.vtep_mac.to_string(),
            },
            counters: EdgeCounters::from(&totals),
            drops: Drops::from(&totals),
            icmp_errors: self.counters.icmp_errors().into(),
            tunnel_control: self.counters.tunnel_control().into(),
            hairpinned_packets: self.counters.hairpinned_packets(),
            recut_super_packets: self.counters.recut_super_packets(),
            device_read_errors: self.counters.device_read_errors(),
            stuck_workers: self.counters.stuck(),
            missing: snapshot.requirements.iter().cloned().map(Missing::from).collect(),
            log_lines_lost: log::lines_lost(),
            socket_drops: self.links.gate.dropped(),
            strangers_refused: self.links.gate.is_closed(),
            sources: snapshot.sources.iter().map(|source| (**source).clone()).collect(),
            routes: snapshot.routes(),
            direct: DirectStatus {
                via: config.direct_via.name().to_owned(),
                kernel_routes: snapshot.direct.by_kernel,
                pump_routes: snapshot.direct.by_pump,
            },
            kernel_path: self.links.carrier.status(),
            policy: self.policy_status(&snapshot),
            peers: snapshot.peer_list(),
        }
    }

    fn routes(&self, page: Page) -> (Vec<RouteEntry>, Option<Prefix>) {
        self.snapshot().list(page, Instant::now())
    }

    fn route_lines(&self, page: Page) -> (String, Option<Prefix>) {
        self.snapshot().list_lines(page)
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        self.snapshot().route_get(address, Instant::now())
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.links.carrier.count();
        self.snapshot().peer_list()
    }

    fn most_routes(&self) -> usize {
        self.snapshot().config.control.max_routes
    }

    fn most_changes(&self) -> usize {
        // What is there can be removed in one request, however few may be added.
        let snapshot = self.snapshot();
        snapshot.routes().max(snapshot.config.control.max_routes)
    }

    async fn edit_routes(&self, batch: Batch, wait: bool) -> Result<RoutesChanged, Refusal> {
        self.change_routes(Request::Edit(batch), wait).await
    }

    async fn replace_routes(&self, batch: Batch, wait: bool) -> Result<RoutesChanged, Refusal> {
        self.change_routes(Request::Replace(batch), wait).await
    }

    async fn add_peer(
        &self,
        peer: NewPeer,
        replace: bool,
        wait: bool,
    ) -> Result<Option<PeerStatus>, Refusal> {
        let name = peer.name.clone();
        let request = if replace { Request::ReplacePeer(peer) } else { Request::AddPeer(peer) };
        self.change(request, wait).await?;
        Ok(self.peers().into_iter().find(|known| known.name == name))
    }

    async fn delete_peer(&self, name: String, wait: bool) -> Result<(), Refusal> {
        self.change(Request::DeletePeer(name), wait).await.map(drop)
    }

    fn cni(&self) -> CniFacts {
        let stuck = self.counters.stuck();
        let limited = || "workers of the daemon make no progress; see `underpass status`".to_owned();
        CniFacts { limited: (!stuck.is_empty()).then(limited), ..pods::facts(&self.snapshot()) }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.links.endpoints.list()
    }

    fn put_endpoint(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        self.links.endpoints.put(endpoint)
    }

    fn delete_endpoint(&self, id: &str) -> Result<(), Refusal> {
        self.links.endpoints.delete(id)
    }

    fn policies(&self) -> Result<Vec<PolicyEntry>, Refusal> {
        Ok(Self::enforced(&self.snapshot())?.entries())
    }

    fn trace(&self, question: &Question) -> Result<PolicyTrace, Refusal> {
        let snapshot = self.snapshot();
        let tuple = question.tuple(&Self::enforced(&snapshot)?.world).map_err(|unclear| {
            let kind = match &unclear {
                Unclear::Malformed(_) => Kind::Malformed,
                Unclear::Unknown(_) => Kind::Missing,
            };
            Refusal::new(kind, unclear.to_string())
        })?;
        snapshot.trace(&tuple).ok_or_else(|| Refusal::new(Kind::Missing, "policies have just gone off"))
    }

    fn connection_workers(&self) -> Result<usize, Refusal> {
        Self::enforced(&self.snapshot())?;
        Ok(self.links.queries.workers())
    }

    async fn connections(&self, ask: Ask) -> Result<Answer, Refusal> {
        connections::ask(|worker, query| self.links.queries.ask(worker, query), ask).await
    }

    async fn reload(&self, wait: bool) -> Result<Reloaded, Refusal> {
        let (peers, routes) = match Self::reload(self, wait).await? {
            Reply::Reloaded { peers, routes } => (peers, routes),
            _ => (self.snapshot().peer_count(), self.snapshot().routes()),
        };
        Ok(Reloaded { peers, routes })
    }

    fn capture(&self) -> Option<(Arc<Hub>, Vec<u16>)> {
        Some((Arc::clone(self.counters.capture()?), self.snapshot().vxlan_ports()))
    }

    fn carries(&self, connection: &Connection) -> bool {
        self.links.carrier.carries(&connection.tuple)
    }

    fn captures(&self) {
        self.links.carrier.give_back();
    }
}

/// Policies as metrics have them.
fn samples(policy: &Compiled) -> Vec<PolicySample> {
    let each = policy.ruleset.policies().iter().map(|policy| {
        let (allowed, denied) = policy.counters.totals();
        PolicySample { name: Arc::clone(&policy.name), allowed, denied }
    });
    each.collect()
}

/// A source as metrics have it.
fn sample(source: &SourceStatus) -> SourceSample {
    SourceSample {
        name: source.name.clone(),
        up: source.state == SourceStatus::FOLLOWING,
        refused: source.refused,
        overruns: source.overruns,
    }
}

/// Offloads as `status` has them.
fn texts(offloads: BTreeMap<&'static str, Offloaded>) -> BTreeMap<String, String> {
    offloads.into_iter().map(|(name, state)| (name.to_owned(), state.to_string())).collect()
}
