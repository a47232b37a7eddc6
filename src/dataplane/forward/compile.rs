//! From routes, peers and policy to the tables the workers read.

use std::net::IpAddr;
use std::sync::Arc;

use super::inputs::{Inputs, MIN_MTU, Peer, Underlay};
use super::scope::Scope;
use super::tables::{Forwarding, PeerHeaders, Senders, sorted};
use crate::dataplane::packet::Family;
use crate::dataplane::policy::ActivePolicy;
use crate::net::{Mode, Prefix};
use crate::route::{EncapPolicy, FibEditor, HopsFull, PeerId, Rib, Route, Target, Ways};

/// The tables as they are edited. What did not change is shared by every [`Forwarding`] made.
#[derive(Default)]
pub struct Compiler {
    fib: FibEditor,
    peers: Arc<[PeerHeaders]>,
    senders: Senders,
    host: Arc<[IpAddr]>,
    /// The addresses of all hosts, as the last [`Self::set_peers`] found them, sorted.
    hosts: Arc<[IpAddr]>,
    exempt: Arc<[IpAddr]>,
    policy: Option<Arc<ActivePolicy>>,
}

impl Forwarding {
    /// Compiles the routes of `rib` under `policy`. `peers` is indexed by [`PeerId`].
    ///
    /// # Errors
    /// When there are more different next hops than ids.
    pub fn build(
        underlay: Underlay,
        peers: &[Peer],
        policy: &EncapPolicy,
        rib: &Rib,
    ) -> Result<Self, HopsFull> {
        Compiler::default().compile(Inputs { underlay, peers, policy, rib })
    }
}

impl Compiler {
    /// A compiler of tables that make these exceptions from what may cross.
    pub fn new(scope: Scope) -> Self {
        let mut compiler = Self::default();
        compiler.set_scope(scope);
        compiler
    }

    /// Changes the exceptions from what may cross; the next tables have them.
    pub fn set_scope(&mut self, scope: Scope) {
        self.senders.scope = Arc::new(scope);
    }

    /// Changes the policy to enforce; the next tables have it.
    pub fn set_policy(&mut self, policy: Option<Arc<ActivePolicy>>) {
        self.policy = policy;
    }

    /// Changes the addresses of this host; the tables that [`Self::set_peers`] makes have them.
    pub fn set_host(&mut self, addresses: &[IpAddr]) {
        self.host = sorted(addresses.to_vec());
    }

    /// Compiles everything from scratch.
    ///
    /// # Errors
    /// When there are more different next hops than ids; nothing has changed then.
    pub fn compile(&mut self, inputs: Inputs) -> Result<Forwarding, HopsFull> {
        let pools = inputs.policy.pools().filter_map(|pool| inputs.pool_in_route(pool.cidr));
        // Pools first: of equal prefixes the later one counts, and a route is at least as precise.
        let routes = pools.chain(inputs.rib.best().map(|route| (route.prefix, route)));
        self.fib.replace(routes.filter_map(|(prefix, route)| Some((prefix, inputs.ways(prefix, route)?))))?;
        Ok(self.set_peers(inputs))
    }

    /// Brings the routes of some prefixes up to date.
    ///
    /// # Errors
    /// When there are more different next hops than ids; nothing has changed then.
    pub fn apply(&mut self, inputs: Inputs, changed: &[Prefix]) -> Result<Forwarding, HopsFull> {
        let pools = inputs.policy.pools().map(|pool| pool.cidr);
        // A route also says who owns the pools inside it.
        let inside = pools.filter(|pool| changed.iter().any(|prefix| prefix.covers(*pool)));
        let prefixes: Vec<Prefix> = changed.iter().copied().chain(inside).collect();
        self.fib.apply(prefixes.into_iter().map(|prefix| {
            let route = inputs.rib.exact(prefix).map(|route| (prefix, route));
            let route = route.or_else(|| inputs.policy.has(prefix).then(|| inputs.pool_in_route(prefix))?);
            (prefix, route.and_then(|(prefix, route)| inputs.ways(prefix, route)))
        }))?;
        let mut forwarding = self.forwarding(inputs);
        if changed.iter().any(|prefix| self.has_host_in(*prefix)) {
            self.find_exempt(&mut forwarding);
        }
        Ok(forwarding)
    }

    /// Rebuilds the headers towards all peers, and the MTUs of the paths to them.
    pub fn set_peers(&mut self, inputs: Inputs) -> Forwarding {
        let Inputs { underlay, peers, .. } = inputs;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, peer) in peers.iter().enumerate().filter(|(_, peer)| !peer.is_gone()) {
            let id = PeerId::at(index);
            for address in peer.senders() {
                match address {
                    IpAddr::V4(address) => v4.push((address, id)),
                    IpAddr::V6(address) => v6.push((address, id)),
                }
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        (self.senders.v4, self.senders.v6) = (v4.into(), v6.into());
        self.peers = peers.iter().map(|peer| PeerHeaders::new(underlay, peer)).collect();
        self.fib.forget_mtus();
        let mut forwarding = self.forwarding(inputs);
        self.hosts = forwarding.hosts();
        self.find_exempt(&mut forwarding);
        forwarding
    }

    /// Whether ids are left for so many more different next hops.
    pub fn has_room_for(&self, more: usize) -> bool {
        self.fib.has_room_for(more)
    }

    /// The peers that packets go to by `mode`, at least; some may be of routes that are gone.
    pub fn reached(&self, mode: Mode) -> impl Iterator<Item = PeerId> + '_ {
        self.fib.reached(mode)
    }

    fn forwarding(&mut self, Inputs { underlay, peers, policy, .. }: Inputs) -> Forwarding {
        let mtu = |peer: PeerId, mode| {
            // Routes were only taken for peers that exist.
            peers.get(usize::from(peer.0)).map_or(MIN_MTU, |to| underlay.mtu_to(to, mode))
        };
        Forwarding {
            underlay,
            fib: self.fib.fib(mtu),
            peers: Arc::clone(&self.peers),
            senders: self.senders.clone(),
            host: Arc::clone(&self.host),
            exempt: Arc::clone(&self.exempt),
            pools: if underlay.tun.hairpin { outermost(policy) } else { Arc::default() },
            network_policy: self.policy.clone(),
        }
    }

    /// Finds the addresses of hosts that lie inside routes to peers, for `forwarding` and the tables after it.
    fn find_exempt(&mut self, forwarding: &mut Forwarding) {
        forwarding.find_exempt(&self.hosts);
        self.exempt = Arc::clone(&forwarding.exempt);
    }

    /// Whether the address of a host lies in `prefix`.
    fn has_host_in(&self, prefix: Prefix) -> bool {
        let at = self.hosts.partition_point(|address| *address < prefix.address());
        self.hosts.get(at).is_some_and(|address| prefix.contains(*address))
    }
}

/// The pools that lie in no other one, sorted.
fn outermost(policy: &EncapPolicy) -> Arc<[Prefix]> {
    Prefix::aggregate(policy.pools().map(|pool| pool.cidr)).into_iter().collect()
}

impl Inputs<'_> {
    /// A pool inside a route is an entry of its own: the longest match of an address then knows both
    /// the owner of the address and the pool it lies in.
    fn pool_in_route(&self, pool: Prefix) -> Option<(Prefix, Route)> {
        Some((pool, self.rib.covering(pool)?))
    }

    /// How packets for `prefix`, which lies in `route`, travel.
    fn ways(&self, prefix: Prefix, route: Route) -> Option<Ways> {
        if route.target == Target::Local {
            return Some(Ways::Local);
        }
        let way = |peer: &PeerId| {
            let next_hop = self.peers.get(usize::from(peer.0))?.next_hop(Family::of(prefix.address())).0;
            Some((*peer, self.policy.decide(prefix, next_hop).mode))
        };
        let peers: Box<[_]> = self.rib.peers(&route.target).iter().filter_map(way).collect();
        (!peers.is_empty()).then_some(Ways::Peers { peers, mtu: route.mtu })
    }
}
