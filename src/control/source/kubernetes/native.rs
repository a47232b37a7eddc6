//! Nodes that say where they are and which pods they have, and nothing else: addresses and podCIDRs.

use std::net::{IpAddr, Ipv6Addr};

use super::facts::Facts;
use crate::control::source::discovered::{Discovered, Node};

/// What `facts` say to node `own`.
pub(super) fn discover(facts: &Facts, own: &str) -> Discovered {
    let mut found = Discovered::default();
    facts.own_node(own, &mut found);
    for (name, node) in facts.others(own) {
        let subnets = node.pod_cidrs(name, &mut found);
        let Some((address, address6)) = both(&node.addresses()) else {
            found.refuse("node", name, "it has no address of type InternalIP");
            continue;
        };
        // One without pods of its own is a peer all the same: it may send to the pods here.
        found.nodes.push(Node { name: name.to_owned(), address, address6, vtep_mac: None, subnets });
    }
    found
}

/// The first address of each family: IPv4 is the one of a peer, IPv6 the second.
pub(super) fn both(addresses: &[IpAddr]) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    let four = addresses.iter().find(|address| address.is_ipv4());
    let six = addresses.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    match (four, six) {
        (Some(four), six) => Some((*four, six)),
        (None, Some(six)) => Some((six.into(), None)),
        (None, None) => None,
    }
}
