//! All routes of all sources: what the control plane edits.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Bound::{self, Excluded, Unbounded};

use super::address::Address;
use super::fib::PeerId;
use crate::net::Prefix;

/// Where a route came from. The order is the precedence, best first: this node's own pods, then
/// what an operator wrote down, then what he typed, then what protocols say.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Source {
    /// `[local] subnets`.
    Local,
    /// `[[peer]] subnets`.
    Static,
    /// The control API.
    Control,
    /// The kernel's routing table, where a routing daemon puts them.
    Kernel,
    /// etcd.
    Etcd,
}

impl Source {
    /// Every one, best first.
    pub const ALL: [Self; 5] = [Self::Local, Self::Static, Self::Control, Self::Kernel, Self::Etcd];

    /// The word used in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Static => "static",
            Self::Control => "control",
            Self::Kernel => "kernel",
            Self::Etcd => "etcd",
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
    /// Several nodes at equal cost: see [`Rib::peers`].
    Group(GroupId),
}

/// A set of nodes that some routes share.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GroupId(u16);

/// What one source says about one prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    /// The addresses.
    pub prefix: Prefix,
    /// Their owner.
    pub target: Target,
    /// Who said so.
    pub source: Source,
    /// Bytes of the largest inner packet this route may carry, when it says so itself.
    pub mtu: Option<u16>,
    /// When it was said, in seconds of the daemon's life.
    pub since: u32,
}

impl Route {
    /// A route of this moment zero without a limit.
    pub fn new(prefix: Prefix, source: Source, target: Target) -> Self {
        Self { prefix, target, source, mtu: None, since: 0 }
    }
}

/// A route that the table refuses.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// The source has a route for this prefix already.
    #[error("{0} already has a {source_name} route; delete that one first", source_name = .1.name())]
    Exists(Prefix, Source),
    /// More different sets of nodes than ids.
    #[error("more than 65535 different sets of equal-cost nodes; use fewer combinations")]
    GroupsFull,
}

/// A route as it is kept: [`Route`] without the prefix, 12 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Candidate {
    since: u32,
    target: Target,
    /// 0: no limit.
    mtu: u16,
    source: Source,
    /// Whether less preferred sources have routes for the same prefix.
    others: bool,
}

/// The routes of one family. Nearly every prefix has one source only, so that the others are kept
/// apart, best first.
#[derive(Clone, Debug)]
struct Family<A> {
    best: BTreeMap<(A, u8), Candidate>,
    others: HashMap<(A, u8), Vec<Candidate>>,
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self { best: BTreeMap::new(), others: HashMap::new() }
    }
}

impl<A: Address> Family<A> {
    /// What `source` says about `key`.
    fn get(&self, key: (A, u8), source: Source) -> Option<Candidate> {
        self.all(key).find(|candidate| candidate.source == source)
    }

    /// All candidates of `key`, best first.
    fn all(&self, key: (A, u8)) -> impl Iterator<Item = Candidate> + '_ {
        let best = self.best.get(&key).copied();
        let others = best.filter(|best| best.others).and_then(|_| self.others.get(&key));
        best.into_iter().chain(others.into_iter().flatten().copied())
    }

    /// Adds a candidate or replaces that of the same source, whose age it keeps where it says the
    /// same.
    fn set(&mut self, key: (A, u8), mut new: Candidate) {
        let Some(best) = self.best.get_mut(&key) else {
            self.best.insert(key, new);
            return;
        };
        if best.source == new.source {
            *best = Candidate { since: best.aged(new), others: best.others, ..new };
            return;
        }
        if new.source < best.source {
            new.others = true;
            std::mem::swap(best, &mut new);
        }
        best.others = true;
        let others = self.others.entry(key).or_default();
        match others.binary_search_by_key(&new.source, |other| other.source) {
            Ok(place) => others[place] = Candidate { since: others[place].aged(new), ..new },
            Err(place) => others.insert(place, new),
        }
    }

    /// Removes what `source` says; the next best takes over. False when it said nothing.
    fn remove(&mut self, key: (A, u8), source: Source) -> bool {
        let Some(best) = self.best.get_mut(&key) else { return false };
        let others = if best.others { self.others.get_mut(&key) } else { None };
        let Some(others) = others else {
            let found = best.source == source;
            if found {
                self.best.remove(&key);
            }
            return found;
        };
        if best.source == source {
            *best = others.remove(0);
        } else {
            let Some(place) = others.iter().position(|other| other.source == source) else { return false };
            others.remove(place);
        }
        best.others = !others.is_empty();
        if others.is_empty() {
            self.others.remove(&key);
        }
        true
    }

    /// Replaces everything `source` says.
    fn replace(&mut self, source: Source, routes: Vec<((A, u8), Candidate)>) {
        let new: BTreeMap<_, _> = routes.into_iter().collect();
        let gone: Vec<_> = self
            .best
            .iter()
            .filter(|(key, best)| (best.source == source || best.others) && !new.contains_key(key))
            .map(|(key, _)| *key)
            .collect();
        if gone.len() == self.best.len() && self.others.is_empty() {
            // Collected from sorted keys the map is half the size of one grown by insertion.
            self.best = new;
            return;
        }
        for key in gone {
            self.remove(key, source);
        }
        for (key, candidate) in new {
            self.set(key, candidate);
        }
    }

    /// The best route of the longest prefix of at most `len` bits that contains `address`.
    fn longest(&self, address: A, len: u8) -> Option<Route> {
        (0..=len).rev().find_map(|len| {
            let key = (address.truncate(len), len);
            self.best.get(&key)?.at(key)
        })
    }

    /// The best routes of the prefixes behind `cursor`, in order.
    fn after(&self, cursor: Bound<(A, u8)>) -> impl Iterator<Item = Route> + '_ {
        self.best.range((cursor, Unbounded)).filter_map(|(key, best)| best.at(*key))
    }
}

impl Candidate {
    /// When `new`, from the same source, was first said.
    fn aged(self, new: Self) -> u32 {
        if (self.target, self.mtu) == (new.target, new.mtu) { self.since } else { new.since }
    }
}

/// All routes of all sources.
#[derive(Clone, Debug, Default)]
pub struct Rib {
    v4: Family<u32>,
    v6: Family<u128>,
    groups: Vec<Box<[PeerId]>>,
    group_ids: HashMap<Box<[PeerId]>, GroupId>,
}

/// A prefix by its family.
enum Key {
    V4((u32, u8)),
    V6((u128, u8)),
}

impl From<Prefix> for Key {
    fn from(prefix: Prefix) -> Self {
        match prefix.address() {
            IpAddr::V4(address) => Self::V4((address.to_bits(), prefix.len())),
            IpAddr::V6(address) => Self::V6((address.to_bits(), prefix.len())),
        }
    }
}

impl Rib {
    /// Adds a route.
    ///
    /// # Errors
    /// When `source` already has a route for `prefix`.
    pub fn insert(&mut self, prefix: Prefix, source: Source, target: Target) -> Result<(), RouteError> {
        if self.get(prefix, source).is_some() {
            return Err(RouteError::Exists(prefix, source));
        }
        self.set(Route::new(prefix, source, target));
        Ok(())
    }

    /// Adds a route or replaces the one of the same prefix and source. What stays the same keeps
    /// its age.
    pub fn set(&mut self, route: Route) {
        match Key::from(route.prefix) {
            Key::V4(key) => self.v4.set(key, route.into()),
            Key::V6(key) => self.v6.set(key, route.into()),
        }
    }

    /// Removes the route of a prefix and source; the next best source takes over. False when there
    /// is none.
    pub fn remove(&mut self, prefix: Prefix, source: Source) -> bool {
        match Key::from(prefix) {
            Key::V4(key) => self.v4.remove(key, source),
            Key::V6(key) => self.v6.remove(key, source),
        }
    }

    /// Replaces all routes of one source; of equal prefixes the last counts.
    pub fn replace(&mut self, source: Source, routes: impl IntoIterator<Item = Route>) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for route in routes {
            let candidate = Candidate::from(Route { source, ..route });
            match Key::from(route.prefix) {
                Key::V4(key) => v4.push((key, candidate)),
                Key::V6(key) => v6.push((key, candidate)),
            }
        }
        self.v4.replace(source, v4);
        self.v6.replace(source, v6);
    }

    /// The target of routes to several nodes at equal cost, whose order and repetition do not
    /// matter; `None` for no node.
    ///
    /// # Errors
    /// When there are more different sets than ids.
    pub fn target(&mut self, peers: &[PeerId]) -> Result<Option<Target>, RouteError> {
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers.dedup();
        match *peers {
            [] => return Ok(None),
            [peer] => return Ok(Some(Target::Peer(peer))),
            _ => {}
        }
        if let Some(id) = self.group_ids.get(&*peers) {
            return Ok(Some(Target::Group(*id)));
        }
        let id = GroupId(u16::try_from(self.groups.len()).map_err(|_| RouteError::GroupsFull)?);
        self.groups.push(peers.clone().into());
        self.group_ids.insert(peers.into(), id);
        Ok(Some(Target::Group(id)))
    }

    /// The nodes of a target, in the order of their ids; empty for this node.
    pub fn peers<'a>(&'a self, target: &'a Target) -> &'a [PeerId] {
        match target {
            Target::Local => &[],
            Target::Peer(peer) => std::slice::from_ref(peer),
            Target::Group(GroupId(id)) => &self.groups[usize::from(*id)],
        }
    }

    /// What one source says about exactly `prefix`.
    pub fn get(&self, prefix: Prefix, source: Source) -> Option<Route> {
        let candidate = match Key::from(prefix) {
            Key::V4(key) => self.v4.get(key, source),
            Key::V6(key) => self.v6.get(key, source),
        };
        Some(candidate?.route(prefix))
    }

    /// What all sources say about exactly `prefix`, best first.
    pub fn candidates(&self, prefix: Prefix) -> Vec<Route> {
        match Key::from(prefix) {
            Key::V4(key) => self.v4.all(key).map(|candidate| candidate.route(prefix)).collect(),
            Key::V6(key) => self.v6.all(key).map(|candidate| candidate.route(prefix)).collect(),
        }
    }

    /// The best route of exactly `prefix`.
    pub fn exact(&self, prefix: Prefix) -> Option<Route> {
        let best = match Key::from(prefix) {
            Key::V4(key) => self.v4.best.get(&key),
            Key::V6(key) => self.v6.best.get(&key),
        };
        Some(best?.route(prefix))
    }

    /// The best route of every prefix, in prefix order.
    pub fn best(&self) -> impl Iterator<Item = Route> + '_ {
        self.after(None)
    }

    /// The best routes of the prefixes behind `cursor`, in prefix order: IPv4 first, then by
    /// address, then by length.
    pub fn after(&self, cursor: Option<Prefix>) -> impl Iterator<Item = Route> + '_ {
        let (v4, v6) = match cursor.map(Key::from) {
            None => (Unbounded, Unbounded),
            Some(Key::V4(key)) => (Excluded(key), Unbounded),
            Some(Key::V6(key)) => (Excluded((u32::MAX, u8::MAX)), Excluded(key)),
        };
        self.v4.after(v4).chain(self.v6.after(v6))
    }

    /// The number of prefixes.
    pub fn len(&self) -> usize {
        self.v4.best.len() + self.v6.best.len()
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The best route of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<Route> {
        self.covering(Prefix::host(address))
    }

    /// The best route of the longest prefix that covers `prefix`.
    pub fn covering(&self, prefix: Prefix) -> Option<Route> {
        match Key::from(prefix) {
            Key::V4((address, len)) => self.v4.longest(address, len),
            Key::V6((address, len)) => self.v6.longest(address, len),
        }
    }
}

impl From<Route> for Candidate {
    fn from(route: Route) -> Self {
        let Route { target, source, mtu, since, .. } = route;
        Self { since, target, mtu: mtu.unwrap_or(0), source, others: false }
    }
}

impl Candidate {
    fn at<A: Address>(self, (address, len): (A, u8)) -> Option<Route> {
        Some(self.route(Prefix::containing(address.ip(), len)?))
    }

    fn route(self, prefix: Prefix) -> Route {
        let Self { since, target, mtu, source, .. } = self;
        Route { prefix, target, source, mtu: (mtu > 0).then_some(mtu), since }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Rib, Route, Source, Target};
    use crate::net::Prefix;
    use crate::route::PeerId;

    fn route(prefix: &str, source: Source, target: Target) -> Route {
        Route::new(prefix.parse().unwrap(), source, target)
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn best_source_and_longest_prefix_win() {
        let mut rib = Rib::default();
        let (wide, narrow) = ("10.0.0.0/8", "10.1.0.0/16");
        rib.insert(prefix(wide), Source::Static, Target::Peer(PeerId(1))).unwrap();
        rib.insert(prefix(narrow), Source::Static, Target::Peer(PeerId(2))).unwrap();
        rib.insert(prefix(narrow), Source::Local, Target::Local).unwrap();
        assert_eq!(rib.len(), 2);
        assert_eq!(rib.lookup("10.1.0.1".parse().unwrap()).unwrap().target, Target::Local);
        assert_eq!(rib.lookup("10.2.0.1".parse().unwrap()).unwrap().target, Target::Peer(PeerId(1)));
        assert_eq!(rib.lookup("11.0.0.1".parse().unwrap()), None);
        assert_eq!(rib.covering(prefix("10.1.2.0/24")).unwrap().prefix, prefix(narrow));
        let error = rib.insert(prefix(wide), Source::Static, Target::Local).unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.0/8 already has a static route; delete that one first");
    }

    #[test]
    fn the_next_best_source_takes_over() {
        let mut rib = Rib::default();
        let to = |peer| Target::Peer(PeerId(peer));
        for (source, peer) in
            [(Source::Etcd, 5), (Source::Control, 3), (Source::Kernel, 4), (Source::Static, 2)]
        {
            rib.set(route("10.0.0.0/8", source, to(peer)));
        }
        let order: Vec<_> = rib.candidates(prefix("10.0.0.0/8")).iter().map(|route| route.target).collect();
        assert_eq!(order, [to(2), to(3), to(4), to(5)]);
        for (gone, next) in [(Source::Static, 3), (Source::Kernel, 3), (Source::Control, 5)] {
            assert!(rib.remove(prefix("10.0.0.0/8"), gone));
            assert!(!rib.remove(prefix("10.0.0.0/8"), gone));
            assert_eq!(rib.exact(prefix("10.0.0.0/8")).unwrap().target, to(next));
        }
        assert!(rib.remove(prefix("10.0.0.0/8"), Source::Etcd));
        assert!(rib.is_empty());
    }

    #[test]
    fn replacing_one_source_leaves_the_others() {
        let mut rib = Rib::default();
        let to = |peer| Target::Peer(PeerId(peer));
        rib.set(route("10.1.0.0/16", Source::Static, to(1)));
        rib.set(Route { since: 7, ..route("10.1.0.0/16", Source::Control, to(2)) });
        rib.set(Route { since: 7, ..route("10.2.0.0/16", Source::Control, to(2)) });
        rib.set(Route { since: 7, ..route("fd00::/16", Source::Control, to(2)) });
        let new = |text, peer| Route { since: 9, ..route(text, Source::Control, to(peer)) };
        rib.replace(Source::Control, [new("10.1.0.0/16", 3), new("10.2.0.0/16", 2), new("10.3.0.0/16", 3)]);
        let all: Vec<_> =
            rib.best().map(|route| (route.prefix.to_string(), route.target, route.since)).collect();
        let expected = [("10.1.0.0/16", to(1), 0), ("10.2.0.0/16", to(2), 7), ("10.3.0.0/16", to(3), 9)];
        assert_eq!(all, expected.map(|(text, target, since)| (text.to_owned(), target, since)));
        assert_eq!(rib.get(prefix("10.1.0.0/16"), Source::Control).unwrap().target, to(3));
        rib.replace(Source::Control, []);
        assert_eq!(rib.len(), 1);
        assert_eq!(rib.candidates(prefix("10.1.0.0/16")).len(), 1);
    }

    #[test]
    fn sets_of_nodes_share_an_id() {
        let mut rib = Rib::default();
        let ids = |list: &[u16]| list.iter().map(|id| PeerId(*id)).collect::<Vec<_>>();
        assert_eq!(rib.target(&[]), Ok(None));
        assert_eq!(rib.target(&ids(&[4, 4])), Ok(Some(Target::Peer(PeerId(4)))));
        let group = rib.target(&ids(&[3, 1])).unwrap().unwrap();
        assert_eq!(rib.target(&ids(&[1, 3, 3])), Ok(Some(group)));
        assert_eq!(rib.peers(&group), ids(&[1, 3]));
        assert_ne!(rib.target(&ids(&[1, 2])), Ok(Some(group)));
    }

    #[test]
    fn a_cursor_goes_on_where_it_stopped() {
        let mut rib = Rib::default();
        let prefixes = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "255.255.255.255/32", "::/0", "fd00::/8"];
        for text in prefixes {
            rib.set(route(text, Source::Static, Target::Local));
        }
        for (place, text) in prefixes.iter().enumerate() {
            let rest: Vec<_> = rib.after(Some(prefix(text))).map(|route| route.prefix.to_string()).collect();
            assert_eq!(rest, prefixes[place + 1..]);
        }
    }

    #[test]
    fn a_million_routes_fit() {
        assert_eq!(size_of::<Candidate>(), 12);
    }
}
