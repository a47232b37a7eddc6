//! All routes of all sources: what the control plane edits.

use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use super::entry::{Route, RouteError, Source, Target};
use super::family::{Candidate, Family};
use super::fib::PeerId;
use super::groups::Groups;
use crate::net::Prefix;

/// All routes of all sources. A clone shares everything with the original until one of them is
/// edited, and an edit copies some kilobytes: a reader may have a table of its own at any time.
#[derive(Clone, Debug, Default)]
pub struct Rib {
    v4: Family<u32>,
    v6: Family<u128>,
    groups: Groups,
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
        };
    }

    /// Removes the route of a prefix and source; the next best source takes over. False when there
    /// is none.
    pub fn remove(&mut self, prefix: Prefix, source: Source) -> bool {
        match Key::from(prefix) {
            Key::V4(key) => self.v4.remove(key, source),
            Key::V6(key) => self.v6.remove(key, source),
        }
    }

    /// Replaces all routes of one source; of equal prefixes the last counts. Returns how many routes are new or
    /// say something else than before, and how many are gone.
    pub fn replace(&mut self, source: Source, routes: impl IntoIterator<Item = Route>) -> (usize, usize) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for route in routes {
            let candidate = Candidate::from(Route { source, ..route });
            match Key::from(route.prefix) {
                Key::V4(key) => v4.push((key, candidate)),
                Key::V6(key) => v6.push((key, candidate)),
            }
        }
        let (v4, v6) = (self.v4.replace(source, v4), self.v6.replace(source, v6));
        (v4.0 + v6.0, v4.1 + v6.1)
    }

    /// The targets of routes to these sets of nodes at equal cost, each of at least one node, whose order
    /// and repetition do not matter.
    ///
    /// # Errors
    /// When there are more different sets than ids; nothing has changed then.
    pub fn targets(&mut self, sets: &[Vec<PeerId>]) -> Result<Vec<Target>, RouteError> {
        let mut sets = sets.to_vec();
        for peers in &mut sets {
            peers.sort_unstable();
            peers.dedup();
        }
        let Self { v4, v6, groups } = self;
        groups.targets(&sets, || {
            let group = |target| if let Target::Group(id) = target { Some(id) } else { None };
            v4.targets().chain(v6.targets()).filter_map(group).collect()
        })
    }

    /// Forgets a node: the routes to it alone are removed, those it shares with others stay with the others.
    /// Returns the prefixes of both.
    pub fn forget(&mut self, peer: PeerId) -> Vec<Prefix> {
        let groups = self.groups.forget(peer);
        let now = |target| match target {
            Target::Peer(other) if other == peer => Some(None),
            Target::Group(id) => groups.get(&id).map(|target| Some(*target)),
            _ => None,
        };
        let mut changed = self.v4.retarget(now);
        changed.extend(self.v6.retarget(now));
        changed
    }

    /// The nodes of a target, in the order of their ids; empty for this node.
    pub fn peers<'a>(&'a self, target: &'a Target) -> &'a [PeerId] {
        match target {
            Target::Local => &[],
            Target::Peer(peer) => std::slice::from_ref(peer),
            Target::Group(id) => self.groups.peers(*id),
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
            Key::V4(key) => self.v4.best(key),
            Key::V6(key) => self.v6.best(key),
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
        self.v4.len() + self.v6.len()
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use allocation_counter::measure;
    use proptest::collection::vec;
    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};
    use proptest::sample::select;

    use super::{Rib, Route, Source, Target};
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
        for (source, peer) in [(Source::Control, 3), (Source::Local, 1), (Source::Static, 2)] {
            rib.set(route("10.0.0.0/8", source, to(peer)));
        }
        let order: Vec<_> = rib.candidates(prefix("10.0.0.0/8")).iter().map(|route| route.target).collect();
        assert_eq!(order, [to(1), to(2), to(3)]);
        for (gone, next) in [(Source::Static, 1), (Source::Local, 3)] {
            assert!(rib.remove(prefix("10.0.0.0/8"), gone));
            assert!(!rib.remove(prefix("10.0.0.0/8"), gone));
            assert_eq!(rib.exact(prefix("10.0.0.0/8")).unwrap().target, to(next));
        }
        assert!(rib.remove(prefix("10.0.0.0/8"), Source::Control));
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
        let routes = [new("10.1.0.0/16", 3), new("10.2.0.0/16", 2), new("10.3.0.0/16", 3)];
        assert_eq!(rib.replace(Source::Control, routes), (2, 1));
        let all: Vec<_> =
            rib.best().map(|route| (route.prefix.to_string(), route.target, route.since)).collect();
        let expected = [("10.1.0.0/16", to(1), 0), ("10.2.0.0/16", to(2), 7), ("10.3.0.0/16", to(3), 9)];
        assert_eq!(all, expected.map(|(text, target, since)| (text.to_owned(), target, since)));
        assert_eq!(rib.get(prefix("10.1.0.0/16"), Source::Control).unwrap().target, to(3));
        assert_eq!(rib.replace(Source::Control, []), (0, 3));
        assert_eq!(rib.len(), 1);
        assert_eq!(rib.candidates(prefix("10.1.0.0/16")).len(), 1);
    }

    #[test]
    fn sets_of_nodes_share_an_id() {
        let mut rib = Rib::default();
        let ids = |list: &[u16]| list.iter().map(|id| PeerId(*id)).collect::<Vec<_>>();
        let mut target = |list: &[u16]| rib.targets(&[ids(list)]).unwrap()[0];
        assert_eq!(target(&[4, 4]), Target::Peer(PeerId(4)));
        let group = target(&[3, 1]);
        assert_eq!(target(&[1, 3, 3]), group);
        assert_ne!(target(&[1, 2]), group);
        assert_eq!(rib.peers(&group), ids(&[1, 3]));
    }

    #[test]
    fn a_node_that_goes_leaves_what_it_shared() {
        let mut rib = Rib::default();
        let ids = |list: &[u16]| list.iter().map(|id| PeerId(*id)).collect::<Vec<_>>();
        let sets = [ids(&[1, 2, 3]), ids(&[1, 3]), ids(&[1, 2]), ids(&[3])];
        let targets = rib.targets(&sets).unwrap();
        let names = ["10.1.0.0/16", "10.2.0.0/16", "fd00::/16", "10.4.0.0/16"];
        for (name, target) in names.iter().zip(&targets) {
            rib.set(Route { since: 7, ..route(name, Source::Control, *target) });
        }
        rib.set(route("10.4.0.0/16", Source::Static, Target::Peer(PeerId(3))));
        rib.set(route("10.1.0.0/16", Source::Static, Target::Peer(PeerId(5))));
        let changed: Vec<_> = rib.forget(PeerId(3)).iter().map(ToString::to_string).collect();
        assert_eq!(changed, ["10.2.0.0/16", "10.1.0.0/16", "10.4.0.0/16"]);
        let owners = |rib: &Rib, name| {
            let route = rib.get(prefix(name), Source::Control);
            route.map(|route| (rib.peers(&route.target).to_vec(), route.since))
        };
        assert_eq!(owners(&rib, "10.1.0.0/16"), Some((ids(&[1, 2]), 7)));
        assert_eq!(owners(&rib, "10.2.0.0/16"), Some((ids(&[1]), 7)));
        assert_eq!(owners(&rib, "fd00::/16"), Some((ids(&[1, 2]), 7)));
        assert_eq!((owners(&rib, "10.4.0.0/16"), rib.len()), (None, 3));
        assert_eq!(rib.exact(prefix("10.1.0.0/16")).unwrap().target, Target::Peer(PeerId(5)));
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

    /// What snapshots rest on: memory of a route, of a clone, and of the first edit after it.
    #[test]
    fn a_million_routes_are_small_and_their_clone_is_smaller() {
        let prefix = |number: u32| Prefix::containing(IpAddr::from((number << 8).to_be_bytes()), 24).unwrap();
        let of = |number, peer| Route::new(prefix(number), Source::Control, Target::Peer(PeerId(peer)));
        let mut rib = Rib::default();
        let kept = measure(|| _ = rib.replace(Source::Control, (0..1_000_000).map(|number| of(number, 1))));
        assert!(kept.bytes_current < 24 * 1_000_000, "{kept:?}");
        let mut snapshot = Rib::default();
        let cloned = measure(|| snapshot = rib.clone());
        assert!(cloned.bytes_total < 8192, "{cloned:?}");
        let edited = measure(|| rib.set(of(500_000, 2)));
        assert!(edited.bytes_total < 8192, "{edited:?}");
        let target = |rib: &Rib| rib.exact(prefix(500_000)).unwrap().target;
        assert_eq!((target(&snapshot), target(&rib)), (Target::Peer(PeerId(1)), Target::Peer(PeerId(2))));
    }

    /// One source's edit of the table.
    #[derive(Clone, Debug)]
    enum Edit {
        Set(Route),
        Remove(Prefix, Source),
        Replace(Source, Vec<Route>),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let prefix = || {
            (0..64_u32, 24..27_u8, any::<bool>()).prop_map(|(number, len, v4)| {
                let address = if v4 {
                    IpAddr::from((number << 5).to_be_bytes())
                } else {
                    IpAddr::from((u128::from(number) << 101).to_be_bytes())
                };
                Prefix::containing(address, len).unwrap()
            })
        };
        let source = || select(Source::ALL.to_vec());
        let route = move || {
            (prefix(), source(), 0..3_u16, 0..9_u32).prop_map(|(prefix, source, peer, since)| Route {
                since,
                ..Route::new(prefix, source, Target::Peer(PeerId(peer)))
            })
        };
        prop_oneof![
            route().prop_map(Edit::Set),
            (prefix(), source()).prop_map(|(prefix, source)| Edit::Remove(prefix, source)),
            (source(), vec(route(), 0..80)).prop_map(|(source, routes)| Edit::Replace(source, routes)),
        ]
    }

    /// What each source says about each prefix, in the simplest form.
    type Oracle = BTreeMap<(Prefix, Source), Route>;

    fn say(oracle: &mut Oracle, before: &Oracle, route: Route) {
        let key = (route.prefix, route.source);
        let same = before.get(&key).filter(|old| old.target == route.target);
        oracle.insert(key, Route { since: same.map_or(route.since, |old| old.since), ..route });
    }

    fn take(edit: &Edit, rib: &mut Rib, oracle: &mut Oracle) {
        let before = oracle.clone();
        match edit {
            Edit::Set(route) => {
                rib.set(*route);
                say(oracle, &before, *route);
            }
            Edit::Remove(prefix, source) => {
                let gone = oracle.remove(&(*prefix, *source)).is_some();
                assert_eq!(rib.remove(*prefix, *source), gone);
            }
            Edit::Replace(source, routes) => {
                let counted = rib.replace(*source, routes.iter().copied());
                oracle.retain(|(_, other), _| other != source);
                routes.iter().for_each(|route| say(oracle, &before, Route { source: *source, ..*route }));
                let of = |oracle: &Oracle| -> BTreeMap<Prefix, Target> {
                    let own = oracle.values().filter(|route| route.source == *source);
                    own.map(|route| (route.prefix, route.target)).collect()
                };
                let (old, now) = (of(&before), of(oracle));
                let new = now.iter().filter(|(prefix, target)| old.get(prefix) != Some(*target)).count();
                let gone = old.keys().filter(|prefix| !now.contains_key(prefix)).count();
                assert_eq!(counted, (new, gone));
            }
        }
    }

    proptest! {
        /// Sources, precedence and ages are those of the simplest form, and clones stay as they are.
        #[test]
        fn the_sources_agree_with_the_oracle(edits in vec(edit(), 1..40)) {
            let (mut rib, mut oracle, mut states) = (Rib::default(), Oracle::new(), Vec::new());
            for edit in &edits {
                take(edit, &mut rib, &mut oracle);
                states.push((rib.clone(), oracle.clone()));
            }
            for (rib, oracle) in states {
                let prefixes: BTreeSet<Prefix> = oracle.keys().map(|(prefix, _)| *prefix).collect();
                prop_assert_eq!(rib.len(), prefixes.len());
                let all: Vec<_> = rib.best().flat_map(|best| rib.candidates(best.prefix)).collect();
                prop_assert_eq!(all, oracle.into_values().collect::<Vec<_>>());
            }
        }
    }
}
