//! From the value of a manifest, or of an API server's answer, to an object.
//!
//! What cannot be done is refused by name, and so is what is not known: a rule of which half is passed over
//! would let pass, or stop, what its writer did not mean.

mod calico;
mod endpoint;
mod kubernetes;
mod metadata;
mod node;
mod ports;
mod rule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

pub(super) use self::endpoint::NAMESPACE_NAME_LABELS;
use self::metadata::object_name;
use self::node::{Log, Node};
use super::model::{Name, PolicyKind, Tier};
use super::world::{Id, Object};
use crate::net::words::clip;

/// The rules of names, labels, addresses, protocols and ports, for what does not come as a manifest.
pub mod syntax {
    pub use super::metadata::{address, label_key, label_value, labels_in, object_name};
    pub use super::ports::{PORT_PROTOCOLS, port_name};
}

/// What is wrong with a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Where, as a JSON pointer (RFC 6901): `/spec/ingress/0/from`; empty for the whole.
    pub path: String,
    /// The culprit, the reason and what to write instead.
    pub message: String,
}

/// What else is known where an object comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Known {
    /// The service accounts of a cluster.
    Cluster,
    /// Nothing but a directory of manifests, which has no service accounts.
    Directory,
}

/// A kind of object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Namespace,
    Pod,
    ServiceAccount,
    Kubernetes,
    Calico,
    GlobalCalico,
    Tier,
    NetworkSet,
    GlobalNetworkSet,
    WorkloadEndpoint,
}

/// The kinds, by group and version. Calico's are in two groups.
const KINDS: [(&[&str], &str, Kind); 10] = [
    (&["v1"], "Namespace", Kind::Namespace),
    (&["v1"], "Pod", Kind::Pod),
    (&["v1"], "ServiceAccount", Kind::ServiceAccount),
    (&["networking.k8s.io/v1"], "NetworkPolicy", Kind::Kubernetes),
    (&CALICO, "NetworkPolicy", Kind::Calico),
    (&CALICO, "GlobalNetworkPolicy", Kind::GlobalCalico),
    (&CALICO, "Tier", Kind::Tier),
    (&CALICO, "NetworkSet", Kind::NetworkSet),
    (&CALICO, "GlobalNetworkSet", Kind::GlobalNetworkSet),
    (&CALICO, "WorkloadEndpoint", Kind::WorkloadEndpoint),
];
const CALICO: [&str; 2] = ["projectcalico.org/v3", "crd.projectcalico.org/v1"];
/// Kinds that are refused, and why.
const REFUSED: [(&str, &str); 7] = [
    ("HostEndpoint", "the interfaces of hosts are not policed here, only pods are"),
    ("StagedNetworkPolicy", "policies that are only tried out are not supported; write a NetworkPolicy"),
    (
        "StagedGlobalNetworkPolicy",
        "policies that are only tried out are not supported; write a GlobalNetworkPolicy",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        "policies that are only tried out are not supported; write a NetworkPolicy",
    ),
    ("Profile", "profiles with rules of their own are not supported; write a policy with a high order"),
    (
        "AdminNetworkPolicy",
        "this kind is not supported; write a GlobalNetworkPolicy in a tier before default",
    ),
    (
        "BaselineAdminNetworkPolicy",
        "this kind is not supported; write a GlobalNetworkPolicy in a tier behind default",
    ),
];

impl Object {
    /// The object that a value from a cluster describes. The policies `knp.default.…` that Calico's API server
    /// lists among its own are refused: they are Kubernetes' own, once more.
    ///
    /// # Errors
    /// All that is wrong with it, or cannot be done here.
    pub fn read(value: &Value) -> Result<Self, Vec<Fault>> {
        Self::read_where(value, Known::Cluster)
    }

    /// The same, where not all is known.
    ///
    /// # Errors
    /// See [`read`](Self::read).
    pub fn read_where(value: &Value, known: Known) -> Result<Self, Vec<Fault>> {
        let mut log = Log::new();
        match read(&Node::root(value), known, &mut log) {
            Some(object) if log.is_empty() => Ok(object),
            _ => Err(log),
        }
    }

    /// What a value is about, as far as its kind and name say, whether the rest can be read or not: for what an
    /// API server says is deleted. `None` of kinds that are none of ours, and of what has no name.
    pub fn identify(value: &Value) -> Option<Id> {
        let kind = kind(&Node::root(value), &mut Log::new())?;
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let name = object_name(text("/metadata/name")?).ok()?;
        let namespace = text("/metadata/namespace").unwrap_or("default");
        let inside = || Name::inside(namespace, name.clone());
        let tier = text("/spec/tier").filter(|tier| !tier.is_empty()).unwrap_or(Tier::DEFAULT);
        Some(match kind {
            Kind::Namespace => Id::Namespace(name),
            Kind::ServiceAccount => Id::ServiceAccount(inside()),
            Kind::Pod | Kind::WorkloadEndpoint => Id::Endpoint(inside()),
            Kind::Kubernetes => Id::Policy(kubernetes::policy_name(inside())),
            Kind::Calico => Id::Policy(calico::policy_name(inside(), tier)),
            Kind::GlobalCalico => Id::Policy(calico::policy_name(Name::global(name), tier)),
            Kind::Tier => Id::Tier(name),
            Kind::NetworkSet => Id::NetworkSet(inside()),
            Kind::GlobalNetworkSet => Id::NetworkSet(Name::global(name)),
        })
    }
}

/// The kind of an object.
fn kind(object: &Node<'_>, log: &mut Log) -> Option<Kind> {
    object.map(log)?;
    let group = object.need("apiVersion", log).and_then(|node| node.text(log).map(str::to_owned));
    let kind = object.need("kind", log).and_then(|node| node.text(log).map(str::to_owned));
    let (group, kind) = (group?, kind?);
    let found = KINDS.iter().find(|(groups, name, _)| *name == kind && groups.contains(&group.as_str()));
    if let Some((_, _, found)) = found {
        return Some(*found);
    }
    let refused = REFUSED.iter().find(|(name, _)| *name == kind);
    let groups: Vec<&str> = KINDS
        .iter()
        .filter(|(_, name, _)| *name == kind)
        .flat_map(|(groups, _, _)| groups.iter().copied())
        .collect();
    if let Some((_, reason)) = refused {
        object.get("kind").unwrap_or(*object).fault(log, format!("{kind}: {reason}"));
    } else if groups.is_empty() {
        let mut known: Vec<&str> = KINDS.iter().map(|(_, name, _)| *name).collect();
        known.dedup();
        let reason =
            format!("\"{}\" is no kind that is known here; there are {}", clip(&kind), known.join(", "));
        object.get("kind").unwrap_or(*object).fault(log, reason);
    } else {
        let reason = format!("\"{}\" has no {kind}; write {}", clip(&group), groups.join(" or "));
        object.get("apiVersion").unwrap_or(*object).fault(log, reason);
    }
    None
}

fn read(object: &Node<'_>, known: Known, log: &mut Log) -> Option<Object> {
    let kind = kind(object, log)?;
    Some(match kind {
        Kind::Namespace => Object::Namespace(Arc::new(endpoint::namespace(object, log)?)),
        Kind::ServiceAccount => {
            Object::ServiceAccount(Arc::new(endpoint::service_account(object, known, log)?))
        }
        Kind::Pod => match endpoint::pod(object, known, log)? {
            Some(endpoint) => Object::Endpoint(Arc::new(endpoint)),
            None => Object::Absent(Object::identify(object.value)?),
        },
        Kind::WorkloadEndpoint => {
            Object::Endpoint(Arc::new(endpoint::workload_endpoint(object, known, log)?))
        }
        Kind::Kubernetes => Object::Policy(Arc::new(kubernetes::network_policy(object, log)?)),
        Kind::Calico => policy(object, PolicyKind::NetworkPolicy, known, log)?,
        Kind::GlobalCalico => policy(object, PolicyKind::GlobalNetworkPolicy, known, log)?,
        Kind::Tier => Object::Tier(Arc::new(calico::tier(object, log)?)),
        Kind::NetworkSet => Object::NetworkSet(Arc::new(calico::network_set(object, false, log)?)),
        Kind::GlobalNetworkSet => Object::NetworkSet(Arc::new(calico::network_set(object, true, log)?)),
    })
}

fn policy(object: &Node<'_>, kind: PolicyKind, known: Known, log: &mut Log) -> Option<Object> {
    calico::policy(object, kind, known, log).map(|policy| Object::Policy(Arc::new(policy)))
}
