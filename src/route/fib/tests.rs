//! The table of one family against a map that is asked for every length, longest first.

use std::collections::BTreeMap;

use super::hop_id::{HopId, NONE};
use super::slot::Routes;
use super::table::Table;
use crate::route::address::Address;
use crate::wire::testing::Random;

/// The slow truth.
fn oracle<A: Address>(routes: &Routes<A>, address: A) -> HopId {
    let found = (0..=A::BITS).rev().find_map(|len| routes.get(&(address.truncate(len), len)));
    found.copied().unwrap_or(NONE)
}

/// What only tests need of an address.
trait Sample: Address + std::fmt::LowerHex {
    /// An address of random bits, of which the first ones count.
    fn of(bits: u128) -> Self;
    fn before(self) -> Self;
    fn after(self) -> Self;

    /// This address with the bits of `noise` behind the first `len`.
    fn mixed(self, noise: Self, len: u8) -> Self {
        self | noise & Self::behind(len)
    }
}

macro_rules! sample {
    ($number:ty) => {
        impl Sample for $number {
            fn of(bits: u128) -> Self {
                (bits >> (128 - Self::BITS)) as Self
            }
            fn before(self) -> Self {
                self.wrapping_sub(1)
            }
            fn after(self) -> Self {
                self.wrapping_add(1)
            }
        }
    };
}

sample!(u32);
sample!(u128);

/// A table beside its oracle.
struct Pair<A> {
    table: Table<A>,
    routes: Routes<A>,
    /// Addresses near which something happened.
    known: Vec<A>,
    random: Random,
    probes: usize,
}

impl<A: Sample> Pair<A> {
    fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        Self {
            table: Table::default(),
            routes: BTreeMap::new(),
            known: vec![A::from_root(0)],
            random,
            probes: 0,
        }
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.random.next()) << 64 | u128::from(self.random.next())
    }

    /// Clustered, as real tables are: an address that shares a random number of bits with one seen
    /// before.
    fn address(&mut self) -> A {
        let near = self.known[self.random.below(self.known.len() as u64) as usize];
        let shared = self.random.below(u64::from(A::BITS) + 1) as u8;
        let noise = A::of(self.bits());
        let mixed = near.truncate(shared).mixed(noise, shared);
        if self.known.len() < 512 {
            self.known.push(mixed);
        } else {
            let place = self.random.below(512) as usize;
            self.known[place] = mixed;
        }
        mixed
    }

    /// Long prefixes are common, short ones shadow everything and are rare.
    fn prefix(&mut self) -> (A, u8) {
        let longest = u64::from(A::BITS);
        let shortest = if self.random.below(40) == 0 { 0 } else { longest / 4 };
        let len = (longest - self.random.below(longest - shortest + 1)) as u8;
        (self.address().truncate(len), len)
    }

    /// A change of a route: of one that is there, as often as not, so that the table breathes.
    fn change(&mut self, grow: bool) -> ((A, u8), Option<HopId>) {
        let hop = self.random.below(1000) as HopId;
        if self.random.below(8) < if grow { 6 } else { 2 } {
            return (self.prefix(), Some(hop));
        }
        let from = self.prefix();
        let there = self.routes.range(from..).next().map(|(prefix, _)| *prefix);
        (there.unwrap_or(from), (self.random.below(8) == 0).then_some(hop))
    }

    fn apply(&mut self, changes: &[((A, u8), Option<HopId>)]) {
        self.table.apply(changes);
        for (prefix, hop) in changes {
            match hop {
                Some(hop) => drop(self.routes.insert(*prefix, *hop)),
                None => drop(self.routes.remove(prefix)),
            }
        }
        assert_eq!(self.table.len(), self.routes.len());
    }

    /// Looks at the edges of a prefix, both sides of each, and at one address inside.
    fn probe_around(&mut self, (first, len): (A, u8)) {
        let last = first.last(len);
        let inside = first.truncate(len).mixed(A::of(self.bits()), len);
        for address in [first, last, inside, first.before(), last.after()] {
            self.probe(address);
        }
    }

    fn probe(&mut self, address: A) {
        assert_eq!(self.table.snapshot().lookup(address), oracle(&self.routes, address), "{address:x?}");
        self.probes += 1;
    }
}

/// One change at a time, probed where it happened.
fn single_changes<A: Sample>(seed: u64, steps: usize) {
    let mut pair = Pair::<A>::new(seed);
    for step in 0..steps {
        // Grow and shrink in turn, so that levels come and go.
        let change = pair.change(step / 20_000 % 2 == 0);
        pair.apply(&[change]);
        if step % 4 == 0 {
            pair.probe_around(change.0);
        }
    }
    assert!(pair.probes > steps);
    assert!(pair.routes.len() > 100);
}

/// Batches of any size, those that build the table anew among them, probed at random.
fn batches<A: Sample>(seed: u64, steps: usize) {
    let mut pair = Pair::<A>::new(seed);
    let mut done = 0;
    while done < steps {
        let size = 1 << pair.random.below(12);
        let changes: Vec<_> = (0..size).map(|_| pair.change(done / 50_000 % 2 == 0)).collect();
        pair.apply(&changes);
        for _ in 0..20 {
            let (prefix, _) = changes[pair.random.below(size) as usize];
            pair.probe_around(prefix);
        }
        done += changes.len();
    }
    // The end is probed whole.
    let prefixes: Vec<_> = pair.routes.keys().copied().collect();
    for prefix in prefixes {
        pair.probe_around(prefix);
    }
}

#[test]
fn single_changes_v4() {
    single_changes::<u32>(1, 300_000);
}

#[test]
fn single_changes_v6() {
    single_changes::<u128>(2, 200_000);
}

#[test]
fn batches_v4() {
    batches::<u32>(3, 300_000);
}

#[test]
fn batches_v6() {
    batches::<u128>(4, 200_000);
}

/// The same routes give the same answers, however they came in.
#[test]
fn history_does_not_matter() {
    let mut pair = Pair::<u32>::new(5);
    let routes: Vec<_> = (0..20_000).map(|_| (pair.prefix(), pair.random.below(1000) as HopId)).collect();
    let mut one_by_one = Table::<u32>::default();
    for (prefix, hop) in &routes {
        one_by_one.apply(&[(*prefix, Some(*hop))]);
    }
    let mut at_once = Table::<u32>::default();
    at_once.replace(routes.clone());
    for _ in 0..50_000 {
        let address = pair.address();
        assert_eq!(one_by_one.snapshot().lookup(address), at_once.snapshot().lookup(address));
    }
}

/// A snapshot stays as it was taken.
#[test]
fn snapshots_do_not_change() {
    let mut table = Table::<u32>::default();
    let snapshots: Vec<_> = (0..=24_u8)
        .map(|len| {
            table.apply(&[((0x0a01_0200_u32.truncate(len), len), Some(HopId::from(len)))]);
            table.snapshot()
        })
        .collect();
    for len in (0..=24_u8).rev() {
        table.apply(&[((0x0a01_0200_u32.truncate(len), len), None)]);
    }
    for (len, snapshot) in snapshots.iter().enumerate() {
        assert_eq!(snapshot.lookup(0x0a01_0203_u32), len as HopId);
    }
    assert_eq!(table.snapshot().lookup(0x0a01_0203_u32), NONE);
    assert_eq!(table.len(), 0);
}

/// Every host of one /16 and of one /112: full levels, full blocks, all-ones at the end.
#[test]
fn a_full_corner() {
    let mut v4 = Table::<u32>::default();
    v4.replace((0..=u16::MAX).map(|low| ((0xffff_0000 | u32::from(low), 32), low % 997)).collect());
    let mut v6 = Table::<u128>::default();
    let base = u128::MAX << 16;
    v6.replace((0..=u16::MAX).map(|low| ((base | u128::from(low), 128), low % 997)).collect());
    for low in 0..=u16::MAX {
        assert_eq!(v4.snapshot().lookup(0xffff_0000 | u32::from(low)), low % 997);
        assert_eq!(v6.snapshot().lookup(base | u128::from(low)), low % 997);
    }
    assert_eq!(v4.snapshot().lookup(0xfffe_ffff_u32), NONE);
    assert_eq!(v6.snapshot().lookup(base - 1), NONE);
}
