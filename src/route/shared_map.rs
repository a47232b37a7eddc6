//! A sorted map whose clones share what they have in common.
//!
//! ```text
//! branches ─▶ branch: chunks ─▶ chunk: entries
//!   owned      shared            shared
//! ```
//!
//! Each level holds up to [`MOST`] parts of the next, in order. A clone copies the list of branches,
//! one pointer for some thousand entries. An edit copies the branch and the chunk it falls in,
//! and only when a clone still has them.

use std::cmp::Ordering;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::slice;
use std::sync::Arc;

/// Entries of a chunk, and chunks of a branch: more are split. A chunk is what one edit copies.
const MOST: usize = 64;
/// Fewer are joined with a neighbour, if the two together are no more than [`JOINED`].
const FEW: usize = MOST / 4;
/// Leaves room, so that the next insertion does not split again.
const JOINED: usize = MOST * 3 / 4;
/// Places that a list grows by. Doubling would leave a quarter of a large map unused.
const STEP: usize = 8;
/// [`SharedMap::merge`] copies the map when it changes at least one entry in so many.
const SPARSE: usize = 16;

/// Something with a place in the order.
trait Keyed<K> {
    fn key(&self) -> &K;
}

impl<K, V> Keyed<K> for (K, V) {
    fn key(&self) -> &K {
        &self.0
    }
}

/// A shared part of a level: a chunk of entries or a branch of chunks. Never empty.
#[derive(Clone, Debug)]
struct Part<K, T> {
    /// Not above the key of any item, and above those of the part before.
    low: K,
    items: Arc<Vec<T>>,
}

impl<K, T> Keyed<K> for Part<K, T> {
    fn key(&self) -> &K {
        &self.low
    }
}

type Chunk<K, V> = Part<K, (K, V)>;
type Branch<K, V> = Part<K, Chunk<K, V>>;

impl<K: Clone + Ord, T: Clone + Keyed<K>> Part<K, T> {
    fn new(items: Vec<T>) -> Option<Self> {
        Some(Self { low: items.first()?.key().clone(), items: Arc::new(items) })
    }
}

/// A sorted map. Clones are cheap, and so are edits while clones exist.
#[derive(Clone, Debug)]
pub(super) struct SharedMap<K, V> {
    branches: Vec<Branch<K, V>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { branches: Vec::new(), len: 0 }
    }
}

impl<K: Clone + Ord, V: Clone> SharedMap<K, V> {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let branch = self.branches.get(place(&self.branches, key))?;
        let chunk = branch.items.get(place(&branch.items, key))?;
        let at = find(&chunk.items, key).ok()?;
        chunk.items.get(at).map(|(_, value)| value)
    }

    /// Sets the value of `key`.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let at = place(&self.branches, &key);
        let Some(branch) = self.branches.get_mut(at) else {
            *self = Self::from_sorted([(key, value)]);
            return;
        };
        lower(&mut branch.low, &key);
        let chunks = Arc::make_mut(&mut branch.items);
        let within = place(chunks, &key);
        let Some(chunk) = chunks.get_mut(within) else { return };
        lower(&mut chunk.low, &key);
        let entries = Arc::make_mut(&mut chunk.items);
        match find(entries, &key) {
            Ok(at) => {
                entries[at].1 = value;
                return;
            }
            Err(at) => add(entries, at, (key, value)),
        }
        self.len += 1;
        split(chunks, within);
        split(&mut self.branches, at);
    }

    /// Removes the entry of `key`; its value, when there was one.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        // What is not there must not copy anything.
        self.get(key)?;
        let at = place(&self.branches, key);
        let chunks = Arc::make_mut(&mut self.branches.get_mut(at)?.items);
        let within = place(chunks, key);
        let entries = Arc::make_mut(&mut chunks.get_mut(within)?.items);
        let (_, value) = entries.remove(find(entries, key).ok()?);
        if entries.capacity() - entries.len() > FEW {
            entries.shrink_to(entries.len() + STEP);
        }
        self.len -= 1;
        join(chunks, within);
        join(&mut self.branches, at);
        Some(value)
    }

    /// Sets or, with `None`, removes the entries of several keys, which are in order and differ.
    pub(super) fn merge(&mut self, changes: Vec<(K, Option<V>)>) {
        if changes.len() >= self.len / SPARSE {
            *self = Self::from_sorted(merged(self.iter(), changes));
            return;
        }
        for (key, value) in changes {
            match value {
                Some(value) => self.insert(key, value),
                None => drop(self.remove(&key)),
            }
        }
    }

    /// The map of entries whose keys are in order and differ.
    fn from_sorted(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut entries = entries.into_iter().peekable();
        let (mut len, mut branches) = (0, Vec::new());
        while entries.peek().is_some() {
            let mut chunks = Vec::new();
            while chunks.len() < MOST && entries.peek().is_some() {
                let mut chunk = Vec::with_capacity(MOST);
                chunk.extend(entries.by_ref().take(MOST));
                chunk.shrink_to_fit();
                len += chunk.len();
                chunks.extend(Part::new(chunk));
            }
            chunks.shrink_to_fit();
            branches.extend(Part::new(chunks));
        }
        Self { branches, len }
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        self.starting(Unbounded)
    }

    /// The entries from `start` on, in order.
    pub(super) fn starting(&self, start: Bound<K>) -> Iter<'_, K, V> {
        let (Included(key) | Excluded(key)) = &start else {
            return Iter { branches: self.branches.iter(), chunks: [].iter(), entries: [].iter() };
        };
        let (chunks, branches) = behind(&self.branches, key);
        let (entries, chunks) = behind(chunks, key);
        let first = match find(entries, key) {
            Ok(at) if matches!(start, Excluded(_)) => at + 1,
            Ok(at) | Err(at) => at,
        };
        Iter { branches: branches.iter(), chunks: chunks.iter(), entries: entries[first..].iter() }
    }
}

/// Where `key` is, or belongs, in a list of entries.
fn find<K: Ord, V>(entries: &[(K, V)], key: &K) -> Result<usize, usize> {
    entries.binary_search_by(|(other, _)| other.cmp(key))
}

/// The part in which `key` is or belongs: the first one has what is below all.
fn place<K: Ord, T>(parts: &[Part<K, T>], key: &K) -> usize {
    parts.partition_point(|part| part.low <= *key).saturating_sub(1)
}

/// The items of the part in which `key` belongs, and the parts behind it.
fn behind<'a, K: Ord, T>(parts: &'a [Part<K, T>], key: &K) -> (&'a [T], &'a [Part<K, T>]) {
    match parts.get(place(parts, key)..) {
        Some([first, rest @ ..]) => (&first.items, rest),
        _ => (&[], &[]),
    }
}

fn lower<K: Clone + Ord>(low: &mut K, key: &K) {
    if key < low {
        low.clone_from(key);
    }
}

fn add<T>(items: &mut Vec<T>, at: usize, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(STEP);
    }
    items.insert(at, item);
}

/// Halves a part that has become too large.
fn split<K: Clone + Ord, T: Clone + Keyed<K>>(parts: &mut Vec<Part<K, T>>, at: usize) {
    let Some(part) = parts.get_mut(at).filter(|part| part.items.len() > MOST) else { return };
    let left = Arc::make_mut(&mut part.items);
    let right = left.split_off(left.len() / 2);
    left.shrink_to_fit();
    if let Some(right) = Part::new(right) {
        add(parts, at + 1, right);
    }
}

/// Removes a part that has become empty, and joins one that has become small with a neighbour.
fn join<K, T: Clone>(parts: &mut Vec<Part<K, T>>, at: usize) {
    let len = |at: usize| parts.get(at).map_or(usize::MAX, |part| part.items.len());
    if len(at) == 0 {
        parts.remove(at);
    } else if len(at) < FEW {
        let fits = |left: usize| len(left).saturating_add(len(left + 1)) <= JOINED;
        let Some(left) = at.checked_sub(1).into_iter().chain([at]).find(|left| fits(*left)) else { return };
        let right = parts.remove(left + 1).items;
        let items = Arc::make_mut(&mut parts[left].items);
        items.reserve_exact(right.len());
        items.extend(Arc::unwrap_or_clone(right));
    }
}

/// Entries of a [`SharedMap`], in order.
pub(super) struct Iter<'a, K, V> {
    branches: slice::Iter<'a, Branch<K, V>>,
    chunks: slice::Iter<'a, Chunk<K, V>>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = &'a (K, V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            match self.chunks.next() {
                Some(chunk) => self.entries = chunk.items.iter(),
                None => self.chunks = self.branches.next()?.items.iter(),
            }
        }
    }
}

/// `old` with `changes` applied; both are in order.
fn merged<'a, K: Clone + Ord + 'a, V: Clone + 'a>(
    old: Iter<'a, K, V>,
    changes: Vec<(K, Option<V>)>,
) -> impl Iterator<Item = (K, V)> + 'a {
    let (mut old, mut changes) = (old.peekable(), changes.into_iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), changes.peek()) {
                (Some((key, _)), Some((changed, _))) => key.cmp(changed),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            if order == Ordering::Less {
                return old.next().cloned();
            }
            if order == Ordering::Equal {
                old.next();
            }
            let (key, value) = changes.next()?;
            if let Some(value) = value {
                return Some((key, value));
            }
        }
    })
}

#[cfg(test)]
#[path = "shared_map_tests.rs"]
mod tests;
