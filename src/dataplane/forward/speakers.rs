//! Who may speak for whom: which inner sources a sender may use.
//!
//! Pods speak from the subnets of their node. Beside that a node speaks for itself, from its underlay addresses
//! (sockets of its host and host-network pods), and for the prefixes that the configuration lists. Nothing from the
//! underlay speaks for this host, whatever interface has the address, nor for the pods of a third node.
//!
//! All of it but one look at an address that has an owner is off the usual path.

use std::net::IpAddr;
use std::sync::Arc;

use super::tables::{Forwarding, OuterSource, sorted};
use crate::route::{NextHop, PeerId};

impl Forwarding {
    /// Whether an inner packet from `sender` may have `source` as its source.
    #[inline]
    pub(super) fn may_come(&self, sender: OuterSource, source: IpAddr) -> bool {
        match sender {
            OuterSource::Peer(peer) => {
                self.owns(peer, source) && !self.is_exempt(source) || self.speaks_for(peer, source)
            }
            OuterSource::External => {
                self.lookup(source).is_none() && self.sender(source).is_none() && !self.is_host(source)
            }
        }
    }

    /// Whether this node may send an inner packet from `source`, which is in no local subnet but has this owner: from
    /// its own IPv4 underlay address, and from what the configuration lists, where no other node owns that. Its IPv6
    /// address has to be listed, because the kernel lets a pod forge it: it drops forwarded packets from local
    /// addresses in IPv4 only, and the TUN does not show which packets are forwarded.
    #[cold]
    pub(super) fn may_go(&self, source: IpAddr, owner: Option<NextHop>) -> bool {
        source.is_ipv4() && self.is_own(source)
            || owner.is_none()
                && self.senders.scope.sends_for.iter().any(|prefix| prefix.contains(source))
                && self.sender(source).is_none()
    }

    /// Whether `address` is that of a host inside a route to a peer, and so no pod.
    #[inline]
    pub(super) fn is_exempt(&self, address: IpAddr) -> bool {
        !self.exempt.is_empty() && self.exempt.binary_search(&address).is_ok()
    }

    /// Whether `peer` may send from `source`, which is not in its subnets.
    #[cold]
    fn speaks_for(&self, peer: PeerId, source: IpAddr) -> bool {
        if self.is_host(source) {
            return false;
        }
        match self.sender(source) {
            Some(node) => node == peer,
            None => {
                let listed =
                    self.peer(peer).is_some_and(|peer| peer.sends_for.iter().any(|p| p.contains(source)));
                listed && self.lookup(source).is_none()
            }
        }
    }

    /// Whether `address` is an address of this host, on whatever interface.
    fn is_host(&self, address: IpAddr) -> bool {
        self.is_own(address) || self.host.binary_search(&address).is_ok()
    }

    /// Whether `address` is this node's underlay address.
    fn is_own(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.underlay.address == Some(address),
            IpAddr::V6(address) => self.underlay.address6 == Some(address),
        }
    }

    /// The addresses of all hosts, this one and the other nodes, sorted.
    pub(super) fn hosts(&self) -> Arc<[IpAddr]> {
        let own = [self.underlay.address.map(IpAddr::V4), self.underlay.address6.map(IpAddr::V6)];
        let hosts = own.into_iter().flatten().chain(self.senders.peers()).chain(self.host.iter().copied());
        sorted(hosts.collect())
    }

    /// Finds which of `hosts`, the addresses of all hosts, lie inside routes to peers.
    pub(super) fn find_exempt(&mut self, hosts: &[IpAddr]) {
        let to_peers =
            |address: &IpAddr| matches!(self.lookup(*address), Some(NextHop::Peer(_) | NextHop::Group(_)));
        self.exempt = hosts.iter().copied().filter(to_peers).collect();
    }
}
