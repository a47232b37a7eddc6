//! What was edited since the last publication.

use crate::dataplane::forward::Forwarding;
use crate::net::Prefix;

/// From so many changes on it may be quicker to compile everything anew.
const MANY: usize = 4096;

/// Whether it is quicker to compile everything anew than `changes` among so many routes.
pub(crate) fn is_many(changes: usize, routes: usize) -> bool {
    changes > MANY && changes > routes / 8
}

/// What was edited and not yet published.
#[derive(Debug, Default)]
pub(crate) enum Pending {
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
    pub(crate) fn add(&mut self, prefix: Prefix) {
        match self {
            Self::Nothing => *self = Self::Some(vec![prefix]),
            Self::Some(prefixes) => prefixes.push(prefix),
            Self::Everything => {}
        }
    }

    /// Notes that the routes of `prefixes` changed, some of `routes` that there were.
    pub(crate) fn add_all(&mut self, prefixes: Vec<Prefix>, routes: usize) {
        if prefixes.is_empty() {
            return;
        }
        let before = std::mem::take(self);
        let many = is_many(prefixes.len(), routes);
        *self = before.and(if many { Self::Everything } else { Self::Some(prefixes) });
    }

    /// The number of prefixes; `None` where everything is compiled anew.
    pub(crate) fn prefixes(&self) -> Option<usize> {
        match self {
            Self::Nothing => Some(0),
            Self::Some(prefixes) => Some(prefixes.len()),
            Self::Everything => None,
        }
    }

    /// Forgets what came after the first `prefixes`, as [`Self::prefixes`] has told of them.
    pub(crate) fn cut(&mut self, prefixes: Option<usize>) {
        match (self, prefixes) {
            (all, Some(0)) => *all = Self::Nothing,
            (Self::Some(all), Some(prefixes)) => all.truncate(prefixes),
            // Which they were is not known any more.
            (all, _) => *all = Self::Everything,
        }
    }

    /// These and `later` ones.
    pub(crate) fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Some(mut all), Self::Some(later)) => {
                all.extend(later);
                Self::Some(all)
            }
            _ => Self::Everything,
        }
    }
}

/// A compiled table.
pub(crate) struct Publication {
    /// The table.
    pub forwarding: Forwarding,
    /// The prefixes in which it differs from what is published.
    pub changed: Pending,
}
