//! From the objects of the API server to the facts that are kept of them. Whatever an object holds, little is kept.

use std::collections::BTreeMap;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

use super::facts::{AffinityFacts, BlockFacts, NodeFacts, PoolFacts};
use super::{calico, flannel};

/// Bytes of the longest string that is kept.
const LONGEST: usize = 4096;
/// Most entries of a list that are kept.
const MOST: usize = 64;
/// Most addresses in a block (a /20, or a /116).
const MOST_IN_BLOCK: usize = 4096;

/// The API groups that have Calico's objects: that of newer ones first.
pub(super) const CALICO_GROUPS: [(&str, &str); 2] =
    [("projectcalico.org", "v3"), ("crd.projectcalico.org", "v1")];

/// The API group of Kubernetes' own objects.
pub(super) const CORE: (&str, &str) = ("", "v1");

/// Kinds of objects that are watched.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    Node,
    /// Those from here on are Calico's.
    Pool,
    Affinity,
    Block,
    Cluster,
}

impl Kind {
    pub(super) const OF_CALICO: [Self; 4] = [Self::Pool, Self::Affinity, Self::Block, Self::Cluster];

    /// Its name in the API, and that of many.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Node => ("Node", "nodes"),
            Self::Pool => ("IPPool", "ippools"),
            Self::Affinity => ("BlockAffinity", "blockaffinities"),
            Self::Block => ("IPAMBlock", "ipamblocks"),
            Self::Cluster => ("ClusterInformation", "clusterinformations"),
        }
    }

    /// As requests name it.
    pub(super) fn resource(self, (group, version): (&str, &str)) -> ApiResource {
        let (kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// As people name it.
    pub(super) fn plural(self) -> &'static str {
        self.names().1
    }
}

/// As requests name nodes.
pub(super) fn nodes() -> ApiResource {
    Kind::Node.resource(CORE)
}

/// As requests name ConfigMaps.
pub(super) fn config_maps() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(CORE.0, CORE.1, "ConfigMap"), "configmaps")
}

/// Of a node.
pub(super) fn node(object: DynamicObject) -> NodeFacts {
    let part = |name: &str| object.data.get(name).unwrap_or(&Value::Null);
    let (spec, status) = (part("spec"), part("status"));
    let mut pod_cidrs: Vec<String> =
        list(spec, "podCIDRs").filter_map(Value::as_str).take(MOST).map(clipped).collect();
    if pod_cidrs.is_empty() {
        pod_cidrs.extend(spec.get("podCIDR").and_then(Value::as_str).map(clipped));
    }
    let internal = list(status, "addresses").filter(|address| text(address, "type") == "InternalIP");
    let network =
        list(status, "conditions").find(|condition| text(condition, "type") == "NetworkUnavailable");
    let ours = |key: &str| key.starts_with(flannel::PREFIX) || key.starts_with(calico::PREFIX);
    let annotations = object.metadata.annotations.iter().flatten().filter(|(key, _)| ours(key));
    NodeFacts {
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        addresses: internal.map(|address| text(address, "address")).take(MOST).collect(),
        pod_cidrs,
        annotations: annotations.take(MOST).map(|(key, value)| (key.clone(), clipped(value))).collect(),
        network_unavailable: network.map(|condition| text(condition, "status") != "False"),
    }
}

/// Of an IPPool.
pub(super) fn pool(object: DynamicObject) -> Option<PoolFacts> {
    let spec = object.data.get("spec")?;
    let uses = list(spec, "allowedUses").filter_map(Value::as_str).take(MOST);
    Some(PoolFacts {
        cidr: text(spec, "cidr"),
        ipip_mode: text(spec, "ipipMode"),
        vxlan_mode: text(spec, "vxlanMode"),
        nat_outgoing: spec.get("natOutgoing").and_then(Value::as_bool).unwrap_or(false),
        allowed_uses: uses.map(clipped).collect(),
    })
}

/// Of a BlockAffinity. `deleted` is a word in one API group and a truth value in the other.
pub(super) fn affinity(object: DynamicObject) -> Option<AffinityFacts> {
    let spec = object.data.get("spec")?;
    let deleted = spec.get("deleted");
    let deleted =
        deleted.is_some_and(|deleted| deleted.as_bool().unwrap_or(deleted.as_str() == Some("true")));
    // Blocks of load balancers and the like have no node.
    let of_node = ["", "host"].contains(&text(spec, "type").as_str());
    of_node.then(|| AffinityFacts {
        node: text(spec, "node"),
        cidr: text(spec, "cidr"),
        state: text(spec, "state"),
        deleted,
    })
}

/// Of an IPAMBlock: the addresses in it that another node uses than the one that has the block.
pub(super) fn block(object: DynamicObject) -> Option<BlockFacts> {
    let spec = object.data.get("spec")?;
    let first = text(spec, "cidr").parse::<crate::net::Prefix>().ok()?.address();
    let affinity = text(spec, "affinity");
    let owner = affinity.strip_prefix("host:");
    let attributes = spec.get("attributes").and_then(Value::as_array)?;
    let allocations = spec.get("allocations").and_then(Value::as_array)?;
    let mut borrowed = BTreeMap::new();
    for (ordinal, allocation) in (0..).zip(allocations.iter().take(MOST_IN_BLOCK)) {
        let attribute = allocation.as_u64().and_then(|index| attributes.get(usize::try_from(index).ok()?));
        let node = attribute.and_then(|attribute| attribute.get("secondary")?.get("node")?.as_str());
        let Some(node) = node.filter(|node| Some(*node) != owner) else { continue };
        if let Some(address) = behind(first, ordinal) {
            borrowed.insert(address, clipped(node));
        }
    }
    Some(BlockFacts { borrowed })
}

/// The address so many places behind `first`.
fn behind(first: std::net::IpAddr, places: u32) -> Option<std::net::IpAddr> {
    match first {
        std::net::IpAddr::V4(first) => {
            first.to_bits().checked_add(places).map(|bits| std::net::Ipv4Addr::from_bits(bits).into())
        }
        std::net::IpAddr::V6(first) => {
            first.to_bits().checked_add(places.into()).map(|bits| std::net::Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// Whether a ClusterInformation says that the datastore is not to be followed for now.
pub(super) fn is_locked(object: &DynamicObject) -> bool {
    object.data.get("spec").and_then(|spec| spec.get("datastoreReady")).and_then(Value::as_bool)
        == Some(false)
}

fn text(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_str).map(clipped).unwrap_or_default()
}

/// The elements of a list; none where there is no list.
fn list<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    object.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn clipped(text: &str) -> String {
    let end = (0..=text.len().min(LONGEST)).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}
