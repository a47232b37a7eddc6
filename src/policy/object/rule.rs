//! A rule of Calico.

use super::Known;
use super::metadata::{network, object_name};
use super::node::{Log, Node, Refused};
use super::ports::{self, any_protocol};
use crate::net::Prefix;
use crate::policy::model::{Entity, Icmp, Peer, PolicyRule, Port, RuleAction, ServiceAccounts};
use crate::policy::selector::{Expression, Selector, SelectorError};
use crate::wire;

const KEYS: [&str; 10] = [
    "action",
    "ipVersion",
    "protocol",
    "notProtocol",
    "icmp",
    "notICMP",
    "source",
    "destination",
    // Annotations.
    "metadata",
    "http",
];
const ENTITY: [&str; 9] = [
    "selector",
    "notSelector",
    "namespaceSelector",
    "nets",
    "notNets",
    "ports",
    "notPorts",
    "serviceAccounts",
    "services",
];
/// Why service accounts cannot be asked for in a directory.
pub(super) const NO_ACCOUNTS: &str =
    "there are no service accounts without [source.kubernetes]; use labels and a selector";
const NO_SERVICES: &str =
    "services are not supported, because the pump sees the addresses of pods; use a selector";
const NO_HTTP: &str =
    "rules for HTTP are not supported, because the pump does not look into connections; use ports";
const NO_DOMAINS: Refused = ("domains", "names of domains are not supported; use nets");
const ACTIONS: [(&str, RuleAction); 4] = [
    ("Allow", RuleAction::Allow),
    ("Deny", RuleAction::Deny),
    ("Log", RuleAction::Log),
    ("Pass", RuleAction::Pass),
];

/// The policy that a rule is in, as far as rules care.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Its namespace.
    pub(super) namespace: Option<&'a str>,
    /// What is known where it comes from.
    pub(super) known: Known,
}

/// The selector under a key; an empty one asks nothing, as if it were not there.
#[expect(clippy::option_option, reason = "the outer one is this folder's: whether nothing was wrong")]
pub(super) fn optional_selector(
    node: &Node<'_>,
    key: &str,
    read: fn(&Node<'_>, &mut Log) -> Option<Selector>,
    log: &mut Log,
) -> Option<Option<Selector>> {
    match node.get(key) {
        Some(node) if node.value.as_str() != Some("") => read(&node, log).map(Some),
        _ => Some(None),
    }
}

/// A selector that is no `global()`.
pub(super) fn selector(node: &Node<'_>, log: &mut Log) -> Option<Selector> {
    let selector = any_selector(node, log)?;
    if selector.expression().speaks_of_global() {
        node.fault(log, "global() can only be the namespaceSelector of a rule's source or destination");
        return None;
    }
    Some(selector)
}

fn any_selector(node: &Node<'_>, log: &mut Log) -> Option<Selector> {
    node.parsed::<Selector, SelectorError>(log, str::parse)
}

/// The namespaces of an entity: `global()` alone, or an expression without it.
fn namespace_selector(node: &Node<'_>, log: &mut Log) -> Option<Selector> {
    let selector = any_selector(node, log)?;
    if selector.expression() != &Expression::Global && selector.expression().speaks_of_global() {
        node.fault(log, "global() cannot be combined with other selectors; write a rule for each");
        return None;
    }
    Some(selector)
}

/// Reads a rule.
pub(super) fn read(node: &Node<'_>, number: u16, scope: Scope<'_>, log: &mut Log) -> Option<PolicyRule> {
    node.object(&KEYS, &[], log)?;
    if let Some(http) = node.get("http") {
        http.fault(log, NO_HTTP);
    }
    let action = node.need("action", log).and_then(|node| node.word(log, &ACTIONS));
    let ip_version = node.optional("ipVersion", log, |node, log| {
        let version = node.integer(log, 4_u8, 6)?;
        if version == 5 {
            node.fault(log, "expected 4 or 6, found the number 5");
        }
        Some(version).filter(|version| *version != 5)
    });
    let protocol = node.optional("protocol", log, any_protocol);
    let not_protocol = node.optional("notProtocol", log, any_protocol);
    let icmp = node.optional("icmp", log, read_icmp);
    let not_icmp = node.optional("notICMP", log, read_icmp);
    let source = node.optional("source", log, |node, log| entity(node, scope, log));
    let destination = node.optional("destination", log, |node, log| entity(node, scope, log));
    let (protocol, source, destination) =
        (protocol?, source?.unwrap_or_default(), destination?.unwrap_or_default());
    for key in ["icmp", "notICMP"] {
        if let Some(icmp) = node.get(key).filter(|_| !protocol.is_some_and(wire::protocol::is_icmp)) {
            icmp.fault(log, "a rule that asks for ICMP needs protocol \"ICMP\" or \"ICMPv6\"");
            return None;
        }
    }
    let asked = [(&source, "source"), (&destination, "destination")];
    for (entity, key) in asked {
        if (!entity.ports.is_empty() || !entity.not_ports.is_empty()) && !may_have_ports(protocol, entity) {
            node.get(key)
                .unwrap_or(*node)
                .fault(log, "a rule that asks for ports needs protocol \"TCP\", \"UDP\" or \"SCTP\"");
            return None;
        }
    }
    let ip_version = family(node, ip_version?, [&source, &destination], log)?;
    Some(PolicyRule {
        number,
        action: action?,
        ip_version,
        protocol,
        not_protocol: not_protocol?,
        icmp: icmp?.flatten(),
        not_icmp: not_icmp?.flatten(),
        source,
        destination,
    })
}

/// Whether the protocol goes together with the ports; without one, names alone do.
fn may_have_ports(protocol: Option<u8>, entity: &Entity) -> bool {
    let named = |ports: &[Port]| ports.iter().all(|port| matches!(port, Port::Named(_)));
    match protocol {
        Some(protocol) => wire::protocol::has_ports(protocol),
        None => named(&entity.ports) && entity.not_ports.is_empty(),
    }
}

/// The version of IP that a rule is about: one in which none of its lists of networks is empty, as Calico has it.
#[expect(clippy::option_option, reason = "the outer one is this folder's: whether nothing was wrong")]
fn family(node: &Node<'_>, given: Option<u8>, entities: [&Entity; 2], log: &mut Log) -> Option<Option<u8>> {
    let peers = || entities.into_iter().flat_map(|entity| entity.peers.iter().flatten());
    let lists = || peers().flat_map(|peer| [&peer.nets, &peer.not_nets]).filter(|nets| !nets.is_empty());
    let fits = |version: u8| {
        given.is_none_or(|given| given == version)
            && lists().all(|nets| nets.iter().any(|net: &Prefix| net.is_ipv4() == (version == 4)))
    };
    match (fits(4), fits(6)) {
        (true, true) => Some(None),
        (true, false) => Some(Some(4)),
        (false, true) => Some(Some(6)),
        (false, false) => {
            node.fault(
                log,
                "no packet has networks of both versions of IP at its ends; give those of one version in each rule",
            );
            None
        }
    }
}

/// `icmp` or `notICMP`; `Some(None)` asks nothing.
#[expect(clippy::option_option, reason = "the outer one is this folder's: whether nothing was wrong")]
fn read_icmp(node: &Node<'_>, log: &mut Log) -> Option<Option<Icmp>> {
    node.object(&["type", "code"], &[], log)?;
    let kind = node.optional("type", log, |node, log| node.integer(log, 0, 254));
    let code = node.optional("code", log, |node, log| node.integer(log, 0, 255));
    match (kind?, code?) {
        (Some(kind), code) => Some(Some(Icmp { kind, code })),
        (None, None) => Some(None),
        (None, Some(_)) => {
            node.fault(log, "a code needs a type; give both");
            None
        }
    }
}

/// `source` or `destination`
fn entity(node: &Node<'_>, scope: Scope<'_>, log: &mut Log) -> Option<Entity> {
    node.object(&ENTITY, &[NO_DOMAINS], log)?;
    if let Some(services) = node.get("services") {
        services.fault(log, NO_SERVICES);
    }
    let selected = optional_selector(node, "selector", selector, log);
    let not_selector = optional_selector(node, "notSelector", selector, log);
    let namespaces = optional_selector(node, "namespaceSelector", namespace_selector, log);
    let accounts =
        node.optional("serviceAccounts", log, |node, log| service_accounts(node, scope.known, log));
    let nets = node.list("nets", log, |node, log| node.parsed(log, network));
    let not_nets = node.list("notNets", log, |node, log| {
        let net = node.parsed(log, network)?;
        if net.is_default() {
            node.fault(
                log,
                format!("outside of {net} there is nothing, so the rule would match nothing; remove it"),
            );
            return None;
        }
        Some(net)
    });
    let ports = node.list("ports", log, ports::port);
    let not_ports = node.list("notPorts", log, ports::port);
    let mut peer = Peer {
        selector: selected?,
        not_selector: not_selector?,
        namespaces: namespaces?,
        service_accounts: accounts?,
        nets: nets?,
        not_nets: not_nets?,
        ..Peer::default()
    };
    // A policy in a namespace means its own, as soon as it selects by labels and names no others.
    let selects = peer.selector.is_some() || peer.not_selector.is_some() || peer.service_accounts.is_some();
    if peer.namespaces.is_none() && selects {
        peer.namespace = scope.namespace.map(str::to_owned);
    }
    let peers = (peer != Peer::default()).then(|| vec![peer]);
    Some(Entity { peers, ports: ports?, not_ports: not_ports? })
}

/// `serviceAccounts`
fn service_accounts(node: &Node<'_>, known: Known, log: &mut Log) -> Option<ServiceAccounts> {
    if known == Known::Directory {
        node.fault(log, NO_ACCOUNTS);
        return None;
    }
    node.object(&["names", "selector"], &[], log)?;
    let names = node.list("names", log, |node, log| node.parsed(log, object_name));
    let selector = optional_selector(node, "selector", selector, log);
    Some(ServiceAccounts { names: names?, selector: selector? })
}
