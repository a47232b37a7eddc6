//! Network policy as users write it, and its compilation to the rules of the packet path.
//!
//! ```text
//! manifest ─document─▶ value with positions ─Object::read─▶ object ─▶ World ─compile─▶ Compiled
//!                                                             ▲          all objects     Ruleset, list, trace
//! API server ──────────── value ──────────────────────────────┘
//! ```
//!
//! Kubernetes' `NetworkPolicy` and Calico's policies become one form ([`Policy`]); `docs/policy.md` says what
//! of them is there, and in which order policies are looked at. Everything here is pure.

mod compile;
mod document;
mod model;
mod object;
mod prefixes;
mod question;
mod selector;
mod shown;
mod trace;
mod world;

pub use compile::{CompileError, Compiled, Listed, compile};
pub use document::{Document, Position, SyntaxError, read as read_documents};
pub use model::{
    Endpoint, Entity, Icmp, Labels, Name, NamedPort, Namespace, NetworkSet, Order, Peer, Policy, PolicyKind,
    PolicyRule, Port, RuleAction, ServiceAccount, ServiceAccounts, Subject, Tier, TierAction,
};
pub use object::{Fault, Known, syntax};
pub use question::{End, Question, Unclear, protocol_number, protocol_word};
pub use selector::{Expression, Selector, SelectorError};
pub use shown::RuleNumber;
pub use trace::{Considered, Decided, Looked, SideTrace, Trace, Traced};
pub use world::{Id, Object, World};
