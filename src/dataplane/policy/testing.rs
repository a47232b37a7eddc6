//! Rules for tests: about one endpoint of this node.

use std::sync::Arc;

use super::{
    Action, ActivePolicy, ClassId, Origin, PolicyEntry, PortRange, Role, Rule, Ruleset, RulesetParts,
    Settings, Side,
};
use crate::dataplane::observe::PolicyCounters;

/// The address of the endpoint; it also has fd00::2.
pub(in crate::dataplane) const LOCAL: [u8; 4] = [10, 244, 1, 2];
/// An address elsewhere.
pub(in crate::dataplane) const REMOTE: [u8; 4] = [10, 244, 2, 2];
/// The port that rules are about.
pub(in crate::dataplane) const WEB: u16 = 80;

/// Denies everything.
pub(in crate::dataplane) const ANY: Rule = Rule {
    action: Action::Deny,
    family: None,
    protocol: None,
    not_protocol: None,
    icmp: None,
    not_icmp: None,
    source: Side { among: None, ports: None, not_ports: None },
    destination: Side { among: None, ports: None, not_ports: None },
    origin: Origin { policy: 0, rule: None },
};

/// A protocol with ports, to [`WEB`].
pub(in crate::dataplane) fn web(action: Action, number: u8) -> Rule {
    let destination = Side { ports: Some(0), ..Side::default() };
    Rule { action, protocol: Some(number), destination, origin: Origin { policy: 0, rule: Some(0) }, ..ANY }
}

/// Rules for what comes to the endpoint [`LOCAL`] and for what leaves it; `None` where there are none.
pub(in crate::dataplane) fn policy(
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
    generation: u32,
) -> ActivePolicy {
    let mut chains: Vec<Box<[Rule]>> = Vec::new();
    let mut chain = |rules: Option<Vec<Rule>>| {
        let rules = rules?;
        chains.push(rules.into_iter().chain([ANY]).collect());
        Some(chains.len() as u32 - 1)
    };
    let role = Role { is_endpoint: true, ingress: chain(ingress), egress: chain(egress) };
    let range = PortRange { first: WEB, last: WEB, protocol: None, at: None };
    let rules = Ruleset::new(RulesetParts {
        classes: vec![
            ("10.244.1.2/32".parse().unwrap(), ClassId(1)),
            ("fd00::2/128".parse().unwrap(), ClassId(1)),
        ],
        roles: vec![Role::default(), role],
        sets: Vec::new(),
        ports: vec![Box::new([range])],
        chains,
        policies: vec![PolicyEntry { name: "default/web".into(), counters: PolicyCounters::new(1) }],
    })
    .unwrap();
    let settings = Settings { connections: 1024, pick_up: 0, ..Settings::default() };
    ActivePolicy { rules: Arc::new(rules), generation, settings }
}
