//! What the control plane says of the other nodes and of this node's side of the underlay: what the
//! tables are compiled from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::way::Way;
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::observe::PeerCounters;
use crate::dataplane::packet::Family;
use crate::net::{Mac, Mode, NodeName, Prefix, Vni};
use crate::route::{EncapPolicy, Rib};

/// Everything the tables are made of.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// This node's side of the underlay.
    pub underlay: Underlay,
    /// The other nodes, indexed by [`PeerId`](crate::route::PeerId).
    pub peers: &'a [Peer],
    /// Which mode for which destination.
    pub policy: &'a EncapPolicy,
    /// Who owns which destination.
    pub rib: &'a Rib,
}

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
    /// Further underlay addresses that it sends from.
    pub also_from: Arc<[IpAddr]>,
    /// Inner sources that it may use beside its subnets and underlay addresses, where they have no owner.
    pub sends_for: Arc<[Prefix]>,
    /// Bytes of the largest packet that the kernel's ways to `address` and to `second` carry, where there
    /// are such ways.
    pub link_mtus: [Option<u16>; 2],
    /// Bytes of the largest outer packet that reaches it, where a router said that this is less than
    /// what the first link carries.
    pub path_mtu: Option<u16>,
    /// Whether a report about a packet to it came in of late, true or not, that the kernel may believe.
    pub rumoured: bool,
    /// Whether an IPsec policy is about packets to `address`: they leave by sockets that pass it.
    pub policed: bool,
    /// How super-packets leave towards `address`; through sockets while nothing is decided.
    pub way: Option<Arc<Way>>,
    /// What is exchanged with it.
    pub counters: PeerCounters,
}

impl Peer {
    /// Next hop and first hop of bare packets of this family: its address of their own family, or else
    /// the one it has.
    pub fn next_hop(&self, family: Family) -> (IpAddr, Option<Hop>) {
        let second = self.second.filter(|(address, _)| Family::of(*address) == family);
        second.filter(|_| Family::of(self.address) != family).unwrap_or((self.address, self.hop))
    }

    /// All underlay addresses that it sends from.
    pub fn senders(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses().chain(self.also_from.iter().copied())
    }

    /// Its addresses that outer headers and bare packets are for, that of outer headers first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.address), self.second.map(|(address, _)| address)].into_iter().flatten()
    }

    /// Sets the first hops towards its addresses.
    pub fn set_hops(&mut self, of: impl Fn(IpAddr) -> Option<Hop>) {
        (self.hop, self.second) = self.hops(of);
    }

    /// Whether its first hops are others than `of` says.
    pub fn hops_differ(&self, of: impl Fn(IpAddr) -> Option<Hop>) -> bool {
        (self.hop, self.second) != self.hops(of)
    }

    /// What `of` says of its addresses.
    fn hops(&self, of: impl Fn(IpAddr) -> Option<Hop>) -> (Option<Hop>, Option<(IpAddr, Option<Hop>)>) {
        (of(self.address), self.second.map(|(address, _)| (address, of(address))))
    }

    /// Takes over what was counted for the same node before, and what was learned about its addresses
    /// where it kept them.
    pub fn take_over(&mut self, before: &Self) {
        self.counters = before.counters.clone();
        if self.addresses().eq(before.addresses()) {
            (self.hop, self.second, self.path_mtu) = (before.hop, before.second, before.path_mtu);
            (self.link_mtus, self.rumoured, self.policed) =
                (before.link_mtus, before.rumoured, before.policed);
            self.way.clone_from(&before.way);
        }
    }

    /// Clears the slot of a removed node. Its address becomes the unspecified one, so that no received packet
    /// matches it.
    pub fn retire(&mut self) {
        self.address = Ipv4Addr::UNSPECIFIED.into();
        (self.hop, self.second, self.path_mtu, self.way) = (None, None, None, None);
        (self.also_from, self.sends_for) = (Arc::default(), Arc::default());
        (self.link_mtus, self.rumoured, self.policed) = ([None; 2], false, false);
    }

    /// Whether this is the slot of a removed node.
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
    /// Bytes of the largest IP packet on the uplink: towards peers to whom there is no way yet.
    pub mtu: u16,
    /// How outer TOS bytes are made.
    pub marking: Marking,
    /// Index of the uplink, the interface that has our address.
    pub uplink: u32,
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
    /// Whether ICMP errors over IPv4 come in the name of whom the packet was for, as those of the kernel's own
    /// tunnels in bridges do: the host drops what has an address of its own as the source.
    pub answers_as_target: bool,
    /// Whether the kernel leads everything that local pods send and are sent here to be judged (`[policy] scope`), so
    /// that what is not for another node goes back.
    pub hairpin: bool,
}

/// The TAP, as far as frames for it go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TapLink {
    /// Its link address.
    pub mac: Mac,
    /// Whether it pushes outer headers, so that IP-in-IP super-packets may be written to it.
    pub ipip: bool,
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

    pub(super) fn source(&self) -> Ipv4Addr {
        self.address.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    pub(super) fn source6(&self) -> Ipv6Addr {
        self.address6.unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// The inner MTU of a path of `mode` to the node at `outer` that carries as much as the uplink.
    pub fn path_mtu(&self, mode: Mode, outer: IpAddr) -> u16 {
        self.mtu.max(MIN_MTU) - mode.overhead(outer)
    }

    /// Bytes of the largest outer packet that the first link towards `peer` carries.
    pub fn link_mtu(&self, peer: &Peer) -> u16 {
        peer.link_mtus[0].unwrap_or(self.mtu)
    }

    /// The inner MTU of the path to `peer` by `mode`. Without encapsulation routers talk to the pods
    /// themselves, and only they know what they were told.
    pub fn mtu_to(&self, peer: &Peer, mode: Mode) -> u16 {
        let limit = match mode {
            // A bare packet goes to the address of its own family.
            Mode::Direct => peer.link_mtus[1],
            Mode::Ipip | Mode::Vxlan => peer.path_mtu,
        };
        let mtu = self.link_mtu(peer).min(limit.unwrap_or(u16::MAX));
        Self { mtu, ..*self }.path_mtu(mode, peer.address)
    }
}
