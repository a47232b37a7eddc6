//! From all objects to rules.
//!
//! ```text
//! World ─▶ things     endpoints that no selector tells apart, network sets
//!       ─▶ cells      the address space in pieces
//!       ─▶ policies   in their order, each with the endpoints that it is about
//!       ─▶ chains     rules of each kind of endpoint; sets of cells, lists of ports
//!       ─▶ classes    cells in the same sets, with the same chains
//! ```
//!
//! Sets of cells and of endpoints are ranges throughout, and what is equal is there once, so ten thousand
//! policies about ten thousand endpoints cost what they say, not the product.

mod cells;
mod chains;
mod ranges;
mod sets;
#[cfg(test)]
mod tests;
mod things;
mod universe;

use std::collections::HashMap;
use std::sync::Arc;

use self::cells::{Cells, Signatures};
use self::chains::{Chains, Placed};
use self::ranges::Ranges;
use self::sets::Sets;
use self::things::Things;
use super::model::{Name, Order, Policy, PolicyKind, PolicyRule, Tier};
use super::world::World;
use crate::dataplane::observe::PolicyCounters;
use crate::dataplane::packet::Direction;
use crate::dataplane::policy::{ClassId, PolicyEntry, Role, Ruleset, RulesetParts, TooMany};

/// Members of all sets of classes together, at most: they take 2 bytes each.
const MOST_MEMBERS: usize = 64 << 20;

/// Why objects cannot become rules.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// More different addresses than there is room for.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The same, noticed earlier.
    #[error(
        "rules tell more than 65535 kinds of addresses apart; let policies use fewer different selectors and networks"
    )]
    TooManyClasses,
    /// More sets of addresses than there is room for.
    #[error(
        "rules speak of too many different sets of addresses; let policies use fewer different selectors and networks"
    )]
    TooManySets,
    /// More rules than there is room for.
    #[error(
        "the policies of all endpoints have more than {0} rules in all; let fewer policies select the same endpoints, or give them fewer rules"
    )]
    TooManyRules(usize),
}

/// What a [`World`] was compiled to.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The rules.
    pub ruleset: Arc<Ruleset>,
    /// What they were made of.
    pub world: Arc<World>,
    /// What had no part in it, and why, a sentence each: policies whose tier is not there, addresses that two
    /// endpoints have.
    pub left_out: Vec<String>,
    /// How many kinds of addresses rules tell apart.
    pub classes: usize,
    /// How many different sets of addresses rules speak of.
    pub sets: usize,
    /// The policies, in the order in which they are looked at, which is that of the ruleset's policies.
    listed: Arc<[Listed]>,
    /// Of each chain the policies in it, by their place.
    pub(super) chains: Arc<[Box<[u32]>]>,
}

/// A policy, as it came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Which kind of object it is.
    pub kind: PolicyKind,
    /// Its tier.
    pub tier: String,
    /// Its order in the tier.
    pub order: Order,
    /// Its namespace and name.
    pub name: Name,
    /// Endpoints whose incoming packets it is about.
    pub ingress_endpoints: usize,
    /// Endpoints whose outgoing packets it is about.
    pub egress_endpoints: usize,
    /// Rules for incoming packets, as they were written.
    pub ingress_rules: usize,
    /// Rules for outgoing packets, as they were written.
    pub egress_rules: usize,
}

impl Compiled {
    /// The policies, in the order in which they are looked at: by tier, and in each tier by order.
    pub fn list(&self) -> &[Listed] {
        &self.listed
    }
}

/// Compiles all objects. Policies that `before` had go on with their counters, which are for `workers` workers.
///
/// # Errors
/// When there are more rules, or addresses that rules tell apart, than there is room for.
pub fn compile(world: &World, workers: usize, before: Option<&Compiled>) -> Result<Compiled, CompileError> {
    let things = Things::of(world);
    let default = Tier::default_tier();
    let (ordered, mut left_out) = in_order(world, &default);
    let cells = Cells::of(&things, ordered.iter().map(|(policy, _)| *policy));
    left_out.extend(cells.shared.iter().map(|(address, second, first)| {
        format!(
            "endpoint {second} has the address {address}, which endpoint {first} has, too; each needs its own"
        )
    }));
    let policies: Vec<Placed<'_>> =
        ordered.into_iter().map(|(policy, tier)| Placed::of(policy, tier, &things)).collect();
    let mut sets = Sets::new(&things, &cells);
    let mut chains = Chains::default();
    let ingress = chains.add(&policies, things.kinds, Direction::Inbound, &mut sets)?;
    let egress = chains.add(&policies, things.kinds, Direction::Outbound, &mut sets)?;
    let (sets, ports) = sets.into_parts();
    let role = |kind: Option<u32>| match kind.map(|kind| kind as usize) {
        Some(kind) => Role {
            is_endpoint: true,
            egress: egress.get(kind).copied().flatten(),
            ingress: ingress.get(kind).copied().flatten(),
        },
        None => Role::default(),
    };
    let classes = Classes::of(&cells, &sets, role)?;
    let parts = RulesetParts {
        classes: cells.prefixes(&classes.numbers).map(|(prefix, class)| (prefix, ClassId(class))).collect(),
        sets: classes.sets(&sets)?,
        roles: classes.roles,
        ports,
        chains: chains.chains,
        policies: entries(&policies, workers, before),
    };
    let (classes, sets) = (parts.roles.len(), parts.sets.len());
    Ok(Compiled {
        classes,
        sets,
        ruleset: Arc::new(Ruleset::new(parts)?),
        world: Arc::new(world.clone()),
        left_out,
        listed: policies.iter().map(|placed| listed(placed, &things)).collect(),
        chains: chains.policies.into(),
    })
}

/// The policies in the order in which they are looked at, each with its tier, and those whose tier is not there.
fn in_order<'w>(world: &'w World, default: &'w Tier) -> (Vec<(&'w Policy, &'w Tier)>, Vec<String>) {
    let (mut ordered, mut left_out) = (Vec::new(), Vec::new());
    for policy in world.policies().values() {
        let tier = world.tiers().get(&policy.tier).map(|tier| &**tier);
        match tier.or((policy.tier == Tier::DEFAULT).then_some(default)) {
            Some(tier) => ordered.push((&**policy, tier)),
            None => left_out.push(format!(
                "policy {} is in the tier {}, which is not there; add the tier",
                policy.name, policy.tier
            )),
        }
    }
    ordered.sort_by_key(|(policy, tier)| {
        let Policy { order, name, kind, .. } = policy;
        (tier.order, &tier.name, *order, &name.name, &name.namespace, *kind)
    });
    (ordered, left_out)
}

/// The policies as the workers count for them.
fn entries(policies: &[Placed<'_>], workers: usize, before: Option<&Compiled>) -> Vec<PolicyEntry> {
    let before = before.map(|before| before.ruleset.policies()).unwrap_or_default();
    let before: HashMap<&str, &PolicyCounters> =
        before.iter().map(|entry| (&*entry.name, &entry.counters)).collect();
    let entry = |placed: &Placed<'_>| {
        let name = placed.policy.name.to_string();
        let counters = before.get(name.as_str()).copied().cloned();
        PolicyEntry { counters: counters.unwrap_or_else(|| PolicyCounters::new(workers)), name: name.into() }
    };
    policies.iter().map(entry).collect()
}

fn listed(placed: &Placed<'_>, things: &Things<'_>) -> Listed {
    let Policy { kind, tier, order, name, ingress, egress, .. } = placed.policy;
    let endpoints = things.endpoints(&placed.subject);
    // One rule that was written may be several.
    let count = |rules: &Option<Vec<PolicyRule>>| {
        rules.as_ref().and_then(|rules| rules.last()).map_or(0, |rule| usize::from(rule.number) + 1)
    };
    Listed {
        kind: *kind,
        tier: tier.clone(),
        order: *order,
        name: name.clone(),
        ingress_endpoints: if ingress.is_some() { endpoints } else { 0 },
        egress_endpoints: if egress.is_some() { endpoints } else { 0 },
        ingress_rules: count(ingress),
        egress_rules: count(egress),
    }
}

/// Cells in the same sets, with the same role.
struct Classes {
    /// The class of each cell.
    numbers: Vec<u16>,
    /// What each class is.
    roles: Vec<Role>,
    /// The first cell of each class.
    first: Vec<u32>,
}

impl Classes {
    fn of(cells: &Cells, sets: &[Ranges], role: impl Fn(Option<u32>) -> Role) -> Result<Self, CompileError> {
        let mut signatures = Signatures::default();
        sets.iter().for_each(|set| signatures.add(set));
        let mut known: HashMap<([u64; 2], Role), u16> = HashMap::new();
        let mut all =
            Self { numbers: Vec::with_capacity(cells.kinds.len()), roles: Vec::new(), first: Vec::new() };
        for ((cell, kind), sum) in (0..).zip(&cells.kinds).zip(signatures.sums(cells.count())) {
            let role = role(*kind);
            let fresh = u16::try_from(all.roles.len()).map_err(|_| CompileError::TooManyClasses)?;
            let class = *known.entry((sum, role)).or_insert(fresh);
            if class == fresh {
                all.roles.push(role);
                all.first.push(cell);
            }
            all.numbers.push(class);
        }
        Ok(all)
    }

    /// The sets of cells as sets of classes.
    fn sets(&self, sets: &[Ranges]) -> Result<Vec<Vec<ClassId>>, CompileError> {
        let mut members = 0;
        let mut all = Vec::with_capacity(sets.len());
        for set in sets {
            // A class is in a set as a whole or not at all, so its first cell says which.
            let mut classes = Vec::new();
            for range in set.iter() {
                let from = self.first.partition_point(|cell| *cell < range.start);
                let until = self.first.partition_point(|cell| *cell < range.end);
                let numbers = (from..until).filter_map(|class| u16::try_from(class).ok());
                classes.extend(numbers.map(ClassId));
            }
            members += classes.len();
            if members > MOST_MEMBERS {
                return Err(CompileError::TooManySets);
            }
            all.push(classes);
        }
        Ok(all)
    }
}
