//! `networking.k8s.io/v1` `NetworkPolicy`.

use super::metadata::{self, label_key, label_value, network};
use super::node::{Log, Node};
use super::ports;
use crate::net::Prefix;
use crate::policy::model::{
    Entity, Name, Order, Peer, Policy, PolicyKind, PolicyRule, Port, RuleAction, Subject, Tier,
};
use crate::policy::selector::{Expression, Selector};
use crate::wire::protocol;

/// `policyTypes`
#[derive(Clone, Copy, Eq, PartialEq)]
enum Direction {
    Ingress,
    Egress,
}

/// The policy that an object describes.
pub(super) fn network_policy(object: &Node<'_>, log: &mut Log) -> Option<Policy> {
    object.object(&["apiVersion", "kind", "metadata", "spec", "status"], &[], log)?;
    let metadata = metadata::namespaced(object, log);
    let spec = object.need("spec", log)?;
    spec.object(&["podSelector", "policyTypes", "ingress", "egress"], &[], log)?;
    let selector = match spec.get("podSelector") {
        Some(selector) => label_selector(&selector, log),
        None => Some(Selector::all()),
    };
    let words = [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)];
    let types = spec.list("policyTypes", log, |node, log| node.word(log, &words));
    let namespace = metadata.as_ref().and_then(|metadata| metadata.name.namespace.clone());
    let namespace = namespace.unwrap_or_default();
    let ingress = rules(&spec, Direction::Ingress, &namespace, log);
    let egress = rules(&spec, Direction::Egress, &namespace, log);
    let (types, ingress, egress, name) = (types?, ingress?, egress?, metadata?.name);
    let (is_ingress, is_egress) = match types.as_slice() {
        [] => (true, !egress.is_empty()),
        types => (types.contains(&Direction::Ingress), types.contains(&Direction::Egress)),
    };
    Some(Policy {
        kind: PolicyKind::KubernetesNetworkPolicy,
        name: policy_name(name),
        tier: Tier::DEFAULT.to_owned(),
        order: Order::at(Policy::KUBERNETES_ORDER)?,
        subject: Subject { selector: selector?, namespaces: None, service_accounts: None },
        ingress: is_ingress.then_some(ingress),
        egress: is_egress.then_some(egress),
    })
}

/// The name of a policy among those of all kinds.
pub(super) fn policy_name(name: Name) -> Name {
    Name { name: format!("{}{}", Policy::KUBERNETES_PREFIX, name.name), ..name }
}

/// A label selector of Kubernetes; an empty one selects everything.
pub(super) fn label_selector(node: &Node<'_>, log: &mut Log) -> Option<Selector> {
    node.object(&["matchLabels", "matchExpressions"], &[], log)?;
    let labels = node.optional("matchLabels", log, metadata::labels);
    let words = [("In", 0), ("NotIn", 1), ("Exists", 2), ("DoesNotExist", 3)];
    let expressions = node.list("matchExpressions", log, |node, log| {
        node.object(&["key", "operator", "values"], &[], log)?;
        let key = node.need("key", log).and_then(|node| node.parsed(log, label_key));
        let operator = node.need("operator", log).and_then(|node| node.word(log, &words));
        let values = node.list("values", log, |node, log| node.parsed(log, label_value))?;
        let (key, operator) = (key?, operator?);
        if (operator < 2) == values.is_empty() {
            node.fault(
                log,
                match operator {
                    0 | 1 => "In and NotIn need values",
                    _ => "Exists and DoesNotExist have no values",
                },
            );
            return None;
        }
        let values = values.into_iter().collect();
        Some(match operator {
            0 => Expression::In(key, values),
            1 => Expression::NotIn(key, values),
            2 => Expression::Has(key),
            _ => Expression::Not(Box::new(Expression::Has(key))),
        })
    });
    let labels = labels?.unwrap_or_default().into_iter();
    let mut all: Vec<Expression> = labels.map(|(key, value)| Expression::Equal(key, value)).collect();
    all.extend(expressions?);
    Some(Selector::every(all))
}

/// The rules of one direction.
fn rules(spec: &Node<'_>, direction: Direction, namespace: &str, log: &mut Log) -> Option<Vec<PolicyRule>> {
    let (key, peers) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let mut number = 0_u16;
    let rules = spec.list(key, log, |node, log| {
        // An empty rule may be written as nothing, which is how `- ` is read.
        if !node.value.is_null() {
            node.object(&[peers, "ports"], &[], log)?;
        }
        let peers = node.list(peers, log, |node, log| peer(node, namespace, log));
        let ports = node.list("ports", log, port);
        let (peers, ports) = (peers?, ports?);
        let rule = expand(number, direction, (!peers.is_empty()).then_some(peers), &ports);
        number = number.checked_add(1).or_else(|| {
            node.fault(log, "more than 65535 rules; split the policy");
            None
        })?;
        Some(rule)
    })?;
    Some(rules.into_iter().flatten().collect())
}

/// One rule, as many as it speaks of protocols.
fn expand(
    number: u16,
    direction: Direction,
    peers: Option<Vec<Peer>>,
    ports: &[(u8, Option<Port>)],
) -> Vec<PolicyRule> {
    let rule = |protocol: Option<u8>, ports: Vec<Port>| {
        let others = Entity { peers: peers.clone(), ..Entity::default() };
        let own = Entity::default();
        let (source, destination) = match direction {
            Direction::Ingress => (others, Entity { ports, ..own }),
            Direction::Egress => (own, Entity { ports, ..others }),
        };
        PolicyRule {
            number,
            action: RuleAction::Allow,
            ip_version: None,
            protocol,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source,
            destination,
        }
    };
    if ports.is_empty() {
        return vec![rule(None, Vec::new())];
    }
    let of = |protocol: u8| {
        let mut its = ports.iter().filter(|(of, _)| *of == protocol).map(|(_, port)| port.clone()).peekable();
        its.peek()?;
        // One that names no port is about all of them.
        Some(rule(Some(protocol), its.collect::<Option<Vec<Port>>>().unwrap_or_default()))
    };
    protocol::WITH_PORTS.into_iter().filter_map(of).collect()
}

/// An element of `ports`: the protocol, and which ports of it, all when `None`.
fn port(node: &Node<'_>, log: &mut Log) -> Option<(u8, Option<Port>)> {
    if !node.value.is_null() {
        node.object(&["protocol", "port", "endPort"], &[], log)?;
    }
    let protocol = node.optional("protocol", log, ports::port_protocol);
    let port = node.optional("port", log, |node, log| match node.value.as_str() {
        Some(_) => node.parsed(log, ports::port_name).map(Port::Named),
        None => node.integer(log, 1, u16::MAX).map(|port| Port::Range(port, port)),
    });
    let last = node.optional("endPort", log, |node, log| node.integer(log, 1, u16::MAX));
    let (protocol, port, last) = (protocol?.unwrap_or(protocol::TCP), port?, last?);
    let port = match (port, last) {
        (port, None) => port,
        (Some(Port::Range(first, _)), Some(last)) if first <= last => Some(Port::Range(first, last)),
        (Some(Port::Range(first, _)), Some(last)) => {
            node.fault(log, format!("endPort {last} is below port {first}; give the last port of the range"));
            return None;
        }
        (_, Some(_)) => {
            node.fault(log, "endPort needs a port that is a number, the first of the range");
            return None;
        }
    };
    Some((protocol, port))
}

/// An element of `from` or `to`.
fn peer(node: &Node<'_>, namespace: &str, log: &mut Log) -> Option<Peer> {
    node.object(&["podSelector", "namespaceSelector", "ipBlock"], &[], log)?;
    let pods = node.optional("podSelector", log, label_selector);
    let namespaces = node.optional("namespaceSelector", log, label_selector);
    let block = node.optional("ipBlock", log, ip_block);
    match (pods?, namespaces?, block?) {
        (None, None, Some((net, except))) => {
            Some(Peer { nets: vec![net], not_nets: except, ..Peer::default() })
        }
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            node.fault(log, "ipBlock stands alone; give podSelector or namespaceSelector as another element");
            None
        }
        (None, None, None) => {
            node.fault(
                log,
                "an empty element selects nobody; give podSelector, namespaceSelector or ipBlock",
            );
            None
        }
        (selector, namespaces, None) => Some(Peer {
            namespace: namespaces.is_none().then(|| namespace.to_owned()),
            selector,
            namespaces,
            only_endpoints: true,
            ..Peer::default()
        }),
    }
}

/// `ipBlock`
fn ip_block(node: &Node<'_>, log: &mut Log) -> Option<(Prefix, Vec<Prefix>)> {
    node.object(&["cidr", "except"], &[], log)?;
    let cidr = node.need("cidr", log).and_then(|node| node.parsed(log, network))?;
    let except = node.list("except", log, |node, log| {
        let except = node.parsed(log, network)?;
        if !cidr.covers(except) || cidr == except {
            node.fault(
                log,
                format!("{except} is no part of {cidr}; give a network inside of it, or remove this"),
            );
            return None;
        }
        Some(except)
    });
    Some((cidr, except?))
}
