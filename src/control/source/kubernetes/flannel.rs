//! flannel's annotations at nodes (flannel pkg/subnet/kube): how stock flanneld nodes say where they are.
//!
//! A flannel node has a VXLAN device for each family, each with an Ethernet address of its own, and IPv6 pods are
//! reached over IPv6: so a node of both families is two peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use serde_json::Value;

use super::facts::{Facts, NodeFacts};
use crate::control::source::discovered::{Discovered, Node};
use crate::net::{EncapMode, Mac, Prefix, Vni};
use crate::route::Pool;

/// The prefix of flannel's annotations.
pub(super) const PREFIX: &str = "flannel.alpha.coreos.com/";
/// The one that every node of flannel has.
const MANAGED: &str = "kube-subnet-manager";
/// UDP port of flannel's VXLAN by default: that of the kernel.
const PORT: u16 = 8472;
/// flannel's VXLAN network by default.
const VNI: i64 = 1;

/// How flannel's nodes reach each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Backend {
    /// `vxlan`
    Vxlan,
    /// `ipip`
    Ipip,
    /// `host-gw`
    HostGateway,
}

impl Backend {
    const ALL: [(&str, Self); 3] =
        [("vxlan", Self::Vxlan), ("ipip", Self::Ipip), ("host-gw", Self::HostGateway)];

    /// Its word in `backend-type`.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, backend)| *backend == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, backend)| *backend)
    }
}

/// What is the same on all nodes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Network {
    pub(super) backend: Backend,
    /// flannel's networks, IPv4 and IPv6.
    pub(super) networks: Vec<Prefix>,
    direct_routing: bool,
    port: u16,
    pub(super) vni: Vni,
}

/// `net-conf.json` with its keys in lower case.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetConf {
    network: String,
    ipv6network: String,
    backend: BackendConf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BackendConf {
    r#type: String,
    vni: Option<i64>,
    port: u16,
    directrouting: bool,
}

/// `backend-data` with its keys in lower case.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BackendData {
    vni: Option<i64>,
    vtepmac: String,
}

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
    found.pools = pools(&network);
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
                format!("its backend-type is {}, here it is {}", super::shown(kind), network.backend.name());
            found.refuse("node", name, reason);
            continue;
        }
        let cidrs = node.pod_cidrs(name, &mut found);
        for half in [Half::four(name, node), Half::six(name, node)].into_iter().flatten() {
            match half.node(&network, &cidrs) {
                Ok(node) => found.nodes.push(node),
                Err(reason) => found.refuse("node", name, reason),
            }
        }
    }
    found
}

/// One family of a node.
struct Half<'a> {
    name: String,
    is_ipv4: bool,
    /// `public-ip` or `public-ipv6`.
    address: &'a str,
    /// `backend-data` or `backend-v6-data`.
    data: &'a str,
}

impl<'a> Half<'a> {
    fn four(name: &str, node: &'a NodeFacts) -> Option<Self> {
        let data = annotation(node, "backend-data").unwrap_or("null");
        let address = annotation(node, "public-ip")?;
        Some(Self { name: name.to_owned(), is_ipv4: true, address, data })
    }

    fn six(name: &str, node: &'a NodeFacts) -> Option<Self> {
        let data = annotation(node, "backend-v6-data").unwrap_or("null");
        let address = annotation(node, "public-ipv6")?;
        Some(Self { name: super::second_peer(name), is_ipv4: false, address, data })
    }

    fn node(self, network: &Network, cidrs: &[Prefix]) -> Result<Node, String> {
        let address: IpAddr = match self.is_ipv4 {
            true => {
                self.address.parse::<Ipv4Addr>().map(Into::into).map_err(|_| self.no_address("public-ip"))?
            }
            false => self
                .address
                .parse::<Ipv6Addr>()
                .map(Into::into)
                .map_err(|_| self.no_address("public-ipv6"))?,
        };
        let vtep_mac = match network.backend {
            Backend::Vxlan => Some(self.vtep(network.vni)?),
            Backend::Ipip | Backend::HostGateway => None,
        };
        let subnets = cidrs.iter().copied().filter(|cidr| cidr.is_ipv4() == self.is_ipv4).collect();
        Ok(Node { name: self.name, address, address6: None, vtep_mac, subnets })
    }

    fn no_address(&self, key: &str) -> String {
        format!("{PREFIX}{key}: \"{}\" is no such address", super::shown(self.address))
    }

    /// The Ethernet address of its VXLAN device, which must be in the network `vni`.
    fn vtep(&self, vni: Vni) -> Result<Mac, String> {
        let key = if self.is_ipv4 { "backend-data" } else { "backend-v6-data" };
        let wrong = |reason: String| format!("{PREFIX}{key}: {reason}");
        let data: BackendData = lower(self.data).map_err(wrong)?;
        // Old records lack it (flannel#426).
        let theirs = data.vni.unwrap_or_else(|| vni.get().into());
        if theirs != i64::from(vni.get()) {
            return Err(wrong(format!("VNI {theirs}, here it is {}", vni.get())));
        }
        super::unicast_mac(&data.vtepmac).map_err(|reason| wrong(format!("VtepMAC: {reason}")))
    }
}

/// What all nodes have in common: as flannel's own configuration says, where that can be read, else as most nodes do.
pub(super) fn network(facts: &Facts, own: &str) -> Result<Network, String> {
    let conf: NetConf = match &facts.net_conf {
        Some(text) => lower(text)?,
        None => NetConf::default(),
    };
    let networks = [conf.network, conf.ipv6network].into_iter().filter(|text| !text.is_empty());
    let networks = networks.map(|text| text.parse::<Prefix>().map_err(|error| format!("Network: {error}")));
    let kind = match conf.backend.r#type.as_str() {
        "" => usual_backend(facts, own),
        kind => kind.to_owned(),
    };
    let known = || Backend::ALL.map(|(name, _)| name).join(", ");
    let backend = Backend::named(&kind)
        .ok_or_else(|| format!("the backend {} cannot be spoken; known: {}", super::shown(&kind), known()))?;
    let vni = conf.backend.vni.unwrap_or(VNI);
    Ok(Network {
        backend,
        networks: networks.collect::<Result<_, _>>()?,
        direct_routing: conf.backend.directrouting,
        port: if conf.backend.port == 0 { PORT } else { conf.backend.port },
        vni: Vni::try_from(vni).map_err(|error| format!("VNI: {error}"))?,
    })
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

/// flannel's manifests run it with `--ip-masq`: what leaves the cluster gets the node's address.
fn pools(network: &Network) -> Vec<Pool> {
    let when = if network.direct_routing { EncapMode::CrossSubnet } else { EncapMode::Always };
    let (ipip_mode, vxlan_mode) = match network.backend {
        Backend::Vxlan => (EncapMode::Never, when),
        Backend::Ipip => (when, EncapMode::Never),
        Backend::HostGateway => (EncapMode::Never, EncapMode::Never),
    };
    network
        .networks
        .iter()
        .map(|cidr| Pool { cidr: *cidr, ipip_mode, vxlan_mode, nat_outgoing: true, verify: false })
        .collect()
}

/// flannel's annotation `key` of a node.
pub(super) fn annotation<'a>(node: &'a NodeFacts, key: &str) -> Option<&'a str> {
    node.annotation(PREFIX, key)
}

/// Reads JSON without regard to the case of its keys, as flannel does (encoding/json); `null` is the default.
fn lower<T: Default + serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    match value {
        Value::Null => Ok(T::default()),
        value @ Value::Object(_) => {
            serde_json::from_value(lower_keys(value)).map_err(|error| error.to_string())
        }
        _ => Err("no JSON object".to_owned()),
    }
}

fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries.into_iter().map(|(key, value)| (key.to_lowercase(), lower_keys(value))).collect(),
        ),
        other => other,
    }
}

/// Whether flannel runs on a node.
pub(super) fn is_managed(node: &NodeFacts) -> bool {
    annotation(node, MANAGED) == Some("true")
}
