//! The other nodes of a configuration.

use std::net::{IpAddr, Ipv6Addr};

use super::Node;
use crate::net::{HostName, Mac, NodeName, Prefix};
use crate::route::Source;

/// `[[peer]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// `name`.
    pub name: NodeName,
    /// `address`: the peer's underlay address, of either family.
    pub address: IpAddr,
    /// `address6`: a second underlay address, where `address` is IPv4.
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

/// `[[peer]]` whose `address` is a host name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedPeer {
    /// `name`.
    pub name: NodeName,
    /// `address`: what a resolver is asked for.
    pub host: HostName,
    /// `address6`: goes before an IPv6 address that the resolver knows.
    pub address6: Option<Ipv6Addr>,
    /// `port`, as of [`Peer`].
    pub port: Option<u16>,
    /// `subnets`, as of [`Peer`].
    pub subnets: Vec<Prefix>,
    /// `sends_for`, as of [`Peer`].
    pub sends_for: Vec<Prefix>,
    /// `also_from`, as of [`Peer`].
    pub also_from: Vec<IpAddr>,
    /// `vtep_mac`, as of [`Peer`].
    pub vtep_mac: Mac,
}

impl NamedPeer {
    /// The peer at these addresses, the second of which is IPv6 where the first is IPv4.
    pub fn at(&self, address: IpAddr, address6: Option<Ipv6Addr>) -> Peer {
        Peer {
            name: self.name.clone(),
            address,
            address6,
            port: self.port,
            subnets: self.subnets.clone(),
            sends_for: self.sends_for.clone(),
            also_from: self.also_from.clone(),
            vtep_mac: self.vtep_mac,
            source: Source::Static,
        }
    }
}
