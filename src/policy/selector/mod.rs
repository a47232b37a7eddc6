//! Selectors: which labels an object must have.
//!
//! The grammar is Calico's (`docs/policy.md` has it); selectors of Kubernetes become the same expressions.

mod expression;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

pub use expression::Expression;
pub use parse::SelectorError;
#[cfg(test)]
pub(super) use tests::Labelled;

/// A selector. Its clones share the expression.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector(Arc<Expression>);

impl Selector {
    /// Bytes of a selector as text, at most.
    pub const LONGEST: usize = 32 << 10;
    /// Parentheses inside of each other, at most.
    pub const DEEPEST: usize = 64;

    /// The selector of everything.
    pub fn all() -> Self {
        Self(Arc::new(Expression::All))
    }

    /// The selector of what fulfils all of these.
    pub fn every(mut of: Vec<Expression>) -> Self {
        Self(Arc::new(match of.len() {
            0 => Expression::All,
            1 => of.remove(0),
            _ => Expression::And(of),
        }))
    }

    /// The expression.
    pub fn expression(&self) -> &Expression {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(|expression| Self(Arc::new(expression)))
    }
}

/// In Calico's grammar.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
