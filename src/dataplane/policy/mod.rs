//! Network policy as the workers know it: compiled rules, and the connections of each worker.
//!
//! ```text
//! packet ─▶ Tuple ─▶ connection known? ──yes──▶ pass
//!                          │ no, or other rules since
//!                          ▼
//!            classes of both addresses ─▶ chain of the endpoint ─▶ pass, or drop by name
//! ```
//!
//! A [`Ruleset`] is immutable and published with the forwarding table. What users write, and how it becomes
//! a ruleset, is in `policy/`, beside the packet path.

mod active;
mod case;
mod connections;
mod judge;
mod last;
mod query;
mod rules;
mod subject;
mod timeouts;
mod tuple;

pub use active::{ActivePolicy, Fragments, Settings};
pub use case::{Denied, Ends};
pub use connections::{Connection, State};
pub use judge::Judge;
pub use query::{Answer, Filter, PAGE, Query};
pub use rules::{
    Action, ClassId, Decision, IcmpMatch, Origin, PolicyEntry, PortList, PortRange, Role, Rule, Ruleset,
    RulesetParts, Side, TooMany,
};
pub use timeouts::Timeouts;
pub use tuple::Tuple;

#[cfg(test)]
pub(in crate::dataplane) mod testing;
#[cfg(test)]
mod tests;
