//! Calico's `NetworkPolicy`, `GlobalNetworkPolicy`, `Tier`, `NetworkSet` and `GlobalNetworkSet`.

use serde_json::Value;

use super::Known;
use super::metadata::{self, Metadata, network, object_name};
use super::node::{Log, Node, Refused, describe};
use super::rule::{self, NO_ACCOUNTS, Scope};
use crate::policy::model::{
    Name, NetworkSet, Order, Policy, PolicyKind, PolicyRule, Subject, Tier, TierAction,
};
use crate::policy::selector::Selector;

const KEYS: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
const SPEC: [&str; 8] = [
    "tier",
    "order",
    "selector",
    "types",
    "ingress",
    "egress",
    "serviceAccountSelector",
    // A hint to Felix, which has no meaning of its own.
    "performanceHints",
];
const GLOBAL_SPEC: [&str; 12] = [
    "tier",
    "order",
    "selector",
    "types",
    "ingress",
    "egress",
    "serviceAccountSelector",
    "performanceHints",
    "namespaceSelector",
    "doNotTrack",
    "preDNAT",
    "applyOnForward",
];
/// Keys of a global policy that cannot be anything else than `false`.
const HOST_KEYS: [Refused; 3] = [
    ("doNotTrack", "policies of hosts without connection tracking are not supported; remove this"),
    ("preDNAT", "policies of hosts before address translation are not supported; remove this"),
    (
        "applyOnForward",
        "policies of hosts are not supported, and to those of pods this adds nothing; remove this",
    ),
];
const ONLY_GLOBAL: [Refused; 4] = [
    ("namespaceSelector", "only a GlobalNetworkPolicy has this; a NetworkPolicy is about its own namespace"),
    ("doNotTrack", "only a GlobalNetworkPolicy has this"),
    ("preDNAT", "only a GlobalNetworkPolicy has this"),
    ("applyOnForward", "only a GlobalNetworkPolicy has this"),
];

/// A policy of either kind.
pub(super) fn policy(object: &Node<'_>, kind: PolicyKind, known: Known, log: &mut Log) -> Option<Policy> {
    let is_global = kind == PolicyKind::GlobalNetworkPolicy;
    object.object(&KEYS, &[], log)?;
    let metadata = metadata_of(object, is_global, log);
    let spec = object.need("spec", log)?;
    match is_global {
        true => spec.object(&GLOBAL_SPEC, &[], log)?,
        false => spec.object(&SPEC, &ONLY_GLOBAL, log)?,
    }
    if is_global {
        for (key, reason) in HOST_KEYS {
            spec.refuse_unless_false(key, reason, log);
        }
    }
    let tier = spec.optional("tier", log, |node, log| match node.value.as_str() {
        Some("") => Some(Tier::DEFAULT.to_owned()),
        _ => node.parsed(log, object_name),
    });
    let order = order(&spec, log);
    let selector = rule::optional_selector(&spec, "selector", rule::selector, log);
    let namespaces = rule::optional_selector(&spec, "namespaceSelector", rule::selector, log);
    if let Some(accounts) = spec.get("serviceAccountSelector").filter(|_| known == Known::Directory) {
        accounts.fault(log, NO_ACCOUNTS);
    }
    let accounts = rule::optional_selector(&spec, "serviceAccountSelector", rule::selector, log);
    let words = [("Ingress", true), ("Egress", false)];
    let types = spec.list("types", log, |node, log| node.word(log, &words));
    let namespace = metadata.as_ref().and_then(|metadata| metadata.name.namespace.clone());
    let scope = Scope { namespace: namespace.as_deref(), known };
    let ingress = rules(&spec, "ingress", scope, log);
    let egress = rules(&spec, "egress", scope, log);
    let (types, ingress, egress) = (types?, ingress?, egress?);
    // Calico's defaults: what there are rules for, and incoming packets where there are none.
    let (is_ingress, is_egress) = match types.as_slice() {
        [] => (!ingress.is_empty() || egress.is_empty(), !egress.is_empty()),
        types => (types.contains(&true), types.contains(&false)),
    };
    let tier = tier?.unwrap_or_else(|| Tier::DEFAULT.to_owned());
    let name = policy_name(metadata?.name, &tier);
    if name.name.starts_with(Policy::KUBERNETES_PREFIX) {
        object.fault(
            log,
            format!("{name} would be a NetworkPolicy of Kubernetes, which is read where it comes from; give the policy another name"),
        );
        return None;
    }
    Some(Policy {
        kind,
        name,
        tier,
        order: order?,
        subject: Subject {
            selector: selector?.unwrap_or_else(Selector::all),
            namespaces: namespaces?,
            service_accounts: accounts?,
        },
        ingress: is_ingress.then_some(ingress),
        egress: is_egress.then_some(egress),
    })
}

/// The name of a policy: in the tier `default` the name of the tier may stand before it, and older versions of
/// Calico store it so.
pub(super) fn policy_name(name: Name, tier: &str) -> Name {
    let short = match tier {
        Tier::DEFAULT => name.name.strip_prefix("default.").filter(|rest| !rest.is_empty()),
        _ => None,
    };
    match short.map(str::to_owned) {
        Some(short) => Name { name: short, ..name },
        None => name,
    }
}

fn metadata_of(object: &Node<'_>, is_global: bool, log: &mut Log) -> Option<Metadata> {
    if is_global { metadata::global(object, log) } else { metadata::namespaced(object, log) }
}

/// `order`: any number.
fn order(spec: &Node<'_>, log: &mut Log) -> Option<Order> {
    let order = spec.optional("order", log, |node, log| {
        let order = node.value.as_f64().and_then(Order::at);
        if order.is_none() {
            node.fault(log, format!("expected a number, found {}", describe(node.value)));
        }
        order
    });
    Some(order?.unwrap_or(Order::LAST))
}

fn rules(spec: &Node<'_>, key: &str, scope: Scope<'_>, log: &mut Log) -> Option<Vec<PolicyRule>> {
    let count = spec.get(key).and_then(|node| node.value.as_array().map(Vec::len)).unwrap_or_default();
    if let Some(list) = spec.get(key).filter(|_| count > Policy::MOST_RULES) {
        list.fault(
            log,
            format!("{count} rules; Calico allows {} in a direction, split the policy", Policy::MOST_RULES),
        );
        return None;
    }
    let mut number = 0_u16;
    spec.list(key, log, |node, log| {
        let rule = rule::read(node, number, scope, log);
        number = number.saturating_add(1);
        rule
    })
}

/// `Tier`
pub(super) fn tier(object: &Node<'_>, log: &mut Log) -> Option<Tier> {
    object.object(&["apiVersion", "kind", "metadata", "spec", "status"], &[], log)?;
    let metadata = metadata::global(object, log);
    let nothing = Value::Null;
    let nothing = Node::root(&nothing);
    let spec = object.get("spec");
    if let Some(spec) = &spec {
        spec.object(&["order", "defaultAction"], &[], log)?;
    }
    let spec = spec.unwrap_or(nothing);
    let given = order(&spec, log);
    let words = [("Deny", TierAction::Deny), ("Pass", TierAction::Pass)];
    let action = spec.optional("defaultAction", log, |node, log| node.word(log, &words));
    let (name, order, action) = (metadata?.name.name, given?, action?.unwrap_or(TierAction::Deny));
    if name.contains('.') {
        object.fault(
            log,
            format!("\"{name}\" is no name of a tier, because of the '.'; use letters, digits and '-'"),
        );
        return None;
    }
    let is_default = name == Tier::DEFAULT;
    let fixed = Tier::default_tier();
    if is_default && (![Order::LAST, fixed.order].contains(&order) || action != fixed.default_action) {
        object.fault(
            log,
            "the tier default has the order 1000000 and the defaultAction Deny; use another tier",
        );
        return None;
    }
    Some(Tier { name, order: if is_default { fixed.order } else { order }, default_action: action })
}

/// `NetworkSet` or `GlobalNetworkSet`
pub(super) fn network_set(object: &Node<'_>, is_global: bool, log: &mut Log) -> Option<NetworkSet> {
    object.object(&KEYS, &[], log)?;
    let metadata = metadata_of(object, is_global, log);
    let mut nets = Some(Vec::new());
    if let Some(spec) = object.get("spec") {
        spec.object(
            &["nets"],
            &[("allowedEgressDomains", "networks by name of a domain are not supported; give nets")],
            log,
        )?;
        nets = spec.list("nets", log, |node, log| node.parsed(log, network));
    }
    let Metadata { name, labels } = metadata?;
    let mut nets = nets?;
    nets.sort();
    nets.dedup();
    Some(NetworkSet { name, labels, nets })
}
