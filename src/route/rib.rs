//! The routing information base: every route that any source knows, editable.
//!
//! Each prefix may have one route from each source; the best source wins. Precedence, best first:
//! `local` (this node's own subnets), `static` (the configuration file).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::fib::PeerId;
use crate::net::Prefix;

/// Where a route came from. The order is the precedence, best first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// `[local] subnets`.
    Local,
    /// `[[peer]] subnets`.
    Static,
}

impl Source {
    /// The word used in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Static => "static",
        }
    }
}

/// Who owns the addresses of a route.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// This node.
    Local,
    /// Another node.
    Peer(PeerId),
}

/// The best route of one prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    /// The addresses.
    pub prefix: Prefix,
    /// Their owner.
    pub target: Target,
    /// Who said so.
    pub source: Source,
}

/// A route that the table refuses.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{prefix} already has a {source_name} route; delete that one first")]
pub struct RouteError {
    prefix: Prefix,
    source_name: &'static str,
}

/// All routes of all sources.
#[derive(Clone, Debug, Default)]
pub struct Rib {
    routes: BTreeMap<Prefix, BTreeMap<Source, Target>>,
}

impl Rib {
    /// Adds a route.
    ///
    /// # Errors
    /// When `source` already has a route for `prefix`.
    pub fn insert(&mut self, prefix: Prefix, source: Source, target: Target) -> Result<(), RouteError> {
        let candidates = self.routes.entry(prefix).or_default();
        if candidates.contains_key(&source) {
            return Err(RouteError { prefix, source_name: source.name() });
        }
        candidates.insert(source, target);
        Ok(())
    }

    /// The best route of every prefix, in prefix order.
    pub fn best(&self) -> impl Iterator<Item = Route> + '_ {
        self.routes.iter().filter_map(|(prefix, candidates)| {
            let (source, target) = candidates.first_key_value()?;
            Some(Route { prefix: *prefix, target: *target, source: *source })
        })
    }

    /// The number of prefixes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The best route of the longest prefix that contains `address`. Slow: for people.
    pub fn lookup(&self, address: IpAddr) -> Option<Route> {
        self.best().filter(|route| route.prefix.contains(address)).max_by_key(|route| route.prefix.len())
    }

    /// The best route of the longest prefix that covers `prefix`. Slow: for building tables.
    pub fn covering(&self, prefix: Prefix) -> Option<Route> {
        self.best().filter(|route| route.prefix.covers(prefix)).max_by_key(|route| route.prefix.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{Rib, Source, Target};
    use crate::route::PeerId;

    #[test]
    fn best_source_and_longest_prefix_win() {
        let mut rib = Rib::default();
        let (wide, narrow) = ("10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap());
        rib.insert(wide, Source::Static, Target::Peer(PeerId(1))).unwrap();
        rib.insert(narrow, Source::Static, Target::Peer(PeerId(2))).unwrap();
        rib.insert(narrow, Source::Local, Target::Local).unwrap();
        assert_eq!(rib.len(), 2);
        assert_eq!(rib.lookup("10.1.0.1".parse().unwrap()).unwrap().target, Target::Local);
        assert_eq!(rib.lookup("10.2.0.1".parse().unwrap()).unwrap().target, Target::Peer(PeerId(1)));
        assert_eq!(rib.lookup("11.0.0.1".parse().unwrap()), None);
        assert_eq!(rib.covering("10.1.2.0/24".parse().unwrap()).unwrap().prefix, narrow);
        let error = rib.insert(wide, Source::Static, Target::Local).unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.0/8 already has a static route; delete that one first");
    }
}
