//! What users write, checked: values of one object each, without a trace of the syntax that they came in.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::selector::Selector;
use crate::net::Prefix;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The name of an object, and the namespace that it lies in, if it lies in one.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Name {
    /// The namespace; `None` of what is there for all of them.
    pub namespace: Option<String>,
    /// The name inside of it.
    pub name: String,
}

impl Name {
    /// A name in a namespace.
    pub fn inside(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }

    /// A name that is there once for all namespaces.
    pub fn global(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }
}

/// `NAMESPACE/NAME`, or `NAME`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
}

/// A service account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceAccount {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
}

/// Something that policies can select: a pod, a `WorkloadEndpoint` or an `[[endpoint]]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// Its name.
    pub name: Name,
    /// Its labels, those among them that Calico gives every endpoint (`projectcalico.org/namespace`, …).
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports that have a name.
    pub ports: Vec<NamedPort>,
    /// The name of its service account, in its namespace.
    pub service_account: Option<String>,
    /// The node that it is on, where that is known.
    pub node: Option<String>,
}

/// A port of an endpoint that has a name.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol: TCP, UDP or SCTP, as its number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// Networks with labels.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetworkSet {
    /// Its name; without a namespace it is a `GlobalNetworkSet`.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// Its networks.
    #[serde(with = "super::prefixes")]
    pub nets: Vec<Prefix>,
}

/// Where a tier or a policy comes among the others: by number, those without one last.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Order(Option<f64>);

impl Order {
    /// Behind all that have a number.
    pub const LAST: Self = Self(None);

    /// At this number, which is finite.
    pub fn at(number: f64) -> Option<Self> {
        // Both zeros are one number.
        number.is_finite().then_some(Self(Some(number + 0.0)))
    }

    /// The number.
    pub fn number(self) -> Option<f64> {
        self.0
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            (one, other) => other.is_some().cmp(&one.is_some()),
        }
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Order {}

/// A group of policies that are looked at together.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Where it comes among the tiers.
    pub order: Order,
    /// What becomes of packets that its policies are about and say nothing of.
    pub default_action: TierAction,
}

impl Tier {
    /// The tier that is always there, in which the policies of Kubernetes are.
    pub const DEFAULT: &str = "default";
    /// The order of the tier `default`, which cannot be changed.
    pub const DEFAULT_ORDER: f64 = 1_000_000.0;

    /// The tier `default` where nothing is said about it.
    pub fn default_tier() -> Self {
        Self {
            name: Self::DEFAULT.to_owned(),
            order: Order(Some(Self::DEFAULT_ORDER)),
            default_action: TierAction::Deny,
        }
    }
}

/// `defaultAction` of a tier.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum TierAction {
    /// They are dropped.
    Deny,
    /// The next tier says.
    Pass,
}

/// Which kind of object a policy is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    KubernetesNetworkPolicy,
    /// Calico's `NetworkPolicy`.
    NetworkPolicy,
    /// Calico's `GlobalNetworkPolicy`.
    GlobalNetworkPolicy,
}

impl PolicyKind {
    /// The word in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
        }
    }
}

/// A policy of any kind.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// Which kind of object it is.
    pub kind: PolicyKind,
    /// Its name, which is unique among the policies of all kinds: those of Kubernetes have
    /// [`KUBERNETES_PREFIX`](Self::KUBERNETES_PREFIX) before theirs.
    pub name: Name,
    /// The tier that it is in.
    pub tier: String,
    /// Where it comes in its tier.
    pub order: Order,
    /// Which endpoints it is about.
    pub subject: Subject,
    /// Its rules for what comes to them; `None` where it says nothing of that.
    pub ingress: Option<Vec<PolicyRule>>,
    /// Its rules for what leaves them; `None` where it says nothing of that.
    pub egress: Option<Vec<PolicyRule>>,
}

impl Policy {
    /// What Calico puts before the name of a policy of Kubernetes.
    pub const KUBERNETES_PREFIX: &str = "knp.default.";
    /// The order that Calico gives a policy of Kubernetes.
    pub const KUBERNETES_ORDER: f64 = 1000.0;
    /// Rules of a policy in one direction, at most: Calico's limit.
    pub const MOST_RULES: usize = 1024;
}

/// Which endpoints a policy is about: those that fulfil all of this, in its namespace if it has one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Subject {
    /// Of the endpoint's labels.
    pub selector: Selector,
    /// Of the labels of its namespace.
    pub namespaces: Option<Selector>,
    /// Of the labels of its service account.
    pub service_accounts: Option<Selector>,
}

/// A rule.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyRule {
    /// Which rule of the policy in this direction it was as it was written, counted from 0: one that speaks of several
    /// protocols becomes several.
    pub number: u16,
    /// What follows.
    pub action: RuleAction,
    /// The version of IP: 4 or 6.
    pub ip_version: Option<u8>,
    /// The protocol is this one.
    pub protocol: Option<u8>,
    /// The protocol is not this one.
    pub not_protocol: Option<u8>,
    /// ICMP type and code are these.
    pub icmp: Option<Icmp>,
    /// ICMP type and code are not these.
    pub not_icmp: Option<Icmp>,
    /// Who sends.
    pub source: Entity,
    /// Whom it is for.
    pub destination: Entity,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RuleAction {
    /// The packet passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is noted, and the next rule looks at it.
    Log,
    /// The next tier looks at it.
    Pass,
}

/// ICMP type and code.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code; any when `None`.
    pub code: Option<u8>,
}

/// One end of a packet, as a rule asks for it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entity {
    /// It is one of these; anybody when `None`.
    pub peers: Option<Vec<Peer>>,
    /// Its port is one of these; any when there are none.
    pub ports: Vec<Port>,
    /// Its port is none of these.
    pub not_ports: Vec<Port>,
}

/// A port, or several.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Port {
    /// From the first to the last.
    Range(u16, u16),
    /// What that endpoint calls so.
    Named(String),
}

/// Addresses: those that fulfil all of this.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Peer {
    /// Of an endpoint or network set with such labels.
    pub selector: Option<Selector>,
    /// Of one in a namespace with such labels.
    pub namespaces: Option<Selector>,
    /// Of one in this namespace.
    pub namespace: Option<String>,
    /// Of an endpoint with such a service account.
    pub service_accounts: Option<ServiceAccounts>,
    /// Endpoints alone count for the above, network sets do not.
    pub only_endpoints: bool,
    /// Of no endpoint or network set with such labels.
    pub not_selector: Option<Selector>,
    /// In one of these networks, if there are any.
    #[serde(with = "super::prefixes")]
    pub nets: Vec<Prefix>,
    /// In none of these networks.
    #[serde(with = "super::prefixes")]
    pub not_nets: Vec<Prefix>,
}

/// Service accounts: those that fulfil all of this.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ServiceAccounts {
    /// With one of these names, if there are any.
    pub names: Vec<String>,
    /// With such labels.
    pub selector: Option<Selector>,
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn what_has_no_order_comes_last() {
        let at = |number| Order::at(number).unwrap();
        let mut orders = [Order::LAST, at(5.0), at(-3.5), at(0.0)];
        orders.sort();
        assert_eq!(orders, [at(-3.5), at(0.0), at(5.0), Order::LAST]);
        assert_eq!(at(-0.0), at(0.0));
        assert_eq!([f64::NAN, f64::INFINITY].map(Order::at), [None, None]);
    }
}
