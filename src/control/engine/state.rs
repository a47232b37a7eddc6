//! The control plane's own view: configuration, routes, and the forwarding table made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::edit::Pending;
use super::roster::Roster;
use crate::config::{self, Config, Dscp};
use crate::control::daemon::fallbacks::Fallbacks;
use crate::control::daemon::log;
use crate::control::daemon::publisher::Writer;
use crate::control::daemon::requirements::{Chores, Led};
use crate::control::server::render::Now;
use crate::control::source;
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::forward::{Compiler, Forwarding, Inputs, Peer, Scope, TapLink, TunLink, Underlay, Way};
use crate::dataplane::observe::{Counters, Fallback, PeerCounters};
use crate::dataplane::packet::Family;
use crate::net::{Mac, Mode, Prefix};
use crate::route::{Decision, PeerId, Policy, Rib, Target};
use crate::sync::Published;
use crate::wire::ipv6;

/// Routes and peers, compiled and published.
pub struct State {
    pub(in crate::control) config: Config,
    pub(in crate::control) policy: Policy,
    /// Indexed by [`PeerId`].
    pub(in crate::control) peers: Vec<Peer>,
    pub(in crate::control) roster: Roster,
    /// Whether peers changed since the last publication.
    pub(in crate::control) peers_changed: bool,
    pub(in crate::control) rib: Rib,
    pub(in crate::control) underlay: Underlay,
    /// The pools that the kernel's routes have to follow at the next publication.
    pub(in crate::control) new_pools: Option<Vec<Prefix>>,
    /// The number of workers, each with counters of its own for every peer.
    pub(in crate::control) workers: usize,
    compiler: Compiler,
    /// What the TUN's MTU is meant to be, and what it is where the daemon may not set it.
    wanted_mtu: u16,
    held_mtu: Option<u16>,
    /// Whether there are raw sockets, for IP-in-IP and direct.
    has_raw: bool,
    /// Where the kernel sends packets, where the daemon may not change that.
    pub(in crate::control) led: Option<Led>,
    /// Prefixes whose routes changed since the last publication.
    pub(in crate::control) pending: Pending,
    forwarding: Arc<Published<Forwarding>>,
}

/// What is said of the TAP where it serves nobody.
const NO_PEER: &str = "off: no peer is reached by what it carries";
/// The smallest path MTU that is believed: 576 bytes (RFC 791) inside the largest overhead, so that
/// Linux pods, which go no lower than 552 and then clear DF, always fit.
const LEAST_PATH_MTU: u16 = 576 + 70;

impl State {
    /// Compiles and publishes the routes of `config` for an uplink of `uplink_mtu` bytes.
    ///
    /// # Errors
    /// When two owners claim one prefix, which a checked configuration excludes, or there are too many
    /// different next hops.
    pub fn new(config: Config, uplink_mtu: u16) -> anyhow::Result<Self> {
        let policy = Policy::new(&config.pools, config.node.address, config.node.address6);
        let mut underlay = Underlay {
            address: config.node.address.map(|net| net.addr()),
            address6: config.node.address6.map(|net| net.addr()),
            vtep_mac: Mac::of_vtep(config.node.name.as_str()),
            vni: config.vxlan.vni,
            vxlan_port: config.vxlan.port,
            mtu: uplink_mtu,
            marking: marking(config.tunnel.dscp),
            moved_to: None,
            tun: tun_link(&config),
            tap: None,
        };
        let peers: Vec<Peer> = config.peers.iter().filter_map(|p| peer(p, &config, 0)).collect();
        let wanted_mtu = tun_mtu(&config, &underlay, &policy, &peers);
        underlay.tun.mtu = wanted_mtu;
        let mut rib = Rib::default();
        source::file::load(
            &mut rib,
            &config.local_subnets,
            config.peers.iter().map(|peer| &peer.subnets[..]),
        )?;
        let mut compiler = Compiler::new(scope(&config));
        let inputs = Inputs { underlay, peers: &peers, policy: &policy, rib: &rib };
        let forwarding = Arc::new(Published::new(compiler.compile(inputs)?));
        Ok(Self {
            roster: roster(&config, &peers),
            config,
            policy,
            peers,
            peers_changed: false,
            rib,
            underlay,
            new_pools: None,
            workers: 0,
            compiler,
            wanted_mtu,
            held_mtu: None,
            has_raw: true,
            led: None,
            pending: Pending::default(),
            forwarding,
        })
    }

    /// Changes the exceptions from what may cross.
    pub(in crate::control) fn set_scope(&mut self, scope: Scope) {
        self.compiler.set_scope(scope);
    }

    /// Gives every peer counters for so many workers.
    pub fn set_workers(&mut self, workers: usize) {
        self.workers = workers;
        for peer in &mut self.peers {
            peer.counters = PeerCounters::new(workers);
        }
        self.publish_peers();
    }

    /// Bytes of the largest inner packet: what the TUN's MTU is, or will be in a moment.
    pub fn mtu(&self) -> u16 {
        self.underlay.tun.mtu
    }

    /// Gives a node the place `id`, with what it was given as its own.
    pub(in crate::control) fn seat(&mut self, id: PeerId, peer: Peer, subnets: &[Prefix]) {
        self.roster.add(id, peer.name.as_str(), peer.addresses(), subnets);
        match self.peers.get_mut(usize::from(id.0)) {
            Some(place) => *place = peer,
            None => self.peers.push(peer),
        }
    }

    /// Refuses routes that would need raw sockets, from now on.
    pub fn forgo_raw(&mut self) {
        self.has_raw = false;
    }

    /// Whether this node can send packets for `prefix` by way of `next_hops`.
    pub(in crate::control) fn sendable(
        &self,
        prefix: Prefix,
        next_hops: impl Iterator<Item = IpAddr>,
    ) -> Result<(), String> {
        match self.unsendable(&self.policy, prefix, next_hops) {
            Some(mode) => Err(format!(
                "packets for {prefix} would travel by {mode}, which needs CAP_NET_RAW; without it only \
                 pools with `vxlan_mode = \"Always\"` work"
            )),
            None => Ok(()),
        }
    }

    /// The mode of `policy` by which this node cannot send packets for `prefix` to one of `next_hops`.
    pub(in crate::control) fn unsendable(
        &self,
        policy: &Policy,
        prefix: Prefix,
        next_hops: impl Iterator<Item = IpAddr>,
    ) -> Option<Mode> {
        if self.has_raw {
            return None;
        }
        let mut modes = next_hops.map(|next_hop| policy.decide(prefix, next_hop).mode);
        modes.find(|mode| *mode != Mode::Vxlan)
    }

    /// What [`State::mtu`] is meant to be.
    pub fn wanted_mtu(&self) -> u16 {
        self.wanted_mtu
    }

    /// Takes the TUN's MTU as it is, because it cannot be set. Returns whether it is another than before.
    pub fn hold_mtu(&mut self, mtu: u16) -> bool {
        self.held_mtu = Some(mtu);
        std::mem::replace(&mut self.underlay.tun.mtu, mtu) != mtu
    }

    /// Follows the uplink's MTU. What was learned about paths is forgotten: it may have been about
    /// this very link.
    fn set_uplink_mtu(&mut self, mtu: u16) {
        self.underlay.mtu = mtu;
        self.follow_mtu();
        self.peers.iter_mut().for_each(|peer| peer.path_mtu = None);
        self.publish_peers();
    }

    /// Follows our address to the interface with index `uplink`. The first hops are those of the old
    /// one, so none is known.
    fn move_to(&mut self, uplink: u32) {
        self.underlay.moved_to = Some(uplink);
        for peer in &mut self.peers {
            peer.set_hops(|_| None);
        }
        self.publish_peers();
    }

    /// Follows who is known: the largest overhead in use may be another now.
    pub(in crate::control) fn follow_peers(&mut self) {
        self.follow_mtu();
        self.peers_changed = true;
    }

    /// Works out the TUN's MTU anew.
    fn follow_mtu(&mut self) {
        self.wanted_mtu = tun_mtu(&self.config, &self.underlay, &self.policy, &self.peers);
        self.underlay.tun.mtu = self.held_mtu.unwrap_or(self.wanted_mtu);
    }

    /// Lowers the MTU of the path to the peer at `address` to `mtu` bytes of outer packet; `false`
    /// when that changes nothing.
    fn lower_path_mtu(&mut self, address: IpAddr, mtu: u16) -> bool {
        let mtu = mtu.max(LEAST_PATH_MTU);
        let uplink = self.underlay.mtu;
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.address == address) else { return false };
        if mtu >= peer.path_mtu.unwrap_or(uplink) {
            return false;
        }
        peer.path_mtu = Some(mtu);
        self.publish_peers();
        true
    }

    /// Forgets what was learned about the path to the peer at `address`; `false` when that was nothing.
    fn forget_path_mtu(&mut self, address: IpAddr) -> bool {
        let peer = self.peers.iter_mut().find(|peer| peer.address == address);
        let forgotten = peer.and_then(|peer| peer.path_mtu.take()).is_some();
        if forgotten {
            self.publish_peers();
        }
        forgotten
    }

    /// The published table, for the workers.
    pub fn forwarding(&self) -> &Arc<Published<Forwarding>> {
        &self.forwarding
    }

    /// Publishes a table with other first hops towards the peers' addresses, where they changed.
    fn set_hops(&mut self, hops: &HashMap<IpAddr, Hop>) {
        let mut changed = false;
        for peer in &mut self.peers {
            changed |= peer.set_hops(|address| hops.get(&address).copied());
        }
        if changed {
            self.publish_peers();
        }
    }

    /// Publishes a table with or without the TAP and with these ways towards the peers' addresses, where
    /// that changed.
    fn set_tap(&mut self, tap: Option<TapLink>, ways: &HashMap<IpAddr, Arc<Way>>) -> bool {
        let mut changed = self.underlay.tap != tap;
        self.underlay.tap = tap;
        for peer in self.peers.iter_mut().filter(|peer| !peer.is_gone()) {
            let way = ways.get(&peer.address);
            if peer.way.as_ref() != way {
                peer.way = way.cloned();
                changed = true;
            }
        }
        if changed {
            self.publish_peers();
        }
        changed
    }

    /// What the tables are made of, and what makes and publishes them.
    pub(in crate::control) fn parts(
        &mut self,
    ) -> (Inputs<'_>, &mut Compiler, &mut Pending, &Published<Forwarding>) {
        let Self { underlay, peers, policy, rib, compiler, pending, forwarding, .. } = self;
        (Inputs { underlay: *underlay, peers, policy, rib }, compiler, pending, forwarding)
    }

    /// Publishes a table with other headers towards the peers.
    fn publish_peers(&mut self) {
        let (inputs, compiler, _, forwarding) = self.parts();
        forwarding.publish(compiler.set_peers(inputs));
    }

    /// Whether any route travels by `mode`.
    pub fn uses(&self, mode: Mode) -> bool {
        !self.peers_by(mode).is_empty()
    }

    /// Underlay addresses of the peers that some route reaches by `mode`.
    pub(in crate::control) fn peers_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        let peers = self.compiler.reached(mode).filter_map(|id| self.peers.get(usize::from(id.0)));
        peers.filter(|peer| !peer.is_gone()).map(|peer| peer.address).collect()
    }

    /// The owning peers and the decision for each for addresses in `prefix`; empty for our own.
    pub(in crate::control) fn decide<'a>(
        &'a self,
        prefix: Prefix,
        target: &'a Target,
    ) -> impl Iterator<Item = (&'a Peer, Decision)> {
        let peers = self.rib.peers(target).iter().filter_map(|id| self.peers.get(usize::from(id.0)));
        peers.map(move |peer| {
            (peer, self.policy.decide(prefix, peer.next_hop(Family::of(prefix.address())).0))
        })
    }
}

/// What may cross beside pod traffic of peers.
pub(in crate::control) fn scope(config: &Config) -> Scope {
    Scope { allow_nested: config.tunnel.allow_nested, external_nodes: config.node.external_nodes.clone() }
}

pub(in crate::control) fn marking(dscp: Dscp) -> Marking {
    match dscp {
        Dscp::Inherit => Marking::INHERIT,
        Dscp::Fixed(dscp) => Marking::fixed(dscp),
    }
}

/// The TUN with its addresses. A node without IPv6 pods has none of that family there, but may have
/// one itself.
fn tun_link(config: &Config) -> TunLink {
    let mut tun = TunLink { address6: config.node.address6.map(|net| net.addr()), ..TunLink::default() };
    for address in tun_addresses(config) {
        match address {
            IpAddr::V4(address) => tun.address = Some(address),
            IpAddr::V6(address) => tun.address6 = Some(address),
        }
    }
    tun
}

/// The addresses on the TUN: the configured one or the first of the first local subnet, and, as a pod
/// network of two families needs a host address in each, the first of the other family. At most two.
pub fn tun_addresses(config: &Config) -> Vec<IpAddr> {
    let first = config.tunnel.address.or(config.local_subnets.first().map(|subnet| subnet.address()));
    let Some(first) = first else { return Vec::new() };
    let other = config.local_subnets.iter().find(|subnet| subnet.is_ipv4() != first.is_ipv4());
    [Some(first), other.map(|subnet| subnet.address())].into_iter().flatten().collect()
}

/// The configured MTU, or the uplink's less the largest overhead that any pool may add. Where pods
/// use IPv6, no less than that demands of a link.
fn tun_mtu(config: &Config, underlay: &Underlay, policy: &Policy, peers: &[Peer]) -> u16 {
    let fits = automatic_mtu(underlay, policy, peers);
    let ipv6 = config.local_subnets.iter().any(|subnet| !subnet.is_ipv4());
    config.tunnel.mtu.unwrap_or(if ipv6 { fits.max(ipv6::MIN_MTU) } else { fits })
}

/// The uplink's MTU less the largest overhead that any pool may add towards any peer.
fn automatic_mtu(underlay: &Underlay, policy: &Policy, peers: &[Peer]) -> u16 {
    // Without peers, those to come will have an address of this node's better family.
    let own = underlay.address.map(IpAddr::V4).or(underlay.address6.map(IpAddr::V6));
    let mut outer: Vec<IpAddr> =
        peers.iter().filter(|peer| !peer.is_gone()).map(|peer| peer.address).collect();
    if outer.is_empty() {
        outer.extend(own);
    }
    let modes = policy.pools().map(|pool| pool.encapsulation().0);
    let paths = modes.flat_map(|mode| outer.iter().map(move |outer| underlay.path_mtu(mode, *outer)));
    paths.min().unwrap_or(underlay.mtu)
}

/// A peer as this node reaches it, with counters for so many workers.
pub(in crate::control) fn peer(peer: &config::Peer, config: &Config, workers: usize) -> Option<Peer> {
    let mut addresses = peer.addresses(&config.node);
    Some(Peer {
        counters: PeerCounters::new(workers),
        name: peer.name.clone(),
        address: addresses.next()?,
        port: peer.port.unwrap_or(config.vxlan.port),
        vtep_mac: peer.vtep_mac,
        hop: None,
        path_mtu: None,
        way: None,
        second: addresses.next().map(|address| (address, None)),
    })
}

/// The peers of the configuration by name and address.
fn roster(config: &Config, peers: &[Peer]) -> Roster {
    let node = &config.node;
    let own = [node.address.map(|own| own.addr().into()), node.address6.map(|own| own.addr().into())];
    let mut roster = Roster::new(own.into_iter().flatten());
    for (peer, configured) in peers.iter().zip(&config.peers) {
        if let Some(id) = roster.next() {
            roster.add(id, peer.name.as_str(), peer.addresses(), &configured.subnets);
        }
    }
    roster
}

/// What the API shows: the state, and what was chosen at start.
pub struct Daemon {
    state: RwLock<State>,
    pub(in crate::control) writer: Writer,
    pub(in crate::control) chores: Chores,
    pub(in crate::control) fallbacks: Fallbacks,
    pub(in crate::control) counters: Counters,
    pub(in crate::control) started: Instant,
    pub(in crate::control) backend: &'static str,
    offloads: Vec<(&'static str, String)>,
    uplink: Mutex<String>,
    pub(in crate::control) address: IpAddr,
    pub(in crate::control) config_file: PathBuf,
    /// Whether the last reload was made; so is a start.
    pub(in crate::control) reloaded: AtomicBool,
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
    /// A daemon that starts now, with the configuration in `config_file`.
    pub fn new(state: State, counters: Counters, choices: Choices, config_file: PathBuf) -> Self {
        Self {
            state: RwLock::new(state),
            writer: Writer::default(),
            chores: Chores::default(),
            fallbacks: Fallbacks::default(),
            counters,
            started: Instant::now(),
            backend: choices.backend,
            offloads: choices.offloads,
            uplink: Mutex::new(choices.uplink),
            address: choices.address,
            config_file,
            reloaded: AtomicBool::new(true),
        }
    }

    pub(in crate::control) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::control) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Table sizes and offloads, for metrics.
    pub fn now(&self) -> Now {
        // "active, without ipip" is active.
        let active = |state: &str| state.starts_with("active");
        let offloads = self.offloads().into_iter().map(|(name, state)| (name, active(&state))).collect();
        let state = self.state();
        let reloaded = self.reloaded.load(Relaxed);
        Now {
            routes: state.rib.len(),
            peers: state.roster.len(),
            offloads,
            reloaded,
            log_lines_lost: log::lines_lost(),
        }
    }

    /// Underlay addresses of all peers.
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        let state = self.state();
        let known = state.peers.iter().filter(|peer| !peer.is_gone());
        known.flat_map(Peer::addresses).collect()
    }

    /// Whether some peer's tunnel packets travel over IPv6.
    pub fn has_ipv6_peers(&self) -> bool {
        self.state().peers.iter().any(|peer| !peer.is_gone() && peer.address.is_ipv6())
    }

    /// Super-packets that went through the TAP so far.
    pub fn tap_frames(&self) -> u64 {
        self.counters.tap_frames()
    }

    /// Underlay addresses of the peers that some route reaches by `mode`.
    pub fn peers_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        self.state().peers_by(mode)
    }

    /// Sets the link addresses of the first hops towards the peers' addresses.
    pub fn set_hops(&self, hops: &HashMap<IpAddr, Hop>) {
        self.state_mut().set_hops(hops);
    }

    /// Follows our address to the interface with index `uplink`.
    pub fn move_to(&self, uplink: u32) {
        self.state_mut().move_to(uplink);
    }

    /// Name of the TUN.
    pub fn device(&self) -> String {
        self.state().config.tunnel.device.clone()
    }

    /// Bytes that the TUN's MTU is meant to be: it is, or will be in a moment, or somebody else sets it.
    pub fn tun_mtu(&self) -> u16 {
        self.state().wanted_mtu
    }

    /// Follows the uplink's MTU, in bytes.
    pub fn set_uplink_mtu(&self, mtu: u16) {
        let mut state = self.state_mut();
        if state.underlay.mtu != mtu {
            state.set_uplink_mtu(mtu);
        }
    }

    /// Follows the TUN's MTU, which somebody else sets.
    pub fn hold_mtu(&self, mtu: u16) {
        let mut state = self.state_mut();
        if state.hold_mtu(mtu) {
            state.publish_peers();
        }
    }

    /// Bytes of the largest outer packet to the peer at `address`, as far as is known; 0 when there is
    /// no such peer.
    pub fn outer_mtu(&self, address: IpAddr) -> u16 {
        let state = self.state();
        let peer = state.peers.iter().find(|peer| peer.address == address);
        peer.map_or(0, |peer| peer.path_mtu.unwrap_or(state.underlay.mtu))
    }

    /// Lowers the MTU of the path to the peer at `address`; `false` when that changes nothing.
    pub fn lower_path_mtu(&self, address: IpAddr, mtu: u16) -> bool {
        self.state_mut().lower_path_mtu(address, mtu)
    }

    /// UDP port of VXLAN at the peer with `address`.
    pub fn port_of(&self, address: IpAddr) -> Option<u16> {
        let state = self.state();
        state.peers.iter().find(|peer| peer.address == address).map(|peer| peer.port)
    }

    /// Forgets what was learned about the path to the peer at `address`; `false` when that was nothing.
    pub fn forget_path_mtu(&self, address: IpAddr) -> bool {
        self.state_mut().forget_path_mtu(address)
    }

    /// Drops tables that no worker sees any more.
    pub fn reclaim(&self) {
        // Not under the lock of the state: a large table takes milliseconds.
        let forwarding = Arc::clone(self.state().forwarding());
        forwarding.reclaim();
    }

    /// How super-packets are to reach the uplink, by the configuration.
    pub fn wanted_uplink(&self) -> config::Uplink {
        self.state().config.tunnel.uplink
    }

    /// Lets the packet path use the TAP, or not any more, and by which way it reaches each peer's address.
    /// `said` is what `status` says of it; without, only that it is off, if it was not.
    pub fn set_tap(&self, tap: Option<TapLink>, ways: &HashMap<IpAddr, Arc<Way>>, said: Option<&str>) {
        // One lock after the other: `status` takes this one while it holds the state.
        self.state_mut().set_tap(tap, ways);
        let mut shown = self.uplink.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said.unwrap_or(if shown.starts_with("off: ") { &shown } else { NO_PEER });
        if *shown != said {
            tracing::info!("uplink tap: {said}");
            *shown = said.to_owned();
        }
    }

    /// Each offload as it is now: what a worker gave up at run time is off.
    pub(in crate::control) fn offloads(&self) -> BTreeMap<String, String> {
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
