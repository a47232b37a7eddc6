//! The address space in pieces that no rule tells apart.
//!
//! ```text
//! networks of rules and sets, sorted: each lies behind those around it
//!   0.0.0.0/0            cell 0
//!     10.0.0.0/8         cell 1, and cell 2: the endpoints in it of one kind
//!       10.1.0.0/16      cell 3, …
//!   ::/0
//! ```
//!
//! The cells of a network, with all that lies inside of it, are one range, so a set of addresses is few ranges,
//! whatever nests.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::ranges::Ranges;
use super::things::{Things, small};
use crate::net::Prefix;
use crate::policy::model::Policy;

/// All addresses.
pub(super) struct Cells {
    /// The networks that count, in the order of their cells, with the first cell and the one behind their last.
    regions: Vec<(Prefix, Range<u32>)>,
    /// For each network, the one around it.
    around: Vec<Option<u32>>,
    /// The address of each endpoint, with its cell and the network that it lies in.
    hosts: Vec<(IpAddr, u32, u32)>,
    /// The kind of endpoint of each cell.
    pub(super) kinds: Vec<Option<u32>>,
    /// The cells of each thing.
    things: Vec<Ranges>,
    /// Addresses that more than one endpoint has: the second, and the one whose it is taken for.
    pub(super) shared: Vec<(IpAddr, String, String)>,
}

impl Cells {
    /// The cells for these things and policies.
    pub(super) fn of<'w>(things: &Things<'_>, policies: impl Iterator<Item = &'w Policy>) -> Self {
        let mut prefixes: Vec<Prefix> =
            [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
                .into_iter()
                .filter_map(|any| Prefix::containing(any, 0))
                .collect();
        prefixes.extend(things.all.iter().filter_map(|thing| thing.set).flat_map(|set| &set.nets));
        for policy in policies {
            let rules = policy.ingress.iter().chain(&policy.egress).flatten();
            let peers =
                rules.flat_map(|rule| [&rule.source, &rule.destination]).flat_map(|entity| &entity.peers);
            prefixes.extend(peers.flatten().flat_map(|peer| peer.nets.iter().chain(&peer.not_nets)));
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        let around = around(&prefixes);
        let (mut owners, mut shared) = (BTreeMap::new(), Vec::new());
        for (kind, thing) in (0_u32..).zip(&things.all) {
            for endpoint in &thing.endpoints {
                for address in &endpoint.addresses {
                    let own = (&endpoint.name, kind);
                    let owner = owners.entry(*address).or_insert(own);
                    if owner.0 != own.0 {
                        // The first by name has it.
                        let (first, second) = (own.min(*owner), own.max(*owner));
                        shared.push((*address, second.0.to_string(), first.0.to_string()));
                        *owner = first;
                    }
                }
            }
        }
        let mut inside: Vec<BTreeMap<u32, Vec<IpAddr>>> = vec![BTreeMap::new(); prefixes.len()];
        for (address, (_, kind)) in &owners {
            let region = innermost(&prefixes, &around, Prefix::host(*address));
            if let Some(kinds) = region.and_then(|region| inside.get_mut(region as usize)) {
                kinds.entry(*kind).or_default().push(*address);
            }
        }
        let mut cells = Self {
            regions: Vec::with_capacity(prefixes.len()),
            around,
            hosts: Vec::with_capacity(owners.len()),
            kinds: Vec::new(),
            things: Vec::new(),
            shared,
        };
        let mut of_kinds: Vec<Vec<u32>> = vec![Vec::new(); things.kinds as usize];
        for ((number, prefix), kinds) in (0..).zip(prefixes).zip(inside) {
            let first = cells.count();
            cells.kinds.push(None);
            for (kind, addresses) in kinds {
                let cell = cells.count();
                cells.kinds.push(Some(kind));
                cells.hosts.extend(addresses.into_iter().map(|address| (address, cell, number)));
                if let Some(of_kind) = of_kinds.get_mut(kind as usize) {
                    of_kind.push(cell);
                }
            }
            cells.regions.push((prefix, first..cells.count()));
        }
        cells.close();
        let mut of_things: Vec<Ranges> = of_kinds.into_iter().map(Ranges::of_numbers).collect();
        let sets = things.all.iter().filter_map(|thing| thing.set);
        of_things.extend(sets.map(|set| cells.inside(&set.nets)));
        cells.things = of_things;
        cells
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        small(self.kinds.len()).unwrap_or(u32::MAX)
    }

    /// Has each network reach to the end of what lies inside of it.
    fn close(&mut self) {
        for number in (0..self.regions.len()).rev() {
            let Some((_, range)) = self.regions.get(number) else { continue };
            let end = range.end;
            let outer = self.around.get(number).copied().flatten();
            if let Some((_, outer)) = outer.and_then(|outer| self.regions.get_mut(outer as usize)) {
                outer.end = outer.end.max(end);
            }
        }
    }

    /// The cells in any of these networks, which are among those that count.
    pub(super) fn inside(&self, nets: &[Prefix]) -> Ranges {
        let found = nets.iter().filter_map(|net| {
            let at = self.regions.binary_search_by(|(prefix, _)| prefix.cmp(net)).ok()?;
            self.regions.get(at).map(|(_, range)| range.clone())
        });
        Ranges::of(found)
    }

    /// The cells of these things.
    pub(super) fn of_things(&self, things: &Ranges) -> Ranges {
        let cells = things.numbers().filter_map(|thing| self.things.get(thing as usize));
        Ranges::of(cells.flat_map(Ranges::iter))
    }

    /// The networks and addresses whose number differs from that of what is around them, which is 0 around all.
    pub(super) fn prefixes<'s>(&'s self, numbers: &'s [u16]) -> impl Iterator<Item = (Prefix, u16)> + 's {
        let of = |cell: u32| numbers.get(cell as usize).copied().unwrap_or_default();
        let of_region = move |region: Option<u32>| {
            region
                .and_then(|region| self.regions.get(region as usize))
                .map_or(0, |(_, range)| of(range.start))
        };
        let regions = self.regions.iter().zip(&self.around).filter_map(move |((prefix, range), around)| {
            let number = of(range.start);
            (number != of_region(*around)).then_some((*prefix, number))
        });
        let hosts = self.hosts.iter().filter_map(move |(address, cell, region)| {
            let number = of(*cell);
            (number != of_region(Some(*region))).then_some((Prefix::host(*address), number))
        });
        regions.chain(hosts)
    }
}

/// For each of these sorted networks, the innermost one around it.
fn around(prefixes: &[Prefix]) -> Vec<Option<u32>> {
    let mut open: Vec<(u32, Prefix)> = Vec::new();
    let mut all = Vec::with_capacity(prefixes.len());
    for (number, prefix) in (0..).zip(prefixes) {
        while open.pop_if(|(_, outer)| !outer.covers(*prefix)).is_some() {}
        all.push(open.last().map(|(outer, _)| *outer));
        open.push((number, *prefix));
    }
    all
}

/// The innermost of these sorted networks around a prefix.
fn innermost(prefixes: &[Prefix], around: &[Option<u32>], prefix: Prefix) -> Option<u32> {
    // What lies before it and does not contain it is inside of something that may.
    let before = prefixes.partition_point(|other| *other <= prefix).checked_sub(1)?;
    let mut at = small(before);
    while let Some(number) = at {
        if prefixes.get(number as usize)?.covers(prefix) {
            return at;
        }
        at = around.get(number as usize).copied().flatten();
    }
    None
}

/// Sums that are equal where numbers are in the same sets: each set has a random value, and a number the sum of
/// those that it is in.
#[derive(Default)]
pub(super) struct Signatures {
    changes: HashMap<u32, [u64; 2]>,
    seeds: [RandomState; 2],
    sets: u64,
}

impl Signatures {
    /// Notes another set.
    pub(super) fn add(&mut self, set: &Ranges) {
        let value = self.seeds.each_ref().map(|seed| seed.hash_one(self.sets));
        self.sets += 1;
        for Range { start, end } in set.iter() {
            for at in [start, end] {
                let change = self.changes.entry(at).or_default();
                *change = [change[0] ^ value[0], change[1] ^ value[1]];
            }
        }
    }

    /// The sums of all numbers below `end`. Numbers in different sets have the same with a probability of 1 in 2^128.
    pub(super) fn sums(self, end: u32) -> impl Iterator<Item = [u64; 2]> {
        (0..end).scan([0, 0], move |sum: &mut [u64; 2], number| {
            if let Some(change) = self.changes.get(&number) {
                *sum = [sum[0] ^ change[0], sum[1] ^ change[1]];
            }
            Some(*sum)
        })
    }
}
