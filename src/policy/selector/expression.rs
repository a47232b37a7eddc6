//! What a selector says.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// An expression.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Expression {
    /// `all()`
    All,
    /// `global()`
    Global,
    /// `has(KEY)`
    Has(String),
    /// `KEY == 'VALUE'`
    Equal(String, String),
    /// `KEY != 'VALUE'`: another value, or no such label.
    NotEqual(String, String),
    /// `KEY in {'VALUE', …}`
    In(String, BTreeSet<String>),
    /// `KEY not in {'VALUE', …}`: another value, or no such label.
    NotIn(String, BTreeSet<String>),
    /// `KEY contains 'VALUE'`
    Contains(String, String),
    /// `KEY starts with 'VALUE'`
    StartsWith(String, String),
    /// `KEY ends with 'VALUE'`
    EndsWith(String, String),
    /// `!(…)`
    Not(Box<Self>),
    /// `… && …`
    And(Vec<Self>),
    /// `… || …`
    Or(Vec<Self>),
}

impl Expression {
    /// Whether `global()` is in it.
    pub fn speaks_of_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(inner) => inner.speaks_of_global(),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::speaks_of_global),
            _ => false,
        }
    }
}

/// In Calico's grammar, with as few parentheses as keep the meaning.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equal(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEqual(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::Contains(key, value) => write!(f, "{key} contains {}", Quoted(value)),
            Self::StartsWith(key, value) => write!(f, "{key} starts with {}", Quoted(value)),
            Self::EndsWith(key, value) => write!(f, "{key} ends with {}", Quoted(value)),
            Self::Not(inner) => {
                f.write_char('!')?;
                inner.fmt_inside(f, true)
            }
            Self::And(parts) => join(f, parts, " && "),
            Self::Or(parts) => join(f, parts, " || "),
        }
    }
}

impl Expression {
    /// As a part of another expression.
    fn fmt_inside(&self, f: &mut fmt::Formatter<'_>, after_not: bool) -> fmt::Result {
        let needs = match self {
            Self::And(_) | Self::Or(_) => true,
            Self::All | Self::Global | Self::Has(_) => false,
            _ => after_not,
        };
        if needs { write!(f, "({self})") } else { write!(f, "{self}") }
    }
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Expression], with: &str) -> fmt::Result {
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            f.write_str(with)?;
        }
        part.fmt_inside(f, false)?;
    }
    Ok(())
}

/// A value in quotes. The grammar has no escapes, so it never has both kinds of them.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

/// Values in braces.
struct Set<'a>(&'a BTreeSet<String>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        for (number, value) in self.0.iter().enumerate() {
            write!(f, "{}{}", if number > 0 { ", " } else { "" }, Quoted(value))?;
        }
        f.write_char('}')
    }
}
