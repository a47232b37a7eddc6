//! Network policy: what is enforced, and why a packet passes or does not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A policy, as `GET /v1/policies` lists it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct PolicyEntry {
    /// The tier that it is in.
    pub tier: String,
    /// Where it comes in its tier; null behind all that have a number.
    pub order: Option<f64>,
    /// `KubernetesNetworkPolicy`, `NetworkPolicy` or `GlobalNetworkPolicy`; more may come.
    pub kind: String,
    /// The namespace that it is in; null where it is in none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Endpoints whose incoming packets it is about.
    pub ingress_endpoints: usize,
    /// Endpoints whose outgoing packets it is about.
    pub egress_endpoints: usize,
    /// Its rules for incoming packets.
    pub ingress_rules: usize,
    /// Its rules for outgoing packets.
    pub egress_rules: usize,
    /// Connections that this node has let pass by one of its rules.
    pub connections_allowed: u64,
    /// Packets that this node has dropped by one of its rules, or at the end of its tier.
    pub packets_denied: u64,
}

/// How network policy does, in `GET /v1/status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct PolicyStatus {
    /// What is judged: `overlay` or `all`.
    pub scope: String,
    /// Policies.
    pub policies: usize,
    /// Endpoints that are known, on whatever node.
    pub endpoints: usize,
    /// Namespaces that are known.
    pub namespaces: usize,
    /// Connections that are known now, of all workers.
    pub connections: u64,
    /// Connections that there is room for, of all workers.
    pub connections_capacity: u64,
    /// Connections that found no room and passed all the same.
    pub untracked: u64,
    /// How often other rules were published since the start.
    pub generation: u32,
    /// What has no part in the rules, and why, a sentence each.
    pub left_out: Vec<String>,
    /// Packets that a rule wanted logged and that are not in the log, because there were too many.
    pub log_lost: u64,
}

/// `GET /v1/policies/trace`: what the rules say of the first packet of a connection.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct PolicyTrace {
    /// Who sends it.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Whom it is for.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Upper-layer protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
    pub protocol: String,
    /// Its source port; null of a protocol without ports.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// Its destination port; null of a protocol without ports.
    #[serde(default)]
    pub destination_port: Option<u16>,
    /// Its ICMP type; null of other protocols.
    #[serde(default)]
    pub icmp_type: Option<u8>,
    /// Its ICMP code; null of other protocols.
    #[serde(default)]
    pub icmp_code: Option<u8>,
    /// Whether it passes the rules of both ends.
    pub allowed: bool,
    /// As it leaves its source.
    pub egress: TraceSide,
    /// As it comes to its destination.
    pub ingress: TraceSide,
}

/// What the rules of one end say.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TraceSide {
    /// The address of this end.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The endpoint that has it, as `NAMESPACE/NAME`; null where none is known that does.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The labels of the endpoint.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The node that the endpoint is on, where that is known.
    #[serde(default)]
    pub node: Option<String>,
    /// The network sets that have the address.
    #[serde(default)]
    pub network_sets: Vec<String>,
    /// The tiers that were looked at, in their order, up to what decided.
    #[serde(default)]
    pub tiers: Vec<TraceTier>,
    /// What decided.
    pub decided: TraceDecision,
    /// Why it passes or does not, in words.
    pub reason: String,
    /// Whether it passes here.
    pub allowed: bool,
    /// Whether this node enforces that.
    #[serde(default)]
    pub enforced_here: bool,
    /// The node that enforces it; null where none does, and where it is not known.
    #[serde(default)]
    pub enforced_by: Option<String>,
    /// Who enforces it and why, in words.
    #[serde(default)]
    pub enforcement: String,
}

/// A tier with policies that are about the endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct TraceTier {
    /// Its name.
    pub tier: String,
    /// What follows where none of their rules matches: `Deny` or `Pass`.
    pub default_action: String,
    /// The policies that were looked at, in their order, up to what decided.
    pub policies: Vec<TracePolicy>,
}

/// A policy that was looked at.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct TracePolicy {
    /// As `NAMESPACE/NAME`, or `NAME`.
    pub policy: String,
    /// The rules that match: those that only log, and the last.
    pub matched: Vec<TraceRule>,
}

/// A rule that matches.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct TraceRule {
    /// Which rule of the policy in this direction, counted from 0.
    pub rule: u16,
    /// What it does: `Allow`, `Deny`, `Log` or `Pass`.
    pub action: String,
}

/// What decided.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct TraceDecision {
    /// `rule`; `tier_end`, where policies of a tier are about the endpoint and none of their rules matches;
    /// `all_passed`, behind the last tier; `no_policy` in this direction; `no_endpoint` with this address;
    /// `unknown_endpoint`, where such an address may nothing; `itself`. More may come.
    pub by: String,
    /// The tier, of `rule` and `tier_end`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The policy, of `rule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Which rule of it in this direction, counted from 0, of `rule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u16>,
    /// What that does, of `rule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}
