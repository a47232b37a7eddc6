//! Few routes: their borders, sorted.
//!
//! Prefixes nest or are disjoint, so the longest match is constant between neighbouring borders.
//! A border and the next hop from there on share one word.

use super::hop_id::{HopId, NONE, Route};
use super::slot::{Place, Slot};
use crate::route::address::{Address, STEP, stage_end, stage_start};

/// A border: where it is, in the high bits, and the id that holds from there on in the low 16.
pub(super) trait Border: Copy + Ord {
    /// Its id.
    fn id(self) -> HopId;
}

impl Border for u64 {
    #[inline]
    fn id(self) -> HopId {
        self as HopId
    }
}

/// For blocks whose prefixes end within 16 bits: half the memory is half the misses.
impl Border for u32 {
    #[inline]
    fn id(self) -> HopId {
        self as HopId
    }
}

/// The id that holds at `needle`, whose low 16 bits are set, and the place of its border. The first
/// border is where the slot starts, so one of them is always at or below a needle of that slot.
#[inline]
pub(super) fn find<B: Border>(borders: &[B], needle: B) -> (HopId, usize) {
    let count = borders.len();
    if count == 0 {
        return (NONE, 0);
    }
    let (mut base, mut size) = (0, count);
    while size > 2 * FIXED[0] {
        let half = size / 2;
        // A conditional move: where the needle lies is a coin toss that no predictor learns.
        base = if borders[base + half] <= needle { base + half } else { base };
        size -= half;
    }
    // The same steps for every block: a number that varies would be mispredicted at its end, which
    // costs more than steps that find nothing.
    for half in FIXED {
        let middle = base + half;
        let below = (borders[middle.min(count - 1)] <= needle) & (middle < count);
        base = if below { middle } else { base };
    }
    (borders[base].id(), base)
}

/// The id that holds at `needle` among so few borders that each is compared.
#[inline]
pub(super) fn find_few<const N: usize>(borders: &[u32; N], needle: u32) -> HopId {
    let mut found = borders[0];
    for border in &borders[1..] {
        found = if *border <= needle { *border } else { found };
    }
    found.id()
}

/// Distances of the last steps of a search, which tell 32 borders apart.
const FIXED: [usize; 5] = [16, 8, 4, 2, 1];

/// The needle for a word of a stage.
#[inline]
pub(super) fn needle(word: u64) -> u64 {
    word | (STEP - 1)
}

/// The 16 bits behind the first `skip` bits of a stage, as the high half of a short border.
#[inline]
pub(super) fn shorten(word: u64, skip: u8) -> u32 {
    (word << skip >> 32) as u32 & !(STEP as u32 - 1)
}

/// Borders, with the tables of prefixes that are longer than the stage.
#[derive(Default)]
pub(super) struct Block {
    pub borders: Vec<u64>,
    /// By the place of their border.
    pub below: Vec<(usize, Slot)>,
    /// While building: ranges the next border may still lie in, last word and id, outer first.
    open: Vec<(u64, HopId)>,
    /// The last word of the slot: no border is behind it.
    last: u64,
}

impl Block {
    /// The borders of `routes`, which are in order and all longer than `place` and within it.
    pub(super) fn build<A: Address>(place: Place<A>, routes: &[Route<A>]) -> Self {
        let (stage, end) = (place.stage, stage_end::<A>(place.stage));
        let start = place.address.word(stage);
        let last = start | u64::MAX.checked_shr((place.len - stage_start(stage)).into()).unwrap_or(0);
        let mut block = Self { last, ..Self::default() };
        block.push(start, NONE);
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
            if let Some(after) = self.behind(last) {
                self.push(after, self.around());
            }
        }
    }

    /// The word behind `word`, within the slot.
    fn behind(&self, word: u64) -> Option<u64> {
        word.checked_add(STEP).filter(|after| *after <= self.last)
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
        if let Some(after) = self.behind(word) {
            self.borders.push(after | u64::from(id));
        }
    }

    /// Whether longer prefixes hang at the last border.
    fn hangs_last(&self) -> bool {
        self.below.last().is_some_and(|(place, _)| place + 1 == self.borders.len())
    }
}

/// How many of the first `routes` share the first one's first `len` bits.
pub(super) fn group<A: Address>(routes: &[Route<A>], len: u8) -> usize {
    let Some(first) = routes.first() else { return 0 };
    routes.partition_point(|route| route.address <= first.address.last(len))
}
