//! The table of one family: 65 536 slots by the first 16 bits, in 64 shelves of 64 pages of 16.
//!
//! A [`Snapshot`] is immutable; cloning it costs one reference. An edit copies what lies on the way
//! from the root to the changed slot and shares everything else with the snapshots taken before. The
//! way is narrow, because every reference that is copied is an atomic write to memory in no cache.

use std::sync::Arc;

use super::hop_id::{HopId, NONE, Route};
use super::slot::{Place, Routes, Slot, refill};
use crate::route::address::{Address, ROOT};

/// Slots of a page: few, because editing one copies its page.
const PAGE: usize = 16;
/// Pages of a shelf.
const SHELF: usize = 64;
const SHELVES: usize = (1 << ROOT) / (SHELF * PAGE);
/// A batch is applied by building the table anew when it changes at least this many routes and one
/// in [`REBUILD_SHARE`].
const REBUILD_MIN: usize = 1024;
const REBUILD_SHARE: usize = 16;

#[derive(Clone)]
struct Page([Slot; PAGE]);

#[derive(Clone)]
struct Shelf([Arc<Page>; SHELF]);

/// An immutable table.
#[derive(Clone)]
pub(super) struct Snapshot(Arc<[Arc<Shelf>; SHELVES]>);

impl Default for Snapshot {
    fn default() -> Self {
        Self::from_slots(Vec::new())
    }
}

impl Snapshot {
    /// The id of the longest match; [`NONE`] without any.
    #[inline]
    pub(super) fn lookup<A: Address>(&self, address: A) -> HopId {
        self.slot(address.root()).lookup(address)
    }

    #[inline]
    fn slot(&self, root: usize) -> &Slot {
        &self.0[root / PAGE / SHELF].0[root / PAGE % SHELF].0[root % PAGE]
    }

    /// The slot, to be changed: what is shared on the way to it is copied first.
    fn slot_mut(&mut self, root: usize) -> &mut Slot {
        let shelf = Arc::make_mut(&mut Arc::make_mut(&mut self.0)[root / PAGE / SHELF]);
        &mut Arc::make_mut(&mut shelf.0[root / PAGE % SHELF]).0[root % PAGE]
    }
}

/// A table that is edited.
#[derive(Clone)]
pub(super) struct Table<A> {
    routes: Routes<A>,
    snapshot: Snapshot,
}

impl<A> Default for Table<A> {
    fn default() -> Self {
        Self { routes: Routes::new(), snapshot: Snapshot::default() }
    }
}

impl<A: Address> Table<A> {
    /// The table as it is now.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// The number of routes.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Replaces all routes.
    pub(super) fn replace(&mut self, routes: Vec<((A, u8), HopId)>) {
        self.routes = routes.into_iter().collect();
        self.rebuild();
    }

    /// Sets (`Some`) or removes (`None`) the routes of these prefixes.
    pub(super) fn apply(&mut self, changes: &[((A, u8), Option<HopId>)]) {
        if changes.len() >= REBUILD_MIN.max(self.routes.len() / REBUILD_SHARE) {
            for &(prefix, hop) in changes {
                self.set(prefix, hop);
            }
            self.rebuild();
            return;
        }
        for &(prefix, hop) in changes {
            if self.set(prefix, hop) {
                self.edit(prefix, hop.is_none());
            }
        }
    }

    /// Changes the set of routes; returns whether it did.
    fn set(&mut self, prefix: (A, u8), hop: Option<HopId>) -> bool {
        let before = match hop {
            Some(hop) => self.routes.insert(prefix, hop),
            None => self.routes.remove(&prefix),
        };
        before != hop
    }

    fn edit(&mut self, prefix: (A, u8), removed: bool) {
        let (first, last) = (prefix.0.root(), prefix.0.last(prefix.1).root());
        if prefix.1 > ROOT {
            let place = Place { address: A::from_root(first), len: ROOT, stage: 0 };
            self.snapshot.slot_mut(first).edit(place, prefix, removed, &self.routes);
            return;
        }
        let ids = refill((first..=last).map(A::from_root), prefix, 0, ROOT, &self.routes);
        for (root, id) in (first..=last).zip(ids) {
            if self.snapshot.slot(root).id() != id {
                self.snapshot.slot_mut(root).set_id(id);
            }
        }
    }

    fn rebuild(&mut self) {
        let mut slots = vec![Slot::EMPTY; 1 << ROOT];
        let mut longer: Vec<Route<A>> = Vec::new();
        let finish = |slots: &mut [Slot], longer: &mut Vec<Route<A>>| {
            if let Some(first) = longer.first() {
                let root = first.address.root();
                let place = Place { address: A::from_root(root), len: ROOT, stage: 0 };
                slots[root] = Slot::build(place, slots[root].id(), longer);
                longer.clear();
            }
        };
        // Outer before inner, so an inner one overwrites; but what was built keeps its id.
        for (&(address, len), &hop) in &self.routes {
            let root = address.root();
            if longer.last().is_some_and(|route| route.address.root() != root) {
                finish(&mut slots, &mut longer);
            }
            if len > ROOT {
                longer.push(Route { address, len, hop });
            } else {
                slots[root..=address.last(len).root()].fill(Slot::Nothing(hop));
            }
        }
        finish(&mut slots, &mut longer);
        self.snapshot = Snapshot::from_slots(slots);
    }
}

impl Snapshot {
    /// The table of these slots; those behind the last are empty.
    fn from_slots(slots: Vec<Slot>) -> Self {
        let mut slots = slots.into_iter();
        let empty = Arc::new(Page([Slot::EMPTY; PAGE]));
        let mut page = |_| {
            let page: [Slot; PAGE] = std::array::from_fn(|_| slots.next().unwrap_or(Slot::EMPTY));
            let blank = page.iter().all(|slot| matches!(slot, Slot::Nothing(NONE)));
            if blank { Arc::clone(&empty) } else { Arc::new(Page(page)) }
        };
        Self(Arc::new(std::array::from_fn(|_| Arc::new(Shelf(std::array::from_fn(&mut page))))))
    }
}
