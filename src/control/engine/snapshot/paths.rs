//! Direct paths that are to be verified: which there are, whose packets come along them, and how they do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Snapshot;
use crate::api::DirectPathStatus;
use crate::control::engine::bfd::Verdict;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::forward::Peer;
use crate::dataplane::packet::Family;
use crate::route::{DirectPath, PeerId, Target};

/// Addresses of one node that are tried, at most.
const MOST: usize = 16;

impl Snapshot {
    /// Our own pod address of a family, where direct paths of that family are to be verified: that of the TUN.
    pub fn verifies_from(&self, ipv4: bool) -> Option<IpAddr> {
        let tun = self.underlay.tun;
        let own = if ipv4 { tun.address.map(IpAddr::V4) } else { tun.address6.map(IpAddr::V6) };
        let is_pods = |own: &IpAddr| self.rib.lookup(*own).is_some_and(|route| route.target == Target::Local);
        own.filter(is_pods).filter(|_| self.policy.verifies(ipv4))
    }

    /// The paths that are to be verified, each with the addresses on the TUN that the node at its end may have: the
    /// first of its subnets.
    pub fn paths_to_verify(&self) -> BTreeMap<DirectPath, Vec<IpAddr>> {
        let mut paths = BTreeMap::new();
        for ipv4 in [true, false].into_iter().filter(|ipv4| self.verifies_from(*ipv4).is_some()) {
            let mut ends = BTreeMap::<PeerId, (DirectPath, Vec<IpAddr>)>::new();
            for (place, peer) in self.peers.iter().enumerate().filter(|(_, peer)| !peer.is_gone()) {
                let Some(path) = self.path_to(peer, ipv4) else { continue };
                let given = self.roster.subnets(PeerId::at(place)).iter();
                let given = given.filter(|subnet| subnet.is_ipv4() == ipv4).take(MOST);
                ends.insert(PeerId::at(place), (path, given.map(|subnet| subnet.address()).collect()));
            }
            self.fill_in(ipv4, &mut ends);
            paths.extend(ends.into_values().filter(|(_, candidates)| !candidates.is_empty()));
        }
        paths
    }

    /// Finds addresses for nodes that were given no subnets, such as the next hops of a routing daemon's routes.
    fn fill_in(&self, ipv4: bool, ends: &mut BTreeMap<PeerId, (DirectPath, Vec<IpAddr>)>) {
        let mut unknown: BTreeMap<PeerId, Vec<IpAddr>> = ends
            .iter()
            .filter(|(_, (_, candidates))| candidates.is_empty())
            .map(|(id, _)| (*id, Vec::new()))
            .collect();
        if unknown.is_empty() {
            return;
        }
        for route in self.rib.best().filter(|route| route.prefix.is_ipv4() == ipv4) {
            for id in self.rib.peers(&route.target) {
                if let Some(found) = unknown.get_mut(id).filter(|found| found.len() < MOST) {
                    found.push(route.prefix.address());
                }
            }
        }
        for (id, found) in unknown {
            if let Some((_, candidates)) = ends.get_mut(&id) {
                *candidates = found;
            }
        }
    }

    /// The path whose other end has the pod address `source`, if some node has it.
    pub fn path_from(&self, source: IpAddr) -> Option<DirectPath> {
        let route = self.rib.lookup(source)?;
        let [id] = self.rib.peers(&route.target) else { return None };
        self.path_to(self.peers.get(usize::from(id.0))?, source.is_ipv4())
    }

    /// The first hop of a path, where the neighbour table knows it.
    pub fn hop_of(&self, path: DirectPath) -> Option<Hop> {
        let family = if path.ipv4 { Family::V4 } else { Family::V6 };
        let mut hops = self.known().map(|peer| peer.next_hop(family));
        hops.find(|(next_hop, _)| *next_hop == path.next_hop)?.1
    }

    /// The direct path to `peer` for packets of a family, where a `CrossSubnet` pool takes it.
    fn path_to(&self, peer: &Peer, ipv4: bool) -> Option<DirectPath> {
        let next_hop = peer.next_hop(if ipv4 { Family::V4 } else { Family::V6 }).0;
        self.policy.is_in_own_subnet(next_hop).then_some(DirectPath { ipv4, next_hop })
    }

    /// How many of the direct paths that are to be verified are, and how many are not.
    pub fn direct_paths(&self) -> [usize; 2] {
        let used = self.paths.values().filter(|verdict| verdict.used).count();
        [used, self.paths.len() - used]
    }

    /// How the direct paths to `peer` do that are to be verified.
    pub(super) fn path_statuses(&self, peer: &Peer) -> Vec<DirectPathStatus> {
        let status = |ipv4| {
            let path = self.path_to(peer, ipv4)?;
            let verdict = self.paths.get(&path)?;
            Some(DirectPathStatus {
                family: if ipv4 { "ipv4" } else { "ipv6" }.to_owned(),
                next_hop: path.next_hop,
                verified: verdict.used,
                reason: reason(verdict).to_owned(),
                failures: verdict.failures,
            })
        };
        [true, false].into_iter().filter_map(status).collect()
    }
}

fn reason(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict { used: true, .. } => "probes get through both ways",
        Verdict { works: true, .. } => "probes get through again, which they have to do for a while",
        Verdict { heard: true, .. } => "probes do not get through both ways",
        Verdict { heard: false, .. } => {
            "nothing was heard of the other end: does it verify paths too, and does reverse path filtering let it pass?"
        }
    }
}
