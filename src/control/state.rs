//! The control plane's own view: configuration, routes, and the forwarding table made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::api::{Drops, EdgeCounters, PeerStatus, RouteEntry, RouteMode, Status, TunnelStatus};
use super::server::Dataplane;
use crate::capture::Hub;
use crate::config::Config;
use crate::encap::frame::Hop;
use crate::forward::{Forwarding, Peer, Scope, TapLink, Underlay};
use crate::metrics::render::Now;
use crate::metrics::{Counters, Fallback};
use crate::net::{Mac, Mode, Prefix};
use crate::route::{Decision, Policy, Published, Rib, Route, RouteError, Target};
use crate::source;

/// Routes and peers, compiled and published.
pub struct State {
    config: Config,
    policy: Policy,
    peers: Vec<Peer>,
    rib: Rib,
    underlay: Underlay,
    scope: Scope,
    forwarding: Arc<Published<Forwarding>>,
    /// Bytes of the largest inner packet, as set on the TUN.
    pub mtu: u16,
}

impl State {
    /// Compiles and publishes the routes of `config` for an uplink of `uplink_mtu` bytes.
    ///
    /// # Errors
    /// When two owners claim one prefix; a checked configuration has none.
    pub fn new(config: Config, uplink_mtu: u16) -> Result<Self, RouteError> {
        let policy = Policy::new(&config.pools, Some(config.node.address), config.node.address6);
        let underlay = Underlay {
            address: config.node.address.addr(),
            vtep_mac: Mac::of_vtep(config.node.name.as_str()),
            vni: config.vxlan.vni,
            vxlan_port: config.vxlan.port,
            mtu: uplink_mtu,
            tap: None,
        };
        let peers: Vec<Peer> = config.peers.iter().filter_map(peer).collect();
        let mut rib = Rib::default();
        source::file::load(
            &mut rib,
            &config.local_subnets,
            config.peers.iter().map(|peer| &peer.subnets[..]),
        )?;
        let scope = Scope {
            allow_nested: config.tunnel.allow_nested,
            external_nodes: config.node.external_nodes.clone(),
        };
        let forwarding = Forwarding::build(underlay, &peers, &policy, &rib).with_scope(scope.clone());
        let mtu = config.tunnel.mtu.unwrap_or_else(|| automatic_mtu(&underlay, &policy));
        let forwarding = Arc::new(Published::new(forwarding));
        Ok(Self { config, policy, peers, rib, underlay, scope, forwarding, mtu })
    }

    /// The published table, for the workers.
    pub fn forwarding(&self) -> &Arc<Published<Forwarding>> {
        &self.forwarding
    }

    /// Publishes a table with other first hops towards the peers, in their order, where they
    /// changed.
    fn set_hops(&mut self, hops: Vec<Option<Hop>>) {
        if self.peers.iter().map(|peer| peer.hop).eq(hops.iter().copied()) {
            return;
        }
        for (peer, hop) in self.peers.iter_mut().zip(hops) {
            peer.hop = hop;
        }
        self.publish();
    }

    /// Publishes a table with or without the TAP, where that changed.
    fn set_tap(&mut self, tap: Option<TapLink>) -> bool {
        if self.underlay.tap == tap {
            return false;
        }
        self.underlay.tap = tap;
        self.publish();
        true
    }

    fn publish(&self) {
        let forwarding = Forwarding::build(self.underlay, &self.peers, &self.policy, &self.rib);
        self.forwarding.publish(forwarding.with_scope(self.scope.clone()));
    }

    /// Whether any route travels by `mode`.
    pub fn uses(&self, mode: Mode) -> bool {
        !self.peers_by(mode).is_empty()
    }

    /// Underlay addresses of the peers that some route reaches by `mode`.
    fn peers_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        let pools =
            self.policy.pools().iter().filter_map(|pool| Some((pool.cidr, self.rib.covering(pool.cidr)?)));
        let routes = self.rib.best().map(|route| (route.prefix, route));
        let decided = pools.chain(routes).filter_map(|(prefix, route)| self.decide(prefix, route.target));
        decided.filter(|(_, decision)| decision.mode == mode).map(|(peer, _)| peer.address.into()).collect()
    }

    /// The owning peer and the decision for addresses in `prefix`; `None` for our own.
    fn decide(&self, prefix: Prefix, target: Target) -> Option<(&Peer, Decision)> {
        let Target::Peer(id) = target else { return None };
        let peer = self.peers.get(usize::from(id.0))?;
        Some((peer, self.policy.decide(prefix, peer.address.into())))
    }

    /// Describes `route` for destinations in `within`.
    fn entry(&self, route: Route, within: Prefix) -> RouteEntry {
        let (prefix, source) = (route.prefix.to_string(), route.source.name().to_owned());
        match self.decide(within, route.target) {
            Some((peer, decision)) => RouteEntry {
                prefix,
                peer: Some(peer.name.to_string()),
                mode: decision.mode.into(),
                next_hop: Some(peer.address.into()),
                mtu: self.underlay.path_mtu(decision.mode),
                source,
                reason: decision.reason.to_string(),
            },
            None => RouteEntry {
                prefix,
                peer: None,
                mode: RouteMode::Local,
                next_hop: None,
                mtu: self.mtu,
                source,
                reason: "one of this node's own subnets; the kernel routes it to the pod".to_owned(),
            },
        }
    }
}

/// The uplink's MTU less the largest overhead that any pool may add.
fn automatic_mtu(underlay: &Underlay, policy: &Policy) -> u16 {
    let modes = policy.pools().iter().map(|pool| pool.encapsulation().0);
    modes.map(|mode| underlay.path_mtu(mode)).min().unwrap_or(underlay.mtu)
}

fn peer(peer: &crate::config::Peer) -> Option<Peer> {
    let address: Ipv4Addr = match peer.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => return None,
    };
    Some(Peer { name: peer.name.clone(), address, vtep_mac: peer.vtep_mac, hop: None })
}

/// What the API shows: the state, and what was chosen at start.
pub struct Daemon {
    state: RwLock<State>,
    counters: Counters,
    started: Instant,
    backend: &'static str,
    offloads: Vec<(&'static str, String)>,
    uplink: Mutex<String>,
    address: IpAddr,
}

/// What was chosen at start.
pub struct Choices {
    /// `offload` or `plain`.
    pub backend: &'static str,
    /// Each offload and whether it is active.
    pub offloads: Vec<(&'static str, String)>,
    /// Whether the TAP takes super-packets, or why not.
    pub uplink: String,
    /// Address on the TUN.
    pub address: IpAddr,
}

impl Daemon {
    /// A daemon that starts now.
    pub fn new(state: State, counters: Counters, choices: Choices) -> Self {
        Self {
            state: RwLock::new(state),
            counters,
            started: Instant::now(),
            backend: choices.backend,
            offloads: choices.offloads,
            uplink: Mutex::new(choices.uplink),
            address: choices.address,
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Table sizes and offloads, for metrics.
    pub fn now(&self) -> Now {
        // "active, without ipip" is active.
        let active = |state: &str| state.starts_with("active");
        let offloads = self.offloads().into_iter().map(|(name, state)| (name, active(&state))).collect();
        let state = self.state();
        Now { routes: state.rib.len(), peers: state.peers.len(), offloads }
    }

    /// Underlay addresses of all peers, in their order.
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        self.state().peers.iter().map(|peer| peer.address.into()).collect()
    }

    /// Super-packets that went through the TAP so far.
    pub fn tap_frames(&self) -> u64 {
        self.counters.tap_frames()
    }

    /// Underlay addresses of the peers that some route reaches by `mode`.
    pub fn peers_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        self.state().peers_by(mode)
    }

    /// Sets the link addresses of the first hops towards the peers, in their order.
    pub fn set_hops(&self, hops: Vec<Option<Hop>>) {
        self.state_mut().set_hops(hops);
    }

    /// Whether the packet path may use the TAP.
    pub fn tap_active(&self) -> bool {
        self.state().underlay.tap.is_some()
    }

    /// Lets the packet path use the TAP, or not any more, and says why.
    pub fn set_tap(&self, tap: Option<TapLink>, why: &str) {
        // One lock after the other: `status` takes this one while it holds the state.
        let changed = self.state_mut().set_tap(tap);
        let mut shown = self.uplink.lock().unwrap_or_else(PoisonError::into_inner);
        if changed || *shown != why {
            tracing::info!("uplink tap: {why}");
            why.clone_into(&mut shown);
        }
    }

    /// Each offload as it is now: what a worker gave up at run time is off.
    fn offloads(&self) -> BTreeMap<String, String> {
        let mut offloads: BTreeMap<String, String> =
            self.offloads.iter().map(|(name, state)| ((*name).to_owned(), state.clone())).collect();
        let uplink = self.uplink.lock().unwrap_or_else(PoisonError::into_inner);
        offloads.insert("tap".to_owned(), uplink.clone());
        for fallback in Fallback::ALL {
            if self.counters.fallbacks(fallback) > 0 {
                offloads.insert(
                    fallback.offload().to_owned(),
                    "off: refused by the kernel at run time".to_owned(),
                );
            }
        }
        offloads
    }
}

impl Dataplane for Daemon {
    fn status(&self) -> Status {
        let state = self.state();
        let (config, totals) = (&state.config, self.counters.totals());
        Status {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            node: config.node.name.to_string(),
            workers: self.counters.workers(),
            backend: self.backend.to_owned(),
            offloads: self.offloads(),
            tunnel: TunnelStatus {
                device: config.tunnel.device.clone(),
                mtu: state.mtu,
                address: Some(self.address),
            },
            counters: EdgeCounters::from(&totals),
            drops: Drops::from(&totals),
            routes: state.rib.len(),
            peers: config.peers.iter().map(peer_status).collect(),
        }
    }

    fn routes(&self) -> Vec<RouteEntry> {
        let state = self.state();
        state.rib.best().map(|route| state.entry(route, route.prefix)).collect()
    }

    fn capture(&self) -> Option<(Arc<Hub>, u16)> {
        Some((Arc::clone(self.counters.capture()?), self.state().underlay.vxlan_port))
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        let state = self.state();
        let route = state.rib.lookup(address)?;
        Some(state.entry(route, Prefix::host(address)))
    }
}

fn peer_status(peer: &crate::config::Peer) -> PeerStatus {
    PeerStatus {
        name: peer.name.to_string(),
        address: peer.address,
        subnets: peer.subnets.iter().map(Prefix::to_string).collect(),
        vtep_mac: peer.vtep_mac.to_string(),
    }
}
