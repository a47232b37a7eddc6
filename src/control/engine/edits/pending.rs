//! What was edited since the last publication.

use crate::net::Prefix;

/// What was edited and not yet published.
#[derive(Debug, Default)]
pub enum Pending {
    /// Nothing.
    #[default]
    Nothing,
    /// The routes of these prefixes.
    Some(Vec<Prefix>),
    /// So much that everything is compiled anew.
    Everything,
}

impl Pending {
    /// Notes that the route of `prefix` changed.
    pub fn add(&mut self, prefix: Prefix) {
        match self {
            Self::Nothing => *self = Self::Some(vec![prefix]),
            Self::Some(prefixes) => prefixes.push(prefix),
            Self::Everything => {}
        }
    }
}
