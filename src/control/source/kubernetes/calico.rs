//! Calico's objects: IP pools with their modes, the blocks of each node, and Calico's annotations at nodes. Read only.
//!
//! Calico's VXLAN has a device for each family, each with an Ethernet address of its own, and IPv6 pods are reached
//! over IPv6: so a node of both families is two peers, as in flannel's style.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::facts::{Facts, NodeFacts, PoolFacts};
use super::native::both;
use crate::control::source::discovered::{Discovered, Node};
use crate::net::{EncapMode, Prefix};
use crate::route::Pool;

/// The prefix of Calico's annotations.
pub(super) const PREFIX: &str = "projectcalico.org/";
/// The state of an affinity that is whole; an empty one is of an old Calico.
const CONFIRMED: [&str; 2] = ["confirmed", ""];

/// What `facts` say to node `own`.
pub(super) fn discover(facts: &Facts, own: &str) -> Discovered {
    let mut found = Discovered::default();
    pools(facts, &mut found);
    let mut blocks = blocks(facts, &mut found);
    own_node(facts, own, blocks.remove(own), &mut found);
    for (name, node) in facts.others(own) {
        let subnets = match blocks.remove(name) {
            Some(subnets) => subnets,
            // Nobody has blocks: the addresses are given out of pod CIDRs (`usePodCidr`).
            None if facts.affinities.is_empty() => node.pod_cidrs(name, &mut found),
            None => Vec::new(),
        };
        let Some((address, address6)) = both(&addresses(node)) else {
            found.refuse("node", name, "it has neither Calico's address annotations nor an InternalIP");
            continue;
        };
        let mut vtep = |key: &str| {
            annotation(node, key).map(super::unicast_mac).transpose().unwrap_or_else(|reason| {
                let reason = format!("{PREFIX}{key}: {reason}; the address by Calico's rule is used");
                found.refuse("node", name, reason);
                None
            })
        };
        let (mac, mac6) = (vtep("VXLANTunnelMACAddr"), vtep("VXLANTunnelMACAddrV6"));
        let mut peer = |name: String, address, vtep_mac, subnets| {
            found.nodes.push(Node { name, address, address6: None, vtep_mac, subnets });
        };
        match address6 {
            None => peer(name.to_owned(), address, mac, subnets),
            Some(six) => {
                let (subnets, subnets6) = subnets.into_iter().partition(|subnet: &Prefix| subnet.is_ipv4());
                peer(name.to_owned(), address, mac, subnets);
                peer(super::second_peer(name), six.into(), mac6, subnets6);
            }
        }
    }
    for (name, _) in blocks {
        found.refuse("node", &name, "blocks are its own, but there is no such node");
    }
    found
}

fn pools(facts: &Facts, found: &mut Discovered) {
    for (name, pool) in &facts.pools {
        // A pool for load balancers alone holds no pods.
        let holds_pods = |pool: &PoolFacts| {
            pool.allowed_uses.is_empty()
                || pool.allowed_uses.iter().any(|used| used == "Workload" || used == "Tunnel")
        };
        if !holds_pods(pool) {
            continue;
        }
        let read = || -> Result<Pool, String> {
            Ok(Pool {
                cidr: pool.cidr.parse().map_err(|error| format!("cidr: {error}"))?,
                ipip_mode: mode("ipipMode", &pool.ipip_mode)?,
                vxlan_mode: mode("vxlanMode", &pool.vxlan_mode)?,
                nat_outgoing: pool.nat_outgoing,
                verify: false,
            })
        };
        match read() {
            Ok(pool) => found.pools.push(pool),
            Err(reason) => found.refuse("IPPool", name, reason),
        }
    }
}

fn mode(key: &str, word: &str) -> Result<EncapMode, String> {
    match word {
        "" | "Never" => Ok(EncapMode::Never),
        "CrossSubnet" => Ok(EncapMode::CrossSubnet),
        "Always" => Ok(EncapMode::Always),
        other => Err(format!("{key}: \"{}\" is not one of Never, CrossSubnet, Always", super::shown(other))),
    }
}

/// What each node has: its blocks, and the addresses that it has borrowed from the blocks of others.
fn blocks(facts: &Facts, found: &mut Discovered) -> BTreeMap<String, Vec<Prefix>> {
    let mut blocks = BTreeMap::<String, Vec<Prefix>>::new();
    let mut seen = BTreeSet::new();
    for (name, affinity) in &facts.affinities {
        if affinity.deleted || !CONFIRMED.contains(&affinity.state.as_str()) {
            continue;
        }
        match affinity.cidr.parse::<Prefix>() {
            Ok(cidr) if seen.insert(cidr) => blocks.entry(affinity.node.clone()).or_default().push(cidr),
            Ok(cidr) => found.refuse("BlockAffinity", name, format!("{cidr} is another affinity's already")),
            Err(error) => found.refuse("BlockAffinity", name, format!("cidr: {error}")),
        }
    }
    let borrowed = facts.blocks.values().flat_map(|block| &block.borrowed);
    for (address, node) in borrowed {
        blocks.entry(node.clone()).or_default().push(Prefix::host(*address));
    }
    blocks
}

/// What it says of this node. Without blocks its pods have addresses out of its podCIDR: none is claimed here.
fn own_node(facts: &Facts, own: &str, blocks: Option<Vec<Prefix>>, found: &mut Discovered) {
    facts.own_node(own, found);
    let Some(node) = facts.nodes.get(own) else { return };
    let said = &mut found.own;
    if let Some(blocks) = blocks {
        said.subnets = blocks;
    }
    said.addresses = addresses(node);
    said.net = annotation(node, "IPv4Address").and_then(|text| text.parse::<Ipv4Net>().ok());
    said.net6 = annotation(node, "IPv6Address").and_then(|text| text.parse::<Ipv6Net>().ok());
    let tunnel =
        ["IPv4IPIPTunnelAddr", "IPv4VXLANTunnelAddr"].into_iter().find_map(|key| annotation(node, key));
    said.tunnel_address = tunnel.and_then(|text| text.parse().ok());
}

/// The addresses that Calico uses: those of its annotations before those of the node.
fn addresses(node: &NodeFacts) -> Vec<IpAddr> {
    let noted = ["IPv4Address", "IPv6Address"].into_iter().filter_map(|key| annotation(node, key));
    let noted =
        noted.filter_map(|text| text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse()).ok());
    let mut addresses: Vec<IpAddr> = noted.collect();
    for address in node.addresses() {
        if !addresses.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            addresses.push(address);
        }
    }
    addresses
}

fn annotation<'a>(node: &'a NodeFacts, key: &str) -> Option<&'a str> {
    node.annotation(PREFIX, key)
}
