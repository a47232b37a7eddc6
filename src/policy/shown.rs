//! Policies and traces, as the API and the command line show them.

use std::fmt;
use std::net::IpAddr;

use super::compile::Compiled;
use super::model::{RuleAction, TierAction};
use super::question::protocol_word;
use super::trace::{Decided, Looked, SideTrace, Trace};
use crate::api::{PolicyEntry, PolicyTrace, TraceDecision, TracePolicy, TraceRule, TraceSide, TraceTier};
use crate::dataplane::packet::Direction;
use crate::dataplane::policy::Tuple;

/// A rule of a policy as the manifest counts it: `ingress[0]` is its first one for incoming packets. Without a number
/// it is the end of the policy's tier.
pub struct RuleNumber {
    /// Whether it is a rule for what leaves an endpoint.
    pub egress: bool,
    /// The number, from 0.
    pub rule: Option<u16>,
}

impl fmt::Display for RuleNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.egress { "egress" } else { "ingress" };
        match self.rule {
            Some(rule) => write!(f, "{direction}[{rule}]"),
            None => f.write_str(direction),
        }
    }
}

impl RuleAction {
    /// The word in manifests and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Log => "Log",
            Self::Pass => "Pass",
        }
    }
}

impl TierAction {
    /// The word in manifests and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}

impl Compiled {
    /// The policies with what they decided, in the order in which they are looked at.
    pub fn entries(&self) -> Vec<PolicyEntry> {
        let counters = self.ruleset.policies().iter().map(|policy| policy.counters.totals());
        self.list()
            .iter()
            .zip(counters)
            .map(|(policy, (connections_allowed, packets_denied))| PolicyEntry {
                tier: policy.tier.clone(),
                order: policy.order.number(),
                kind: policy.kind.name().to_owned(),
                namespace: policy.name.namespace.clone(),
                name: policy.name.name.clone(),
                ingress_endpoints: policy.ingress_endpoints,
                egress_endpoints: policy.egress_endpoints,
                ingress_rules: policy.ingress_rules,
                egress_rules: policy.egress_rules,
                connections_allowed,
                packets_denied,
            })
            .collect()
    }

    /// What the rules say of a packet, without who enforces it.
    pub fn explain(&self, tuple: &Tuple) -> PolicyTrace {
        let Trace { egress, ingress, allowed } = self.trace(tuple);
        PolicyTrace {
            source: tuple.source,
            destination: tuple.destination,
            protocol: protocol_word(tuple.protocol),
            source_port: tuple.ports.map(|(from, _)| from),
            destination_port: tuple.ports.map(|(_, to)| to),
            icmp_type: tuple.icmp.map(|(kind, _)| kind),
            icmp_code: tuple.icmp.map(|(_, code)| code),
            allowed,
            egress: side(&egress, tuple.source),
            ingress: side(&ingress, tuple.destination),
        }
    }
}

/// One end, which has `address`.
fn side(side: &SideTrace, address: IpAddr) -> TraceSide {
    let endpoint = side.endpoint.as_ref();
    TraceSide {
        address,
        endpoint: endpoint.map(|endpoint| endpoint.name.to_string()),
        labels: endpoint.map(|endpoint| endpoint.labels.clone()).unwrap_or_default(),
        node: endpoint.and_then(|endpoint| endpoint.node.clone()),
        network_sets: side.network_sets.iter().map(ToString::to_string).collect(),
        tiers: side.looked.iter().map(tier).collect(),
        decided: decision(&side.decided),
        reason: reason(side),
        allowed: side.allowed,
        enforced_here: false,
        enforced_by: None,
        enforcement: String::new(),
    }
}

fn tier(looked: &Looked) -> TraceTier {
    let policies = looked.policies.iter().map(|policy| TracePolicy {
        policy: policy.name.to_string(),
        matched: policy
            .matched
            .iter()
            .map(|(rule, action)| TraceRule { rule: *rule, action: action.name().to_owned() })
            .collect(),
    });
    TraceTier {
        tier: looked.tier.clone(),
        default_action: looked.default_action.name().to_owned(),
        policies: policies.collect(),
    }
}

fn decision(decided: &Decided) -> TraceDecision {
    let by = |by: &str| TraceDecision { by: by.to_owned(), ..TraceDecision::default() };
    match decided {
        Decided::Rule { tier, policy, rule, action } => TraceDecision {
            tier: Some(tier.clone()),
            policy: Some(policy.to_string()),
            rule: Some(*rule),
            action: Some(action.name().to_owned()),
            ..by("rule")
        },
        Decided::TierEnd { tier } => TraceDecision { tier: Some(tier.clone()), ..by("tier_end") },
        Decided::AllPassed => by("all_passed"),
        Decided::NoPolicy => by("no_policy"),
        Decided::NoEndpoint => by("no_endpoint"),
        Decided::Itself => by("itself"),
    }
}

/// Why it passes or does not.
fn reason(side: &SideTrace) -> String {
    let egress = side.direction == Direction::Outbound;
    match &side.decided {
        Decided::Rule { tier, policy, rule, action } => {
            let number = RuleNumber { egress, rule: Some(*rule) };
            format!("{number} of policy {policy} in tier {tier}: {}", action.name())
        }
        Decided::TierEnd { tier } => {
            format!("policies of tier {tier} are about this endpoint, and none of their rules matches")
        }
        Decided::AllPassed => "every tier passes it on, and behind the last everything is allowed".to_owned(),
        Decided::NoPolicy => {
            let direction = if egress { "egress" } else { "ingress" };
            format!("no policy is about the {direction} of this endpoint")
        }
        Decided::NoEndpoint => {
            "no endpoint that is known has this address, so no policy is about it".to_owned()
        }
        Decided::Itself => "an endpoint always reaches itself".to_owned(),
    }
}
