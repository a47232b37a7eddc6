//! The kernel's way to each address of a peer: which are to be looked up next, and which carry traffic.
//!
//! A way is looked up when its peer becomes known and when the kernel tells of something that may concern it.
//! What no notification tells of is found by looking again: every few seconds where there is traffic, and at
//! the others in turn, a few at a time. So a peer without traffic costs next to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::control::engine::port::{Notice, PeerWay};
use crate::dataplane::observe::PeerCounters;

/// Ways to addresses of peers.
pub(crate) type Ways = Vec<(IpAddr, PeerWay)>;

/// How often a way with traffic is looked up.
const ACTIVE: Duration = Duration::from_secs(5);
/// A peer has traffic for so long after its last packet.
const USED: Duration = Duration::from_secs(30);
/// Ways without traffic that are looked up in one tick.
const ROUND: usize = 4;
/// Ways that are looked up together.
pub(crate) const TOGETHER: usize = 256;

/// All ways.
#[derive(Default)]
pub(crate) struct PeerWays {
    entries: BTreeMap<IpAddr, Entry>,
    /// To be looked up as soon as possible.
    due: BTreeSet<IpAddr>,
    /// Where the round stands.
    last: Option<IpAddr>,
}

struct Entry {
    way: Option<PeerWay>,
    counters: PeerCounters,
    /// What was sent or dropped, as of the last count.
    sent: u64,
    /// When a count last found that more was sent.
    used: Option<Instant>,
    looked: Option<Instant>,
}

impl PeerWays {
    /// Follows who is known; `before` are ways that were found already. These are due all the same: what changed
    /// since was told to nobody.
    pub(crate) fn follow(&mut self, peers: impl Iterator<Item = (IpAddr, PeerCounters)>, before: &Ways) {
        let mut entries = BTreeMap::new();
        for (address, counters) in peers {
            let entry = match self.entries.remove(&address) {
                // Numbers of another peer at the same address mean nothing.
                Some(entry) if entry.counters == counters => entry,
                _ => {
                    self.due.insert(address);
                    let sent = counters.offered();
                    Entry { way: None, counters, sent, used: None, looked: None }
                }
            };
            entries.insert(address, entry);
        }
        self.entries = entries;
        self.due.retain(|address| self.entries.contains_key(address));
        for (address, way) in before {
            if let Some(entry) = self.entries.get_mut(address) {
                entry.way.get_or_insert(*way);
            }
        }
    }

    /// Finds who has traffic. Ways with traffic that were not looked up for a while are due.
    pub(crate) fn count(&mut self, now: Instant) {
        for (address, entry) in &mut self.entries {
            let sent = entry.counters.offered();
            if std::mem::replace(&mut entry.sent, sent) != sent {
                entry.used = Some(now);
            }
            if entry.is_used(now) && entry.looked.is_none_or(|looked| now >= looked + ACTIVE) {
                self.due.insert(*address);
            }
        }
        let begin = self.last.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let round: Vec<IpAddr> = self
            .entries
            .range((begin, std::ops::Bound::Unbounded))
            .map(|(address, _)| *address)
            .take(ROUND)
            .collect();
        self.last = round.last().copied().filter(|_| round.len() == ROUND);
        self.due.extend(round);
    }

    /// The kernel told of a change; returns whether it may concern a way.
    pub(crate) fn hear(&mut self, notice: Notice) -> bool {
        let before = self.due.len();
        let concerned = match notice {
            Notice::Link(index) | Notice::Address(index) => {
                let behind = |entry: &Entry| entry.way.is_some_and(|way| way.hop.index == index);
                let found = self.entries.iter().filter(|(_, entry)| behind(entry));
                found.map(|(address, _)| *address).collect()
            }
            Notice::Route { prefix, .. } | Notice::Elsewhere(prefix) => {
                let found = self.entries.range(prefix.address()..).map(|(address, _)| *address);
                found.take_while(|address| prefix.contains(*address)).collect()
            }
            Notice::Policy | Notice::Overrun => self.entries.keys().copied().collect(),
        };
        self.expect(concerned);
        self.due.len() > before
    }

    /// All ways may be others.
    pub(crate) fn expire(&mut self) {
        self.expect(self.entries.keys().copied().collect());
    }

    /// The ways with traffic may be others.
    pub(crate) fn expire_used(&mut self, now: Instant) {
        let used = self.entries.iter().filter(|(_, entry)| entry.is_used(now));
        self.expect(used.map(|(address, _)| *address).collect());
    }

    fn expect(&mut self, addresses: Vec<IpAddr>) {
        self.due.extend(addresses);
    }

    /// Whether there is something to look up.
    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What to look up now, those with traffic first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<IpAddr> {
        let is_used = |address: &&IpAddr| self.entries.get(address).is_some_and(|entry| entry.is_used(now));
        let used = self.due.iter().filter(is_used);
        let others = self.due.iter().filter(|address| !is_used(address));
        let taken: Vec<IpAddr> = used.chain(others).take(TOGETHER).copied().collect();
        for address in &taken {
            self.due.remove(address);
        }
        taken
    }

    /// The way to `address` is this one; returns whether it was another.
    pub(crate) fn set(&mut self, address: IpAddr, way: Option<PeerWay>, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        entry.looked = Some(now);
        std::mem::replace(&mut entry.way, way) != way
    }

    /// The way to `address`, where there is one.
    pub(crate) fn get(&self, address: IpAddr) -> Option<PeerWay> {
        self.entries.get(&address)?.way
    }

    /// All that are known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, PeerWay)> {
        self.entries.iter().filter_map(|(address, entry)| Some((*address, entry.way?)))
    }

    /// Those with traffic.
    pub(crate) fn used(&self, now: Instant) -> impl Iterator<Item = (IpAddr, PeerWay)> {
        let used = self.entries.iter().filter(move |(_, entry)| entry.is_used(now));
        used.filter_map(|(address, entry)| Some((*address, entry.way?)))
    }

    /// Whether some way has this first hop.
    pub(crate) fn leads_by(&self, (index, via): (u32, IpAddr)) -> bool {
        // A neighbour is mostly the peer itself.
        let direct = self.entries.get(&via).and_then(|entry| entry.way);
        let is_it = |way: PeerWay| (way.hop.index, way.hop.via) == (index, via);
        direct.is_some_and(is_it) || self.iter().any(|(_, way)| is_it(way))
    }
}

impl Entry {
    fn is_used(&self, now: Instant) -> bool {
        self.used.is_some_and(|used| now < used + USED)
    }
}

#[cfg(test)]
mod tests;
