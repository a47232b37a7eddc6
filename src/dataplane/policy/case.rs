//! A packet that is judged by the rules of the ends that are ours.

use std::net::IpAddr;
use std::sync::Arc;

use super::active::ActivePolicy;
use super::rules::{Action, Decision, Origin, Rule};
use super::tuple::Tuple;
use crate::dataplane::observe::{LoggedPacket, Worker};
use crate::dataplane::packet::Direction;
use crate::net::DropReason;

/// Which ends of a packet are this node's to judge.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ends {
    /// The rules of the source for what leaves it.
    pub egress: bool,
    /// The rules of the destination for what comes to it.
    pub ingress: bool,
    /// Whether the source is in a subnet of this node, and none of the node's own addresses; only asked where unknown
    /// ones may nothing.
    pub source_is_pod: bool,
    /// The same of the destination.
    pub destination_is_pod: bool,
}

impl Ends {
    /// The same of an answer.
    pub(super) fn swapped(self) -> Self {
        let Self { egress, ingress, source_is_pod, destination_is_pod } = self;
        Self {
            egress: ingress,
            ingress: egress,
            source_is_pod: destination_is_pod,
            destination_is_pod: source_is_pod,
        }
    }
}

/// Why a packet may not pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denied {
    /// The drop reason.
    pub reason: DropReason,
    /// The rule that said so, if one did.
    pub by: Option<Origin>,
}

/// A packet that is judged.
pub(super) struct Case<'a> {
    pub policy: &'a ActivePolicy,
    pub direction: Direction,
    pub ends: Ends,
    pub packet: &'a [u8],
    pub packets: u64,
    pub worker: &'a Worker,
}

impl Case<'_> {
    /// Judges a connection by its first packet, and counts what was decided.
    pub(super) fn judge(&self, tuple: &Tuple, ends: Ends) -> Result<Decision, Denied> {
        self.count(self.decide(tuple, ends))
    }

    /// Counts what was decided for the policy that did.
    pub(super) fn count(&self, decided: Result<Decision, Denied>) -> Result<Decision, Denied> {
        let by = decided.map_or_else(|denied| denied.by, |decision| decision.by);
        let policy = by.and_then(|by| self.policy.rules.policy(by));
        if let Some(counters) = policy.and_then(|policy| policy.counters.worker(self.worker.index)) {
            match decided {
                Ok(_) => counters.allowed.add(1),
                Err(_) => counters.denied.add(self.packets),
            }
        }
        decided
    }

    /// What the rules of the ends that are ours say of a connection by its first packet.
    pub(super) fn decide(&self, tuple: &Tuple, ends: Ends) -> Result<Decision, Denied> {
        let leaves = (Direction::Outbound, DropReason::PolicyEgress, ends.source_is_pod, tuple.source);
        let comes =
            (Direction::Inbound, DropReason::PolicyIngress, ends.destination_is_pod, tuple.destination);
        let mut decided = Decision { allowed: true, by: None };
        for (direction, reason, is_pod, address) in
            [ends.egress.then_some(leaves), ends.ingress.then_some(comes)].into_iter().flatten()
        {
            if is_pod && self.policy.settings.deny_unknown && !self.is_endpoint(address) {
                return Err(Denied { reason, by: None });
            }
            let decision =
                self.policy.rules.decide(direction, tuple, |rule| self.note(direction, tuple, rule));
            if !decision.allowed {
                return Err(Denied { reason, by: decision.by });
            }
            decided.by = decided.by.or(decision.by);
        }
        Ok(decided)
    }

    fn is_endpoint(&self, address: IpAddr) -> bool {
        let rules = &self.policy.rules;
        rules.role(rules.class(address)).is_endpoint
    }

    /// Whether some rules are about the ends of this node.
    pub(super) fn has_rules(&self, tuple: &Tuple) -> bool {
        let rules = &self.policy.rules;
        let has = |address| {
            let role = rules.role(rules.class(address));
            role.egress.is_some() || role.ingress.is_some()
        };
        (self.ends.egress && has(tuple.source)) || (self.ends.ingress && has(tuple.destination))
    }

    /// Shows a packet that a rule wants logged.
    #[inline]
    fn note(&self, direction: Direction, tuple: &Tuple, rule: &Rule) {
        if rule.action == Action::Log {
            self.log(direction, tuple, rule);
        }
    }

    #[cold]
    fn log(&self, direction: Direction, tuple: &Tuple, rule: &Rule) {
        let Some(policy) = self.policy.rules.policy(rule.origin) else { return };
        let logged = LoggedPacket {
            policy: Arc::clone(&policy.name),
            rule: rule.origin.rule,
            egress: direction == Direction::Outbound,
            source: tuple.source,
            destination: tuple.destination,
            protocol: tuple.protocol,
            ports: tuple.ports,
        };
        self.worker.logged_packet(logged, self.direction, self.packet);
    }
}
