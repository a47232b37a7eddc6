//! What policies select, and what says more about it: `Pod`, `WorkloadEndpoint`, `Namespace`, `ServiceAccount`.

use std::net::IpAddr;

use serde_json::Value;

use super::Known;
use super::metadata::{self, Metadata, address, network, object_name};
use super::node::{Log, Node};
use super::ports::named_ports;
use super::rule::NO_ACCOUNTS;
use crate::policy::model::{Endpoint, Namespace, ServiceAccount};

/// Labels that Calico gives every endpoint.
const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
const ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// The orchestrator of pods.
const KUBERNETES: &str = "k8s";
/// Labels that a namespace has even where nobody gave it any: Kubernetes' and Calico's.
pub(in crate::policy) const NAMESPACE_NAME_LABELS: [&str; 2] =
    ["kubernetes.io/metadata.name", "projectcalico.org/name"];
const SPEC: [&str; 17] = [
    "orchestrator",
    "workload",
    "node",
    "containerID",
    "pod",
    "endpoint",
    "serviceAccountName",
    "ipNetworks",
    "ipv4Gateway",
    "ipv6Gateway",
    "profiles",
    "interfaceName",
    "mac",
    "ports",
    "ipNATs",
    "allowSpoofedSourcePrefixes",
    "qosControls",
];

/// `Pod`: the endpoint, if it is one.
#[expect(clippy::option_option, reason = "the outer one is this folder's: whether nothing was wrong")]
pub(super) fn pod(object: &Node<'_>, known: Known, log: &mut Log) -> Option<Option<Endpoint>> {
    let Metadata { name, mut labels } = metadata::namespaced(object, log)?;
    let spec = object.get("spec");
    let on_host = spec.and_then(|spec| spec.get("hostNetwork").map(|flag| flag.value == true));
    let status = object.get("status");
    let phase = status.and_then(|status| status.value.get("phase").and_then(Value::as_str));
    let is_done = matches!(phase, Some("Succeeded" | "Failed"));
    let mut addresses = Vec::new();
    if let Some(status) = &status {
        let listed = status.list("podIPs", log, |node, log| node.need("ip", log)?.parsed(log, address))?;
        addresses.extend(listed);
        if let (true, Some(one)) = (addresses.is_empty(), status.get("podIP").filter(is_text)) {
            addresses.push(one.parsed(log, address)?);
        }
    }
    if on_host == Some(true) || is_done || addresses.is_empty() {
        if known == Known::Directory {
            let reason = match (on_host, is_done) {
                (Some(true), _) => "it has the addresses of its node",
                (_, true) => "it is done",
                _ => "there is no address in status.podIPs",
            };
            object.fault(log, format!("pod {name} is nothing that policies select: {reason}; remove it"));
            return None;
        }
        return Some(None);
    }
    let mut ports = Vec::new();
    let mut account = None;
    let mut node_name = None;
    if let Some(spec) = &spec {
        let containers =
            spec.list("containers", log, |node, log| named_ports(node, "containerPort", false, log))?;
        ports = containers.concat();
        ports.sort();
        ports.dedup();
        account = spec.optional("serviceAccountName", log, |node, log| node.text(log).map(str::to_owned))?;
        node_name = spec.optional("nodeName", log, |node, log| node.text(log).map(str::to_owned))?;
    }
    let account = account.filter(|name| !name.is_empty());
    labels.insert(ORCHESTRATOR_LABEL.to_owned(), KUBERNETES.to_owned());
    if let Some(account) = &account {
        labels.insert(ACCOUNT_LABEL.to_owned(), account.clone());
    }
    Some(Some(Endpoint {
        name,
        labels,
        addresses: sorted(addresses),
        ports,
        service_account: account,
        node: node_name,
    }))
}

/// `WorkloadEndpoint`
pub(super) fn workload_endpoint(object: &Node<'_>, known: Known, log: &mut Log) -> Option<Endpoint> {
    object.object(&["apiVersion", "kind", "metadata", "spec"], &[], log)?;
    let metadata = metadata::namespaced(object, log);
    let spec = object.need("spec", log)?;
    spec.object(&SPEC, &[], log)?;
    if let Some(nats) =
        spec.get("ipNATs").filter(|nats| nats.value.as_array().is_none_or(|nats| !nats.is_empty()))
    {
        nats.fault(log, "other addresses that are translated are not supported; remove this");
    }
    spec.list("profiles", log, |node, log| {
        let profile = node.text(log)?;
        let usual = ["kns.", "ksa."].iter().any(|prefix| profile.starts_with(prefix));
        if !usual && profile != "projectcalico-default-allow" {
            node.fault(log, "only the profiles of namespaces (kns.…) and service accounts (ksa.…) are there; write a policy");
            return None;
        }
        Some(())
    });
    let addresses = spec.list("ipNetworks", log, |node, log| {
        node.parsed(log, |text| {
            let net = network(text)?;
            match net.len() == if net.is_ipv4() { 32 } else { 128 } {
                true => address(&net.address().to_string()),
                false => Err(format!("{net} is more than one address; give each as /32 or /128")),
            }
        })
    });
    let text =
        |key: &str, log: &mut Log| spec.optional(key, log, |node, log| node.text(log).map(str::to_owned));
    let orchestrator = text("orchestrator", log);
    let node_name = text("node", log);
    let account = spec.optional("serviceAccountName", log, |node, log| {
        if known == Known::Directory {
            node.fault(log, NO_ACCOUNTS);
            return None;
        }
        node.parsed(log, object_name)
    });
    let ports = named_ports(&spec, "port", true, log);
    let (Metadata { name, mut labels }, account, addresses) = (metadata?, account?, addresses?);
    if addresses.is_empty() {
        spec.fault(log, "an endpoint needs an address; give ipNetworks");
        return None;
    }
    if let Some(orchestrator) = orchestrator? {
        labels.insert(ORCHESTRATOR_LABEL.to_owned(), orchestrator);
    }
    if let Some(account) = &account {
        labels.insert(ACCOUNT_LABEL.to_owned(), account.clone());
    }
    Some(Endpoint {
        name,
        labels,
        addresses: sorted(addresses),
        ports: ports?,
        service_account: account,
        node: node_name?,
    })
}

/// `Namespace`
pub(super) fn namespace(object: &Node<'_>, log: &mut Log) -> Option<Namespace> {
    let Metadata { name, mut labels } = metadata::global(object, log)?;
    for label in NAMESPACE_NAME_LABELS {
        labels.insert(label.to_owned(), name.name.clone());
    }
    Some(Namespace { name: name.name, labels })
}

/// `ServiceAccount`
pub(super) fn service_account(object: &Node<'_>, known: Known, log: &mut Log) -> Option<ServiceAccount> {
    if known == Known::Directory {
        object.fault(log, NO_ACCOUNTS);
        return None;
    }
    let Metadata { name, labels } = metadata::namespaced(object, log)?;
    Some(ServiceAccount { name, labels })
}

fn is_text(node: &Node<'_>) -> bool {
    node.value.as_str().is_some_and(|text| !text.is_empty())
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort();
    addresses.dedup();
    addresses
}
