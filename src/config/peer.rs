//! The other nodes of a configuration.

use std::net::{IpAddr, Ipv6Addr};

use super::Node;
use crate::net::{HostName, Mac, NodeName, Prefix};
use crate::route::Source;

/// `[[peer]]`; what its `address` is makes the difference between a peer and a [`NamedPeer`].
#[derive(Clone, Debug, PartialEq)]
pub struct Peer<A = IpAddr> {
    /// `name`.
    pub name: NodeName,
    /// `address`: the peer's underlay address, of either family.
    pub address: A,
    /// `address6`: a second underlay address, where `address` is IPv4. Beside a host name it goes before an IPv6
    /// address that the resolver knows.
    pub address6: Option<Ipv6Addr>,
    /// `port`: UDP port of VXLAN at the peer; `None`: the same as here.
    pub port: Option<u16>,
    /// `subnets`: the peer's pod subnets.
    pub subnets: Vec<Prefix>,
    /// `sends_for`: prefixes that the peer may send from beside its subnets and addresses.
    pub sends_for: Vec<Prefix>,
    /// `also_from`: further underlay addresses that the peer sends from.
    pub also_from: Vec<IpAddr>,
    /// `vtep_mac`; by default Calico's rule over the name.
    pub vtep_mac: Mac,
    /// Who says so.
    pub source: Source,
}

impl Peer {
    /// The underlay addresses by which `node` and this peer reach each other. The first is the one for
    /// outer headers: IPv4 where both have it. A checked configuration has at least one.
    pub fn addresses(&self, node: &Node) -> impl Iterator<Item = IpAddr> {
        let second = self.address6.map(IpAddr::V6);
        let (has4, has6) = (node.address.is_some(), node.address6.is_some());
        let usable = move |address: &IpAddr| if address.is_ipv4() { has4 } else { has6 };
        [Some(self.address), second].into_iter().flatten().filter(usable)
    }

    /// All underlay addresses that it may send to `node` from.
    pub fn senders(&self, node: &Node) -> impl Iterator<Item = IpAddr> {
        self.addresses(node).chain(self.also_from.iter().copied())
    }
}

/// `[[peer]]` whose `address` is a host name, which a resolver is asked for.
pub type NamedPeer = Peer<HostName>;

impl<A> Peer<A> {
    /// The same peer at `address`.
    pub fn with<B>(self, address: B) -> Peer<B> {
        let Self { name, address: _, address6, port, subnets, sends_for, also_from, vtep_mac, source } = self;
        Peer { name, address, address6, port, subnets, sends_for, also_from, vtep_mac, source }
    }
}

impl NamedPeer {
    /// The peer at these addresses, the second of which is IPv6 where the first is IPv4.
    pub fn at(&self, address: IpAddr, address6: Option<Ipv6Addr>) -> Peer {
        Peer { address6, ..self.clone().with(address) }
    }
}
