//! What the API shows of the state, and the edits it takes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::log;
use crate::api::{
    CandidateRoute, Drops, EdgeCounters, Missing, NewPeer, NextHop, PeerStatus, RouteEntry, RouteMode,
    RoutesChanged, Status, TunnelStatus,
};
use crate::control::engine::batch::Batch;
use crate::control::engine::edit::Changed;
use crate::control::engine::lines;
use crate::control::engine::refusal::Refusal;
use crate::control::engine::state::{Daemon, State};
use crate::control::server::{Dataplane, Page, Scope};
use crate::dataplane::observe::capture::Hub;
use crate::dataplane::packet::Family;
use crate::net::{Mode, Prefix};
use crate::route::{Route, Source, Target};

impl State {
    /// Describes `route` for destinations in `within`, in second `now` of the daemon's life.
    fn entry(&self, route: Route, within: Prefix, now: u32) -> RouteEntry {
        let decided: Vec<_> = self.decide(within, &route.target).collect();
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
        RouteEntry {
            prefix: route.prefix.to_string(),
            peer: first.map(|hop| hop.peer.clone()),
            mode: first.map_or(RouteMode::Local, |hop| hop.mode),
            next_hop: first.map(|hop| hop.address),
            mtu: next_hops.iter().map(|hop| hop.mtu).min().unwrap_or(self.mtu()),
            source: route.source.name().to_owned(),
            reason,
            age_seconds: now.saturating_sub(route.since).into(),
            mtu_limit: route.mtu,
            next_hops,
            candidates: Vec::new(),
        }
    }

    fn candidate(&self, route: &Route, now: u32) -> CandidateRoute {
        let peers: Vec<String> = self.names(&route.target).map(str::to_owned).collect();
        CandidateRoute {
            source: route.source.name().to_owned(),
            peer: peers.first().cloned(),
            peers,
            age_seconds: now.saturating_sub(route.since).into(),
        }
    }

    fn names<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a str> {
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

impl Dataplane for Daemon {
    fn status(&self) -> Status {
        let totals = self.counters.totals();
        let offloads = self.offloads();
        let state = self.state();
        let config = &state.config;
        Status {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            node: config.node.name.to_string(),
            workers: self.counters.workers(),
            backend: self.backend.to_owned(),
            offloads,
            tunnel: TunnelStatus {
                device: config.tunnel.device.clone(),
                mtu: state.mtu(),
                address: Some(self.address),
                vtep_mac: state.underlay.vtep_mac.to_string(),
            },
            counters: EdgeCounters::from(&totals),
            drops: Drops::from(&totals),
            icmp_errors: self.counters.icmp_errors().into(),
            recut_super_packets: self.counters.recut_super_packets(),
            missing: self.chores.open().into_iter().map(Missing::from).collect(),
            log_lines_lost: log::lines_lost(),
            routes: state.rib.len(),
            peers: state.peer_list(),
        }
    }

    fn routes(&self, page: Page) -> (Vec<RouteEntry>, Option<Prefix>) {
        let (state, now) = (self.state(), self.second());
        let mut entries = Vec::with_capacity(page.most);
        let last = state.page(page, |route| entries.push(state.entry(route, route.prefix, now)));
        (entries, last)
    }

    fn route_lines(&self, page: Page) -> (String, Option<Prefix>) {
        let state = self.state();
        let mut text = String::new();
        let last = state.page(page, |route| state.line(&mut text, &route));
        (text, last)
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        let (state, now) = (self.state(), self.second());
        let route = state.rib.lookup(address)?;
        let candidates = state.rib.candidates(route.prefix);
        Some(RouteEntry {
            candidates: candidates.iter().map(|route| state.candidate(route, now)).collect(),
            ..state.entry(route, Prefix::host(address), now)
        })
    }

    async fn observe(&self) {
        self.observe_kernel().await;
    }

    fn edit_routes(&self, batch: &mut Batch) -> Result<(RoutesChanged, u64), Refusal> {
        self.changed(|state, now| state.edit(Source::Control, batch, now))
    }

    fn replace_routes(&self, batch: &mut Batch) -> Result<(RoutesChanged, u64), Refusal> {
        self.changed(|state, now| state.replace(Source::Control, batch, now))
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.state().peer_list()
    }

    fn add_peer(&self, peer: &NewPeer) -> Result<u64, Refusal> {
        self.change_peers(|state, now| state.add_peer(peer, now), |_, ()| ())
    }

    fn delete_peer(&self, name: &str) -> Result<u64, Refusal> {
        self.change_peers(|state, _| state.delete_peer(name), |state, id| state.roster.release(id))
    }

    fn reload(&self) -> Result<u64, Refusal> {
        Self::reload(self)
    }

    fn capture(&self) -> Option<(Arc<Hub>, Vec<u16>)> {
        let state = self.state();
        let peers = state.peers.iter().filter(|peer| !peer.is_gone()).map(|peer| peer.port);
        let ports: BTreeSet<u16> = peers.chain([state.underlay.vxlan_port]).collect();
        Some((Arc::clone(self.counters.capture()?), ports.into_iter().collect()))
    }

    async fn settled(&self, generation: u64) -> Result<(), Refusal> {
        Self::settled(self, generation).await
    }
}

impl Daemon {
    fn changed(
        &self,
        edit: impl FnOnce(&mut State, u32) -> Result<Changed, Refusal>,
    ) -> Result<(RoutesChanged, u64), Refusal> {
        let ((changed, routes), generation) = self.change(|state, now| {
            let changed = edit(state, now)?;
            Ok((changed, state.rib.len()))
        })?;
        Ok((RoutesChanged { added: changed.added, deleted: changed.deleted, routes }, generation))
    }
}
