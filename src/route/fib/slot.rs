//! One slot of the table: a next hop, and what is known about longer prefixes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::block::{self, Block};
use super::hop_id::{HopId, NONE, Route};
use crate::route::address::{Address, STEP, stage_end, stage_start};

/// Most borders' worth of routes in one block; more make a level of smaller ones. Measured with
/// `benches/fib.rs`: a search in this many costs less than another level.
const BLOCK: usize = 64;
/// Borders that fit a slot.
const FEW: usize = 5;
/// Bits behind its place that a short border tells apart.
const SHORT: u8 = 16;
/// Routes per slot that a new level aims for.
const SPREAD: usize = 4;
/// Most bits of a level.
const MAX_BITS: u8 = 8;

/// All routes of a family, in the order address, length.
pub(super) type Routes<A> = BTreeMap<(A, u8), HopId>;

/// Where a slot is: the addresses it covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<A> {
    /// The first address.
    pub address: A,
    /// The bits all its addresses share.
    pub len: u8,
    /// The stage of the bits behind these.
    pub stage: u8,
}

/// The addresses of one place. Everything is shared with earlier tables until it is edited.
#[derive(Clone)]
pub(super) enum Slot {
    /// No longer prefix.
    Nothing(HopId),
    /// Few longer prefixes: see [`block`].
    Block(HopId, Taken, Arc<[u64]>),
    /// As a short block, of so few borders that they are here; the last one is repeated.
    Few(HopId, u8, [u32; FEW]),
    /// As a block, of prefixes that end within 16 bits of the place.
    Short(HopId, Taken, Arc<[u32]>),
    /// Many longer prefixes, cut by their next bits.
    Level(HopId, Bits, Arc<[Slot]>),
    /// A block with prefixes longer than its stage.
    Deep(HopId, Taken, Arc<Deep>),
}

/// Which of the 32 parts of a place have longer prefixes. An address in any other part, and in a sparse
/// table that is most addresses, is answered without a look at the block, whose memory no cache holds.
// Packed: a slot stays within 24 bytes.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub(super) struct Taken {
    parts: u32,
    /// Bits of the stage that come before those of the part.
    skip: u8,
}

/// The bits of a word that index the slots of a level.
#[derive(Clone, Copy)]
pub(super) struct Bits {
    /// Where they end.
    shift: u8,
    /// How many they are.
    count: u8,
}

/// Borders, and at each of them the slot of prefixes longer than the stage.
#[derive(Clone)]
pub(super) struct Deep {
    borders: Box<[u64]>,
    below: Box<[Slot]>,
}

// A level is an array of them: what does not fit the cache is the price of a lookup.
const _: () = assert!(size_of::<Slot>() == 24);

impl Slot {
    /// Nothing at all.
    pub(super) const EMPTY: Self = Self::Nothing(NONE);

    /// The id that holds where no longer prefix matches; [`NONE`] leaves it to the slot above.
    #[inline]
    pub(super) fn id(&self) -> HopId {
        match self {
            Self::Nothing(id)
            | Self::Block(id, ..)
            | Self::Few(id, ..)
            | Self::Short(id, ..)
            | Self::Level(id, ..)
            | Self::Deep(id, ..) => *id,
        }
    }

    /// Changes that id.
    pub(super) fn set_id(&mut self, new: HopId) {
        match self {
            Self::Nothing(id)
            | Self::Block(id, ..)
            | Self::Few(id, ..)
            | Self::Short(id, ..)
            | Self::Level(id, ..)
            | Self::Deep(id, ..) => *id = new,
        }
    }

    /// The id of the longest match of `address`, a slot of the root; [`NONE`] without any.
    #[inline]
    pub(super) fn lookup<A: Address>(&self, address: A) -> HopId {
        let (mut slot, mut best, mut stage) = (self, NONE, 0);
        let mut word = address.word(0);
        loop {
            best = or(slot.id(), best);
            match slot {
                Self::Nothing(_) => return best,
                Self::Few(_, skip, borders) => {
                    let needle = block::shorten(word, *skip) | (STEP - 1) as u32;
                    return or(block::find_few(borders, needle), best);
                }
                Self::Level(_, bits, slots) => slot = &slots[bits.index(word) & (slots.len() - 1)],
                Self::Block(_, taken, _) | Self::Short(_, taken, _) | Self::Deep(_, taken, _)
                    if !taken.has(word) =>
                {
                    return best;
                }
                Self::Block(_, _, borders) => return or(block::find(borders, block::needle(word)).0, best),
                Self::Short(_, taken, borders) => {
                    let needle = block::shorten(word, taken.skip) | (STEP - 1) as u32;
                    return or(block::find(borders, needle).0, best);
                }
                Self::Deep(_, _, deep) => {
                    let (id, place) = block::find(&deep.borders, block::needle(word));
                    best = or(id, best);
                    slot = &deep.below[place];
                    stage += 1;
                    word = address.word(stage);
                }
            }
        }
    }

    /// The slot of `place` with its own `id` and `routes`, which are in order and all longer than
    /// the place and within it.
    pub(super) fn build<A: Address>(place: Place<A>, id: HopId, routes: &[Route<A>]) -> Self {
        if routes.is_empty() {
            return Self::Nothing(id);
        }
        let end = stage_end::<A>(place.stage);
        let count = borders(routes, end);
        // A block of one bit gains nothing from being cut.
        if count > BLOCK && end - place.len > 1 {
            let bits = Bits::choose(place, end, count);
            return Self::Level(id, bits, bits.build(place, routes));
        }
        let Block { borders, below, .. } = Block::build(place, routes);
        let is_short = below.is_empty() && routes.iter().all(|route| route.len <= place.len + SHORT);
        let skip = place.len - stage_start(place.stage);
        let short = |border: &u64| block::shorten(*border & !(STEP - 1), skip) | u32::from(*border as HopId);
        if is_short && borders.len() <= FEW {
            let last = borders.last().map_or(0, short);
            let at = |place| borders.get(place).map_or(last, short);
            return Self::Few(id, skip, std::array::from_fn(at));
        }
        let taken = Taken::by(place, routes);
        if is_short {
            return Self::Short(id, taken, borders.iter().map(short).collect());
        }
        if below.is_empty() {
            return Self::Block(id, taken, borders.into());
        }
        let mut slots = vec![Self::EMPTY; borders.len()];
        for (place, slot) in below {
            slots[place] = slot;
        }
        Self::Deep(id, taken, Arc::new(Deep { borders: borders.into(), below: slots.into() }))
    }

    /// Brings the slot of `place` up to date after the route of `prefix`, longer than the place,
    /// was set or `removed`.
    pub(super) fn edit<A: Address>(
        &mut self,
        place: Place<A>,
        prefix: (A, u8),
        removed: bool,
        routes: &Routes<A>,
    ) {
        let done = match self {
            Self::Level(_, bits, slots) => bits.edit(Arc::make_mut(slots), place, prefix, removed, routes),
            Self::Deep(_, _, deep) if prefix.1 > stage_end::<A>(place.stage) => {
                Arc::make_mut(deep).edit(place, prefix, removed, routes)
            }
            _ => false,
        };
        if !done {
            let within: Vec<_> = within(place, routes).filter(|route| route.len > place.len).collect();
            *self = Self::build(place, self.id(), &within);
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Nothing(NONE))
    }
}

/// `id`, unless there is none.
#[inline]
fn or(id: HopId, otherwise: HopId) -> HopId {
    if id == NONE { otherwise } else { id }
}

/// How many borders' worth `routes` are in a stage that ends at `end`: all longer prefixes of one
/// place share a border.
fn borders<A: Address>(routes: &[Route<A>], end: u8) -> usize {
    let (mut count, mut rest) = (0, routes);
    while let Some(route) = rest.first() {
        let skipped = if route.len <= end { 1 } else { block::group(rest, end) };
        rest = &rest[skipped..];
        count += 1;
        if count > BLOCK << MAX_BITS {
            break;
        }
    }
    count
}

/// The routes of all prefixes that start in `place`.
fn within<A: Address>(place: Place<A>, routes: &Routes<A>) -> impl Iterator<Item = Route<A>> + '_ {
    let last = place.address.last(place.len);
    routes.range((place.address, 0)..=(last, u8::MAX)).map(|(&(address, len), &hop)| Route {
        address,
        len,
        hop,
    })
}

/// Bits that index the parts of a place.
const PART: u8 = 5;

impl Taken {
    /// The parts that `routes`, all longer than `place` and within it, have addresses in.
    fn by<A: Address>(place: Place<A>, routes: &[Route<A>]) -> Self {
        let mut taken = Self { parts: 0, skip: place.len - stage_start(place.stage) };
        for route in routes {
            let last = route.address.last(route.len);
            let (first, last) =
                (taken.part(route.address.word(place.stage)), taken.part(last.word(place.stage)));
            taken.parts |= u32::MAX >> (u32::BITS - 1 - (last - first)) << first;
        }
        taken
    }

    /// Whether a longer prefix may hold at `word`.
    #[inline]
    fn has(self, word: u64) -> bool {
        self.parts >> self.part(word) & 1 != 0
    }

    /// The number of the part, below 32; behind the end of the stage all bits are zero.
    #[inline]
    fn part(self, word: u64) -> u32 {
        (word << self.skip >> (u64::BITS as u8 - PART)) as u32
    }
}

impl Bits {
    /// The bits to cut `count` borders' worth of routes by in a stage that ends at `stage_end`.
    fn choose<A: Address>(place: Place<A>, stage_end: u8, count: usize) -> Self {
        let wanted = (count / SPREAD).next_power_of_two().ilog2() as u8;
        let count = wanted.clamp(1, MAX_BITS).min(stage_end - place.len);
        Self { shift: 64 - (place.len - stage_start(place.stage)) - count, count }
    }

    fn build<A: Address>(self, place: Place<A>, routes: &[Route<A>]) -> Arc<[Slot]> {
        let mut ids = vec![NONE; 1 << self.count];
        let end = place.len + self.count;
        for route in routes.iter().filter(|route| route.len <= end) {
            ids[self.covered(place.stage, (route.address, route.len), end)].fill(route.hop);
        }
        let mut rest = routes;
        let slots = ids.into_iter().enumerate().map(|(index, id)| {
            let place = self.place(place, index);
            let inside = rest.partition_point(|route| route.address <= place.address.last(end));
            let (inside, tail) = rest.split_at(inside);
            rest = tail;
            let longer: Vec<_> = inside.iter().copied().filter(|route| route.len > end).collect();
            Slot::build(place, id, &longer)
        });
        slots.collect()
    }

    /// The bits, and what is before them.
    #[inline]
    fn index(self, word: u64) -> usize {
        (word >> self.shift) as usize
    }

    fn slot(self, word: u64) -> usize {
        self.index(word) & ((1 << self.count) - 1)
    }

    /// Indices of the slots that `prefix`, no longer than `end`, covers.
    fn covered<A: Address>(self, stage: u8, (address, len): (A, u8), end: u8) -> Range<usize> {
        let first = self.slot(address.word(stage));
        first..first + (1 << (end - len))
    }

    /// The place of slot `index`.
    fn place<A: Address>(self, place: Place<A>, index: usize) -> Place<A> {
        let address = place.address.with_word(place.stage, (index as u64) << self.shift);
        Place { address, len: place.len + self.count, stage: place.stage }
    }

    /// As [`Slot::edit`]; false when the level is no longer worth its slots.
    fn edit<A: Address>(
        self,
        slots: &mut [Slot],
        place: Place<A>,
        prefix: (A, u8),
        removed: bool,
        routes: &Routes<A>,
    ) -> bool {
        if removed && within(place, routes).take(BLOCK / 2).count() < BLOCK / 2 {
            return false;
        }
        let end = place.len + self.count;
        if prefix.1 <= end {
            let covered = self.covered(place.stage, prefix, end);
            let places = covered.clone().map(|index| self.place(place, index).address);
            let ids = refill(places, prefix, place.len, end, routes);
            for (slot, id) in slots[covered].iter_mut().zip(ids) {
                slot.set_id(id);
            }
        } else {
            let index = self.slot(prefix.0.word(place.stage));
            slots[index].edit(self.place(place, index), prefix, removed, routes);
        }
        true
    }
}

/// The ids of the places at `addresses`, all of which `prefix` covers: of the routes longer than
/// `above` and at most `end` bits, the longest that covers the place. The addresses are in order.
pub(super) fn refill<A: Address>(
    addresses: impl Iterator<Item = A>,
    prefix: (A, u8),
    above: u8,
    end: u8,
    routes: &Routes<A>,
) -> impl Iterator<Item = HopId> {
    let route = move |len: u8| Some(*routes.get(&(prefix.0.truncate(len), len))?);
    let around = (above..=prefix.1).rev().filter(move |len| *len > above || above == 0).find_map(route);
    // Longer ones that are open at the current address, outer first.
    let mut open: Vec<(A, HopId)> = Vec::new();
    addresses.map(move |address| {
        while open.pop_if(|(last, _)| *last < address).is_some() {}
        // Not a range from prefix.1 + 1: for the longest prefix it would start behind its end.
        let longer =
            routes.range((address, prefix.1)..=(address, end)).filter(|((_, len), _)| *len > prefix.1);
        open.extend(longer.map(|(&(_, len), &hop)| (address.last(len), hop)));
        open.last().map(|(_, hop)| *hop).or(around).unwrap_or(NONE)
    })
}

impl Deep {
    /// As [`Slot::edit`], for a prefix longer than the stage; false when the block itself changes.
    fn edit<A: Address>(
        &mut self,
        place: Place<A>,
        prefix: (A, u8),
        removed: bool,
        routes: &Routes<A>,
    ) -> bool {
        let end = stage_end::<A>(place.stage);
        let (_, index) = block::find(&self.borders, block::needle(prefix.0.word(place.stage)));
        let slot = &mut self.below[index];
        if slot.is_empty() {
            return false;
        }
        let below = Place { address: prefix.0.truncate(end), len: end, stage: place.stage + 1 };
        slot.edit(below, prefix, removed, routes);
        !slot.is_empty()
    }
}
