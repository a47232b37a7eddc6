//! `[node] address` and `address6`: an address, or one of Calico's words for how it is found on the host.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use regex::{Regex, RegexBuilder};
use toml::de::DeValue;

use super::reader::text;
use super::value::{node_net, node_net6, unicast};
use crate::net::words::{clip, hint, question};
use crate::net::{HostName, Prefix};

/// The word for "as the cluster knows it, else the first that is found".
const AUTO: &str = "auto";
const FIRST_FOUND: &str = "first-found";
const CAN_REACH: &str = "can-reach";
const INTERFACE: &str = "interface";
const SKIP_INTERFACE: &str = "skip-interface";
const CIDR: &str = "cidr";
/// Calico's word for what `[source.kubernetes]` does anyway.
const KUBERNETES: &str = "kubernetes-internal-ip";

/// What a list of patterns or prefixes may have at most.
const MOST: usize = 64;
/// Bytes of a pattern at most. Names of interfaces have 15.
const LONGEST: usize = 256;
/// Bytes of a compiled pattern at most: `(((.{99}){99}){99}` is a few bytes and would be gigabytes.
const LARGEST: usize = 64 << 10;

/// How an address of this node is found among those of the host (Calico's `IP_AUTODETECTION_METHOD`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AddressRule {
    /// `first-found`: the first address of the first interface that is none of containers or tunnels.
    FirstFound,
    /// `can-reach=DEST`: the source of packets to there.
    CanReach(Destination),
    /// `interface=REGEX,…`: the first address of the first interface whose name one of them matches.
    Interface(Patterns),
    /// `skip-interface=REGEX,…`: the first that is found on an interface whose name none of them matches.
    SkipInterface(Patterns),
    /// `cidr=CIDR,…`: the first address in one of them.
    Cidr(Vec<Prefix>),
}

/// Where `can-reach=` is to lead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// An address.
    Address(IpAddr),
    /// A name that a resolver knows.
    Name(HostName),
}

/// Regular expressions, of which one that matches anywhere in a name suffices.
#[derive(Clone, Debug)]
pub struct Patterns(Arc<[Regex]>);

impl Patterns {
    /// The one that matches `name`.
    pub fn matching(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|pattern| pattern.is_match(name)).map(Regex::as_str)
    }
}

impl Eq for Patterns {}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(Regex::as_str).eq(other.0.iter().map(Regex::as_str))
    }
}

impl AddressRule {
    /// The name that has to be looked up before it can be followed.
    pub fn host_name(&self) -> Option<&HostName> {
        match self {
            Self::CanReach(Destination::Name(name)) => Some(name),
            _ => None,
        }
    }
}

/// As it is written in the file.
impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |patterns: &Patterns| patterns.0.iter().map(Regex::as_str).collect::<Vec<_>>().join(",");
        match self {
            Self::FirstFound => f.write_str(FIRST_FOUND),
            Self::CanReach(Destination::Address(address)) => write!(f, "{CAN_REACH}={address}"),
            Self::CanReach(Destination::Name(name)) => write!(f, "{CAN_REACH}={name}"),
            Self::Interface(patterns) => write!(f, "{INTERFACE}={}", listed(patterns)),
            Self::SkipInterface(patterns) => write!(f, "{SKIP_INTERFACE}={}", listed(patterns)),
            Self::Cidr(prefixes) => {
                let listed: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
                write!(f, "{CIDR}={}", listed.join(","))
            }
        }
    }
}

/// What the file says of an address of this node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OwnAddress<N> {
    /// Nothing; a cluster may know it.
    Absent,
    /// The address itself, with its length.
    Given(N),
    /// How it is found.
    Rule(AddressRule),
}

impl<N: Copy> OwnAddress<N> {
    /// The address, where the file has it.
    pub(super) fn given(&self) -> Option<N> {
        match self {
            Self::Given(net) => Some(*net),
            Self::Absent | Self::Rule(_) => None,
        }
    }

    /// Whether this node will have no address of this family.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The address or the rule.
    pub(super) fn split(self) -> (Option<N>, Option<AddressRule>) {
        match self {
            Self::Absent => (None, None),
            Self::Given(net) => (Some(net), None),
            Self::Rule(rule) => (None, Some(rule)),
        }
    }
}

/// `node.address`. `beside` says whether a cluster knows this node's address.
pub(super) fn node_address(value: &DeValue<'_>, beside: bool) -> Result<OwnAddress<Ipv4Net>, String> {
    own_address(value, (beside, true), node_net)
}

/// `node.address6`. `beside` says whether a cluster knows this node's address.
pub(super) fn node_address6(value: &DeValue<'_>, beside: bool) -> Result<OwnAddress<Ipv6Net>, String> {
    own_address(value, (beside, false), node_net6)
}

fn own_address<N>(
    value: &DeValue<'_>,
    (beside, is_ipv4): (bool, bool),
    net: impl FnOnce(&DeValue<'_>) -> Result<N, String>,
) -> Result<OwnAddress<N>, String> {
    let given = text(value)?;
    if given == AUTO {
        return Ok(if beside { OwnAddress::Absent } else { OwnAddress::Rule(AddressRule::FirstFound) });
    }
    if let Some(rule) = rule(given, is_ipv4) {
        return rule.map(OwnAddress::Rule);
    }
    net(value).map(OwnAddress::Given)
}

/// The rule that `given` is; `None` where it is meant to be an address.
fn rule(given: &str, is_ipv4: bool) -> Option<Result<AddressRule, String>> {
    let words = [FIRST_FOUND, CAN_REACH, INTERFACE, SKIP_INTERFACE, CIDR];
    let Some((word, argument)) = given.split_once('=') else {
        return match given {
            FIRST_FOUND => Some(Ok(AddressRule::FirstFound)),
            KUBERNETES => Some(Err(format!(
                "{KUBERNETES}: with [source.kubernetes] write \"{AUTO}\" or leave the key out, the node's address there is taken then"
            ))),
            _ if words.contains(&given) => Some(Err(format!(
                "\"{given}\" lacks what it is about; write it like {given}={}",
                example(given)
            ))),
            _ => question(given, [AUTO, FIRST_FOUND].into_iter())
                .map(|question| Err(format!("\"{}\" is not known; {question}", clip(given)))),
        };
    };
    Some(
        match word {
            CAN_REACH => destination(argument, is_ipv4).map(AddressRule::CanReach),
            INTERFACE => patterns(argument).map(AddressRule::Interface),
            SKIP_INTERFACE => patterns(argument).map(AddressRule::SkipInterface),
            CIDR => prefixes(argument, is_ipv4).map(AddressRule::Cidr),
            FIRST_FOUND => Err(format!("{FIRST_FOUND} takes nothing behind it; write \"{FIRST_FOUND}\"")),
            _ => {
                let hint = hint(word, words.into_iter());
                Err(format!("\"{}=\" is not one of {}{hint}", clip(word), words[1..].join("=, ") + "="))
            }
        }
        .map_err(|reason| format!("{}: {reason}", clip(word))),
    )
}

/// What may stand behind `word`.
fn example(word: &str) -> &'static str {
    match word {
        CAN_REACH => "192.0.2.254",
        CIDR => "192.0.2.0/24",
        _ => "^eth.*",
    }
}

fn destination(argument: &str, is_ipv4: bool) -> Result<Destination, String> {
    let Ok(address) = argument.parse::<IpAddr>() else {
        return argument
            .parse()
            .map(Destination::Name)
            .map_err(|_| format!("\"{}\" is neither an address nor a host name", clip(argument)));
    };
    unicast(address)?;
    check_family(address, is_ipv4)?;
    Ok(Destination::Address(address))
}

fn patterns(argument: &str) -> Result<Patterns, String> {
    let compiled = items(argument)?.into_iter().map(|text| {
        if text.len() > LONGEST {
            return Err(format!("a pattern has {} bytes; use at most {LONGEST}", text.len()));
        }
        RegexBuilder::new(text).size_limit(LARGEST).dfa_size_limit(LARGEST).build().map_err(|error| {
            // The last line says what is wrong, those before show where.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("\"{}\" is not a regular expression: {reason}", clip(text))
        })
    });
    compiled.collect::<Result<Vec<_>, _>>().map(|patterns| Patterns(patterns.into()))
}

fn prefixes(argument: &str, is_ipv4: bool) -> Result<Vec<Prefix>, String> {
    let parsed = items(argument)?.into_iter().map(|text| {
        let prefix: Prefix = text.parse().map_err(|error: crate::net::PrefixError| error.to_string())?;
        check_family(prefix.address(), is_ipv4)?;
        Ok(prefix)
    });
    parsed.collect()
}

/// What a list has between its commas.
fn items(argument: &str) -> Result<Vec<&str>, String> {
    let items: Vec<&str> = argument.split(',').map(str::trim).collect();
    match items.len() {
        count if count > MOST => Err(format!("{count} elements; use at most {MOST}")),
        _ if items.contains(&"") => {
            Err("an element is empty; write one behind the sign and behind each comma".to_owned())
        }
        _ => Ok(items),
    }
}

fn check_family(address: IpAddr, is_ipv4: bool) -> Result<(), String> {
    match (address.is_ipv4(), is_ipv4) {
        (false, true) => Err(format!("{address} is IPv6; it belongs in address6")),
        (true, false) => Err(format!("{address} is IPv4; it belongs in address")),
        _ => Ok(()),
    }
}
