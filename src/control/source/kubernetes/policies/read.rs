//! From the objects of the API server to those of network policy.

use kube::api::{ApiResource, DynamicObject};
use serde_json::{Map, Value, json};

use super::super::shown;
use super::super::table::key;
use crate::policy::{Fault, Object, Policy};

/// Faults of one object that are said.
const MOST_FAULTS: usize = 3;

/// What is known of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// What counts of it: nothing where it cannot be read at all.
    pub(super) object: Option<Object>,
    /// What cannot be read of it, and what follows from that.
    pub(super) problem: Option<String>,
}

/// What is known of an object of the kind that `resource` names; `None` of one that does not count.
pub(super) fn read(object: DynamicObject, resource: &ApiResource) -> Option<Known> {
    let name = key(&object);
    if is_double(&object, resource) {
        return None;
    }
    let value = value(object, resource);
    match Object::read(&value) {
        Ok(Object::Absent(_)) => None,
        Ok(object) => Some(Known { object: Some(object), problem: None }),
        Err(faults) => Some(unreadable(&value, &format!("{} {}", resource.kind, shown(&name)), &faults)),
    }
}

/// Whether it is a policy of Kubernetes once more, as Calico's API server shows it among its own.
fn is_double(object: &DynamicObject, resource: &ApiResource) -> bool {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    resource.group.ends_with("projectcalico.org") && name.starts_with(Policy::KUBERNETES_PREFIX)
}

/// The object as it would stand in a manifest: lists of the API server do not repeat what kind they are of.
fn value(object: DynamicObject, resource: &ApiResource) -> Value {
    let DynamicObject { mut metadata, data, .. } = object;
    metadata.managed_fields = None;
    let mut map = match data {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    map.insert("apiVersion".to_owned(), Value::String(resource.api_version.clone()));
    map.insert("kind".to_owned(), Value::String(resource.kind.clone()));
    map.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
    Value::Object(map)
}

/// What is left of an object with faults. A policy goes on without its rules, so that nothing passes that it may forbid.
fn unreadable(value: &Value, name: &str, faults: &[Fault]) -> Known {
    let object = without_rules(value).and_then(|value| Object::read(&value).ok());
    let follows = match &object {
        Some(_) => "counts as one without rules, so what it selects gets and sends only what others allow",
        None => "is left out",
    };
    let mut reasons: Vec<String> = faults.iter().take(MOST_FAULTS).map(fault).collect();
    if faults.len() > MOST_FAULTS {
        reasons.push(format!("and {} more", faults.len() - MOST_FAULTS));
    }
    let problem = format!("{name} cannot be read and {follows}: {}", reasons.join("; "));
    Known { object, problem: Some(problem) }
}

fn fault(fault: &Fault) -> String {
    let message = shown(&fault.message);
    if fault.path.is_empty() { message } else { format!("{}: {message}", shown(&fault.path)) }
}

/// The policy with the directions that it had, and no rules; `None` of what is no policy.
fn without_rules(value: &Value) -> Option<Value> {
    let kind = value.get("kind")?.as_str()?;
    let is_kubernetes = value.get("apiVersion")?.as_str()?.starts_with("networking.k8s.io/");
    let types = match kind {
        "NetworkPolicy" if is_kubernetes => "policyTypes",
        "NetworkPolicy" | "GlobalNetworkPolicy" => "types",
        _ => return None,
    };
    let mut without = value.clone();
    let spec = without.get_mut("spec")?.as_object_mut()?;
    let [ingress, egress] = ["ingress", "egress"].map(|key| spec.remove(key));
    let has_egress = egress.as_ref().is_some_and(|rules| *rules != json!([]) && !rules.is_null());
    let given = spec.get(types).is_some_and(|types| *types != json!([]) && !types.is_null());
    if !given {
        // What each of them does where nothing is said.
        let said = match (is_kubernetes, ingress.is_some(), has_egress) {
            (true, _, true) | (false, true, true) => json!(["Ingress", "Egress"]),
            (false, false, true) => json!(["Egress"]),
            _ => json!(["Ingress"]),
        };
        spec.insert(types.to_owned(), said);
    }
    Some(without)
}
