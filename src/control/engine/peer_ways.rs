//! The kernel's ways to the peers, and what the state makes of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::leads::Leads;
use super::port::{Found, HostError, PeerWay};
use super::state::State;
use crate::dataplane::forward::Peer;
use crate::net::Prefix;

/// Refused routes to other nodes that are remembered, and after what time one is tried again.
const REMEMBERED: usize = 10_000;
const RETRY: Duration = Duration::from_secs(30);
/// The same once an interface or an address has changed: it may have been down for a moment.
const SOON: Duration = Duration::from_secs(1);

impl State {
    /// Follows the kernel's ways to the peers' addresses; returns whether MTUs are others than before. What was
    /// learned about such a path is forgotten.
    pub(super) fn set_ways(&mut self, ways: HashMap<IpAddr, PeerWay>) -> bool {
        if *self.ways != ways {
            self.ways = Arc::new(ways);
            // What was refused may have been for want of a way.
            self.refused = Arc::default();
            self.stale_leads = true;
        }
        let ways = &self.ways;
        let mtu = |address: IpAddr| ways.get(&address).map(|way| way.mtu);
        let of = |peer: &Peer| [mtu(peer.address), peer.second.and_then(|(address, _)| mtu(address))];
        let other = |peer: &Peer| !peer.is_gone() && peer.link_mtus != of(peer);
        if !self.peers.iter().any(other) {
            return false;
        }
        let uplink = self.underlay.mtu;
        for peer in Arc::make_mut(&mut self.peers).iter_mut().filter(|peer| other(peer)) {
            let now = of(peer);
            let before = std::mem::replace(&mut peer.link_mtus, now);
            if before[0].unwrap_or(uplink) != peer.link_mtus[0].unwrap_or(uplink) {
                peer.path_mtu = None;
            }
        }
        self.follow_mtu();
        self.publish_now();
        true
    }

    /// The kernel has refused these routes to other nodes: the pump sends there, until they are tried again.
    pub(super) fn refuse(&mut self, routes: Vec<(Prefix, HostError)>, now: Instant) {
        for (prefix, error) in routes {
            if self.refused.len() < REMEMBERED {
                Arc::make_mut(&mut self.refused).insert(prefix, (error, now + RETRY));
                self.stale_leads = true;
            }
        }
    }

    /// When a refused route is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.refused.values().map(|(_, until)| *until).min()
    }

    /// An interface or an address has changed: what was refused is tried again soon.
    pub(super) fn retry_soon(&mut self, now: Instant) {
        if self.refused.is_empty() {
            return;
        }
        for (_, until) in Arc::make_mut(&mut self.refused).values_mut() {
            *until = (*until).min(now + SOON);
        }
    }

    /// Has refused routes tried again whose time has come; returns whether there are any.
    pub(super) fn retry(&mut self, now: Instant) -> bool {
        let due = self.next_retry().is_some_and(|next| next <= now);
        if due {
            Arc::make_mut(&mut self.refused).retain(|_, (_, until)| *until > now);
            self.stale_leads = true;
        }
        due
    }

    pub(super) fn leads(&self) -> Leads<'_> {
        Leads {
            config: &self.config,
            policy: &self.policy,
            peers: &self.peers,
            rib: &self.rib,
            ways: &self.ways,
            refused: &self.refused,
        }
    }

    /// Whether `found` in the main table takes packets that would leave bare anyway: a routing daemon has said of the
    /// same prefix where it is, and the kernel sends there as this daemon would.
    pub(super) fn goes_there_bare(&self, found: &Found) -> bool {
        let ours = self.config.kernel_routes.as_ref();
        let leads = self.leads();
        ours.is_some_and(|followed| followed.protocols.contains(&found.protocol))
            && leads.learnt(found.prefix).is_some_and(|route| leads.goes_bare(found.prefix, &route))
    }
}
