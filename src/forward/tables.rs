//! What the workers read: the forwarding table, the peers' prebuilt headers and who may send.

use std::net::{IpAddr, Ipv4Addr};

use super::scope::Scope;
use crate::encap::frame::{self, Hop};
use crate::encap::{ipip, ipip_gso, tunnel_gso, vxlan};
use crate::net::{Mac, Mode, NodeName, Prefix, Vni};
use crate::route::{Fib, NextHop, PeerId, Policy, Rib, Target, Via};
use crate::wire::{ethernet, protocol};

/// Another node, as the control plane knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Its underlay address.
    pub address: Ipv4Addr,
    /// Destination of inner Ethernet headers towards it.
    pub vtep_mac: Mac,
    /// Link addresses of the first hop towards it, where the neighbour table knows them: without,
    /// packet sockets cannot reach it.
    pub hop: Option<Hop>,
}

/// This node's side of the underlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Underlay {
    /// Source of every outer header.
    pub address: Ipv4Addr,
    /// Source of inner Ethernet headers.
    pub vtep_mac: Mac,
    /// The VXLAN network.
    pub vni: Vni,
    /// UDP port of VXLAN at the peers.
    pub vxlan_port: u16,
    /// Bytes of the largest IP packet on the uplink.
    pub mtu: u16,
    /// The TAP that takes super-packets, while it works.
    pub tap: Option<TapLink>,
}

/// The TAP, as far as frames for it go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TapLink {
    /// Its link address.
    pub mac: Mac,
    /// Whether it pushes outer headers, so that IP-in-IP super-packets may be written to it.
    pub ipip: bool,
}

/// One consistent state of everything the packet path consults. Immutable; published as a whole.
#[derive(Clone, Debug)]
pub struct Forwarding {
    underlay: Underlay,
    fib: Fib,
    peers: Vec<PeerHeaders>,
    /// Outer addresses of all peers, sorted.
    senders: Vec<(Ipv4Addr, PeerId)>,
    scope: Scope,
}

/// Who may send tunnel packets to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A peer.
    Peer(PeerId),
    /// A node that is no peer, allowed by the configuration.
    External,
}

/// The prebuilt headers towards one peer, IPv4 inside first, IPv6 inside second.
#[derive(Clone, Debug)]
pub struct PeerHeaders {
    /// The peer's underlay address.
    pub address: Ipv4Addr,
    /// Outer IPv4 headers of IP-in-IP.
    pub ipip: [[u8; ipip::OVERHEAD]; 2],
    /// VXLAN and inner Ethernet headers.
    pub vxlan: [[u8; vxlan::TEMPLATE]; 2],
    /// Everything in front of a VXLAN super-packet for the TAP.
    pub tap: Option<[[u8; tunnel_gso::TEMPLATE]; 2]>,
    /// Everything in front of an IP-in-IP super-packet for the TAP; IPv4 inside.
    pub tap_ipip: Option<[u8; ipip_gso::TEMPLATE]>,
    /// Frame header of the first hop, for packet sockets.
    pub frame: Option<[u8; frame::TEMPLATE]>,
}

impl Forwarding {
    /// Compiles the routes of `rib` under `policy`. `peers` is indexed by [`PeerId`].
    pub fn build(underlay: Underlay, peers: &[Peer], policy: &Policy, rib: &Rib) -> Self {
        let mut senders: Vec<_> =
            peers.iter().enumerate().map(|(i, peer)| (peer.address, PeerId(i as u16))).collect();
        senders.sort_unstable();
        Self {
            underlay,
            fib: Fib::build(next_hops(underlay, peers, policy, rib)),
            peers: peers.iter().map(|peer| PeerHeaders::new(underlay, peer)).collect(),
            senders,
            scope: Scope::default(),
        }
    }

    /// The same with exceptions from what may cross.
    #[must_use]
    pub fn with_scope(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// The exceptions from what may cross.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// This node's side of the underlay.
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The next hop for an inner address.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        self.fib.lookup(address)
    }

    /// The peer that sends from the underlay address `source`.
    #[inline]
    pub fn sender(&self, source: Ipv4Addr) -> Option<PeerId> {
        let index = self.senders.binary_search_by_key(&source, |(address, _)| *address).ok()?;
        Some(self.senders[index].1)
    }

    /// Who sends from the underlay address `source`; `None` when nobody who may.
    #[inline]
    pub fn origin(&self, source: Ipv4Addr) -> Option<Origin> {
        match self.sender(source) {
            Some(peer) => Some(Origin::Peer(peer)),
            None => self.scope.is_external(source.into()).then_some(Origin::External),
        }
    }

    /// Whether `address` is the underlay address of a node, ours or a peer's.
    pub fn is_node(&self, address: IpAddr) -> bool {
        let peer = |address| self.sender(address).is_some() || self.underlay.address == address;
        matches!(address, IpAddr::V4(address) if peer(address))
    }

    /// The prebuilt headers towards `peer`.
    #[inline]
    pub fn peer(&self, peer: PeerId) -> Option<&PeerHeaders> {
        self.peers.get(usize::from(peer.0))
    }
}

/// One next hop for every route, and for every pool inside a route: the longest match of an
/// address among them knows both the owner of the address and the pool it lies in.
fn next_hops<'a>(
    underlay: Underlay,
    peers: &'a [Peer],
    policy: &'a Policy,
    rib: &'a Rib,
) -> impl Iterator<Item = (Prefix, NextHop)> + 'a {
    let next_hop = move |prefix: Prefix, target: Target| match target {
        Target::Local => Some((prefix, NextHop::Local)),
        Target::Peer(peer) => {
            let address = peers.get(usize::from(peer.0))?.address;
            let mode = policy.decide(prefix, address.into()).mode;
            Some((prefix, NextHop::Peer(Via { peer, mode, mtu: underlay.path_mtu(mode) })))
        }
    };
    let pools = policy.pools().iter().filter_map(move |pool| {
        let route = rib.covering(pool.cidr)?;
        next_hop(pool.cidr, route.target)
    });
    // Pools first: of equal prefixes the later one counts, and a route is at least as precise.
    pools.chain(rib.best().filter_map(move |route| next_hop(route.prefix, route.target)))
}

impl PeerHeaders {
    fn new(underlay: Underlay, peer: &Peer) -> Self {
        let ipip = |number| ipip::template(underlay.address, peer.address, number);
        let vxlan = |ethertype| vxlan::template(underlay.vni, peer.vtep_mac, underlay.vtep_mac, ethertype);
        let vxlan = [vxlan(ethernet::IPV4), vxlan(ethernet::IPV6)];
        let port = underlay.vxlan_port;
        let tap = underlay.tap.map(|tap| {
            vxlan.map(|inner| tunnel_gso::template(tap.mac, underlay.address, peer.address, port, &inner))
        });
        Self {
            address: peer.address,
            ipip: [ipip(protocol::IPIP), ipip(protocol::IPV6)],
            vxlan,
            tap,
            tap_ipip: underlay
                .tap
                .filter(|tap| tap.ipip)
                .map(|tap| ipip_gso::template(tap.mac, peer.address)),
            frame: peer.hop.map(|hop| frame::template(hop, ethernet::IPV4)),
        }
    }
}

/// The smallest uplink MTU the tables are built for: 576 (RFC 791) keeps every overhead positive.
pub const MIN_MTU: u16 = 576;

impl Underlay {
    /// The inner MTU of a path of `mode`.
    pub fn path_mtu(&self, mode: Mode) -> u16 {
        self.mtu.max(MIN_MTU) - mode.overhead()
    }
}
