//! What the daemon knows and decides: routes, peers, tables, and what the host should look like.
//!
//! Pure: no I/O, no clock, no lock. Everything that happens is an [`Event`], everything that is wanted an
//! [`Effect`]; one task owns the engine and carries the effects out.
//!
//! ```text
//! sources ──update──▶ ┌────────┐ ──publish──▶ workers
//! clients ──request─▶ │ Engine │ ──answer───▶ clients
//! host ─observation─▶ └────────┘ ──request──▶ host
//!                         └─────snapshot────▶ readers of the API
//! ```

pub mod bfd;
mod changes;
mod direct_paths;
pub mod edits;
mod event;
mod from_config;
pub mod judge;
mod kernel_table;
mod leads;
mod network_policy;
mod path_mtu;
mod peer_ways;
pub mod port;
mod publisher;
mod reached;
mod reconcile;
pub mod refusal;
mod settle;
mod snapshot;
mod sources;
mod state;
pub mod ways;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

pub use edits::edit::Changed;
pub use edits::followed::LeftOut;
pub use edits::reload::needs_restart;
pub use event::{
    Asked, Effect, EffectId, Event, Failure, PathMtu, Probed, Reply, Request, RequestId, TapUse, Update,
};
pub use from_config::{look, needs, tun_addresses};
pub use network_policy::NetworkPolicy;
pub use snapshot::{Page, Scope, Snapshot};
pub use state::{Setup, StateError};

use crate::config::Config;
use crate::dataplane::forward::Forwarding;
use crate::dataplane::packet::Offloaded;
use crate::net::Prefix;
use crate::route::PeerId;
use changes::conflicts;
pub use changes::{conflicts_by_prefix, is_peer};
use kernel_table::KernelTable;
use leads::Lead;
use path_mtu::PathMtus;
use port::{HostError, HostRequest, HostView, Notice, PeerWay, Requirement, Uplink};
use publisher::Publisher;
use reconcile::host_side::HostSide;
use reconcile::kernel_cover::KernelCover;
use snapshot::{Beside, Direct};
use sources::Sources;
use state::State;

/// Routes whose loss frees memory worth giving back.
const MANY: usize = 50_000;
/// What is said of the TAP where it serves no peer.
const NO_PEER: &str = "no peer is reached by what it carries";

/// What was found out and chosen before the engine is made.
#[derive(Clone, Debug)]
pub struct Start {
    /// What the state is made of.
    pub setup: Setup,
    /// The interface with our underlay address.
    pub uplink: Uplink,
    /// The kernel's ways to the peers' addresses.
    pub ways: HashMap<IpAddr, PeerWay>,
    /// Index of the TAP, where there is one.
    pub tap: Option<u32>,
    /// What `status` says of the TAP.
    pub tap_state: Offloaded,
    /// The network policy to enforce from the first packet on, if there is one.
    pub network_policy: Option<NetworkPolicy>,
    /// The host with the devices made.
    pub view: HostView,
    /// The addresses of this host, of all interfaces.
    pub addresses: Vec<IpAddr>,
    /// The moment from which the ages of routes count.
    pub now: Instant,
}

/// The whole of the daemon's decisions.
pub struct Engine {
    state: State,
    sources: Sources,
    publisher: Publisher,
    cover: KernelCover,
    /// Everything in `cover`, in order.
    covered: BTreeMap<Prefix, Lead>,
    host: HostSide,
    paths: PathMtus,
    uplink: Uplink,
    tap_state: Offloaded,
    /// What is wrong with IPsec policies, and who sends what the reverse path filter drops.
    policies: Vec<Requirement>,
    strays: Vec<Requirement>,
    /// What is wrong with the network configuration for container runtimes.
    cni: Vec<Requirement>,
    /// Whether the last configuration was followed; so is a start's.
    reloaded: bool,
    /// Peers that went, whose numbers are free once that is published.
    leaving: Vec<PeerId>,
    /// Requests that are judged by the next look at the host, by its number.
    deferred: Vec<(u64, Asked, Request)>,
    /// Whether devices may be different from what they should be.
    unsettled: bool,
    /// Whether the kernel's routes have just been looked at.
    routes_seen: bool,
    started: Instant,
    effects: Vec<Effect>,
}

impl Engine {
    /// An engine that follows `config`, and its first table.
    ///
    /// # Errors
    /// [`StateError`]; routes of others in the way of ours, which a start has to refuse.
    pub fn new(config: Config, start: Start) -> Result<(Self, Forwarding), StartError> {
        let conflicts = conflicts(&config, &start.view);
        if !conflicts.is_empty() {
            return Err(StartError::Conflicts(conflicts));
        }
        let addresses = tun_addresses(&config);
        let capabilities = start.setup.capabilities;
        let mut state = State::new(config, start.setup)?;
        state.set_host(&start.addresses);
        state.set_ways(start.ways);
        state.set_network_policy(start.network_policy);
        let first = state.publish().map_err(StateError::from)?.ok_or(StartError::Empty)?.forwarding;
        state.new_pools = None;
        let mut cover = KernelCover::new(state.foreign_pools());
        let leads = state.leads();
        cover.renew(&state.rib, leads.pools(), |prefix| leads.own(prefix));
        state.stale_leads = false;
        let mut host = HostSide::new(capabilities, addresses, start.tap, start.view, start.now);
        host.look_at_once(start.now);
        let engine = Self {
            covered: cover.all(),
            cover,
            state,
            sources: Sources::default(),
            publisher: Publisher::default(),
            host,
            paths: PathMtus::default(),
            uplink: start.uplink,
            tap_state: start.tap_state,
            policies: Vec::new(),
            strays: Vec::new(),
            cni: Vec::new(),
            reloaded: true,
            leaving: Vec::new(),
            deferred: Vec::new(),
            unsettled: true,
            routes_seen: false,
            started: start.now,
            effects: Vec::new(),
        };
        Ok((engine, first))
    }

    /// Follows an event. The effects are to be carried out in their order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Update { source, generation, update, request } => {
                self.update((source, generation), update, request, now);
            }
            Event::Request(asked, request) => self.request(asked, request, now),
            Event::Uplink(uplink) => self.follow_uplink(uplink),
            Event::Hops(hops) => self.state.set_hops(&hops),
            Event::Addresses(addresses) => self.state.set_host(&addresses),
            Event::Ways(ways) => self.follow_ways(ways),
            Event::Tap(tap) => self.follow_tap(tap),
            Event::PathMtu(report) => {
                let probe = self.paths.learn(&mut self.state, report, now);
                self.effects.extend(probe);
            }
            Event::NetworkPolicy(policy) => self.state.set_network_policy(policy),
            Event::DirectPaths(paths) => self.state.set_direct_paths(paths),
            Event::Probed(peer, answer) => self.paths.probed(&mut self.state, peer, answer, now),
            Event::Policies(peers, wrong) => {
                self.state.set_policed(&peers);
                self.policies = wrong;
                self.unsettled = true;
            }
            Event::Strays(strays) => {
                self.strays = strays;
                self.unsettled = true;
            }
            Event::Cni(wrong) => {
                self.cni = wrong;
                self.unsettled = true;
            }
            Event::Strangers(strangers) => {
                self.host.set_strangers(strangers);
                self.unsettled = true;
            }
            Event::Reported(report) => self.sources.report(report),
            Event::Unreported(name) => self.sources.forget(name),
            Event::Noticed(notice) => {
                if matches!(notice, Notice::Link(_) | Notice::Address(_) | Notice::Overrun) {
                    self.state.retry_soon(now);
                }
                self.host.notice(notice, &self.covered, now);
            }
            Event::Observed(id, view) => self.observed(id, view, now),
            Event::Ended(id, failures) => self.ended(id, failures, now),
            Event::Tick => {}
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, unless another event comes first.
    pub fn deadline(&self) -> Instant {
        let published = self.publisher.deadline(self.state.has_pending());
        let others = [published, self.paths.deadline(), self.state.next_retry()];
        others.into_iter().flatten().fold(self.host.deadline(), Instant::min)
    }

    /// Whether the host has answered everything.
    pub fn is_idle(&self) -> bool {
        self.host.is_idle()
    }

    /// What readers of the API see.
    pub fn snapshot(&self) -> Snapshot {
        let beside = Beside {
            requirements: self.host.open(),
            tap_state: self.tap_state.clone(),
            reloaded: self.reloaded,
            sources: self.sources.reports(),
            uplink: self.uplink.name.as_str().into(),
            direct: Direct { by_kernel: self.cover.direct(), by_pump: self.cover.cannot().len() },
            started: self.started,
        };
        Snapshot::of(&self.state, beside)
    }

    /// What takes back everything that was changed on the host, at the end.
    pub fn take_down(&mut self) -> Vec<HostRequest> {
        self.host.take_down()
    }

    fn follow_uplink(&mut self, uplink: Uplink) {
        if uplink.index != self.uplink.index {
            self.state.move_to(uplink.index);
        }
        if uplink.packet_mtu() != self.state.underlay.mtu {
            tracing::info!("uplink {} has an MTU of {}", uplink.name, uplink.mtu);
            self.follow_mtus(|state| state.set_uplink_mtu(uplink.packet_mtu()));
        }
        self.uplink = uplink;
        self.unsettled = true;
    }

    fn follow_ways(&mut self, ways: HashMap<IpAddr, PeerWay>) {
        let changed = self.follow_mtus(|state| state.set_ways(ways));
        self.unsettled |= changed;
    }

    /// Has MTUs changed, and tells of the TUN's where it follows.
    fn follow_mtus<T>(&mut self, change: impl FnOnce(&mut State) -> T) -> T {
        let before = self.state.wanted_mtu();
        let done = change(&mut self.state);
        let tun = self.state.wanted_mtu();
        if tun != before {
            tracing::info!(
                "mtu {tun}: what the largest link to a peer carries, less the largest overhead in use"
            );
        }
        done
    }

    fn follow_tap(&mut self, tap: TapUse) {
        self.host.set_tap(tap.device);
        self.state.set_tap(tap.link, &tap.ways);
        let said = match tap.said {
            Some(said) => said,
            None if self.tap_state.is_active() => Offloaded::off(NO_PEER),
            None => return,
        };
        if self.tap_state != said {
            tracing::info!("uplink tap: {said}");
            self.tap_state = said;
        }
    }

    /// A look has shown something.
    fn observed(&mut self, id: EffectId, view: Box<HostView>, now: Instant) {
        let routes = view.routes.is_some();
        if self.host.observed(id, view, now) > MANY {
            self.effects.push(Effect::Shrunk);
        }
        if routes {
            self.take_kernel_table();
            self.routes_seen = true;
            let begun = self.host.looks_begun();
            let (ready, later) =
                std::mem::take(&mut self.deferred).into_iter().partition(|(look, ..)| *look <= begun);
            self.deferred = later;
            let ready: Vec<(u64, Asked, Request)> = ready;
            for (_, asked, request) in ready {
                self.execute(asked, request, now);
            }
        }
        self.unsettled = true;
    }

    /// Index of the TUN; 0, which no interface has, when it is gone.
    pub fn tun_index(&self) -> u32 {
        self.host.tun_index()
    }

    /// Without the right to change the kernel's routes, edits are judged by them.
    fn take_kernel_table(&mut self) {
        if let Some(table) = self.host.view().routes.as_ref().filter(|_| !self.host.may_change()) {
            let (table, device) = (Arc::clone(table), self.host.tun_index());
            self.state.kernel = Some(KernelTable { table, device });
        }
    }

    /// A request to the host has ended.
    fn ended(&mut self, id: EffectId, failures: Vec<Failure>, now: Instant) {
        let refused = !failures.is_empty();
        self.state.refuse(self.covered_directly(&failures), now);
        if self.host.ended(id, failures, now) {
            self.effects.extend(self.publisher.followed(id));
            if refused {
                // What stands in the way is found by looking.
                self.host.look_at_once(now);
            }
        }
        self.unsettled = true;
    }

    /// Which of `failures` are about routes to other nodes that the kernel will not have.
    fn covered_directly(&self, failures: &[Failure]) -> Vec<(Prefix, HostError)> {
        let ours = |prefix: Prefix| matches!(self.covered.get(&prefix), Some(Lead::Direct(_)));
        let found = failures.iter().filter(|failure| !failure.error.is_denied());
        let found = found.filter(|failure| !matches!(failure.error, HostError::RouteConflict { .. }));
        found
            .filter_map(|failure| {
                Some((failure.route.filter(|prefix| ours(*prefix))?, failure.error.clone()))
            })
            .collect()
    }

    /// The second of the daemon's life.
    fn second(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be followed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Routes of others are in the way.
    #[error("{}", lines(.0))]
    Conflicts(Vec<HostError>),
    /// There was nothing to publish, which cannot be.
    #[error("there is no forwarding table")]
    Empty,
}

fn lines(errors: &[HostError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}
