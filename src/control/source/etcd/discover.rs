//! What etcd says to this node: the pools of its network, and a node for each address that has subnets.

use std::collections::HashMap;
use std::net::IpAddr;

use super::facts::Facts;
use super::layout::Layout;
use super::record::{self, OwnNode, Said};
use crate::control::source::discovered::{self, Discovered, Node, shown};

/// What `facts` say to the node `own`, in the network of `layout`. Nodes have no names in etcd, so they are called by
/// their addresses.
pub(super) fn discover(facts: &Facts, layout: &Layout, own: OwnNode) -> Discovered {
    let network = &layout.network;
    let mut found = Discovered {
        own: this(facts, own),
        pools: network.pools(),
        vxlan_port: Some(network.port),
        vni: Some(network.vni),
        ..Discovered::default()
    };
    // Of one address the newest record knows its device; all of them are its subnets.
    let mut known: HashMap<IpAddr, (usize, i64)> = HashMap::new();
    for (key, record) in facts.by_age() {
        if facts.own.as_deref() == Some(key) {
            continue;
        }
        let mut refuse = |reason: String| found.refused.push(refused(key, reason));
        let (subnets, said) = match (record::subnets(key), Said::read(&record.value)) {
            (Ok(subnets), Ok(said)) => (subnets, said),
            (Err(reason), _) | (_, Err(reason)) => {
                refuse(reason);
                continue;
            }
        };
        // Reserved for a node that is not there yet.
        if record.lease == 0 && said.is_bare() {
            continue;
        }
        if said.is_of(own.address) {
            refuse("it is of this node's address, and not the subnet of this node".to_owned());
            continue;
        }
        if said.backend != network.backend.name() {
            let theirs = shown(&said.backend);
            refuse(format!("its BackendType is {theirs}, here it is {}", network.backend.name()));
            continue;
        }
        if said.address.is_none() {
            refuse("it has no PublicIP".to_owned());
            continue;
        }
        let name = said.address.clone().unwrap_or_default();
        for half in said.halves() {
            if !subnets.iter().any(|subnet| subnet.is_ipv4() == half.is_ipv4) {
                continue;
            }
            match half.node(&name, network, &subnets) {
                Ok(node) => add(&mut found.nodes, &mut known, node, record.modified),
                Err(reason) => found.refused.push(refused(key, reason)),
            }
        }
    }
    found
}

/// A record that cannot be used.
fn refused(key: &str, reason: String) -> discovered::Refused {
    discovered::Refused::new("key", &format!("subnets/{key}"), shown(&reason))
}

/// Adds a node, or the subnets of one that is there.
fn add(nodes: &mut Vec<Node>, known: &mut HashMap<IpAddr, (usize, i64)>, node: Node, modified: i64) {
    let (at, newest) = *known.entry(node.address).or_insert((nodes.len(), modified));
    match nodes.get_mut(at) {
        None => nodes.push(node),
        Some(there) => {
            there.subnets.extend(node.subnets);
            if modified > newest {
                there.vtep_mac = node.vtep_mac;
                known.insert(node.address, (at, modified));
            }
        }
    }
}

/// What it says of this node.
fn this(facts: &Facts, own: OwnNode) -> discovered::OwnNode {
    let subnets = facts.own.as_deref().and_then(|key| record::subnets(key).ok()).unwrap_or_default();
    let addresses = [Some(IpAddr::V4(own.address)), own.address6.map(IpAddr::V6)];
    discovered::OwnNode {
        is_known: !subnets.is_empty(),
        addresses: addresses.into_iter().flatten().collect(),
        subnets,
        ..discovered::OwnNode::default()
    }
}
