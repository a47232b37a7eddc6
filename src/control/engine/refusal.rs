//! Why the daemon does not do what it was asked to.

use crate::control::engine::edits::lines::Culprits;

/// A request that changed nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// What kind of reason.
    pub kind: Kind,
    /// The reason, for a human.
    pub text: String,
    /// Each thing that is wrong, where there may be several; bounded.
    pub culprits: Vec<String>,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It cannot be understood.
    Malformed,
    /// It is larger than the daemon takes.
    TooLarge,
    /// It contradicts what the daemon knows.
    Conflict,
    /// It leads a route to a node that is not known.
    UnknownPeer,
    /// It names something that is not there.
    Missing,
    /// It asks for the way to a destination that no route leads to.
    NoRoute,
    /// The daemon has no room for it.
    Full,
    /// The daemon is busy with others.
    Busy,
}

impl Refusal {
    /// A refusal for one reason.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), culprits: Vec::new() }
    }

    /// A refusal for all of `culprits`.
    pub fn of(kind: Kind, culprits: Culprits) -> Self {
        let text = match (&culprits.named[..], culprits.count) {
            ([one], 1) => format!("{one}; nothing has changed"),
            (named, count) if named.len() < count => {
                format!("{count} errors, nothing has changed; the first {} are", named.len())
            }
            (_, count) => format!("{count} errors, nothing has changed"),
        };
        let culprits = if culprits.count > 1 { culprits.named } else { Vec::new() };
        Self { kind, text, culprits }
    }
}
