//! What a cluster says of its nodes, whatever it runs on: the common ground of the sources that know more than routes.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::net::{Mac, Prefix, Vni};
use crate::route::Pool;

/// What a cluster says. Nodes come in the order of their age, because of two that claim the same the older one has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovered {
    /// What it says of this node.
    pub own: OwnNode,
    /// The pools, where the cluster has some.
    pub pools: Vec<Pool>,
    /// UDP port of VXLAN, where the cluster has one.
    pub vxlan_port: Option<u16>,
    /// The VXLAN network, where the cluster has one.
    pub vni: Option<Vni>,
    /// The other nodes.
    pub nodes: Vec<Node>,
    /// What of it cannot be used, and why.
    pub refused: Vec<Refused>,
}

/// What the cluster says of this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnNode {
    /// Whether the cluster knows it.
    pub is_known: bool,
    /// Its underlay addresses, at most one of each family that counts.
    pub addresses: Vec<IpAddr>,
    /// Its IPv4 address with the length that decides CrossSubnet, where the cluster has one.
    pub net: Option<Ipv4Net>,
    /// The same of IPv6.
    pub net6: Option<Ipv6Net>,
    /// Its pod subnets.
    pub subnets: Vec<Prefix>,
    /// The address on the TUN, where the cluster gives one.
    pub tunnel_address: Option<IpAddr>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name as a peer.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// Its IPv6 address, where `address` is IPv4.
    pub address6: Option<Ipv6Addr>,
    /// Its Ethernet address inside VXLAN packets; `None` is Calico's rule over the name.
    pub vtep_mac: Option<Mac>,
    /// Its pod subnets.
    pub subnets: Vec<Prefix>,
}

/// Something that a cluster says and that cannot be used.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Refused {
    /// The object, such as `node n7`.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Refused {
    /// Of `kind` and `name`, because of `reason`.
    pub fn new(kind: &str, name: &str, reason: impl Into<String>) -> Self {
        Self { object: format!("{kind} {}", shown(name)), reason: reason.into() }
    }
}

/// Foreign text as it may stand in a line of a log or a table.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 253;
    let clean = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c });
    clean.collect()
}

impl Discovered {
    /// Notes that the object of this kind and name cannot be used.
    pub fn refuse(&mut self, kind: &str, name: &str, reason: impl Into<String>) {
        self.refused.push(Refused::new(kind, name, reason));
    }
}
