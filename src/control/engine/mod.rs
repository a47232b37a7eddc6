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

pub mod edits;
mod event;
mod from_config;
pub mod judge;
mod path_mtu;
pub mod port;
mod publisher;
mod reconcile;
pub mod refusal;
mod snapshot;
mod sources;
mod state;
pub mod ways;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

pub use edits::edit::Changed;
pub use event::{
    Asked, Effect, EffectId, Event, Failure, PathMtu, Reply, Request, RequestId, TapUse, Update,
};
pub use from_config::{look, needs, tun_addresses};
pub use snapshot::{Page, Scope, Snapshot};
pub use state::{Setup, StateError};

use crate::config::Config;
use crate::dataplane::forward::Forwarding;
use crate::net::{Mode, Prefix};
use crate::route::{PeerId, Source};
use event::PathMtu as Report;
use path_mtu::PathMtus;
use port::{HostError, HostRequest, HostView, Requirement, Table, Uplink};
use publisher::Publisher;
use reconcile::host_side::{HostSide, Wish};
use reconcile::kernel_cover::{KernelCover, Steps};
use refusal::Refusal;
use snapshot::Beside;
use sources::Sources;
use state::State;

/// What is said of the TAP where it serves no peer.
const NO_PEER: &str = "off: no peer is reached by what it carries";

/// What was found out and chosen before the engine is made.
#[derive(Clone, Debug)]
pub struct Start {
    /// What the state is made of.
    pub setup: Setup,
    /// The interface with our underlay address.
    pub uplink: Uplink,
    /// Name of the TAP, where there is one.
    pub tap: Option<String>,
    /// What `status` says of the TAP.
    pub tap_state: String,
    /// The host with the devices made.
    pub view: HostView,
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
    covered: BTreeSet<Prefix>,
    host: HostSide,
    paths: PathMtus,
    uplink: Uplink,
    tap_state: Arc<str>,
    /// Whether the last configuration was followed; so is a start's.
    reloaded: bool,
    /// Peers that went, whose numbers are free once that is published.
    leaving: Vec<PeerId>,
    /// Requests that are judged by the next look at the host, by its number.
    deferred: Vec<(u64, Asked, Request)>,
    /// Whether devices may be different from what they should be.
    unsettled: bool,
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
        let first = state.publish().map_err(StateError::from)?.ok_or(StartError::Empty)?;
        state.new_pools = None;
        let mut cover = KernelCover::new(state.foreign_pools());
        cover.renew(&state.rib);
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
            tap_state: start.tap_state.into(),
            reloaded: true,
            leaving: Vec::new(),
            deferred: Vec::new(),
            unsettled: true,
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
            Event::Tap(tap) => self.follow_tap(tap),
            Event::PathMtu(report) => self.learn(report, now),
            Event::Strangers(strangers) => {
                self.host.set_strangers(strangers);
                self.unsettled = true;
            }
            Event::Noticed(notice) => self.host.notice(notice, &self.covered, now),
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
        let others = [published, self.paths.deadline()];
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
            tap_state: Arc::clone(&self.tap_state),
            reloaded: self.reloaded,
            uplink: self.uplink.name.as_str().into(),
            started: self.started,
        };
        Snapshot::of(&self.state, beside)
    }

    /// What takes back everything that was changed on the host, at the end.
    pub fn take_down(&mut self) -> Vec<HostRequest> {
        self.host.take_down()
    }

    /// Everything that follows from what has just happened, in the order in which it has to be done:
    /// packets first, then the kernel.
    fn settle(&mut self, now: Instant) {
        self.paths.expire(&mut self.state, now);
        if self.publisher.is_due(self.state.has_pending(), self.state.urgent, now) {
            self.publish(now);
        }
        if self.unsettled || self.host.deadline() <= now {
            self.unsettled = false;
            self.mend(now);
        }
        if self.state.urgent {
            // The MTU of the TUN turned out to be another one.
            self.publish(now);
        }
        let (state, uplink) = (&self.state, &self.uplink);
        let (covered, may) = (&self.covered, self.host.may_change());
        let tap = self.host.tap().map(str::to_owned);
        let everything = || port::Look {
            tun: state.config.tunnel.device.clone(),
            tap,
            uplink: uplink.name.clone(),
            routes: Some(match may {
                true => port::Interest::overlapping(covered.iter().copied()),
                false => port::Interest::All,
            }),
        };
        let look = self.host.look(now, everything);
        self.effects.extend(look);
    }

    /// Publishes everything that is pending, and has the kernel's routes follow.
    fn publish(&mut self, now: Instant) {
        let steps = self.next_cover();
        match self.state.publish() {
            Ok(forwarding) => {
                self.effects.extend(forwarding.map(|table| Effect::Publish(Box::new(table))));
                for id in self.leaving.drain(..) {
                    Arc::make_mut(&mut self.state.roster).release(id);
                }
                let kernel = self.host.change_routes(&steps.add, steps.remove);
                let id = kernel.as_ref().map(|(id, _)| *id);
                self.effects.extend(kernel.map(|(_, effect)| effect));
                self.effects.extend(self.publisher.published(id, now));
            }
            Err(full) => {
                tracing::error!("the packet path keeps its old routes: {full}");
                self.effects.extend(self.publisher.refused(&full.to_string(), now));
            }
        }
    }

    /// Brings the cover up to date with what is pending.
    fn next_cover(&mut self) -> Steps {
        let steps = match (&self.state.pending, self.state.new_pools.take()) {
            (edits::edit::Pending::Nothing, _) => return Steps::default(),
            (_, Some(pools)) => self.cover.follow_pools(pools, &self.state.rib),
            (edits::edit::Pending::Everything, None) => self.cover.renew(&self.state.rib),
            (edits::edit::Pending::Some(changed), None) => self.cover.update(&self.state.rib, changed),
        };
        self.covered.extend(&steps.add);
        for prefix in &steps.remove {
            self.covered.remove(prefix);
        }
        if !self.host.may_change() && steps != Steps::default() {
            self.compare_routes(self.started);
        }
        steps
    }

    /// Compares the devices with what they should be.
    fn mend(&mut self, now: Instant) {
        let settings = self.settings();
        let wish = Wish { state: &self.state, cover: &self.covered, settings: &settings };
        let (effects, held) = self.host.mend_devices(wish, now);
        self.effects.extend(effects);
        self.state.hold_mtu(held);
    }

    /// Compares the kernel's routes with what should point at the TUN.
    fn compare_routes(&mut self, now: Instant) {
        let wish = Wish { state: &self.state, cover: &self.covered, settings: &[] };
        let kernel = self.host.mend_routes(wish, now);
        self.effects.extend(kernel.map(|(_, effect)| effect));
        self.unsettled = true;
    }

    /// What an administrator has to change beside our devices and routes, and the sources that are lost.
    fn settings(&self) -> Vec<Requirement> {
        let mut needs = needs(&self.state.config, &self.uplink.name);
        needs.ipip |= !self.state.peers_by(Mode::Ipip).is_empty();
        needs.direct |= !self.state.peers_by(Mode::Direct).is_empty();
        judge::judge_settings(&needs, &self.host.view().settings).requirements().collect()
    }

    /// A source says something.
    fn update(
        &mut self,
        (source, generation): (Source, u64),
        update: Update,
        asked: Option<Asked>,
        now: Instant,
    ) {
        if !self.sources.advance(source, generation) {
            tracing::debug!("an old update of the source {} is passed over", source.name());
            let done = self.publisher.edited(asked, Reply::Updated);
            self.effects.extend(done);
            return;
        }
        if let Update::Lost(why) = update {
            if self.sources.lose(source, why.clone()) {
                tracing::warn!("source {}: lost, its routes stay: {why}", source.name());
            }
            return;
        }
        if self.sources.found(source) {
            tracing::info!("source {}: found again", source.name());
        }
        let before = self.state.rib.len();
        let second = self.second(now);
        let done = match update {
            Update::Configuration { config, view } => self.follow_config(config, view.as_deref(), now),
            Update::Changes(mut batch) => self.state.edit(source, &mut batch, second).map(|_| Reply::Updated),
            Update::Everything(mut batch) => {
                self.state.replace(source, &mut batch, second).map(|_| Reply::Updated)
            }
            Update::Withdrawn => {
                self.state.withdraw(source);
                Ok(Reply::Updated)
            }
            Update::Lost(_) => Ok(Reply::Updated),
        };
        self.answer(asked, done, before);
    }

    /// A client wants something changed. Where the daemon cannot change the kernel's routes, that is judged
    /// by what they are from now on.
    fn request(&mut self, asked: Asked, request: Request, now: Instant) {
        if self.host.may_change() || matches!(request, Request::DeletePeer(_)) {
            self.execute(asked, request, now);
        } else {
            let look = self.host.look_at_once(now);
            self.deferred.push((look, asked, request));
        }
    }

    fn execute(&mut self, asked: Asked, request: Request, now: Instant) {
        let (before, second) = (self.state.rib.len(), self.second(now));
        let done = match request {
            Request::Edit(mut batch) => self
                .state
                .edit(Source::Control, &mut batch, second)
                .map(|changed| Reply::Routes(changed, self.state.rib.len())),
            Request::Replace(mut batch) => {
                let changed = self.state.replace(Source::Control, &mut batch, second);
                changed.map(|changed| Reply::Routes(changed, self.state.rib.len()))
            }
            Request::AddPeer(peer) => {
                self.state.add_peer(&peer, second).map(|()| Reply::PeerAdded(peer.name.clone()))
            }
            Request::DeletePeer(name) => self.state.delete_peer(&name).map(|id| {
                self.leaving.push(id);
                Reply::PeerDeleted
            }),
        };
        self.answer(Some(asked), done, before);
    }

    /// Answers now or once the change is published. `before` is the number of prefixes before it.
    fn answer(&mut self, asked: Option<Asked>, done: Result<Reply, Refusal>, before: usize) {
        /// Routes whose loss frees memory worth giving back.
        const MANY: usize = 50_000;
        match (done, asked) {
            (Ok(reply), asked) => {
                self.unsettled |= self.state.urgent;
                if before.saturating_sub(self.state.rib.len()) > MANY {
                    self.effects.push(Effect::Shrunk);
                }
                let answer = self.publisher.edited(asked, reply);
                self.effects.extend(answer);
            }
            (Err(refusal), Some(asked)) => self.effects.push(Effect::Answer(asked.id, Err(refusal))),
            (Err(_), None) => {}
        }
    }

    /// Follows another configuration, if nothing speaks against it: what a start would refuse is refused.
    fn follow_config(
        &mut self,
        config: Result<Box<Config>, Refusal>,
        view: Option<&HostView>,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        let second = self.second(now);
        let done = config.and_then(|config| {
            let mut against: Vec<String> = Vec::new();
            if let Some(view) = view {
                let needs = needs(&config, &self.uplink.name);
                let verdict = judge::judge_settings(&needs, &view.settings);
                against.extend(verdict.errors.iter().map(ToString::to_string));
                against.extend(conflicts(&config, view).iter().map(ToString::to_string));
            }
            self.state.reload(*config, against.into_iter(), second)
        });
        self.reloaded = done.is_ok();
        match done {
            Ok(gone) => {
                self.leaving.extend(gone);
                self.host.look_at_once(now);
                Ok(Reply::Reloaded { peers: self.state.roster.len(), routes: self.state.rib.len() })
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn follow_uplink(&mut self, uplink: Uplink) {
        if uplink.index != self.uplink.index {
            self.state.move_to(uplink.index);
        }
        if uplink.packet_mtu() != self.state.underlay.mtu {
            self.state.set_uplink_mtu(uplink.packet_mtu());
            let (name, mtu) = (&uplink.name, uplink.mtu);
            let tun = self.state.wanted_mtu();
            tracing::info!("mtu {tun}: uplink {name} has {mtu}, less the largest overhead in use");
        }
        self.uplink = uplink;
        self.unsettled = true;
    }

    fn follow_tap(&mut self, tap: TapUse) {
        self.state.set_tap(tap.link, &tap.ways);
        let said: Arc<str> = match tap.said {
            Some(said) => said.into(),
            None if self.tap_state.starts_with("off: ") => Arc::clone(&self.tap_state),
            None => NO_PEER.into(),
        };
        if self.tap_state != said {
            tracing::info!("uplink tap: {said}");
            self.tap_state = said;
        }
    }

    fn learn(&mut self, report: Report, now: Instant) {
        self.paths.learn(&mut self.state, report, now);
    }

    /// A look has ended.
    fn observed(&mut self, id: EffectId, view: Option<Box<HostView>>, now: Instant) {
        let routes = view.as_ref().is_some_and(|view| view.routes.is_some());
        self.host.observed(id, view, now);
        if routes {
            self.take_kernel_table();
            self.compare_routes(now);
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

    /// Without the right to change the kernel's routes, edits are judged by them.
    fn take_kernel_table(&mut self) {
        let table: Option<&Table> = self.host.view().routes.as_ref().filter(|_| !self.host.may_change());
        if let Some(table) = table {
            self.state.set_kernel_table(table.clone(), self.host.tun_index());
        }
    }

    /// A request to the host has ended.
    fn ended(&mut self, id: EffectId, failures: Vec<Failure>, now: Instant) {
        let refused = !failures.is_empty();
        if self.host.ended(id, failures, now) {
            self.effects.extend(self.publisher.followed(id));
            if refused {
                // What stands in the way is found by looking.
                self.host.look_at_once(now);
            }
        }
        self.unsettled = true;
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

/// The routes of others that keep out what `config` needs.
fn conflicts(config: &Config, view: &HostView) -> Vec<HostError> {
    let (Some(table), Some(tun)) = (&view.routes, &view.tun) else { return Vec::new() };
    let pools = from_config::foreign_pools(config);
    let subnets = config.peers.iter().flat_map(|peer| peer.subnets.iter().copied());
    let outside: BTreeSet<Prefix> =
        subnets.filter(|subnet| !pools.iter().any(|pool| pool.covers(*subnet))).collect();
    let widest = |prefix: &Prefix| !prefix.and_wider().skip(1).any(|wider| outside.contains(&wider));
    let widest: Vec<Prefix> = outside.iter().copied().filter(widest).collect();
    let wanted: BTreeSet<Prefix> = pools.iter().copied().chain(widest).collect();
    let conflict = |prefix: &Prefix| {
        let in_place = table.of(*prefix).iter().any(|route| route.device == Some(tun.link.index));
        let found = table.conflict(*prefix, tun.link.index).filter(|_| !in_place)?;
        let (device, existing) = (tun.link.name.clone(), found.describe(&table.names));
        Some(HostError::RouteConflict { prefix: *prefix, device, existing })
    };
    wanted.iter().filter_map(conflict).collect()
}
