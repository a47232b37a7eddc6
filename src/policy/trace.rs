//! Why a packet passes or does not.

use std::net::IpAddr;

use super::compile::Compiled;
use super::model::{Endpoint, Labels, Name, RuleAction, TierAction};
use crate::dataplane::packet::Direction;
use crate::dataplane::policy::{Action, Origin, Tuple};

/// What the rules say of the first packet of a connection, at both of its ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// As it leaves its source.
    pub egress: SideTrace,
    /// As it comes to its destination.
    pub ingress: SideTrace,
    /// Whether it passes both.
    pub allowed: bool,
}

/// What the rules of one end say.
#[derive(Clone, Debug, PartialEq)]
pub struct SideTrace {
    /// Which end: [`Direction::Outbound`] is the source's.
    pub direction: Direction,
    /// Whose rules they are; `None` of an address of no endpoint that is known, which has none.
    pub endpoint: Option<Traced>,
    /// The network sets that have the address of this end.
    pub network_sets: Vec<Name>,
    /// What was looked at, in its order, up to what decided.
    pub looked: Vec<Looked>,
    /// What decided.
    pub decided: Decided,
    /// Whether it passes here.
    pub allowed: bool,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// The node that it is on, where that is known.
    pub node: Option<String>,
}

/// A tier that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    /// Its name.
    pub tier: String,
    /// Its policies that are about the endpoint in this direction, in their order, up to what decided.
    pub policies: Vec<Considered>,
    /// What follows where none of their rules matched.
    pub default_action: TierAction,
}

/// A policy that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// Its name.
    pub name: Name,
    /// Its rules that matched, by their number from 0, and what they do: those that only log, and the last.
    pub matched: Vec<(u16, RuleAction)>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Decided {
    /// A rule of a policy.
    Rule {
        /// The policy's tier.
        tier: String,
        /// The policy.
        policy: Name,
        /// Which rule of its, counted from 0.
        rule: u16,
        /// What it does.
        action: RuleAction,
    },
    /// The end of a tier with policies that are about the endpoint, none of whose rules matched.
    TierEnd {
        /// The tier.
        tier: String,
    },
    /// Every tier let the next one say, and behind the last everything passes.
    AllPassed,
    /// No policy is about the endpoint in this direction.
    NoPolicy,
    /// The address is of no endpoint that is known.
    NoEndpoint,
    /// An endpoint reaches itself.
    Itself,
}

impl Compiled {
    /// What the rules say of the first packet of a connection, and why.
    pub fn trace(&self, tuple: &Tuple) -> Trace {
        let (source, destination) = (self.endpoint(tuple.source), self.endpoint(tuple.destination));
        if let (Some(source), Some(destination)) = (source, destination)
            && source.name == destination.name
        {
            let side = |direction, endpoint: &Endpoint, address| SideTrace {
                direction,
                endpoint: Some(Traced::of(endpoint)),
                network_sets: self.network_sets(address),
                looked: Vec::new(),
                decided: Decided::Itself,
                allowed: true,
            };
            return Trace {
                egress: side(Direction::Outbound, source, tuple.source),
                ingress: side(Direction::Inbound, destination, tuple.destination),
                allowed: true,
            };
        }
        let egress = self.side(tuple, Direction::Outbound, source);
        let ingress = self.side(tuple, Direction::Inbound, destination);
        let allowed = egress.allowed && ingress.allowed;
        Trace { egress, ingress, allowed }
    }

    /// The endpoint at an address: the first by name, as for the rules.
    fn endpoint(&self, address: IpAddr) -> Option<&Endpoint> {
        self.world
            .endpoints()
            .values()
            .find(|endpoint| endpoint.addresses.contains(&address))
            .map(|found| &**found)
    }

    /// The network sets that have an address.
    fn network_sets(&self, address: IpAddr) -> Vec<Name> {
        let sets = self.world.network_sets().values();
        sets.filter(|set| set.nets.iter().any(|net| net.contains(address)))
            .map(|set| set.name.clone())
            .collect()
    }

    fn side(&self, tuple: &Tuple, direction: Direction, endpoint: Option<&Endpoint>) -> SideTrace {
        let ruleset = &*self.ruleset;
        let address = match direction {
            Direction::Outbound => tuple.source,
            Direction::Inbound => tuple.destination,
        };
        let role = ruleset.role(ruleset.class(address));
        let chain = match direction {
            Direction::Outbound => role.egress,
            Direction::Inbound => role.ingress,
        };
        let mut matched = Vec::new();
        let decision = ruleset.decide(direction, tuple, |rule| matched.push((rule.origin, rule.action)));
        let decided = match (decision.by, chain, endpoint) {
            (Some(origin), ..) => self.decided(origin, matched.last().map(|(_, action)| *action)),
            (None, Some(_), _) => Decided::AllPassed,
            (None, None, Some(_)) => Decided::NoPolicy,
            (None, None, None) => Decided::NoEndpoint,
        };
        SideTrace {
            direction,
            endpoint: endpoint.map(Traced::of),
            network_sets: self.network_sets(address),
            looked: self.looked(chain, &matched, decision.by),
            decided,
            allowed: decision.allowed,
        }
    }

    /// What the origin of the rule that decided stands for.
    fn decided(&self, origin: Origin, action: Option<Action>) -> Decided {
        let Some(policy) = self.list().get(origin.policy as usize) else { return Decided::AllPassed };
        match origin.rule {
            Some(rule) => Decided::Rule {
                tier: policy.tier.clone(),
                policy: policy.name.clone(),
                rule,
                action: action.map_or(RuleAction::Deny, action_of),
            },
            None => Decided::TierEnd { tier: policy.tier.clone() },
        }
    }

    /// The tiers and policies of a chain up to what decided.
    fn looked(&self, chain: Option<u32>, matched: &[(Origin, Action)], by: Option<Origin>) -> Vec<Looked> {
        let members =
            chain.and_then(|chain| self.chains.get(chain as usize)).map_or(&[][..], |members| members);
        let mut looked: Vec<Looked> = Vec::new();
        let mut passed: Option<&str> = None;
        for at in members {
            let Some(policy) = self.list().get(*at as usize) else { continue };
            if passed == Some(&policy.tier) {
                continue;
            }
            let its = matched.iter().filter(|(origin, _)| origin.policy == *at);
            let its: Vec<(u16, RuleAction)> =
                its.filter_map(|(origin, action)| Some((origin.rule?, action_of(*action)))).collect();
            if its.iter().any(|(_, action)| *action == RuleAction::Pass) {
                passed = Some(&policy.tier);
            }
            let considered = Considered { name: policy.name.clone(), matched: its };
            match looked.last_mut().filter(|last| last.tier == policy.tier) {
                Some(last) => last.policies.push(considered),
                None => looked.push(Looked {
                    tier: policy.tier.clone(),
                    policies: vec![considered],
                    default_action: self
                        .world
                        .tiers()
                        .get(&policy.tier)
                        .map_or(TierAction::Deny, |tier| tier.default_action),
                }),
            }
            if by.is_some_and(|by| by.policy == *at) {
                break;
            }
        }
        looked
    }
}

impl Traced {
    fn of(endpoint: &Endpoint) -> Self {
        let Endpoint { name, labels, node, .. } = endpoint;
        Self { name: name.clone(), labels: labels.clone(), node: node.clone() }
    }
}

/// What a rule does, in the words of users.
fn action_of(action: Action) -> RuleAction {
    match action {
        Action::Allow => RuleAction::Allow,
        Action::Deny => RuleAction::Deny,
        Action::Log => RuleAction::Log,
        Action::Pass(_) => RuleAction::Pass,
    }
}
