//! The other nodes, as readers of the API see them.

use std::net::IpAddr;

use super::Snapshot;
use crate::api::{PeerStatus, PeerUplink, PeerWay};
use crate::dataplane::forward::{Choice, Peer};
use crate::net::{Mode, Prefix};
use crate::route::PeerId;

impl Snapshot {
    /// All nodes, in the order of their numbers.
    pub fn peer_list(&self) -> Vec<PeerStatus> {
        let (vxlan, ipip) = (self.peers_by(Mode::Vxlan), self.peers_by(Mode::Ipip));
        let known = self.peers.iter().enumerate().filter(|(_, peer)| !peer.is_gone());
        known
            .map(|(place, peer)| PeerStatus {
                name: peer.name.to_string(),
                address: peer.address,
                address6: peer.second.and_then(|(address, _)| match address {
                    IpAddr::V6(address) => Some(address),
                    IpAddr::V4(_) => None,
                }),
                also_from: peer.also_from.to_vec(),
                sends_for: peer.sends_for.iter().map(Prefix::to_string).collect(),
                port: peer.port,
                subnets: self.subnets(PeerId::at(place)).map(|subnet| subnet.to_string()).collect(),
                vtep_mac: peer.vtep_mac.to_string(),
                uplink: peer.way.as_ref().map(|way| PeerUplink {
                    interface: way.interface.clone(),
                    vxlan: vxlan.contains(&peer.address).then(|| way_of(peer, &way.vxlan)),
                    ipip: ipip.contains(&peer.address).then(|| way_of(peer, &way.ipip)),
                }),
                direct_paths: self.path_statuses(peer),
                counters: peer.counters.totals().into(),
            })
            .collect()
    }

    /// The subnets that a peer was given and that are routed to it still.
    fn subnets(&self, id: PeerId) -> impl Iterator<Item = Prefix> {
        let routed = move |subnet: &Prefix| {
            let candidates = self.rib.candidates(*subnet);
            candidates.iter().any(|route| self.rib.peers(&route.target).contains(&id))
        };
        self.roster.subnets(id).iter().copied().filter(routed)
    }
}

/// The way that super-packets towards `peer` take, given what was chosen for its interface.
fn way_of(peer: &Peer, choice: &Choice) -> PeerWay {
    let socket = |reason: &str| PeerWay { way: "socket".to_owned(), reason: reason.to_owned() };
    match choice {
        _ if peer.address.is_ipv6() => socket("the TAP serves peers over IPv4"),
        Choice { tap: false, why } => socket(why),
        _ if peer.policed => socket("an IPsec policy is about it"),
        _ if peer.path_mtu.is_some() => socket("a router said that its path carries less than the uplink"),
        _ if peer.rumoured => {
            socket("a router is said to carry less than the uplink, which was not confirmed")
        }
        Choice { tap: true, why } => PeerWay { way: "tap".to_owned(), reason: why.clone() },
    }
}
