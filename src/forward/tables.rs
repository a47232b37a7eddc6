//! What the workers read: the forwarding table, the peers' prebuilt headers and who may send.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::compile::{Compiler, Inputs};
use crate::encap::frame::{self, Hop};
use crate::encap::{ipip, ipip_gso, tunnel_gso, vxlan};
use crate::net::{Mac, Mode, NodeName, Vni};
use crate::route::{Fib, HopsFull, NextHop, PeerId, Policy, Rib, Via};
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

impl Peer {
    /// Makes this the empty place of a node that went: nothing comes from the unspecified address.
    pub fn retire(&mut self) {
        self.address = Ipv4Addr::UNSPECIFIED;
        self.hop = None;
    }

    /// Whether this is the empty place of a node that went.
    pub fn is_gone(&self) -> bool {
        self.address.is_unspecified()
    }
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
    pub(super) underlay: Underlay,
    pub(super) fib: Fib,
    /// Indexed by [`PeerId`].
    pub(super) peers: Arc<[PeerHeaders]>,
    /// Outer addresses of all peers, sorted.
    pub(super) senders: Arc<[(Ipv4Addr, PeerId)]>,
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
    ///
    /// # Errors
    /// When there are more different next hops than ids.
    pub fn build(underlay: Underlay, peers: &[Peer], policy: &Policy, rib: &Rib) -> Result<Self, HopsFull> {
        Compiler::default().compile(Inputs { underlay, peers, policy, rib })
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

    /// The way to an inner address for a flow with this hash; `None` when there is no route, or the
    /// address is one of this node's own.
    #[inline]
    pub fn way(&self, address: IpAddr, hash: u32) -> Option<Via> {
        match self.fib.lookup(address)? {
            NextHop::Peer(via) => Some(via),
            // Hash-threshold (RFC 2992): a flow keeps its way for as long as the group is the same.
            NextHop::Group(group) => {
                let members = self.fib.members(group);
                let place = u64::from(hash) * members.len() as u64 >> u32::BITS;
                members.get(place as usize).copied()
            }
            NextHop::Local => None,
        }
    }

    /// Whether an inner address belongs to `peer`, alone or with others.
    #[inline]
    pub fn owns(&self, peer: PeerId, address: IpAddr) -> bool {
        match self.fib.lookup(address) {
            Some(NextHop::Peer(via)) => via.peer == peer,
            Some(NextHop::Group(group)) => self.fib.members(group).iter().any(|via| via.peer == peer),
            Some(NextHop::Local) | None => false,
        }
    }

    /// The peer that sends from the underlay address `source`.
    #[inline]
    pub fn sender(&self, source: Ipv4Addr) -> Option<PeerId> {
        let index = self.senders.binary_search_by_key(&source, |(address, _)| *address).ok()?;
        Some(self.senders[index].1)
    }

    /// The prebuilt headers towards `peer`.
    #[inline]
    pub fn peer(&self, peer: PeerId) -> Option<&PeerHeaders> {
        self.peers.get(usize::from(peer.0))
    }
}

impl PeerHeaders {
    pub(super) fn new(underlay: Underlay, peer: &Peer) -> Self {
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
