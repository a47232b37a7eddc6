//! What readers of the API see: one consistent state, that no edit waits for and that waits for no edit.

mod network_policy;
mod paths;
mod peers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::bfd::Verdict;
use super::edits::lines;
use super::edits::roster::Roster;
use super::leads::{Leads, Refused, Sender};
use super::network_policy::NetworkPolicy;
use super::port::{self, Requirement, Table};
use super::reached::{Reached, decide};
use super::state::State;
use crate::api::{CandidateRoute, NextHop, RouteEntry, RouteMode, SourceStatus};
use crate::config::{Config, DirectVia};
use crate::dataplane::forward::{Peer, Underlay};
use crate::dataplane::packet::{Family, Offloaded};
use crate::net::{Mode, Prefix};
use crate::route::{DirectPath, EncapPolicy, Rib, Route, Source, Target};

/// The daemon's state at one moment. Cheap to make: it shares everything with the engine that the engine
/// has not edited since.
#[derive(Clone)]
pub struct Snapshot {
    /// The configuration that is followed.
    pub config: Arc<Config>,
    /// What is left to an administrator, strangers at our devices first.
    pub requirements: Arc<[Requirement]>,
    /// What `status` says of the TAP.
    pub tap_state: Offloaded,
    /// Whether the last configuration was followed.
    pub reloaded: bool,
    /// How sources do that know more than routes.
    pub sources: Vec<Arc<SourceStatus>>,
    /// Name of the interface with our underlay address.
    pub uplink: Arc<str>,
    /// How often a verified direct path was given up.
    pub direct_path_failures: u64,
    /// Who sends bare packets.
    pub direct: Direct,
    /// The network policy that is enforced.
    pub network_policy: Option<NetworkPolicy>,
    /// Another one for each policy that was enforced since the start.
    pub policy_generation: u32,
    /// This node's side of the underlay.
    pub underlay: Underlay,
    policy: Arc<EncapPolicy>,
    paths: Arc<BTreeMap<DirectPath, Verdict>>,
    peers: Arc<Vec<Peer>>,
    roster: Arc<Roster>,
    reached: Arc<Reached>,
    rib: Rib,
    ways: Arc<HashMap<IpAddr, port::PeerWay>>,
    refused: Arc<Refused>,
    /// The kernel's routes, where the daemon may not change them.
    kernel: Option<Arc<Table>>,
    started: Instant,
}

/// What a snapshot has beside the state.
pub(super) struct Beside {
    pub requirements: Arc<[Requirement]>,
    pub tap_state: Offloaded,
    pub reloaded: bool,
    pub sources: Vec<Arc<SourceStatus>>,
    pub uplink: Arc<str>,
    pub direct: Direct,
    pub started: Instant,
}

/// How many destinations of bare packets have which sender, where that should be the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct {
    /// The kernel, by routes of ours.
    pub by_kernel: usize,
    /// The pump, because the kernel cannot.
    pub by_pump: usize,
}

/// A piece of the list of routes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Page {
    /// Behind this prefix; from the first one on when `None`.
    pub after: Option<Prefix>,
    /// Which routes.
    pub scope: Scope,
    /// Prefixes to look at, at most.
    pub most: usize,
}

/// Which routes are listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The one in use for each prefix.
    Best,
    /// All of one source, in use or not.
    Of(Source),
}

impl Snapshot {
    /// What `state` is like now, with what is known beside it.
    pub(super) fn of(state: &State, beside: Beside) -> Self {
        let Beside { requirements, tap_state, reloaded, sources, uplink, direct, started } = beside;
        Self {
            config: Arc::clone(&state.config),
            requirements,
            tap_state,
            reloaded,
            sources,
            uplink,
            direct_path_failures: state.path_failures,
            direct,
            network_policy: state.network_policy.clone(),
            policy_generation: state.policy_generation,
            underlay: state.underlay,
            policy: Arc::clone(&state.policy),
            paths: Arc::clone(&state.paths),
            peers: Arc::clone(&state.peers),
            roster: Arc::clone(&state.roster),
            reached: Arc::clone(&state.reached),
            rib: state.rib.clone(),
            ways: Arc::clone(&state.ways),
            refused: Arc::clone(&state.refused),
            kernel: state.kernel.as_ref().map(|kernel| Arc::clone(&kernel.table)),
            started,
        }
    }

    /// The number of prefixes with routes.
    pub fn routes(&self) -> usize {
        self.rib.len()
    }

    /// The number of peers.
    pub fn peer_count(&self) -> usize {
        self.roster.len()
    }

    /// The peers that are known.
    pub fn known(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| !peer.is_gone())
    }

    /// Who has this underlay address: a peer by its name, or this node, which is `Some(None)`.
    pub fn peer_at(&self, address: IpAddr) -> Option<Option<&str>> {
        let id = self.roster.at(address)?;
        Some(id.and_then(|id| self.peers.get(usize::from(id.0))).map(|peer| peer.name.as_str()))
    }

    /// The names of the nodes that `source` says own exactly `prefix`.
    pub fn owners(&self, prefix: Prefix, source: Source) -> Option<BTreeSet<&str>> {
        Some(self.names(&self.rib.get(prefix, source)?.target).collect())
    }

    /// The prefixes that a source has routes for.
    pub fn prefixes_of(&self, source: Source) -> Vec<Prefix> {
        let mut prefixes = Vec::new();
        let all = Page { after: None, scope: Scope::Of(source), most: usize::MAX };
        self.page(all, |route| prefixes.push(route.prefix));
        prefixes
    }

    /// Whether nothing was edited in the peers between both.
    pub fn shares_peers_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.peers, &other.peers)
    }

    /// Whether no peer has come, gone or been given anew between both.
    pub fn shares_roster_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.roster, &other.roster)
    }

    /// Whether both have the same peers.
    pub fn has_peers_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.peers, &other.peers) || self.addresses().eq(other.addresses())
    }

    /// Underlay addresses of all peers.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.known().flat_map(Peer::addresses)
    }

    /// Underlay addresses of the peers that some route reaches by `mode`.
    pub fn peers_by(&self, mode: Mode) -> &BTreeSet<IpAddr> {
        self.reached.by(mode)
    }

    /// Whether packets from a pod of this node at `source` to `destination` travel by a mode to the peer with an
    /// underlay address.
    pub fn carries(&self, source: IpAddr, destination: IpAddr, (mode, peer): (Mode, IpAddr)) -> bool {
        let ours = self.rib.lookup(source).is_some_and(|route| route.target == Target::Local);
        let Some(route) = self.rib.lookup(destination).filter(|_| ours) else { return false };
        let within = Prefix::host(destination);
        decide(&self.rib, &self.peers, &self.policy, within, &route.target)
            .any(|(owner, decision)| owner.address == peer && decision.mode == mode)
    }

    /// The peer that has sent a packet from `source` to a pod of this node at `destination`, if one owns its source.
    pub fn stray(&self, source: IpAddr, destination: IpAddr) -> Option<String> {
        let ours = self.rib.lookup(destination).is_some_and(|route| route.target == Target::Local);
        let route = self.rib.lookup(source).filter(|_| ours)?;
        self.names(&route.target).next().map(str::to_owned)
    }

    /// UDP port of VXLAN at the peer with `address`.
    pub fn port_of(&self, address: IpAddr) -> Option<u16> {
        self.peers.iter().find(|peer| peer.address == address).map(|peer| peer.port)
    }

    /// UDP ports of VXLAN, here and at the peers.
    pub fn vxlan_ports(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> =
            self.known().map(|peer| peer.port).chain([self.underlay.vxlan_port]).collect();
        ports.into_iter().collect()
    }

    /// The route a packet to `address` takes; `None` when it would be dropped as `no_route`.
    pub fn route_get(&self, address: IpAddr, now: Instant) -> Option<RouteEntry> {
        let route = self.rib.lookup(address)?;
        let candidates = self.rib.candidates(route.prefix);
        Some(RouteEntry {
            candidates: candidates.iter().map(|route| self.candidate(route, now)).collect(),
            ..self.entry(route, Prefix::host(address), now)
        })
    }

    /// A page of routes, and where the next page begins; `None` behind the last.
    pub fn list(&self, page: Page, now: Instant) -> (Vec<RouteEntry>, Option<Prefix>) {
        let mut entries = Vec::with_capacity(page.most);
        let last = self.page(page, |route| entries.push(self.entry(route, route.prefix, now)));
        (entries, last)
    }

    /// The same page as text, in the form in which routes are added.
    pub fn list_lines(&self, page: Page) -> (String, Option<Prefix>) {
        let mut text = String::new();
        let last = self.page(page, |route| self.line(&mut text, &route));
        (text, last)
    }

    /// Describes `route` for destinations in `within`.
    fn entry(&self, route: Route, within: Prefix, now: Instant) -> RouteEntry {
        let decided: Vec<_> = decide(&self.rib, &self.peers, &self.policy, within, &route.target).collect();
        let limit = route.mtu.unwrap_or(u16::MAX);
        let next_hops: Vec<NextHop> = decided
            .iter()
            .map(|(peer, decision)| NextHop {
                peer: peer.name.to_string(),
                address: match decision.mode {
                    Mode::Direct => peer.next_hop(Family::of(within.address())).0,
                    Mode::Ipip | Mode::Vxlan => peer.address,
                },
                mode: decision.mode.into(),
                mtu: self.underlay.mtu_to(peer, decision.mode).min(limit),
            })
            .collect();
        let reason = match decided.first() {
            Some((_, decision)) => decision.reason.to_string(),
            None => "one of this node's own subnets; the kernel routes it to the pod".to_owned(),
        };
        let first = next_hops.first();
        let (via, via_reason) = match self.via(&route, within, &next_hops) {
            Some((via, why)) => (Some(via.name().to_owned()), why),
            None => (None, None),
        };
        RouteEntry {
            via,
            via_reason,
            prefix: route.prefix.to_string(),
            peer: first.map(|hop| hop.peer.clone()),
            mode: first.map_or(RouteMode::Local, |hop| hop.mode),
            next_hop: first.map(|hop| hop.address),
            mtu: next_hops.iter().map(|hop| hop.mtu).min().unwrap_or(self.underlay.tun.mtu),
            source: route.source.name().to_owned(),
            reason,
            age_seconds: self.age(&route, now),
            mtu_limit: route.mtu,
            next_hops,
            candidates: Vec::new(),
        }
    }

    /// Who sends bare packets to `within`, which lies in `route`, and why not the kernel where it should; `None` where
    /// packets are not bare.
    fn via(&self, route: &Route, within: Prefix, hops: &[NextHop]) -> Option<(DirectVia, Option<String>)> {
        hops.iter().find(|hop| hop.mode == RouteMode::Direct)?;
        let leads = self.leads();
        let inside = within != route.prefix;
        let prefix = if inside { leads.destination(route.prefix, within.address()) } else { route.prefix };
        match leads.sender(prefix)? {
            Sender::Kernel(wanted) if self.kernel.as_ref().is_some_and(|table| !table.takes(&wanted)) => {
                Some((DirectVia::Pump, Some("the kernel lacks the route".to_owned())))
            }
            Sender::Kernel(_) | Sender::Theirs => Some((DirectVia::Kernel, None)),
            Sender::Pump(why) => Some((DirectVia::Pump, why.map(|why| why.to_string()))),
            Sender::Local => None,
        }
    }

    fn leads(&self) -> Leads<'_> {
        Leads {
            config: &self.config,
            policy: &self.policy,
            peers: &self.peers,
            rib: &self.rib,
            ways: &self.ways,
            refused: &self.refused,
        }
    }

    fn candidate(&self, route: &Route, now: Instant) -> CandidateRoute {
        let peers: Vec<String> = self.names(&route.target).map(str::to_owned).collect();
        CandidateRoute {
            source: route.source.name().to_owned(),
            peer: peers.first().cloned(),
            peers,
            age_seconds: self.age(route, now),
        }
    }

    /// Seconds since `route` is as it is.
    fn age(&self, route: &Route, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs().saturating_sub(route.since.into())
    }

    fn names<'s: 't, 't>(&'s self, target: &'t Target) -> impl Iterator<Item = &'s str> + 't {
        let peers = self.rib.peers(target).iter().filter_map(|id| self.peers.get(usize::from(id.0)));
        peers.map(|peer| peer.name.as_str())
    }

    /// Appends a route in the form it could be added in; one of our own as a comment.
    fn line(&self, out: &mut String, route: &Route) {
        if route.target == Target::Local {
            out.push_str("# local ");
        }
        lines::render(out, route.prefix, self.names(&route.target), route.mtu);
    }

    /// Hands the routes of a page to `show`; returns the last prefix looked at, `None` at the end.
    fn page(&self, page: Page, mut show: impl FnMut(Route)) -> Option<Prefix> {
        let mut routes = self.rib.after(page.after);
        let mut last = None;
        for route in routes.by_ref().take(page.most) {
            last = Some(route.prefix);
            let shown = match page.scope {
                Scope::Best => Some(route),
                Scope::Of(source) if route.source == source => Some(route),
                Scope::Of(source) if route.source < source => self.rib.get(route.prefix, source),
                Scope::Of(_) => None,
            };
            if let Some(route) = shown {
                show(route);
            }
        }
        routes.next().and(last)
    }
}
