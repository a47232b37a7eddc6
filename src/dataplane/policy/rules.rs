//! Compiled rules.
//!
//! ```text
//! address ─PrefixTable─▶ class ─┬─▶ role: the chains for what leaves and what comes in
//!                               └─▶ row: a bit for each set of addresses that rules speak of
//! chain: rules in order; of the first that matches, the action
//! ```
//!
//! A class is what rules cannot tell apart: addresses in the same sets, with the same chains. So a rule that
//! is about ten thousand addresses costs one bit test, like one that is about one.

use std::net::IpAddr;
use std::sync::Arc;

use super::tuple::Tuple;
use crate::dataplane::observe::PolicyCounters;
use crate::dataplane::packet::{Direction, Family};
use crate::net::Prefix;
use crate::route::PrefixTable;
use crate::wire::protocol;

/// A class of addresses that no rule tells apart.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClassId(pub u16);

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is noted, and the rules behind this one go on.
    Log,
    /// The rules go on at this place of the chain, behind this rule: the beginning of the next tier.
    Pass(u32),
}

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Origin {
    /// Place in [`RulesetParts::policies`].
    pub policy: u32,
    /// Which rule of that policy in this direction, counted from 0; `None` where the policy's tier ends without a
    /// match.
    pub rule: Option<u16>,
}

/// What a rule asks of one end of a packet. Places are those in [`RulesetParts`]; `None` asks nothing.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Side {
    /// The address is in this set.
    pub among: Option<u32>,
    /// The port is in this list.
    pub ports: Option<u32>,
    /// The port is not in this list.
    pub not_ports: Option<u32>,
}

/// What a rule asks of ICMP.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// The code; any when `None`.
    pub code: Option<u8>,
}

/// One rule. It matches what fulfils all that it asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What follows.
    pub action: Action,
    /// The version of IP.
    pub family: Option<Family>,
    /// The upper-layer protocol is this one.
    pub protocol: Option<u8>,
    /// It is not this one.
    pub not_protocol: Option<u8>,
    /// The ICMP type and code are these. Of another protocol than ICMP and ICMPv6 it does not match.
    pub icmp: Option<IcmpMatch>,
    /// They are not these.
    pub not_icmp: Option<IcmpMatch>,
    /// Who sends.
    pub source: Side,
    /// Whom it is for.
    pub destination: Side,
    /// Where it comes from.
    pub origin: Origin,
}

/// Ports from the first to the last, both among them.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// The protocol that they are of, any when `None`: a named port has one.
    pub protocol: Option<u8>,
    /// Only where the address of that end is in this set, any when `None`: a named port is another number at other
    /// endpoints.
    pub at: Option<u32>,
}

/// A list of ports.
pub type PortList = Box<[PortRange]>;

/// What an address of a class is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Role {
    /// Whether it is of an endpoint, that is, something policies can select.
    pub is_endpoint: bool,
    /// The chain for packets that leave it; everything may where there is none.
    pub egress: Option<u32>,
    /// The chain for packets that come to it.
    pub ingress: Option<u32>,
}

/// A policy, by name.
#[derive(Clone, Debug)]
pub struct PolicyEntry {
    /// As users know it: see `policy/`.
    pub name: Arc<str>,
    /// What it decided.
    pub counters: PolicyCounters,
}

/// What a ruleset is made of.
#[derive(Clone, Debug, Default)]
pub struct RulesetParts {
    /// The class of each prefix; an address that none contains is of class 0.
    pub classes: Vec<(Prefix, ClassId)>,
    /// What each class is; class 0 is that of addresses that nothing is known of.
    pub roles: Vec<Role>,
    /// The classes in each set, in any order.
    pub sets: Vec<Vec<ClassId>>,
    /// Lists of ports.
    pub ports: Vec<PortList>,
    /// The chains.
    pub chains: Vec<Box<[Rule]>>,
    /// The policies that rules come from.
    pub policies: Vec<PolicyEntry>,
}

/// More classes or sets than a ruleset has room for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}; let policies use fewer different selectors and networks")]
pub struct TooMany(&'static str);

/// Bytes of all rows, at most.
const MOST_BYTES: usize = 256 << 20;
/// Bits of a word of a row.
const WORD: usize = u64::BITS as usize;

/// All rules at one moment.
#[derive(Debug, Default)]
pub struct Ruleset {
    classes: PrefixTable,
    roles: Box<[Role]>,
    /// Words of a row.
    width: usize,
    /// The sets that each class is in.
    rows: Box<[u64]>,
    ports: Box<[PortList]>,
    chains: Box<[Box<[Rule]>]>,
    policies: Box<[PolicyEntry]>,
}

/// What rules say of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether it may pass.
    pub allowed: bool,
    /// The rule that said so; `None` where no policy is about it.
    pub by: Option<Origin>,
}

/// Whether a rule matches.
enum Match {
    Yes,
    No,
    /// The packet does not show what the rule asks for.
    Unknown,
}

impl Ruleset {
    /// The ruleset of these parts. Places that are out of range match nothing.
    ///
    /// # Errors
    /// When there are too many classes and sets.
    pub fn new(parts: RulesetParts) -> Result<Self, TooMany> {
        let RulesetParts { classes, roles, sets, ports, chains, policies } = parts;
        if roles.len() > PrefixTable::LIMIT {
            return Err(TooMany("rules tell more than 65535 kinds of addresses apart"));
        }
        let width = sets.len().div_ceil(WORD);
        if width.saturating_mul(roles.len()) > MOST_BYTES / size_of::<u64>() {
            return Err(TooMany("rules tell too many kinds of addresses apart"));
        }
        let mut rows = vec![0; width * roles.len()];
        for (number, set) in sets.iter().enumerate() {
            for class in set {
                if let Some(word) = rows.get_mut(usize::from(class.0) * width + number / WORD) {
                    *word |= 1 << (number % WORD);
                }
            }
        }
        Ok(Self {
            classes: PrefixTable::new(classes.into_iter().map(|(prefix, class)| (prefix, class.0))),
            roles: roles.into(),
            width,
            rows: rows.into(),
            ports: ports.into(),
            chains: chains.into(),
            policies: policies.into(),
        })
    }

    /// The class of an address.
    #[inline]
    pub fn class(&self, address: IpAddr) -> ClassId {
        ClassId(self.classes.lookup(address).unwrap_or_default())
    }

    /// What an address of this class is.
    #[inline]
    pub fn role(&self, class: ClassId) -> Role {
        self.roles.get(usize::from(class.0)).copied().unwrap_or_default()
    }

    /// The policies that rules come from.
    pub fn policies(&self) -> &[PolicyEntry] {
        &self.policies
    }

    /// The policy that a rule comes from.
    pub fn policy(&self, origin: Origin) -> Option<&PolicyEntry> {
        self.policies.get(origin.policy as usize)
    }

    /// What the rules say of the first packet of a connection: when it leaves its source ([`Direction::Outbound`])
    /// or comes to its destination. Shows each rule that matches to `see`, those that only log among them.
    pub fn decide(&self, direction: Direction, tuple: &Tuple, see: impl FnMut(&Rule)) -> Decision {
        let (source, destination) = (self.class(tuple.source), self.class(tuple.destination));
        let chain = match direction {
            Direction::Outbound => self.role(source).egress,
            Direction::Inbound => self.role(destination).ingress,
        };
        match chain {
            Some(chain) => self.walk(chain, tuple, (source, destination), see),
            None => Decision { allowed: true, by: None },
        }
    }

    /// What the rules of a chain say of a packet between addresses of these classes.
    pub fn walk(
        &self,
        chain: u32,
        tuple: &Tuple,
        (source, destination): (ClassId, ClassId),
        mut see: impl FnMut(&Rule),
    ) -> Decision {
        let rules = self.chains.get(chain as usize).map_or(&[][..], |chain| chain);
        let ends = Ends { tuple, source: self.row(source), destination: self.row(destination) };
        let mut at = 0;
        while let Some(rule) = rules.get(at) {
            at += 1;
            let matched = self.matches(rule, &ends);
            // What may match is taken for what it would be at worst: a packet that hides its ports gains nothing.
            let decided = match (matched, rule.action) {
                (Match::No, _) | (Match::Unknown, Action::Allow | Action::Log) => continue,
                (Match::Yes, Action::Log) => None,
                (Match::Yes, Action::Pass(next)) => {
                    at = at.max(next as usize);
                    None
                }
                (Match::Yes, Action::Allow) => Some(true),
                (Match::Yes | Match::Unknown, Action::Deny) | (Match::Unknown, Action::Pass(_)) => {
                    Some(false)
                }
            };
            see(rule);
            if let Some(allowed) = decided {
                return Decision { allowed, by: Some(rule.origin) };
            }
        }
        // Behind the last tier is the profile of the namespace, which lets everything pass.
        Decision { allowed: true, by: None }
    }

    /// The sets that a class is in.
    fn row(&self, class: ClassId) -> &[u64] {
        let from = usize::from(class.0) * self.width;
        self.rows.get(from..from + self.width).unwrap_or_default()
    }

    #[inline]
    fn matches(&self, rule: &Rule, ends: &Ends<'_>) -> Match {
        let tuple = ends.tuple;
        if rule.protocol.is_some_and(|protocol| protocol != tuple.protocol)
            || rule.not_protocol.is_some_and(|protocol| protocol == tuple.protocol)
            || rule.source.among.is_some_and(|set| !is_in(ends.source, set))
            || rule.destination.among.is_some_and(|set| !is_in(ends.destination, set))
            || rule.family.is_some_and(|family| family != Family::of(tuple.source))
        {
            return Match::No;
        }
        let source = self.port(rule.source, tuple, ends.source, tuple.ports.map(|(from, _)| from));
        let to = self.port(rule.destination, tuple, ends.destination, tuple.ports.map(|(_, to)| to));
        source.and(to).and(icmp(rule, tuple))
    }

    /// Whether a port of the end that lies in the sets `row` is one that `side` asks for.
    #[inline]
    fn port(&self, side: Side, tuple: &Tuple, row: &[u64], port: Option<u16>) -> Match {
        if side.ports.is_none() && side.not_ports.is_none() {
            return Match::Yes;
        }
        if !protocol::has_ports(tuple.protocol) {
            return Match::No;
        }
        let Some(port) = port else { return Match::Unknown };
        let lists = |list: u32| {
            let ranges = self.ports.get(list as usize).map_or(&[][..], |list| list);
            ranges.iter().any(|range| {
                (range.first..=range.last).contains(&port)
                    && range.protocol.is_none_or(|protocol| protocol == tuple.protocol)
                    && range.at.is_none_or(|set| is_in(row, set))
            })
        };
        match side.ports.is_none_or(lists) && !side.not_ports.is_some_and(lists) {
            true => Match::Yes,
            false => Match::No,
        }
    }
}

/// A packet, and the sets that its addresses are in.
struct Ends<'a> {
    tuple: &'a Tuple,
    source: &'a [u64],
    destination: &'a [u64],
}

impl Match {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }
}

/// Whether a class with this row is in a set.
#[inline]
fn is_in(row: &[u64], set: u32) -> bool {
    let set = set as usize;
    row.get(set / WORD).is_some_and(|word| word >> (set % WORD) & 1 != 0)
}

#[inline]
fn icmp(rule: &Rule, tuple: &Tuple) -> Match {
    if rule.icmp.is_none() && rule.not_icmp.is_none() {
        return Match::Yes;
    }
    if !protocol::is_icmp(tuple.protocol) {
        return if rule.icmp.is_some() { Match::No } else { Match::Yes };
    }
    let Some((kind, code)) = tuple.icmp else { return Match::Unknown };
    let is = |wanted: IcmpMatch| wanted.kind == kind && wanted.code.is_none_or(|wanted| wanted == code);
    match rule.icmp.is_none_or(is) && !rule.not_icmp.is_some_and(is) {
        true => Match::Yes,
        false => Match::No,
    }
}
