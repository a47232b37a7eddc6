//! From the objects of the API server to the facts that are kept of them. Whatever an object holds, little is kept.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
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

/// Kinds of Calico's objects.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    Pool,
    Affinity,
    Block,
    Cluster,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Pool, Self::Affinity, Self::Block, Self::Cluster];

    /// Its name in the API, and that of many.
    fn names(self) -> (&'static str, &'static str) {
        match self {
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

/// Of a node.
pub(super) fn node(node: Node) -> NodeFacts {
    let spec = node.spec.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let cidrs = spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty());
    let addresses = status.addresses.unwrap_or_default().into_iter();
    let internal =
        addresses.filter(|address| address.type_ == "InternalIP").map(|address| clipped(address.address));
    let ours = |key: &str| key.starts_with(flannel::PREFIX) || key.starts_with(calico::PREFIX);
    let annotations = node.metadata.annotations.unwrap_or_default().into_iter().filter(|(key, _)| ours(key));
    let conditions = status.conditions.unwrap_or_default();
    let network = conditions.iter().find(|condition| condition.type_ == "NetworkUnavailable");
    NodeFacts {
        created: node.metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
        addresses: internal.take(MOST).collect(),
        pod_cidrs: cidrs
            .or(spec.pod_cidr.map(|cidr| vec![cidr]))
            .unwrap_or_default()
            .into_iter()
            .take(MOST)
            .map(clipped)
            .collect(),
        annotations: annotations.take(MOST).map(|(key, value)| (key, clipped(value))).collect(),
        network_unavailable: network.map(|condition| condition.status != "False"),
    }
}

/// Of an IPPool.
pub(super) fn pool(object: DynamicObject) -> Option<PoolFacts> {
    let spec = object.data.get("spec")?;
    let uses = spec.get("allowedUses").and_then(Value::as_array);
    let uses = uses.into_iter().flatten().filter_map(Value::as_str).take(MOST);
    Some(PoolFacts {
        cidr: text(spec, "cidr"),
        ipip_mode: text(spec, "ipipMode"),
        vxlan_mode: text(spec, "vxlanMode"),
        nat_outgoing: spec.get("natOutgoing").and_then(Value::as_bool).unwrap_or(false),
        allowed_uses: uses.map(|used| clipped(used.to_owned())).collect(),
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
            borrowed.insert(address, clipped(node.to_owned()));
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
    object.get(key).and_then(Value::as_str).map(|text| clipped(text.to_owned())).unwrap_or_default()
}

fn clipped(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
