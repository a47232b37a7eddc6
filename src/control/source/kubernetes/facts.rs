//! What is kept of the objects of an API server: a few strings of each, as they are written there.
//!
//! They are judged when something is made of them, so that a file of them can be read by another version.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Style;
use crate::control::source::discovered::{Discovered, OwnNode};
use crate::net::Prefix;

/// Everything that is known of a cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Facts {
    /// How the cluster is read, once that is decided.
    pub(super) style: Option<Style>,
    /// Nodes by name.
    pub(super) nodes: BTreeMap<String, NodeFacts>,
    /// Calico's IPPools by name.
    pub(super) pools: BTreeMap<String, PoolFacts>,
    /// Calico's BlockAffinities by name.
    pub(super) affinities: BTreeMap<String, AffinityFacts>,
    /// Calico's IPAMBlocks by name.
    pub(super) blocks: BTreeMap<String, BlockFacts>,
    /// Whether Calico says that its datastore is being moved, so that what it holds is not to be followed.
    pub(super) locked: bool,
    /// flannel's `net-conf.json`.
    pub(super) net_conf: Option<String>,
}

/// Of a Node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct NodeFacts {
    /// When it was made, in seconds of Unix time.
    pub(super) created: i64,
    /// Its addresses of type InternalIP.
    pub(super) addresses: Vec<String>,
    /// `spec.podCIDRs`, or `spec.podCIDR`.
    pub(super) pod_cidrs: Vec<String>,
    /// The annotations of flannel and Calico.
    pub(super) annotations: BTreeMap<String, String>,
    /// The condition NetworkUnavailable, where there is one.
    pub(super) network_unavailable: Option<bool>,
}

/// Of an IPPool.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct PoolFacts {
    pub(super) cidr: String,
    pub(super) ipip_mode: String,
    pub(super) vxlan_mode: String,
    pub(super) nat_outgoing: bool,
    /// `allowedUses`; empty is the default.
    pub(super) allowed_uses: Vec<String>,
}

/// Of a BlockAffinity.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct AffinityFacts {
    pub(super) node: String,
    pub(super) cidr: String,
    pub(super) state: String,
    pub(super) deleted: bool,
}

/// Of an IPAMBlock: addresses in it that are another node's than the block.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct BlockFacts {
    /// Borrowed addresses, each with the node that uses it.
    pub(super) borrowed: BTreeMap<IpAddr, String>,
}

impl Facts {
    /// The nodes but `own`, the oldest first.
    pub(super) fn others<'a>(&'a self, own: &'a str) -> Vec<(&'a str, &'a NodeFacts)> {
        let others = self.nodes.iter().filter(|(name, _)| *name != own);
        let mut others: Vec<_> = others.map(|(name, node)| (name.as_str(), node)).collect();
        others.sort_by_key(|(name, node)| (node.created, *name));
        others
    }

    /// What it says of `own`, as every style has it: addresses and pod CIDRs.
    pub(super) fn own_node(&self, own: &str, found: &mut Discovered) {
        let Some(node) = self.nodes.get(own) else { return };
        let mut said = OwnNode { is_known: true, ..OwnNode::default() };
        said.addresses = node.addresses();
        said.subnets = node.pod_cidrs(own, found);
        found.own = said;
    }
}

impl NodeFacts {
    /// The annotation `key` behind `prefix`.
    pub(super) fn annotation(&self, prefix: &str, key: &str) -> Option<&str> {
        self.annotations.get(&format!("{prefix}{key}")).map(String::as_str)
    }

    /// Its addresses, as far as they are some.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(|address| address.parse().ok()).collect()
    }

    /// Its pod CIDRs; what is wrong with one of node `name` is noted.
    pub(super) fn pod_cidrs(&self, name: &str, found: &mut Discovered) -> Vec<Prefix> {
        let mut cidrs = Vec::new();
        for cidr in &self.pod_cidrs {
            match cidr.parse() {
                Ok(prefix) => cidrs.push(prefix),
                Err(error) => found.refuse("node", name, format!("podCIDR {}: {error}", super::shown(cidr))),
            }
        }
        cidrs
    }
}
