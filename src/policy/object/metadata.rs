//! What all objects have: names, labels, addresses and networks.

use std::net::IpAddr;

use super::node::{Log, Node};
use crate::net::Prefix;
use crate::net::words::clip;
use crate::policy::model::{Labels, Name};

/// The namespace of an object that gives none.
const DEFAULT_NAMESPACE: &str = "default";
/// Characters of a name (RFC 1123, as Kubernetes has it), of a label's key and of its value, at most.
const LONGEST_NAME: usize = 253;
const LONGEST_KEY: usize = 317;
const LONGEST_VALUE: usize = 63;
/// What Kubernetes knows under `metadata`.
const KEYS: [&str; 15] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The label that says in which namespace something is.
pub(super) const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// `metadata` of an object in a namespace.
pub(super) fn namespaced(object: &Node<'_>, log: &mut Log) -> Option<Metadata> {
    let metadata = object.need("metadata", log)?;
    metadata.object(&KEYS, &[], log)?;
    let name = metadata.need("name", log).and_then(|name| name.parsed(log, object_name));
    let namespace = metadata.optional("namespace", log, |node, log| node.parsed(log, object_name));
    let labels = metadata.optional("labels", log, labels);
    let namespace = namespace?.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let labels = labels_in(&namespace, labels?.unwrap_or_default());
    Some(Metadata { name: Name { namespace: Some(namespace), name: name? }, labels })
}

/// `metadata` of an object that is there for all namespaces.
pub(super) fn global(object: &Node<'_>, log: &mut Log) -> Option<Metadata> {
    let metadata = object.need("metadata", log)?;
    metadata.object(&KEYS, &[], log)?;
    if let Some(namespace) = metadata.get("namespace") {
        namespace.fault(log, "an object of this kind lies in no namespace; remove this");
    }
    let name = metadata.need("name", log).and_then(|name| name.parsed(log, object_name));
    let mut labels = metadata.optional("labels", log, labels)?.unwrap_or_default();
    labels.remove(NAMESPACE_LABEL);
    Some(Metadata { name: Name::global(name?), labels })
}

/// Name and labels of an object.
pub(super) struct Metadata {
    pub(super) name: Name,
    pub(super) labels: Labels,
}

/// The labels of something in a namespace, with the one that Calico adds.
pub fn labels_in(namespace: &str, mut labels: Labels) -> Labels {
    labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_owned());
    labels
}

/// A name of Kubernetes.
pub fn object_name(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    match !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text.chars().all(fine)
        && text.starts_with(ends)
        && text.ends_with(ends)
    {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "\"{}\" is no name; use lower case letters, digits, '-' and '.', at most {LONGEST_NAME}",
            clip(text)
        )),
    }
}

/// Labels.
pub(super) fn labels(node: &Node<'_>, log: &mut Log) -> Option<Labels> {
    let mut labels = Labels::new();
    let mut right = true;
    for key in node.map(log)?.keys() {
        let value = node.get(key);
        let name = label_key(key).map_err(|reason| value.unwrap_or(*node).fault(log, reason)).ok();
        // A value that is nothing is an empty one.
        let value = value.map_or(Some(String::new()), |value| value.parsed(log, label_value));
        match (name, value) {
            (Some(key), Some(value)) => drop(labels.insert(key, value)),
            _ => right = false,
        }
    }
    right.then_some(labels)
}

/// The name of a label.
pub fn label_key(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    match !text.is_empty() && text.len() <= LONGEST_KEY && text.chars().all(fine) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "\"{}\" is no name of a label; use letters, digits, '-', '_', '.' and '/', at most {LONGEST_KEY}",
            clip(text)
        )),
    }
}

/// The value of a label.
pub fn label_value(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    match text.len() <= LONGEST_VALUE && text.chars().all(fine) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "\"{}\" is no value of a label; use letters, digits, '-', '_' and '.', at most {LONGEST_VALUE}",
            clip(text)
        )),
    }
}

/// The address of an endpoint.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("\"{}\" is not an IP address; write one like 10.244.1.7", clip(text)))?;
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{address} is no address of an endpoint; give one that it sends from"));
    }
    Ok(address)
}

/// A network: a prefix, whose host bits do not count, or an address.
pub(super) fn network(text: &str) -> Result<Prefix, String> {
    let wrong =
        || format!("\"{}\" is not a network; write an address and a length like 10.244.1.0/24", clip(text));
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(format!("{address} is an IPv4 address in the form of IPv6; write it as IPv4"));
    }
    match len {
        None => Ok(Prefix::host(address)),
        Some(len) if !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit()) => {
            len.parse().ok().and_then(|len| Prefix::containing(address, len)).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}
