//! Few routes: their borders in one sorted array.
//!
//! Prefixes nest or are disjoint, so the longest match is constant between neighbouring borders.
//! A border and the next hop from there on share one word, and a lookup is one binary search.

use super::slot::{Place, Slot};
use super::{HopId, NONE, Route};
use crate::route::address::{Address, STEP, stage_end, stage_start};

/// The id that holds at `word`, and the place of its border. The high 48 bits of a border say from
/// where on the id in its low 16 bits holds; the first border is where the slot starts, so one of
/// them is always at or below a word of that slot.
#[inline]
pub fn find(borders: &[u64], word: u64) -> (HopId, usize) {
    let needle = word | (STEP - 1);
    let (mut base, mut size) = (0, borders.len());
    while size > 1 {
        let half = size / 2;
        let middle = base + half;
        // A conditional move: where the needle lies is a coin toss that no predictor learns.
        base = if borders[middle] <= needle { middle } else { base };
        size -= half;
    }
    (borders.get(base).map_or(NONE, |border| *border as HopId), base)
}

/// Borders, with the tables of prefixes that are longer than the stage.
#[derive(Default)]
pub struct Block {
    pub borders: Vec<u64>,
    /// By the place of their border.
    pub below: Vec<(usize, Slot)>,
    /// While building: ranges the next border may still lie in, last word and id, outer first.
    open: Vec<(u64, HopId)>,
}

impl Block {
    /// The borders of `routes`, which are in order and all longer than `place` and within it.
    pub fn build<A: Address>(place: Place<A>, routes: &[Route<A>]) -> Self {
        let (stage, end) = (place.stage, stage_end::<A>(place.stage));
        let mut block = Self::default();
        block.push(place.address.word(stage), NONE);
        let mut rest = routes;
        while let Some((route, tail)) = rest.split_first() {
            let first = route.address.word(stage);
            block.close_before(Some(first));
            if route.len <= end {
                block.push(first, route.hop);
                let behind = u64::MAX >> (route.len - stage_start(stage));
                block.open.push((first | behind & !(STEP - 1), route.hop));
                rest = tail;
            } else {
                let place = Place { address: route.address.truncate(end), len: end, stage: stage + 1 };
                let (group, tail) = rest.split_at(group(rest, end));
                block.push_below(first, Slot::build(place, NONE, group));
                rest = tail;
            }
        }
        block.close_before(None);
        block
    }

    /// Ends every open range that lies before `next`; the one around it takes over again.
    fn close_before(&mut self, next: Option<u64>) {
        while let Some((last, _)) = self.open.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            if let Some(after) = last.checked_add(STEP) {
                self.push(after, self.around());
            }
        }
    }

    /// The id of the innermost open range.
    fn around(&self) -> HopId {
        self.open.last().map_or(NONE, |(_, id)| *id)
    }

    fn push(&mut self, word: u64, id: HopId) {
        let before = |border: &u64| *border & !(STEP - 1) < word;
        // What started at the same word is hidden, unless longer prefixes hang there.
        if self.borders.last().is_some_and(|last| !before(last)) && !self.hangs_last() {
            self.borders.pop();
        }
        let same = self.borders.last().is_some_and(|last| *last as HopId == id);
        if !same || self.hangs_last() {
            self.borders.push(word | u64::from(id));
        }
    }

    /// A border of a single word with longer prefixes below it.
    fn push_below(&mut self, word: u64, slot: Slot) {
        let id = self.around();
        if self.borders.last().is_some_and(|last| *last & !(STEP - 1) == word) {
            self.borders.pop();
        }
        self.borders.push(word | u64::from(id));
        self.below.push((self.borders.len() - 1, slot));
        if let Some(after) = word.checked_add(STEP) {
            self.borders.push(after | u64::from(id));
        }
    }

    /// Whether longer prefixes hang at the last border.
    fn hangs_last(&self) -> bool {
        self.below.last().is_some_and(|(place, _)| place + 1 == self.borders.len())
    }
}

/// How many of the first `routes` share the first one's first `len` bits.
pub fn group<A: Address>(routes: &[Route<A>], len: u8) -> usize {
    let Some(first) = routes.first() else { return 0 };
    routes.partition_point(|route| route.address <= first.address.last(len))
}
