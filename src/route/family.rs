//! The routes of one address family.

use std::ops::Bound::{self, Included};

use super::address::Address;
use super::entry::{Route, Source, Target};
use super::shared_map::SharedMap;
use crate::net::Prefix;

/// A route as it is kept: [`Route`] without the prefix, 12 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    since: u32,
    target: Target,
    /// 0: no limit.
    mtu: u16,
    source: Source,
    /// Whether less preferred sources have routes for the same prefix.
    others: bool,
}

/// An address and a length.
pub(super) type Key<A> = (A, u8);
/// Candidates to set, or with `None` to remove, in order.
type Changes<A> = Vec<(Key<A>, Option<Candidate>)>;

/// The routes of one family. Nearly every prefix has one source only, so that the others are kept
/// apart.
#[derive(Clone, Debug)]
pub(super) struct Family<A> {
    best: SharedMap<Key<A>, Candidate>,
    others: SharedMap<(Key<A>, Source), Candidate>,
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Self { best: SharedMap::default(), others: SharedMap::default() }
    }
}

impl<A: Address> Family<A> {
    /// The number of prefixes.
    pub(super) fn len(&self) -> usize {
        self.best.len()
    }

    /// The best candidate of `key`.
    pub(super) fn best(&self, key: Key<A>) -> Option<Candidate> {
        self.best.get(&key).copied()
    }

    /// What `source` says about `key`.
    pub(super) fn get(&self, key: Key<A>, source: Source) -> Option<Candidate> {
        self.all(key).find(|candidate| candidate.source == source)
    }

    /// All candidates of `key`, best first.
    pub(super) fn all(&self, key: Key<A>) -> impl Iterator<Item = Candidate> + '_ {
        let best = self.best(key);
        let others = best.filter(|best| best.others).map(|_| self.others_of(key));
        best.into_iter().chain(others.into_iter().flatten())
    }

    /// The less preferred candidates of `key`, best first.
    fn others_of(&self, key: Key<A>) -> impl Iterator<Item = Candidate> + '_ {
        let behind = self.others.starting(Included((key, Source::ALL[0])));
        behind.take_while(move |((other, _), _)| *other == key).map(|(_, candidate)| *candidate)
    }

    /// Adds a candidate or replaces that of the same source, whose age it keeps where it says the
    /// same. False when it says the same.
    pub(super) fn set(&mut self, key: Key<A>, mut new: Candidate) -> bool {
        let Some(mut best) = self.best(key) else {
            self.best.insert(key, new);
            return true;
        };
        if best.source == new.source {
            if best.says(new) {
                return false;
            }
            self.best.insert(key, Candidate { others: best.others, ..new });
            return true;
        }
        if self.get(key, new.source).is_some_and(|other| other.says(new)) {
            return false;
        }
        let first = !best.others;
        if new.source < best.source {
            std::mem::swap(&mut best, &mut new);
        } else if !first {
            self.others.insert((key, new.source), new);
            return true;
        }
        best.others = true;
        new.others = false;
        self.others.insert((key, new.source), new);
        self.best.insert(key, best);
        true
    }

    /// Removes what `source` says; the next best takes over. False when it said nothing.
    pub(super) fn remove(&mut self, key: Key<A>, source: Source) -> bool {
        let Some(mut best) = self.best(key) else { return false };
        if best.source == source {
            let next = if best.others { self.others_of(key).next() } else { None };
            let Some(next) = next else { return self.best.remove(&key).is_some() };
            self.others.remove(&(key, next.source));
            best = next;
        } else if !best.others || self.others.remove(&(key, source)).is_none() {
            return false;
        }
        best.others = self.others_of(key).next().is_some();
        self.best.insert(key, best);
        true
    }

    /// Replaces everything `source` says; of equal keys the last counts. Returns how many candidates are new
    /// or say something else, and how many are gone.
    pub(super) fn replace(&mut self, source: Source, mut routes: Vec<(Key<A>, Candidate)>) -> (usize, usize) {
        // What comes last goes first, so that it is the one that stays.
        routes.reverse();
        routes.sort_by_key(|(key, _)| *key);
        routes.dedup_by_key(|(key, _)| *key);
        let (alone, shared) = self.changes(source, routes);
        let mut new = alone.iter().filter(|(_, change)| change.is_some()).count();
        let mut gone = alone.len() - new;
        self.best.merge(alone);
        for (key, change) in shared {
            match change {
                Some(one) => new += usize::from(self.set(key, one)),
                None => gone += usize::from(self.remove(key, source)),
            }
        }
        (new, gone)
    }

    /// What replacing by `routes`, in order, changes: first the prefixes that only `source` has or
    /// gets, then those that others have too.
    fn changes(&self, source: Source, routes: Vec<(Key<A>, Candidate)>) -> (Changes<A>, Changes<A>) {
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        let mut old = self.best.iter().peekable();
        let gone = |key: Key<A>, best: Candidate, shared: &mut Changes<A>, alone: &mut Changes<A>| match (
            best.source == source,
            best.others,
        ) {
            (true, false) => alone.push((key, None)),
            (_, true) => shared.push((key, None)),
            (false, false) => {}
        };
        for (key, new) in routes {
            while let Some((key, best)) = old.next_if(|(other, _)| *other < key) {
                gone(*key, *best, &mut shared, &mut alone);
            }
            match old.next_if(|(other, _)| *other == key) {
                None => alone.push((key, Some(new))),
                Some((_, best)) if best.source != source || best.others => shared.push((key, Some(new))),
                Some((_, best)) if best.says(new) => {}
                Some(_) => alone.push((key, Some(new))),
            }
        }
        for (key, best) in old {
            gone(*key, *best, &mut shared, &mut alone);
        }
        (alone, shared)
    }

    /// The targets of all candidates.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let (best, others) = (self.best.iter(), self.others.iter());
        best.map(|(_, candidate)| candidate.target).chain(others.map(|(_, candidate)| candidate.target))
    }

    /// Gives every candidate the target that `now` says for its own, or removes it; `None` leaves it alone.
    /// Returns the prefixes of those that are not left alone.
    pub(super) fn retarget(&mut self, now: impl Fn(Target) -> Option<Option<Target>>) -> Vec<Prefix> {
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        for (key, best) in self.best.iter() {
            if best.others {
                let each = self.all(*key).filter_map(|one| Some((*key, one, now(one.target)?)));
                shared.extend(each);
            } else if let Some(target) = now(best.target) {
                alone.push((*key, target.map(|target| Candidate { target, ..*best })));
            }
        }
        let keys = alone.iter().map(|(key, _)| *key).chain(shared.iter().map(|(key, ..)| *key));
        let mut changed: Vec<Prefix> =
            keys.filter_map(|(address, len)| Prefix::containing(address.ip(), len)).collect();
        changed.dedup();
        self.best.merge(alone);
        for (key, before, target) in shared {
            match target {
                Some(target) => self.set(key, Candidate { target, others: false, ..before }),
                None => self.remove(key, before.source),
            };
        }
        changed
    }

    /// The best route of the longest prefix of at most `len` bits that contains `address`.
    pub(super) fn longest(&self, address: A, len: u8) -> Option<Route> {
        (0..=len).rev().find_map(|len| {
            let key = (address.truncate(len), len);
            self.best(key)?.at(key)
        })
    }

    /// The best routes of the prefixes behind `cursor`, in order.
    pub(super) fn after(&self, cursor: Bound<Key<A>>) -> impl Iterator<Item = Route> + '_ {
        self.best.starting(cursor).filter_map(|(key, best)| best.at(*key))
    }
}

impl Candidate {
    /// Whether `new`, from the same source, says the same.
    fn says(self, new: Self) -> bool {
        (self.target, self.mtu) == (new.target, new.mtu)
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

    pub(super) fn route(self, prefix: Prefix) -> Route {
        let Self { since, target, mtu, source, .. } = self;
        Route { prefix, target, source, mtu: (mtu > 0).then_some(mtu), since }
    }
}

#[cfg(test)]
mod tests {
    use super::Candidate;

    #[test]
    fn a_million_routes_fit() {
        assert_eq!(size_of::<((u32, u8), Candidate)>(), 20);
    }
}
