//! What the workers read: the forwarding table, the peers' prebuilt headers and who may send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::compile::{Compiler, Inputs};
use super::scope::{Scope, is_tunnel};
use super::way::Way;
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::encap::frame::{self, Hop};
use crate::dataplane::encap::{direct, ipip, ipip_gso, ipip6, tunnel_gso, vxlan};
use crate::dataplane::observe::PeerCounters;
use crate::dataplane::segment::Flow;
use crate::net::{DropReason, Mac, Mode, NodeName, Vni};
use crate::route::{EncapPolicy, Fib, HopsFull, NextHop, PeerId, Rib, Via};
use crate::wire::{ethernet, protocol};

/// Another node, as the control plane knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Its underlay address: the destination of outer headers, whatever is inside.
    pub address: IpAddr,
    /// UDP port of VXLAN there.
    pub port: u16,
    /// Destination of inner Ethernet headers towards it.
    pub vtep_mac: Mac,
    /// Link addresses of the first hop towards it, where the neighbour table knows them: without,
    /// packet sockets cannot reach it.
    pub hop: Option<Hop>,
    /// Its address of the other family and the first hop towards that, where both ends have one:
    /// another sender, and the next hop of bare packets of that family.
    pub second: Option<(IpAddr, Option<Hop>)>,
    /// Bytes of the largest outer packet that reaches it, where a router said that this is less than
    /// what the uplink carries.
    pub path_mtu: Option<u16>,
    /// How super-packets leave towards `address`; through sockets while nothing is decided.
    pub way: Option<Arc<Way>>,
    /// What is exchanged with it.
    pub counters: PeerCounters,
}

impl Peer {
    /// Next hop and first hop of bare packets, IPv4 or not: its address of their own family, or else
    /// the one it has.
    pub fn next_hop(&self, is_ipv4: bool) -> (IpAddr, Option<Hop>) {
        let second = self.second.filter(|(address, _)| address.is_ipv4() == is_ipv4);
        second.filter(|_| self.address.is_ipv4() != is_ipv4).unwrap_or((self.address, self.hop))
    }

    /// Its addresses, that of outer headers first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.address), self.second.map(|(address, _)| address)].into_iter().flatten()
    }

    /// Its address of one family.
    pub fn address_in(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses().find(|address| address.is_ipv4() == is_ipv4)
    }

    /// Sets the first hops towards its addresses. Returns whether one is another than before.
    pub fn set_hops(&mut self, of: impl Fn(IpAddr) -> Option<Hop>) -> bool {
        let (hop, second) = (of(self.address), self.second.map(|(address, _)| (address, of(address))));
        let changed = (self.hop, self.second) != (hop, second);
        (self.hop, self.second) = (hop, second);
        changed
    }

    /// Takes over what was counted for the same node before, and what was learned about its addresses
    /// where it kept them.
    pub fn take_over(&mut self, before: &Self) {
        self.counters = before.counters.clone();
        if self.addresses().eq(before.addresses()) {
            (self.hop, self.second, self.path_mtu) = (before.hop, before.second, before.path_mtu);
            self.way.clone_from(&before.way);
        }
    }

    /// Makes this the empty place of a node that went: nothing comes from the unspecified address.
    pub fn retire(&mut self) {
        self.address = Ipv4Addr::UNSPECIFIED.into();
        (self.hop, self.second, self.path_mtu, self.way) = (None, None, None, None);
    }

    /// Whether this is the empty place of a node that went.
    pub fn is_gone(&self) -> bool {
        self.address.is_unspecified()
    }
}

/// This node's side of the underlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Underlay {
    /// Source of outer IPv4 headers.
    pub address: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers.
    pub address6: Option<Ipv6Addr>,
    /// Source of inner Ethernet headers.
    pub vtep_mac: Mac,
    /// The VXLAN network.
    pub vni: Vni,
    /// UDP port of VXLAN here.
    pub vxlan_port: u16,
    /// Bytes of the largest IP packet on the uplink.
    pub mtu: u16,
    /// How outer TOS bytes are made.
    pub marking: Marking,
    /// Index of the uplink, where our address has moved to another one than it was on at the start.
    pub moved_to: Option<u32>,
    /// The TUN.
    pub tun: TunLink,
    /// The TAP that takes super-packets, while it works.
    pub tap: Option<TapLink>,
}

/// The TUN, as far as the packet path needs to know it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TunLink {
    /// Bytes of the largest plain packet: anything longer is a super-packet.
    pub mtu: u16,
    /// Source of ICMP errors; without it there are none.
    pub address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address6: Option<Ipv6Addr>,
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
    /// Outer IPv4 addresses of all peers, sorted.
    pub(super) senders: Arc<[(Ipv4Addr, PeerId)]>,
    /// Outer IPv6 addresses of all peers, sorted.
    pub(super) senders6: Arc<[(Ipv6Addr, PeerId)]>,
    /// The exceptions from what may cross.
    pub(super) scope: Arc<Scope>,
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
    /// What is exchanged with the peer.
    pub counters: PeerCounters,
    /// The peer's underlay address.
    pub address: IpAddr,
    /// UDP port of VXLAN there.
    pub port: u16,
    /// Its address of the same family as the inner packet, which must not go into the tunnel.
    pub own: [Option<IpAddr>; 2],
    /// Outer headers of IP-in-IP.
    pub ipip: OuterIp,
    /// VXLAN and inner Ethernet headers.
    pub vxlan: [[u8; vxlan::TEMPLATE]; 2],
    /// Everything in front of a VXLAN super-packet for the TAP.
    pub tap: Option<[[u8; tunnel_gso::TEMPLATE]; 2]>,
    /// Everything in front of an IP-in-IP super-packet for the TAP; IPv4 inside.
    pub tap_ipip: Option<[u8; ipip_gso::TEMPLATE]>,
    /// Frame header of the first hop towards `address`, for packet sockets.
    pub frame: Option<[u8; frame::TEMPLATE]>,
    /// How bare packets get there.
    pub bare: [Bare; 2],
}

/// Outer IP headers of IP-in-IP in the family of the underlay.
#[derive(Clone, Debug)]
pub enum OuterIp {
    /// Over IPv4.
    V4([[u8; ipip::OVERHEAD]; 2]),
    /// Over IPv6.
    V6([[u8; ipip6::OVERHEAD]; 2]),
}

impl OuterIp {
    /// The header in front of IPv4 (0) or IPv6 (1).
    #[inline]
    pub fn header(&self, version: usize) -> &[u8] {
        match self {
            Self::V4(headers) => &headers[version],
            Self::V6(headers) => &headers[version],
        }
    }
}

/// The way of bare packets of one family to a peer.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    /// The next hop.
    pub to: IpAddr,
    /// Frame header of the first hop.
    pub frame: Option<[u8; frame::TEMPLATE]>,
    /// Whether the raw socket can send them.
    raw: bool,
}

impl Bare {
    /// Whether there is a way, given whether the packet socket is one.
    ///
    /// # Errors
    /// The reason to drop the packet when not: `Unsupported` where there can be none,
    /// `UnderlayDown` where the first hop is not resolved.
    #[inline]
    pub fn usable(&self, packet: bool) -> Result<(), DropReason> {
        match self.frame {
            Some(_) if packet => Ok(()),
            _ if self.raw => Ok(()),
            None if packet => Err(DropReason::UnderlayDown),
            _ => Err(DropReason::Unsupported),
        }
    }
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

    /// The same with exceptions from what may cross.
    #[must_use]
    pub fn with_scope(self, scope: Scope) -> Self {
        Self { scope: Arc::new(scope), ..self }
    }

    /// Whether an inner packet is itself one of a tunnel and so must not enter or leave ours.
    #[inline]
    pub fn is_nested(&self, flow: &Flow, packet: &[u8]) -> bool {
        !self.scope.allow_nested && is_tunnel(flow, packet, self.underlay.vxlan_port)
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

    /// The way of a flow with this hash to a next hop; `None` when that is this node.
    #[inline]
    pub fn choose(&self, hop: NextHop, hash: u32) -> Option<Via> {
        match hop {
            NextHop::Peer(via) => Some(via),
            // Hash-threshold (RFC 2992): a flow keeps its way for as long as the group is the same.
            NextHop::Group(group) => {
                let members = self.fib.members(group);
                let place = (u64::from(hash) * members.len() as u64) >> u32::BITS;
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
    pub fn sender(&self, source: IpAddr) -> Option<PeerId> {
        match source {
            IpAddr::V4(source) => {
                let index = self.senders.binary_search_by_key(&source, |(address, _)| *address).ok()?;
                Some(self.senders[index].1)
            }
            IpAddr::V6(source) => {
                let index = self.senders6.binary_search_by_key(&source, |(address, _)| *address).ok()?;
                Some(self.senders6[index].1)
            }
        }
    }

    /// Who sends from the underlay address `source`; `None` when nobody who may.
    #[inline]
    pub fn origin(&self, source: IpAddr) -> Option<Origin> {
        match self.sender(source) {
            Some(peer) => Some(Origin::Peer(peer)),
            None => self.scope.is_external(source).then_some(Origin::External),
        }
    }

    /// Whether `address` is the underlay address of a node, ours or a peer's.
    pub fn is_node(&self, address: IpAddr) -> bool {
        let own = match address {
            IpAddr::V4(address) => self.underlay.address == Some(address),
            IpAddr::V6(address) => self.underlay.address6 == Some(address),
        };
        own || self.sender(address).is_some()
    }

    /// The prebuilt headers towards `peer`.
    #[inline]
    pub fn peer(&self, peer: PeerId) -> Option<&PeerHeaders> {
        self.peers.get(usize::from(peer.0))
    }
}

impl PeerHeaders {
    pub(super) fn new(underlay: Underlay, peer: &Peer) -> Self {
        let vxlan = |ethertype| vxlan::template(underlay.vni, peer.vtep_mac, underlay.vtep_mac, ethertype);
        let vxlan = [vxlan(ethernet::IPV4), vxlan(ethernet::IPV6)];
        let v4 = match peer.address {
            IpAddr::V4(address) => Some((underlay.source(), address)),
            IpAddr::V6(_) => None,
        };
        // The kernel forwards what is written to the TAP, by its own and more credulous idea of the path
        // (RFC 1191 without the checks of ours): a forged report could keep it from forwarding at all.
        let link = underlay.tap.filter(|_| peer.path_mtu.is_none());
        let whole =
            |mode| peer.way.as_ref().and_then(|way| way.choice(mode)).is_some_and(|choice| choice.tap);
        let tap = link.filter(|_| whole(Mode::Vxlan)).zip(v4).map(|(tap, (source, destination))| {
            vxlan.map(|inner| tunnel_gso::template(tap.mac, source, destination, peer.port, &inner))
        });
        let tap_ipip = link.filter(|tap| tap.ipip && whole(Mode::Ipip)).zip(v4);
        let ethertype = if v4.is_some() { ethernet::IPV4 } else { ethernet::IPV6 };
        Self {
            counters: peer.counters.clone(),
            address: peer.address,
            port: peer.port,
            own: [true, false].map(|is_ipv4| peer.address_in(is_ipv4)),
            ipip: outer_ip(&underlay, peer.address),
            vxlan,
            tap,
            tap_ipip: tap_ipip.map(|(tap, (_, destination))| ipip_gso::template(tap.mac, destination)),
            frame: peer.hop.map(|hop| frame::template(hop, ethertype)),
            bare: [true, false].map(|is_ipv4| Bare::new(peer, is_ipv4)),
        }
    }
}

/// Where the control plane pairs a peer with a family this node lacks, outer sources are
/// unspecified and the kernel refuses the packets.
fn outer_ip(underlay: &Underlay, destination: IpAddr) -> OuterIp {
    let numbers = [protocol::IPIP, protocol::IPV6];
    match destination {
        IpAddr::V4(to) => OuterIp::V4(numbers.map(|number| ipip::template(underlay.source(), to, number))),
        IpAddr::V6(to) => OuterIp::V6(numbers.map(|number| ipip6::template(underlay.source6(), to, number))),
    }
}

impl Bare {
    fn new(peer: &Peer, is_ipv4: bool) -> Self {
        let (to, hop) = peer.next_hop(is_ipv4);
        let ethertype = if is_ipv4 { ethernet::IPV4 } else { ethernet::IPV6 };
        let frame = hop.map(|hop| frame::template(hop, ethertype));
        Self { to, frame, raw: direct::by_raw_socket(to, is_ipv4) }
    }
}

/// The smallest uplink MTU the tables are built for: 576 (RFC 791) keeps every overhead positive.
pub const MIN_MTU: u16 = 576;

impl Underlay {
    /// This node's address in the family of `other`; the unspecified one where it has none.
    pub fn facing(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.source().into(),
            IpAddr::V6(_) => self.source6().into(),
        }
    }

    fn source(&self) -> Ipv4Addr {
        self.address.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn source6(&self) -> Ipv6Addr {
        self.address6.unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// The inner MTU of a path of `mode` to the node at `outer` that carries as much as the uplink.
    pub fn path_mtu(&self, mode: Mode, outer: IpAddr) -> u16 {
        self.mtu.max(MIN_MTU) - mode.overhead(outer)
    }

    /// The inner MTU of the path to `peer` by `mode`. Without encapsulation routers talk to the pods
    /// themselves, and only they know what they were told.
    pub fn mtu_to(&self, peer: &Peer, mode: Mode) -> u16 {
        let told = peer.path_mtu.filter(|_| mode != Mode::Direct);
        Self { mtu: self.mtu.min(told.unwrap_or(u16::MAX)), ..*self }.path_mtu(mode, peer.address)
    }
}
