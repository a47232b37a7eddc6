//! What the workers read: the forwarding table, the peers' prebuilt headers and who may send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::inputs::{Peer, Underlay};
use super::scope::{self, Scope};
use crate::dataplane::encap::{direct, frame, ipip, ipip_gso, ipip6, tunnel_gso, vxlan};
use crate::dataplane::observe::PeerCounters;
use crate::dataplane::packet::{Family, PerFamily};
use crate::dataplane::policy::{ActivePolicy, Origin};
use crate::dataplane::segment::Flow;
use crate::dataplane::segment::flow::among;
use crate::net::{DropReason, Mode, Prefix};
use crate::route::{Fib, NextHop, PeerId, Via};
use crate::wire::protocol;

/// One consistent state of everything the packet path consults. Immutable; published as a whole.
#[derive(Clone, Debug)]
pub struct Forwarding {
    pub(super) underlay: Underlay,
    pub(super) fib: Fib,
    /// Indexed by [`PeerId`].
    pub(super) peers: Arc<[PeerHeaders]>,
    /// Who may send, and the exceptions from what may cross.
    pub(super) senders: Senders,
    /// All addresses of this host, sorted: nothing from the underlay has one as its inner source.
    pub(super) host: Arc<[IpAddr]>,
    /// Addresses of this host and of the other nodes inside routes to peers, sorted; they are no pods. Mostly
    /// there are none.
    pub(super) exempt: Arc<[IpAddr]>,
    /// The pools, sorted, none inside another; only known where packets may go back to the device.
    pub(super) pools: Arc<[Prefix]>,
    /// The policy that is enforced, if there is one.
    pub(super) network_policy: Option<Arc<ActivePolicy>>,
}

/// Who may send tunnel packets to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OuterSource {
    /// A peer.
    Peer(PeerId),
    /// A node that is no peer, allowed by the configuration.
    External,
}

/// All who may send tunnel packets to us: those for whom [`Forwarding::outer_source`] has an answer.
#[derive(Clone, Debug, Default)]
pub struct Senders {
    /// Outer IPv4 addresses of all peers, sorted.
    pub(super) v4: Arc<[(Ipv4Addr, PeerId)]>,
    /// Outer IPv6 addresses of all peers, sorted.
    pub(super) v6: Arc<[(Ipv6Addr, PeerId)]>,
    /// Who else, among the exceptions from what may cross.
    pub(super) scope: Arc<Scope>,
}

impl Senders {
    /// Whether both are of one making.
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.v4, &other.v4)
            && Arc::ptr_eq(&self.v6, &other.v6)
            && Arc::ptr_eq(&self.scope, &other.scope)
    }

    /// The first and the last address of each range of them.
    pub fn ranges(&self) -> Vec<(IpAddr, IpAddr)> {
        let peers = self.peers().map(|address| (address, address));
        let external = self.scope.external_nodes.iter().map(|prefix| (prefix.address(), prefix.last()));
        peers.chain(external).collect()
    }

    /// The addresses of all peers.
    pub(super) fn peers(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|(address, _)| IpAddr::V4(*address));
        v4.chain(self.v6.iter().map(|(address, _)| IpAddr::V6(*address)))
    }

    /// The peer that sends from `source`.
    #[inline]
    fn peer(&self, source: IpAddr) -> Option<PeerId> {
        match source {
            IpAddr::V4(source) => {
                let index = self.v4.binary_search_by_key(&source, |(address, _)| *address).ok()?;
                Some(self.v4[index].1)
            }
            IpAddr::V6(source) => {
                let index = self.v6.binary_search_by_key(&source, |(address, _)| *address).ok()?;
                Some(self.v6[index].1)
            }
        }
    }
}

/// The prebuilt headers towards one peer, by the family of the inner packet.
#[derive(Clone, Debug)]
pub struct PeerHeaders {
    /// What is exchanged with the peer.
    pub counters: PeerCounters,
    /// The peer's underlay address.
    pub address: IpAddr,
    /// UDP port of VXLAN there.
    pub port: u16,
    /// Inner sources that it may use beside its subnets and addresses, where they have no owner.
    pub sends_for: Arc<[Prefix]>,
    /// Outer headers of IP-in-IP.
    pub ipip: OuterIp,
    /// VXLAN and inner Ethernet headers.
    pub vxlan: PerFamily<[u8; vxlan::TEMPLATE]>,
    /// Whether the interface that leads there segments VXLAN itself.
    pub segmented: bool,
    /// Everything in front of a VXLAN super-packet for the TAP.
    pub tap: Option<PerFamily<[u8; tunnel_gso::TEMPLATE]>>,
    /// Everything in front of an IP-in-IP super-packet for the TAP; IPv4 inside.
    pub tap_ipip: Option<[u8; ipip_gso::TEMPLATE]>,
    /// Frame header of the first hop towards `address`, for packet sockets.
    pub frame: Option<[u8; frame::TEMPLATE]>,
    /// How bare packets get there.
    pub bare: PerFamily<Bare>,
}

/// Outer IP headers of IP-in-IP in the family of the underlay.
#[derive(Clone, Debug)]
pub enum OuterIp {
    /// Over IPv4.
    V4(PerFamily<[u8; ipip::OVERHEAD]>),
    /// Over IPv6.
    V6(PerFamily<[u8; ipip6::OVERHEAD]>),
}

impl OuterIp {
    /// The header in front of inner packets of this family.
    #[inline]
    pub fn header(&self, inner: Family) -> &[u8] {
        match self {
            Self::V4(headers) => &headers[inner],
            Self::V6(headers) => &headers[inner],
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
    /// The same with exceptions from what may cross.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.senders.scope = Arc::new(scope);
        self
    }

    /// The same on a host with these addresses.
    #[cfg(test)]
    #[must_use]
    pub fn with_host(mut self, host: &[IpAddr]) -> Self {
        self.host = sorted(host.to_vec());
        self.find_exempt(&self.hosts());
        self
    }

    /// Judges what an inner packet carries: see `scope::judge`.
    ///
    /// # Errors
    /// `Nested` where it is itself one of a tunnel, `Malformed` where its headers do not say.
    #[inline]
    pub fn judge_content(&self, flow: &Flow, packet: &[u8]) -> Result<(), DropReason> {
        scope::judge(flow, packet, self.underlay.vxlan_port, self.senders.scope.allow_nested)
    }

    /// The same with a policy to enforce.
    #[must_use]
    pub fn with_policy(mut self, policy: Option<Arc<ActivePolicy>>) -> Self {
        self.network_policy = policy;
        self
    }

    /// The policy that is enforced, if there is one.
    #[inline]
    pub fn policy(&self) -> Option<&ActivePolicy> {
        self.network_policy.as_deref()
    }

    /// The name of the policy that a rule is of.
    pub(super) fn policy_of(&self, by: Option<Origin>) -> Option<&Arc<str>> {
        self.policy()?.rules.policy(by?).map(|policy| &policy.name)
    }

    /// Whether an inner address is one of this host's own.
    pub(super) fn is_of_host(&self, address: IpAddr) -> bool {
        self.host.binary_search(&address).is_ok()
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
                members.get(among(hash, members.len())).copied()
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
        self.senders.peer(source)
    }

    /// Who sends from the underlay address `source`; `None` where that is not allowed.
    #[inline]
    pub fn outer_source(&self, source: IpAddr) -> Option<OuterSource> {
        match self.sender(source) {
            Some(peer) => Some(OuterSource::Peer(peer)),
            None => self.senders.scope.is_external(source).then_some(OuterSource::External),
        }
    }

    /// Whether a pool contains an address.
    pub(super) fn is_in_pool(&self, address: IpAddr) -> bool {
        let behind = self.pools.partition_point(|pool| pool.address() <= address);
        self.pools[..behind].last().is_some_and(|pool| pool.contains(address))
    }

    /// All who may send, to be kept beside the table.
    pub fn senders(&self) -> Senders {
        self.senders.clone()
    }

    /// The prebuilt headers towards `peer`.
    #[inline]
    pub fn peer(&self, peer: PeerId) -> Option<&PeerHeaders> {
        self.peers.get(usize::from(peer.0))
    }
}

impl PeerHeaders {
    pub(super) fn new(underlay: Underlay, peer: &Peer) -> Self {
        let vxlan = PerFamily::from_fn(|inner| {
            vxlan::template(underlay.vni, peer.vtep_mac, underlay.vtep_mac, inner.ethertype())
        });
        let v4 = match peer.address {
            IpAddr::V4(address) => Some((underlay.source(), address)),
            IpAddr::V6(_) => None,
        };
        // The kernel forwards what is written to the TAP by its own path MTU, which it learns without our
        // checks (RFC 1191): a forged report could lower it until nothing is forwarded.
        let link = underlay.tap.filter(|_| peer.path_mtu.is_none() && !peer.rumoured && !peer.policed);
        let whole =
            |mode| peer.way.as_ref().and_then(|way| way.choice(mode)).is_some_and(|choice| choice.tap);
        let tap = link.filter(|_| whole(Mode::Vxlan)).zip(v4).map(|(tap, (source, destination))| {
            vxlan.map(|inner| tunnel_gso::template(tap.mac, source, destination, peer.port, &inner))
        });
        let tap_ipip = link.filter(|tap| tap.ipip && whole(Mode::Ipip)).zip(v4);
        Self {
            counters: peer.counters.clone(),
            address: peer.address,
            port: peer.port,
            sends_for: Arc::clone(&peer.sends_for),
            segmented: whole(Mode::Vxlan),
            ipip: outer_ip(&underlay, peer.address),
            vxlan,
            tap,
            tap_ipip: tap_ipip.map(|(tap, (_, destination))| ipip_gso::template(tap.mac, destination)),
            // A packet socket passes no IPsec policy.
            frame: peer
                .hop
                .filter(|_| !peer.policed)
                .map(|hop| frame::template(hop, Family::of(peer.address).ethertype())),
            bare: PerFamily::from_fn(|family| Bare::new(peer, family)),
        }
    }
}

/// Where the control plane pairs a peer with a family this node lacks, outer sources are
/// unspecified and the kernel refuses the packets.
fn outer_ip(underlay: &Underlay, destination: IpAddr) -> OuterIp {
    let numbers = PerFamily::from_fn(|inner| match inner {
        Family::V4 => protocol::IPIP,
        Family::V6 => protocol::IPV6,
    });
    match destination {
        IpAddr::V4(to) => OuterIp::V4(numbers.map(|number| ipip::template(underlay.source(), to, number))),
        IpAddr::V6(to) => OuterIp::V6(numbers.map(|number| ipip6::template(underlay.source6(), to, number))),
    }
}

impl Bare {
    fn new(peer: &Peer, family: Family) -> Self {
        let (to, hop) = peer.next_hop(family);
        let frame = hop.map(|hop| frame::template(hop, family.ethertype()));
        Self { to, frame, raw: direct::by_raw_socket(Family::of(to), family) }
    }
}

/// The same addresses in order, each once.
pub(super) fn sorted(mut addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}
