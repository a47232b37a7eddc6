//! The control plane's own view: configuration, routes, and the forwarding table made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::edit::Pending;
use super::roster::Roster;
use super::writer::Writer;
use crate::config::Config;
use crate::encap::frame::Hop;
use crate::forward::{Compiler, Forwarding, Inputs, Peer, TapLink, Underlay};
use crate::metrics::render::Now;
use crate::metrics::{Counters, Fallback};
use crate::net::{Mac, Mode, Prefix};
use crate::route::{Decision, Policy, Published, Rib, Target};
use crate::source;

/// Routes and peers, compiled and published.
pub struct State {
    pub(super) config: Config,
    pub(super) policy: Policy,
    /// Indexed by [`PeerId`](crate::route::PeerId).
    pub(super) peers: Vec<Peer>,
    pub(super) roster: Roster,
    /// Whether peers changed since the last publication.
    pub(super) peers_changed: bool,
    pub(super) rib: Rib,
    pub(super) underlay: Underlay,
    compiler: Compiler,
    /// Prefixes whose routes changed since the last publication.
    pub(super) pending: Pending,
    forwarding: Arc<Published<Forwarding>>,
    /// Bytes of the largest inner packet, as set on the TUN.
    pub mtu: u16,
}

impl State {
    /// Compiles and publishes the routes of `config` for an uplink of `uplink_mtu` bytes.
    ///
    /// # Errors
    /// When two owners claim one prefix, which a checked configuration excludes, or there are too many
    /// different next hops.
    pub fn new(config: Config, uplink_mtu: u16) -> anyhow::Result<Self> {
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
        let mtu = config.tunnel.mtu.unwrap_or_else(|| automatic_mtu(&underlay, &policy));
        let mut compiler = Compiler::default();
        let inputs = Inputs { underlay, peers: &peers, policy: &policy, rib: &rib };
        let forwarding = Arc::new(Published::new(compiler.compile(inputs)?));
        let roster = roster(&config, &peers);
        Ok(Self {
            config,
            policy,
            peers,
            roster,
            peers_changed: false,
            rib,
            underlay,
            compiler,
            pending: Pending::default(),
            forwarding,
            mtu,
        })
    }

    /// The published table, for the workers.
    pub fn forwarding(&self) -> &Arc<Published<Forwarding>> {
        &self.forwarding
    }

    /// Publishes a table with other first hops towards the peers, by their addresses, where they
    /// changed.
    fn set_hops(&mut self, hops: &HashMap<IpAddr, Hop>) {
        let mut changed = false;
        for peer in &mut self.peers {
            let hop = hops.get(&IpAddr::from(peer.address)).copied();
            changed |= peer.hop != hop;
            peer.hop = hop;
        }
        if changed {
            self.publish_peers();
        }
    }

    /// Publishes a table with or without the TAP, where that changed.
    fn set_tap(&mut self, tap: Option<TapLink>) -> bool {
        if self.underlay.tap == tap {
            return false;
        }
        self.underlay.tap = tap;
        self.publish_peers();
        true
    }

    /// What the tables are made of, and what makes and publishes them.
    pub(super) fn parts(&mut self) -> (Inputs<'_>, &mut Compiler, &mut Pending, &Published<Forwarding>) {
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
    fn peers_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        let peers = self.compiler.reached(mode).filter_map(|id| self.peers.get(usize::from(id.0)));
        peers.filter(|peer| !peer.is_gone()).map(|peer| peer.address.into()).collect()
    }

    /// The owning peers and the decision for each for addresses in `prefix`; empty for our own.
    pub(super) fn decide<'a>(
        &'a self,
        prefix: Prefix,
        target: &'a Target,
    ) -> impl Iterator<Item = (&'a Peer, Decision)> {
        let peers = self.rib.peers(target).iter().filter_map(|id| self.peers.get(usize::from(id.0)));
        peers.map(move |peer| (peer, self.policy.decide(prefix, peer.address.into())))
    }
}

/// The uplink's MTU less the largest overhead that any pool may add.
fn automatic_mtu(underlay: &Underlay, policy: &Policy) -> u16 {
    let modes = policy.pools().map(|pool| pool.encapsulation().0);
    modes.map(|mode| underlay.path_mtu(mode)).min().unwrap_or(underlay.mtu)
}

fn peer(peer: &crate::config::Peer) -> Option<Peer> {
    let address: Ipv4Addr = match peer.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => return None,
    };
    Some(Peer { name: peer.name.clone(), address, vtep_mac: peer.vtep_mac, hop: None })
}

/// The peers of the configuration by name and address.
fn roster(config: &Config, peers: &[Peer]) -> Roster {
    let own = [Some(config.node.address.addr().into()), config.node.address6.map(|own| own.addr().into())];
    let mut roster = Roster::new(own.into_iter().flatten());
    for (peer, configured) in peers.iter().zip(&config.peers) {
        if let Some(id) = roster.next() {
            roster.add(id, peer.name.as_str(), peer.address.into(), &configured.subnets);
        }
    }
    roster
}

/// What the API shows: the state, and what was chosen at start.
pub struct Daemon {
    state: RwLock<State>,
    pub(super) writer: Writer,
    pub(super) counters: Counters,
    pub(super) started: Instant,
    pub(super) backend: &'static str,
    offloads: Vec<(&'static str, String)>,
    uplink: Mutex<String>,
    pub(super) address: IpAddr,
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
            writer: Writer::default(),
            counters,
            started: Instant::now(),
            backend: choices.backend,
            offloads: choices.offloads,
            uplink: Mutex::new(choices.uplink),
            address: choices.address,
        }
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Table sizes and offloads, for metrics.
    pub fn now(&self) -> Now {
        // "active, without ipip" is active.
        let active = |state: &str| state.starts_with("active");
        let offloads = self.offloads().into_iter().map(|(name, state)| (name, active(&state))).collect();
        let state = self.state();
        Now { routes: state.rib.len(), peers: state.roster.len(), offloads }
    }

    /// Underlay addresses of all peers.
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        let state = self.state();
        state.peers.iter().filter(|peer| !peer.is_gone()).map(|peer| peer.address.into()).collect()
    }

    /// Super-packets that went through the TAP so far.
    pub fn tap_frames(&self) -> u64 {
        self.counters.tap_frames()
    }

    /// Underlay addresses of the peers that some route reaches by `mode`.
    pub fn peers_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        self.state().peers_by(mode)
    }

    /// Sets the link addresses of the first hops towards the peers, by their underlay addresses.
    pub fn set_hops(&self, hops: &HashMap<IpAddr, Hop>) {
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
    pub(super) fn offloads(&self) -> BTreeMap<String, String> {
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
