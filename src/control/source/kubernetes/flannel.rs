//! flannel's annotations at nodes (flannel pkg/subnet/kube): how stock flanneld nodes say where they are.

use super::facts::{Facts, NodeFacts};
use super::shown;
use crate::control::source::discovered::Discovered;
use crate::control::source::flannel::node::Half;
use crate::control::source::flannel::{Backend, NetConf, Network, lower};

/// The prefix of flannel's annotations.
pub(super) const PREFIX: &str = "flannel.alpha.coreos.com/";
/// The one that every node of flannel has.
const MANAGED: &str = "kube-subnet-manager";
/// The keys of each family: underlay address and backend's data.
const FAMILIES: [(bool, &str, &str); 2] = [
    (true, "flannel.alpha.coreos.com/public-ip", "flannel.alpha.coreos.com/backend-data"),
    (false, "flannel.alpha.coreos.com/public-ipv6", "flannel.alpha.coreos.com/backend-v6-data"),
];

/// What `facts` say to node `own`.
pub(super) fn discover(facts: &Facts, own: &str) -> Discovered {
    let mut found = Discovered::default();
    facts.own_node(own, &mut found);
    let network = match network(facts, own) {
        Ok(network) => network,
        Err(reason) => {
            found.refuse("flannel's", "net-conf.json", reason);
            return Discovered { own: found.own, refused: found.refused, ..Discovered::default() };
        }
    };
    found.pools = network.pools();
    found.vxlan_port = Some(network.port);
    found.vni = Some(network.vni);
    for (name, node) in facts.others(own) {
        // One without has no flanneld yet.
        if !is_managed(node) {
            continue;
        }
        let kind = annotation(node, "backend-type").unwrap_or("udp");
        if kind != network.backend.name() {
            let reason =
                format!("its backend-type is {}, here it is {}", shown(kind), network.backend.name());
            found.refuse("node", name, reason);
            continue;
        }
        let cidrs = node.pod_cidrs(name, &mut found);
        for half in halves(node) {
            match half.node(name, &network, &cidrs) {
                Ok(node) => found.nodes.push(node),
                Err(reason) => found.refuse("node", name, reason),
            }
        }
    }
    found
}

/// The families of a node that it has an address of.
fn halves(node: &NodeFacts) -> impl Iterator<Item = Half<'_>> {
    FAMILIES.iter().filter_map(|(is_ipv4, address, data)| {
        let value = |key: &str| node.annotations.get(key).map(String::as_str);
        let data = (value(data).unwrap_or("null"), *data);
        Some(Half { is_ipv4: *is_ipv4, address: (value(address)?, address), data })
    })
}

/// What all nodes have in common: as flannel's own configuration says, where that can be read, else as most nodes do.
pub(super) fn network(facts: &Facts, own: &str) -> Result<Network, String> {
    let conf: NetConf = match &facts.net_conf {
        Some(text) => lower(text)?,
        None => NetConf::default(),
    };
    conf.network(|| usual_backend(facts, own))
}

/// The `backend-type` of most nodes; of several that are as many the first in the alphabet.
fn usual_backend(facts: &Facts, own: &str) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (_, node) in facts.others(own) {
        if let Some(kind) = annotation(node, "backend-type") {
            *counts.entry(kind).or_default() += 1;
        }
    }
    let usual = counts.into_iter().rev().max_by_key(|(_, count)| *count);
    usual.map_or(Backend::Vxlan.name(), |(kind, _)| kind).to_owned()
}

/// flannel's annotation `key` of a node.
pub(super) fn annotation<'a>(node: &'a NodeFacts, key: &str) -> Option<&'a str> {
    node.annotation(PREFIX, key)
}

/// Whether flannel runs on a node.
pub(super) fn is_managed(node: &NodeFacts) -> bool {
    annotation(node, MANAGED) == Some("true")
}
