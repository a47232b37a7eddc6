//! Protocols and ports.

use serde_json::Value;

use super::node::{Log, Node, describe};
use crate::net::words::{clip, hint};
use crate::policy::model::{NamedPort, Port};
use crate::wire::protocol;

/// UDP-Lite (RFC 3828).
const UDP_LITE: u8 = 136;
/// The names of Calico.
const PROTOCOLS: [(&str, u8); 6] = [
    ("TCP", protocol::TCP),
    ("UDP", protocol::UDP),
    ("SCTP", protocol::SCTP),
    ("ICMP", protocol::ICMP),
    ("ICMPv6", protocol::ICMPV6),
    ("UDPLite", UDP_LITE),
];
/// Those that have ports.
pub const PORT_PROTOCOLS: [(&str, u8); 3] =
    [("TCP", protocol::TCP), ("UDP", protocol::UDP), ("SCTP", protocol::SCTP)];
/// Characters of a name of a port, at most: Calico's limit; Kubernetes has 15.
const LONGEST_NAME: usize = 128;

/// A protocol by name or number.
pub(super) fn any_protocol(node: &Node<'_>, log: &mut Log) -> Option<u8> {
    if node.value.is_number() {
        return node.integer(log, 1, 255);
    }
    node.parsed(log, |given| {
        let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(given));
        let numbered = || given.parse().ok().filter(|number: &u8| *number > 0);
        named.map(|(_, number)| *number).or_else(numbered).ok_or_else(|| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            let hint = hint(given, names.iter().copied());
            format!("\"{}\" is not {} or a number from 1 to 255{hint}", clip(given), names.join(", "))
        })
    })
}

/// A protocol that has ports, by name or number.
pub(super) fn port_protocol(node: &Node<'_>, log: &mut Log) -> Option<u8> {
    let wrong = |given: &str| format!("\"{}\" is not one of \"TCP\", \"UDP\", \"SCTP\"", clip(given));
    if node.value.is_number() {
        let number = node.integer(log, 1, 255)?;
        if !protocol::has_ports(number) {
            node.fault(log, wrong(&number.to_string()));
            return None;
        }
        return Some(number);
    }
    node.parsed(log, |given| {
        let found = PORT_PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(given));
        found.map(|(_, number)| *number).ok_or_else(|| wrong(given))
    })
}

/// A port by number, `FIRST:LAST`, or name.
pub(super) fn port(node: &Node<'_>, log: &mut Log) -> Option<Port> {
    if node.value.is_number() {
        return node.integer(log, 0, u16::MAX).map(|port| Port::Range(port, port));
    }
    if !node.value.is_string() {
        let found = describe(node.value);
        node.fault(log, format!("expected a port, a range like \"80:90\" or a name, found {found}"));
        return None;
    }
    node.parsed(log, |text| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| {
            text.parse::<u16>().map_err(|_| format!("\"{}\" is no port; use 0 to 65535", clip(text)))
        };
        match text.split_once(':') {
            Some((first, last)) if digits(first) && digits(last) => match (number(first)?, number(last)?) {
                (first, last) if first > last => {
                    Err(format!("\"{}\" ends before it begins; write \"{last}:{first}\"", clip(text)))
                }
                (first, last) => Ok(Port::Range(first, last)),
            },
            None if digits(text) => number(text).map(|port| Port::Range(port, port)),
            _ => port_name(text).map(Port::Named),
        }
    })
}

/// The name of a port.
pub fn port_name(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    match !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(fine) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "\"{}\" is no name of a port; use letters, digits, '-', '_' and '.', or a number",
            clip(text)
        )),
    }
}

/// Ports of an endpoint that have a name; what has none counts for nothing.
pub(super) fn named_ports(
    owner: &Node<'_>,
    number: &str,
    strict: bool,
    log: &mut Log,
) -> Option<Vec<NamedPort>> {
    let ports = owner.list("ports", log, |node, log| {
        if strict {
            node.object(&["name", "protocol", "hostIP", "hostPort", number], &[], log)?;
        }
        let Some(name) = node.get("name").filter(|name| name.value != &Value::String(String::new())) else {
            return Some(None);
        };
        let name = name.parsed(log, port_name);
        let protocol = node.optional("protocol", log, port_protocol);
        let port = node.need(number, log).and_then(|node| node.integer(log, 1, u16::MAX));
        Some(Some(NamedPort { name: name?, protocol: protocol?.unwrap_or(protocol::TCP), port: port? }))
    })?;
    let mut ports: Vec<NamedPort> = ports.into_iter().flatten().collect();
    ports.sort();
    ports.dedup();
    Some(ports)
}
