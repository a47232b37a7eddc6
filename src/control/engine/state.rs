//! Routes, peers and pools, and the forwarding table made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::bfd::Verdict;
use super::edits::pending::{Pending, Publication};
use super::edits::roster::Roster;
use super::from_config::{foreign_pools, judges_all, peer, scope, tun_mtu, underlay};
use super::kernel_table::KernelTable;
use super::leads::Refused;
use super::network_policy::NetworkPolicy;
use super::port::{Capabilities, PeerWay};
use super::reached::Reached;
use crate::config::Config;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::forward::{Compiler, Peer, Scope, TapLink, Underlay, Way};
use crate::net::{Mode, Prefix};
use crate::route::{DirectPath, EncapPolicy, HopsFull, PeerId, Rib, RouteError, Source, Target};

/// What is known before there is any state.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What this process may do.
    pub capabilities: Capabilities,
    /// The number of workers, each with counters of its own for every peer.
    pub workers: usize,
    /// Bytes of the largest IP packet on the uplink.
    pub uplink_mtu: u16,
    /// Index of the uplink.
    pub uplink: u32,
}

/// Why there cannot be a state of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Two owners claim one prefix, which a checked configuration excludes.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// There are too many different next hops.
    #[error(transparent)]
    Full(#[from] HopsFull),
}

/// Routes and peers, as they are edited. What snapshots share is behind an [`Arc`] and copied when it is
/// edited while a snapshot holds it.
pub(super) struct State {
    pub(super) config: Arc<Config>,
    pub(super) policy: Arc<EncapPolicy>,
    /// What is known of direct paths that are to be verified.
    pub(super) paths: Arc<BTreeMap<DirectPath, Verdict>>,
    /// How often one that was verified was given up.
    pub(super) path_failures: u64,
    /// Indexed by [`PeerId`].
    pub(super) peers: Arc<Vec<Peer>>,
    pub(super) roster: Arc<Roster>,
    /// Whether peers changed since the last publication.
    pub(super) peers_changed: bool,
    /// Whether the next publication must not wait for more changes.
    pub(super) urgent: bool,
    pub(super) rib: Rib,
    pub(super) underlay: Underlay,
    /// The pools that the kernel's routes have to follow at the next publication.
    pub(super) new_pools: Option<Vec<Prefix>>,
    /// The pools that the kernel leads into the TUN as a whole, as of the last change.
    pub(super) kernel_pools: Vec<Prefix>,
    pub(super) workers: usize,
    /// Prefixes whose routes changed since the last publication.
    pub(super) pending: Pending,
    /// Who was reached by which mode at the last publication.
    pub(super) reached: Arc<Reached>,
    /// Compiled, and not yet published.
    pub(super) ready: Option<Publication>,
    pub(super) compiler: Compiler,
    pub(super) network_policy: Option<NetworkPolicy>,
    /// Another one for each policy that was enforced.
    pub(super) policy_generation: u32,
    /// The kernel's ways to the peers' addresses.
    pub(super) ways: Arc<HashMap<IpAddr, PeerWay>>,
    /// Routes to other nodes that the kernel refused.
    pub(super) refused: Arc<Refused>,
    /// Whether where packets are led may be another for any destination.
    pub(super) stale_leads: bool,
    /// All addresses of this host.
    host: Vec<IpAddr>,
    capabilities: Capabilities,
    /// What the TUN's MTU is meant to be, and what it is where the daemon may not set it.
    pub(super) wanted_mtu: u16,
    held_mtu: Option<u16>,
    /// Where the kernel sends packets, where the daemon may not change that.
    pub(super) kernel: Option<KernelTable>,
}

impl State {
    /// This node alone: no peers, no pools and no routes but to its own subnets. [`State::follow`] adds
    /// what the configuration says.
    ///
    /// # Errors
    /// When two local subnets are one, which a checked configuration excludes.
    pub(super) fn alone(config: &Config, setup: Setup) -> Result<Self, StateError> {
        let config = Config { peers: Vec::new(), pools: Vec::new(), ..config.clone() };
        let policy = EncapPolicy::new(&config.pools, config.node.address, config.node.address6);
        let mut rib = Rib::default();
        for subnet in &config.local_subnets {
            rib.insert(*subnet, Source::Local, Target::Local)?;
        }
        let mut state = Self {
            roster: Arc::new(Roster::new(config.node.addresses().map(|own| own.addr()))),
            underlay: underlay(&config, setup.uplink_mtu, setup.uplink),
            compiler: Compiler::new(scope(&config)),
            config: Arc::new(config),
            policy: Arc::new(policy),
            paths: Arc::default(),
            path_failures: 0,
            peers: Arc::default(),
            peers_changed: false,
            urgent: false,
            rib,
            new_pools: None,
            kernel_pools: Vec::new(),
            workers: setup.workers,
            pending: Pending::Everything,
            reached: Arc::default(),
            ready: None,
            network_policy: None,
            policy_generation: 0,
            ways: Arc::default(),
            refused: Arc::default(),
            stale_leads: false,
            host: Vec::new(),
            capabilities: setup.capabilities,
            wanted_mtu: 0,
            held_mtu: None,
            kernel: None,
        };
        state.follow_mtu();
        Ok(state)
    }

    /// A state that follows `config` from its first moment on.
    ///
    /// # Errors
    /// See [`State::alone`].
    pub(super) fn new(config: Config, setup: Setup) -> Result<Self, StateError> {
        let mut state = Self::alone(&config, setup)?;
        state.follow(config, 0);
        Ok(state)
    }

    /// What the kernel's routes have to cover.
    pub(super) fn foreign_pools(&self) -> Vec<Prefix> {
        foreign_pools(&self.config, |cidr| self.roster.within(cidr).is_some())
    }

    /// Changes the exceptions from what may cross.
    pub(super) fn set_scope(&mut self, scope: Scope) {
        self.compiler.set_scope(scope);
    }

    /// Follows the addresses of this host.
    pub(super) fn set_host(&mut self, addresses: &[IpAddr]) {
        if self.host != addresses {
            addresses.clone_into(&mut self.host);
            self.compiler.set_host(addresses);
            self.publish_now();
        }
    }

    /// Bytes that the TUN's MTU is meant to be: it is, or will be in a moment, or somebody else sets it.
    pub(super) fn wanted_mtu(&self) -> u16 {
        self.wanted_mtu
    }

    /// The peer at a place that is taken.
    pub(super) fn peer_mut(&mut self, place: usize) -> &mut Peer {
        &mut Arc::make_mut(&mut self.peers)[place]
    }

    /// Gives a node the place `id`, with what it was given as its own.
    pub(super) fn seat(&mut self, id: PeerId, peer: Peer, subnets: &[Prefix]) {
        Arc::make_mut(&mut self.roster).add(id, peer.name.as_str(), peer.senders(), subnets);
        let peers = Arc::make_mut(&mut self.peers);
        match peers.get_mut(usize::from(id.0)) {
            Some(place) => *place = peer,
            None => peers.push(peer),
        }
    }

    /// Makes the peers of a configuration known, and those known already what it says.
    pub(super) fn place(&mut self, new: &Config) {
        let known: Vec<Option<PeerId>> =
            new.peers.iter().map(|peer| self.roster.id(peer.name.as_str())).collect();
        // First all go, then all come: they may have swapped addresses.
        Arc::make_mut(&mut self.roster).remove(new.peers.iter().map(|peer| peer.name.as_str()));
        for (configured, id) in new.peers.iter().zip(known) {
            let (Some(mut now), Some(id)) =
                (peer(configured, new, self.workers), id.or_else(|| self.roster.next()))
            else {
                continue;
            };
            if let Some(before) = self.peers.get(usize::from(id.0)).filter(|before| before.name == now.name) {
                now.take_over(before);
            }
            self.seat(id, now, &configured.subnets);
        }
    }

    /// Whether this node can send packets for `prefix` by way of `next_hops`.
    pub(super) fn sendable(
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
    pub(super) fn unsendable(
        &self,
        policy: &EncapPolicy,
        prefix: Prefix,
        next_hops: impl Iterator<Item = IpAddr>,
    ) -> Option<Mode> {
        if self.capabilities.net_raw {
            return None;
        }
        let mut modes = next_hops.map(|next_hop| policy.decide(prefix, next_hop).mode);
        modes.find(|mode| *mode != Mode::Vxlan)
    }

    /// Has ICMP errors sent in the name of whom their packets are for, where the host takes none from itself.
    pub(super) fn hold_error_source(&mut self, held: bool) {
        if std::mem::replace(&mut self.underlay.tun.answers_as_target, held) != held {
            self.publish_now();
        }
    }

    /// Has what comes from local pods for no other node go back to the TUN, where it is to come there or still does.
    pub(super) fn lead_pods(&mut self, led: bool) {
        let hairpin = led || judges_all(&self.config);
        if std::mem::replace(&mut self.underlay.tun.hairpin, hairpin) != hairpin {
            self.publish_now();
        }
    }

    /// Takes the TUN's MTU as it is, because it cannot be set; with `None` it is as it is meant to be.
    pub(super) fn hold_mtu(&mut self, mtu: Option<u16>) {
        self.held_mtu = mtu;
        let mtu = mtu.unwrap_or(self.wanted_mtu);
        if std::mem::replace(&mut self.underlay.tun.mtu, mtu) != mtu {
            self.publish_now();
        }
    }

    /// Follows the uplink's MTU, which holds towards peers to whom no way is known. What was learned about paths
    /// to them is forgotten: it may have been about this very link.
    pub(super) fn set_uplink_mtu(&mut self, mtu: u16) {
        self.underlay.mtu = mtu;
        let peers = Arc::make_mut(&mut self.peers).iter_mut();
        peers.filter(|peer| peer.link_mtus[0].is_none()).for_each(|peer| peer.path_mtu = None);
        self.follow_mtu();
        self.publish_now();
    }

    /// Follows our address to the interface with index `uplink`. The first hops are those of the old
    /// one, so none is known.
    pub(super) fn move_to(&mut self, uplink: u32) {
        self.underlay.uplink = uplink;
        for peer in Arc::make_mut(&mut self.peers) {
            peer.set_hops(|_| None);
        }
        self.publish_now();
    }

    /// Follows who is known: the largest overhead in use may be another now.
    pub(super) fn follow_peers(&mut self) {
        self.stale_leads = true;
        self.follow_mtu();
        let pools = self.foreign_pools();
        if self.kernel_pools != pools {
            // A node with an address in a pool came or went.
            self.kernel_pools.clone_from(&pools);
            self.new_pools = Some(pools);
            self.pending = Pending::Everything;
        }
        self.publish_now();
    }

    pub(super) fn follow_mtu(&mut self) {
        self.wanted_mtu = tun_mtu(&self.config, &self.underlay, &self.policy, &self.peers);
        self.underlay.tun.mtu = self.held_mtu.unwrap_or(self.wanted_mtu);
    }

    /// Other first hops towards the peers' addresses.
    pub(super) fn set_hops(&mut self, hops: &HashMap<IpAddr, Hop>) {
        let of = |address| hops.get(&address).copied();
        if self.peers.iter().any(|peer| peer.hops_differ(of)) {
            for peer in Arc::make_mut(&mut self.peers) {
                peer.set_hops(of);
            }
            self.publish_now();
        }
    }

    /// The TAP or none, and these ways towards the peers' addresses.
    pub(super) fn set_tap(&mut self, tap: Option<TapLink>, ways: &HashMap<IpAddr, Arc<Way>>) {
        let other = |peer: &Peer| !peer.is_gone() && peer.way.as_ref() != ways.get(&peer.address);
        let ways_changed = self.peers.iter().any(other);
        if ways_changed {
            for peer in Arc::make_mut(&mut self.peers).iter_mut().filter(|peer| other(peer)) {
                peer.way = ways.get(&peer.address).cloned();
            }
        }
        if ways_changed || self.underlay.tap != tap {
            self.underlay.tap = tap;
            self.publish_now();
        }
    }

    /// Which addresses IPsec policies are about.
    pub(super) fn set_policed(&mut self, addresses: &BTreeSet<IpAddr>) {
        let other = |peer: &Peer| !peer.is_gone() && peer.policed != addresses.contains(&peer.address);
        if self.peers.iter().any(other) {
            for peer in Arc::make_mut(&mut self.peers).iter_mut().filter(|peer| other(peer)) {
                peer.policed = !peer.policed;
            }
            self.publish_now();
        }
    }

    /// Enforces another policy, or none. What was allowed by other rules is judged again with its next packet.
    pub(super) fn set_network_policy(&mut self, policy: Option<NetworkPolicy>) {
        if self.network_policy == policy {
            return;
        }
        self.policy_generation = self.policy_generation.wrapping_add(1);
        let active = policy.as_ref().map(|policy| Arc::new(policy.active(self.policy_generation)));
        self.compiler.set_policy(active);
        self.network_policy = policy;
        self.publish_now();
    }

    /// Removes all routes of a source.
    pub(super) fn withdraw(&mut self, source: Source) {
        self.rib.replace(source, []);
        self.pending = Pending::Everything;
    }

    /// Peers have changed in a way that packets have to see at once.
    pub(super) fn publish_now(&mut self) {
        self.peers_changed = true;
        self.urgent = true;
    }

    /// Underlay addresses of the peers that some route reaches by `mode`, as of the last publication.
    pub(super) fn peers_by(&self, mode: Mode) -> &BTreeSet<IpAddr> {
        self.reached.by(mode)
    }

    pub(super) fn addresses_by(&self, mode: Mode) -> BTreeSet<IpAddr> {
        let peers = self.compiler.reached(mode).filter_map(|id| self.peers.get(usize::from(id.0)));
        peers.filter(|peer| !peer.is_gone()).map(|peer| peer.address).collect()
    }

    /// Whether packets for `prefix`, which is to be another node's, come to the TUN or can be made to.
    pub(super) fn reachable(&self, prefix: Prefix) -> Result<(), String> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        kernel.reaches(prefix, &self.kernel_pools, &self.config.tunnel.device)
    }

    /// Whether a destination has addresses of other nodes.
    pub(super) fn is_to_peers(&self, prefix: Prefix) -> bool {
        let to_peers = |target: Target| target != Target::Local;
        self.rib.covering(prefix).is_some_and(|route| to_peers(route.target))
            || self
                .rib
                .after(Some(prefix))
                .take_while(|route| prefix.covers(route.prefix))
                .any(|route| to_peers(route.target))
    }
}

#[cfg(test)]
impl Setup {
    /// A node with all rights on an ordinary uplink.
    pub(super) fn sample() -> Self {
        let capabilities = Capabilities { net_admin: true, net_raw: true };
        Self { capabilities, workers: 1, uplink_mtu: 1500, uplink: 1 }
    }
}
