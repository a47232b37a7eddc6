//! A host in memory that does what it is asked, refuses what a test wants refused, and records it all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::engine::port::{
    Capabilities, DIRECT_PROTOCOL, DeviceView, DirectRoute, Found, HostError, HostRequest, HostView, Link,
    LinkChange, Look, NatView, Notice, OwnKind, OwnRoute, PeerWay, PodLook, PodRouting, ROUTE_PROTOCOL,
    Settings, Sysctl, Table, TunDetails, Uplink, default_metric,
};
use crate::control::engine::refusal::Refusal;
use crate::control::engine::{
    Asked, Effect, EffectId, Engine, Event, Failure, Reply, Request, RequestId, Setup, Start, look,
};
use crate::dataplane::forward::Forwarding;
use crate::dataplane::packet::Offloaded;
use crate::net::Prefix;
use crate::sync::Published;

pub(super) const TUN: u32 = 7;
pub(super) const TAP: u32 = 8;
pub(super) const ETH: u32 = 2;

/// What refuses a request, with this errno.
pub(super) type Refuses = fn(&HostRequest) -> Option<i32>;

/// The host.
#[derive(Clone)]
pub(super) struct Model {
    pub tun: Option<DeviceView>,
    pub tap: Option<DeviceView>,
    pub settings: Settings,
    pub routes: Vec<Found>,
    /// Where those of them lead that lead to other hosts.
    pub to_hosts: Vec<DirectRoute>,
    /// What is in the place of the table that masquerades.
    pub nat: NatView,
    /// The policy routing of pods.
    pub pods: PodRouting,
    pub refuses: Refuses,
    /// Whether it refuses routes to other nodes.
    pub refuses_direct: bool,
}

impl Model {
    /// Devices that were made a moment ago.
    pub(super) fn new() -> Self {
        let device = |name: &str, index| DeviceView {
            link: Link { name: name.to_owned(), index, mtu: 1500, txqueuelen: 500, ..Link::default() },
            addresses: Vec::new(),
            sysctls: [
                (Sysctl::AcceptLocal, 0),
                (Sysctl::Forwarding, 1),
                (Sysctl::ReversePath, 0),
                (Sysctl::AddressGeneration, 0),
                (Sysctl::RouterAdvertisements, 1),
            ]
            .into(),
        };
        Self {
            tun: Some(device("up0", TUN)),
            tap: Some(device("up0-x", TAP)),
            settings: Settings::default(),
            routes: Vec::new(),
            to_hosts: Vec::new(),
            nat: NatView::Absent,
            pods: PodRouting::default(),
            refuses: |_| None,
            refuses_direct: false,
        }
    }

    pub(super) fn tun(&mut self) -> &mut DeviceView {
        self.tun.as_mut().unwrap()
    }

    /// A route of somebody else.
    pub(super) fn foreign(&mut self, prefix: &str, device: u32) {
        let prefix: Prefix = prefix.parse().unwrap();
        let metric = default_metric(prefix);
        self.to_hosts.retain(|to| to.prefix != prefix);
        self.routes.push(Found {
            prefix,
            metric,
            protocol: 4,
            device: Some(device),
            source: None,
            kind: libc::RTN_UNICAST,
        });
    }

    /// The destinations of our routes, sorted.
    pub(super) fn ours(&self) -> Vec<String> {
        let mut ours: Vec<Prefix> =
            self.routes.iter().filter(|route| route.is_ours(TUN)).map(|route| route.prefix).collect();
        ours.sort_unstable();
        ours.iter().map(ToString::to_string).collect()
    }

    /// With the up flag or an address the kernel takes the routes that need them.
    pub(super) fn settle(&mut self) {
        let Some(tun) = &self.tun else { return self.routes.retain(|route| route.device != Some(TUN)) };
        let (up, addresses) = (tun.link.up, tun.addresses.clone());
        self.routes.retain(|route| {
            let sourced = route.source.is_none_or(|source| addresses.contains(&source));
            route.device != Some(TUN) || (up && sourced)
        });
        let routes = &self.routes;
        self.to_hosts.retain(|to| routes.iter().any(|route| route.prefix == to.prefix));
    }

    fn view(&self, look: &Look) -> HostView {
        let routes = look.routes.as_ref().map(|interest| {
            let matter = |route: &&Found| {
                [ROUTE_PROTOCOL, DIRECT_PROTOCOL].contains(&route.protocol) || interest.has(route.prefix)
            };
            let names = BTreeMap::from([(ETH, "eth0".to_owned()), (TUN, "up0".to_owned())]);
            let table = Table::new(self.routes.iter().filter(matter).copied().collect(), names);
            Arc::new(table.with_hosts(self.to_hosts.iter().cloned()))
        });
        let tap = self.tap.clone().filter(|tap| look.tap == Some(tap.link.index));
        let nat = look.nat.as_ref().map(|_| self.nat.clone());
        let (tun, settings) = (self.tun.clone(), self.settings.clone());
        let pods = (look.pods != PodLook::Away).then(|| self.pods.clone());
        HostView { tun, tap, settings, routes, nat, pods, took: Duration::ZERO }
    }

    fn execute(&mut self, request: &HostRequest) -> Vec<Failure> {
        let refused = |errno| HostError::Netlink {
            action: "do that".to_owned(),
            reason: "no".to_owned(),
            errno: Some(errno),
        };
        if let Some(errno) = (self.refuses)(request) {
            let routes = if let HostRequest::Routes { add, .. } = request { &add[..] } else { &[] };
            let error = refused(errno);
            if routes.is_empty() {
                return vec![Failure { route: None, error }];
            }
            let failure = |prefix| Failure { route: Some(prefix), error: error.clone() };
            return routes.iter().map(|route| failure(route.prefix())).collect();
        }
        let device = |tun: &mut Option<DeviceView>, index: u32| -> bool {
            tun.as_ref().is_some_and(|tun| tun.link.index == index)
        };
        match request {
            HostRequest::Link { index, change, .. } => {
                let slot = if device(&mut self.tun, *index) { &mut self.tun } else { &mut self.tap };
                let link = &mut slot.as_mut().unwrap().link;
                match change {
                    LinkChange::Up => link.up = true,
                    LinkChange::Down => link.up = false,
                    LinkChange::Mtu(mtu) => link.mtu = (*mtu).into(),
                    LinkChange::QueueLength(len) => link.txqueuelen = *len,
                    LinkChange::Group(group) => link.group = *group,
                    LinkChange::NoQueue => {}
                }
            }
            HostRequest::AddAddress { address, .. } => self.tun().addresses.push(*address),
            HostRequest::RemoveAddress { address, .. } => self.tun().addresses.retain(|own| own != address),
            HostRequest::Sysctl { name, sysctl, value } => {
                let slot = if name == "up0" { &mut self.tun } else { &mut self.tap };
                slot.as_mut().unwrap().sysctls.insert(*sysctl, *value);
            }
            HostRequest::Nat { rules, .. } => {
                self.nat = rules.clone().map_or(NatView::Absent, NatView::Rules);
            }
            HostRequest::PodRule { rule, add } => {
                self.pods.rules.retain(|one| one != rule);
                self.pods.rules.extend(add.then(|| rule.clone()));
            }
            HostRequest::PodRoute { route, add } => {
                self.pods.routes.retain(|one| !route.is(one));
                self.pods.routes.extend(add.then(|| route.as_found()));
            }
            HostRequest::FlushRoutes { index, .. } => {
                self.routes.retain(|route| route.own_kind(*index).is_none());
            }
            HostRequest::Routes { add, remove, .. } => {
                let mut failures = Vec::new();
                for route in add {
                    failures.extend(match route {
                        OwnRoute::Tun(route) => self.add(route.prefix, route.source),
                        OwnRoute::Direct(route) => self.add_direct(route),
                    });
                }
                self.routes.retain(|route| {
                    route.own_kind(TUN).is_none_or(|kind| !remove.contains(&(route.prefix, kind)))
                });
                self.settle();
                return failures;
            }
            _ => {}
        }
        self.settle();
        Vec::new()
    }

    /// A route to other nodes, in the place of another one of ours.
    fn add_direct(&mut self, route: &DirectRoute) -> Option<Failure> {
        let (prefix, metric) = (route.prefix, default_metric(route.prefix));
        let at = self.routes.iter().position(|one| (one.prefix, one.metric) == (prefix, metric));
        if at.is_some_and(|at| self.routes[at].own_kind(TUN).is_none()) {
            let (device, existing) = ("up0".to_owned(), "dev eth0".to_owned());
            return Some(Failure {
                route: Some(prefix),
                error: HostError::RouteConflict { prefix, device, existing },
            });
        }
        if self.refuses_direct {
            let (action, reason) = ("do that".to_owned(), "no".to_owned());
            let error = HostError::Netlink { action, reason, errno: Some(libc::EINVAL) };
            return Some(Failure { route: Some(prefix), error });
        }
        if let Some(at) = at {
            self.routes.remove(at);
        }
        let device = Some(route.hops[0].hop.index).filter(|_| route.hops.len() == 1);
        let (source, protocol, kind) = (route.source, DIRECT_PROTOCOL, libc::RTN_UNICAST);
        self.routes.push(Found { prefix, metric, protocol, device, source, kind });
        self.to_hosts.retain(|one| one.prefix != prefix);
        self.to_hosts.push(route.clone());
        None
    }

    /// Our routes to other nodes, in the words of `ip route`.
    pub(super) fn direct(&self) -> Vec<String> {
        let ours = |route: &&Found| route.own_kind(TUN) == Some(OwnKind::Direct);
        let mut ours: Vec<Prefix> = self.routes.iter().filter(ours).map(|route| route.prefix).collect();
        ours.sort_unstable();
        let words = |prefix: &Prefix| {
            let route = self.to_hosts.iter().find(|route| route.prefix == *prefix).unwrap();
            route.words(|index| format!("e{index}"))
        };
        ours.iter().map(words).collect()
    }

    fn add(&mut self, prefix: Prefix, source: Option<IpAddr>) -> Option<Failure> {
        let metric = default_metric(prefix);
        let fails = |error| Some(Failure { route: Some(prefix), error });
        if let Some(there) = self.routes.iter_mut().find(|one| (one.prefix, one.metric) == (prefix, metric)) {
            if there.own_kind(TUN) == Some(OwnKind::Direct) {
                (there.protocol, there.device) = (ROUTE_PROTOCOL, Some(TUN));
            }
            if there.device != Some(TUN) {
                let (device, existing) = ("up0".to_owned(), "dev eth0".to_owned());
                return fails(HostError::RouteConflict { prefix, device, existing });
            }
            there.source = source;
            return None;
        }
        let tun = self.tun();
        if !tun.link.up || source.is_some_and(|source| !tun.addresses.contains(&source)) {
            let (action, reason) = (format!("add the route {prefix}"), "invalid".to_owned());
            return fails(HostError::Netlink { action, reason, errno: Some(libc::EINVAL) });
        }
        self.routes.push(Found {
            prefix,
            metric,
            protocol: ROUTE_PROTOCOL,
            device: Some(TUN),
            source,
            kind: libc::RTN_UNICAST,
        });
        None
    }
}

/// The engine over the model, with a clock of its own.
pub(super) struct Recorder {
    pub engine: Engine,
    pub model: Model,
    pub now: Instant,
    /// Everything that was wanted, in its order, in words.
    pub wanted: Vec<String>,
    pub answers: Vec<(u64, Result<Reply, Refusal>)>,
    pub published: Published<Forwarding>,
    requests: u64,
}

impl Recorder {
    /// Starts with `config` on `model`.
    pub(super) fn start(config: &str, model: Model, net_admin: bool) -> Result<Self, String> {
        Self::start_with(config, model, net_admin, HashMap::new())
    }

    /// The same where these ways to peers are known.
    pub(super) fn start_with(
        config: &str,
        model: Model,
        net_admin: bool,
        ways: HashMap<IpAddr, PeerWay>,
    ) -> Result<Self, String> {
        let config = crate::config::parse(config, "test.toml").unwrap();
        let capabilities = Capabilities { net_admin, net_raw: true };
        let now = Instant::now();
        let start = Start {
            setup: Setup { capabilities, workers: 1, uplink_mtu: 1500, uplink: 1 },
            uplink: Uplink { name: "eth0".to_owned(), index: ETH, mtu: 1500, ..Uplink::default() },
            ways,
            tap: Some(TAP),
            tap_state: Offloaded::off("not tested yet"),
            view: model.view(&look(&config, "eth0", Some(TAP))),
            addresses: Vec::new(),
            network_policy: None,
            now,
        };
        let (engine, table) = Engine::new(config, start).map_err(|error| error.to_string())?;
        let published = Published::new(table);
        let (wanted, answers) = (Vec::new(), Vec::new());
        let mut recorder = Self { engine, model, now, wanted, answers, published, requests: 0 };
        recorder.follow(Event::Tick);
        Ok(recorder)
    }

    /// Hands an event over and does what is wanted, until nothing is.
    pub(super) fn follow(&mut self, event: Event) {
        let mut effects = VecDeque::from(self.engine.handle(event, self.now));
        while let Some(effect) = effects.pop_front() {
            if let Some((id, request)) = self.record(effect) {
                let event = self.carry_out(id, &request);
                effects.extend(self.engine.handle(event, self.now));
            }
        }
    }

    /// Takes an effect; a request to the host is still to be carried out.
    pub(super) fn record(&mut self, effect: Effect) -> Option<(EffectId, HostRequest)> {
        match effect {
            Effect::Host(id, request) => {
                self.wanted.push(words(&request));
                return Some((id, request));
            }
            Effect::Publish(table) => {
                self.wanted.push("publish".to_owned());
                self.published.publish(*table);
            }
            Effect::Answer(id, answer) => {
                self.wanted.push(format!("answer {}", id.0));
                self.answers.push((id.0, answer));
            }
            Effect::Require(open) => self.wanted.push(format!("require {}", open.command)),
            Effect::Resolved(open) => self.wanted.push(format!("resolved {}", open.command)),
            Effect::ProbePath { peer, size } => self.wanted.push(format!("probe {peer} {size}")),
            Effect::Shrunk => self.wanted.push("shrunk".to_owned()),
        }
        None
    }

    /// Has the model do it; the event says what came of it.
    pub(super) fn carry_out(&mut self, id: EffectId, request: &HostRequest) -> Event {
        match request {
            HostRequest::Observe(look) if (self.model.refuses)(request).is_none() => {
                Event::Observed(id, Box::new(self.model.view(look)))
            }
            other => Event::Ended(id, self.model.execute(other)),
        }
    }

    /// Asks for a change and returns its number.
    pub(super) fn ask(&mut self, request: Request, wait: bool) -> u64 {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.follow(Event::Request(Asked { id, wait }, request));
        self.requests
    }

    /// Time passes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.engine.deadline() <= end {
            self.now = self.engine.deadline().max(self.now);
            self.follow(Event::Tick);
        }
        self.now = end;
    }

    /// The host is changed, and the kernel tells of it.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Model)) {
        change(&mut self.model);
        self.model.settle();
        self.wanted.clear();
        self.follow(Event::Noticed(Notice::Link(TUN)));
        self.pass(Duration::from_secs(2));
    }

    /// The commands that are left to an administrator.
    pub(super) fn open(&self) -> Vec<String> {
        self.engine.snapshot().requirements.iter().map(|one| one.command.clone()).collect()
    }

    /// Whether packets to `address` have a way.
    pub(super) fn has_way(&self, address: &str) -> bool {
        self.published.pin().lookup(address.parse().unwrap()).is_some()
    }
}

/// A request in few words.
fn words(request: &HostRequest) -> String {
    match request {
        HostRequest::Link { name, change, .. } => format!("{name} {change:?}"),
        HostRequest::AddAddress { address, .. } => format!("add {address}"),
        HostRequest::RemoveAddress { address, .. } => format!("remove {address}"),
        HostRequest::Sysctl { name, sysctl, value } => format!("{name} {sysctl:?}={value}"),
        HostRequest::Routes { add, remove, .. } => format!("routes +{} -{}", add.len(), remove.len()),
        HostRequest::PodRule { rule, add } => rule.command(if *add { "add" } else { "del" }),
        HostRequest::PodRoute { route, add } => route.command(if *add { "add" } else { "del" }, "up0"),
        HostRequest::Nat { table, rules: None } => format!("remove {table}"),
        HostRequest::Nat { table, .. } => format!("write {table}"),
        HostRequest::FlushRoutes { .. } => "flush".to_owned(),
        HostRequest::Observe(look) => if look.routes.is_some() { "look" } else { "glance" }.to_owned(),
        other => format!("{other:?}"),
    }
}

/// A persistent TUN, as an administrator prepares it.
pub(super) fn persistent(model: &mut Model) {
    model.tun().link.tun = Some(TunDetails { persistent: true, ..TunDetails::default() });
}
