//! The rules of each endpoint, in the order in which they are looked at.

use std::collections::HashMap;

use super::CompileError;
use super::cells::Signatures;
use super::ranges::Ranges;
use super::sets::{Sets, Wanted};
use super::things::{Asked, Things, small};
use crate::dataplane::packet::{Direction, Family};
use crate::dataplane::policy::{Action, IcmpMatch, Origin, Rule, Side};
use crate::policy::model::{Entity, Icmp, Policy, PolicyRule, RuleAction, Tier, TierAction};

/// Rules of all chains together, at most: they take some 80 bytes each.
const MOST_RULES: usize = 4 << 20;

/// A policy in its place.
pub(super) struct Placed<'w> {
    /// The policy.
    pub(super) policy: &'w Policy,
    /// Its tier.
    pub(super) tier: &'w Tier,
    /// The kinds of endpoints that it is about.
    pub(super) subject: Ranges,
}

impl<'w> Placed<'w> {
    /// The policy with the kinds of endpoints that it is about.
    pub(super) fn of(policy: &'w Policy, tier: &'w Tier, things: &Things<'_>) -> Self {
        Self { policy, tier, subject: things.select(&Asked::of_policy(policy)) }
    }

    fn rules(&self, direction: Direction) -> Option<&'w Vec<PolicyRule>> {
        let Policy { ingress, egress, .. } = self.policy;
        match direction {
            Direction::Inbound => ingress.as_ref(),
            Direction::Outbound => egress.as_ref(),
        }
    }
}

/// The chains of both directions.
#[derive(Default)]
pub(super) struct Chains {
    /// The rules.
    pub(super) chains: Vec<Box<[Rule]>>,
    /// Of each chain the policies in it, by their place.
    pub(super) policies: Vec<Box<[u32]>>,
    rules: usize,
}

impl Chains {
    /// Adds the chains of a direction for policies in their order. Returns the chain of each kind of endpoint.
    pub(super) fn add<'a>(
        &mut self,
        policies: &[Placed<'a>],
        kinds: u32,
        direction: Direction,
        sets: &mut Sets<'a>,
    ) -> Result<Vec<Option<u32>>, CompileError> {
        let mut signatures = Signatures::default();
        let about = || {
            policies
                .iter()
                .enumerate()
                .filter_map(|(at, placed)| Some((at, placed, placed.rules(direction)?)))
        };
        about().for_each(|(_, placed, _)| signatures.add(&placed.subject));
        // Kinds that the same policies are about have one chain; the first of them stands for all.
        let mut groups: HashMap<[u64; 2], usize> = HashMap::new();
        let mut first = Vec::new();
        let of_kinds: Vec<usize> = (0..)
            .zip(signatures.sums(kinds))
            .map(|(kind, sum)| {
                *groups.entry(sum).or_insert_with(|| {
                    first.push(kind);
                    first.len() - 1
                })
            })
            .collect();
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); first.len()];
        let mut compiled: HashMap<u32, Vec<Rule>> = HashMap::new();
        for (at, placed, rules) in about() {
            let at = small(at).unwrap_or(u32::MAX);
            let mut rows = Vec::with_capacity(rules.len());
            for rule in rules {
                rows.extend(compile(rule, at, sets)?);
            }
            for range in placed.subject.iter() {
                let from = first.partition_point(|kind| *kind < range.start);
                let until = first.partition_point(|kind| *kind < range.end);
                for group in members.iter_mut().take(until).skip(from) {
                    group.push(at);
                    self.rules += 1 + rows.len();
                }
            }
            if self.rules > MOST_RULES {
                return Err(CompileError::TooManyRules(MOST_RULES));
            }
            compiled.insert(at, rows);
        }
        let mut numbers = Vec::with_capacity(members.len());
        for members in members {
            let number = (!members.is_empty()).then(|| small(self.chains.len()).unwrap_or(u32::MAX));
            if number.is_some() {
                self.chains.push(chain(&members, policies, &compiled));
                self.policies.push(members.into());
            }
            numbers.push(number);
        }
        Ok(of_kinds.into_iter().map(|group| numbers.get(group).copied().flatten()).collect())
    }
}

/// The chain of these policies.
fn chain(members: &[u32], policies: &[Placed<'_>], compiled: &HashMap<u32, Vec<Rule>>) -> Box<[Rule]> {
    let tier = |at: &u32| policies.get(*at as usize).map(|placed| placed.tier);
    let mut chain = Vec::new();
    for of_tier in
        members.chunk_by(|one, next| tier(one).map(|tier| &tier.name) == tier(next).map(|tier| &tier.name))
    {
        let begin = chain.len();
        chain.extend(of_tier.iter().filter_map(|at| compiled.get(at)).flatten().copied());
        let last = of_tier.last();
        if let Some((last, tier)) = last.and_then(|at| Some((*at, tier(at)?)))
            && tier.default_action == TierAction::Deny
        {
            chain.push(tier_end(last));
        }
        let next = small(chain.len()).unwrap_or(u32::MAX);
        for rule in chain.iter_mut().skip(begin) {
            if let Action::Pass(to) = &mut rule.action {
                *to = next;
            }
        }
    }
    chain.into()
}

/// What drops that of which no policy of a tier said anything.
fn tier_end(policy: u32) -> Rule {
    Rule {
        action: Action::Deny,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
        origin: Origin { policy, rule: None },
    }
}

/// A rule as the workers read it; `None` where there is nothing that it could match.
fn compile<'a>(rule: &'a PolicyRule, policy: u32, sets: &mut Sets<'a>) -> Result<Option<Rule>, CompileError> {
    let (Some(source), Some(destination)) =
        (side(&rule.source, rule.protocol, sets)?, side(&rule.destination, rule.protocol, sets)?)
    else {
        return Ok(None);
    };
    let icmp = |icmp: Icmp| IcmpMatch { kind: icmp.kind, code: icmp.code };
    Ok(Some(Rule {
        action: match rule.action {
            RuleAction::Allow => Action::Allow,
            RuleAction::Deny => Action::Deny,
            RuleAction::Log => Action::Log,
            // Where the next tier begins is known once this one ends.
            RuleAction::Pass => Action::Pass(0),
        },
        family: rule.ip_version.map(|version| if version == 4 { Family::V4 } else { Family::V6 }),
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        icmp: rule.icmp.map(icmp),
        not_icmp: rule.not_icmp.map(icmp),
        source,
        destination,
        origin: Origin { policy, rule: Some(rule.number) },
    }))
}

fn side<'a>(
    entity: &'a Entity,
    protocol: Option<u8>,
    sets: &mut Sets<'a>,
) -> Result<Option<Side>, CompileError> {
    let among = match sets.among(entity.peers.as_ref())? {
        Wanted::Anybody => None,
        Wanted::Among(set) => Some(set),
        Wanted::Nobody => return Ok(None),
    };
    let ports = sets.ports(&entity.ports, protocol)?;
    let not_ports = sets.ports(&entity.not_ports, protocol)?;
    Ok(Some(Side { among, ports, not_ports }))
}
