//! Which flows that come in take a detour on which the kernel joins their packets (GRO).
//!
//! What an uplink has not joined travels through the host packet by packet, which costs a receiver of TCP more than the
//! detour does. Super-packets, which come so on virtual links and where the uplink has joined them, would lose by it. So
//! it is decided for an uplink by what comes: where there are super-packets nothing takes the detour, else bulk TCP does.

use std::time::{Duration, Instant};

use super::shared::KernelPath;
use super::slot::Slot;
use crate::dataplane::packet::{Direction, Family};
use crate::wire::protocol;

/// Packets of a flow from one look to the next from which it is bulk.
const BULK: u64 = 1000;

/// How long nothing takes the detour after a super-packet.
const WHOLE_FOR: Duration = Duration::from_secs(60);

/// What has come in by the last look.
#[derive(Debug)]
pub struct Rates {
    /// Packets of each slot.
    seen: Box<[u64]>,
    /// Where and when a super-packet was seen last: by the index of the uplink.
    whole: Option<(u32, Instant)>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detour {
    /// Nothing comes in bulk, or all of it takes the detour.
    Stay,
    /// Bulk comes packet by packet that does not take it yet.
    Wanted,
    /// Super-packets come: nothing is to take it.
    Whole,
}

impl Rates {
    /// For so many slots.
    pub fn new(slots: usize) -> Self {
        Self { seen: vec![0; slots].into(), whole: None }
    }

    /// Whether super-packets come by this uplink.
    fn is_whole(&self, uplink: u32, now: Instant) -> bool {
        self.whole.is_some_and(|(by, seen)| by == uplink && now.duration_since(seen) < WHOLE_FOR)
    }
}

impl KernelPath {
    /// Looks at what came in since the last time. With `pair`, the index of an interface that leads to the TUN, bulk goes
    /// by it from now on.
    pub fn detour(&self, rates: &mut Rates, pair: Option<u32>, now: Instant) -> Detour {
        let uplink = self.uplink();
        let mut wanted = Detour::Stay;
        for (index, slot) in self.used().filter(|(_, slot)| slot.is_live() || slot.is_void()) {
            let seen = &mut rates.seen[index as usize];
            let packets = slot.counts().packets;
            // One that was used for another flow meanwhile has fewer, or is looked at once more.
            let more = packets.saturating_sub(std::mem::replace(seen, packets));
            if !is_tcp_in(slot) {
                continue;
            }
            if slot.take_whole() && slot.arrives() == uplink {
                rates.whole = Some((uplink, now));
            }
            if rates.is_whole(uplink, now) || more < BULK || slot.is_detoured() {
                continue;
            }
            match pair {
                Some(pair) => slot.detour(pair),
                None => wanted = Detour::Wanted,
            }
        }
        if rates.is_whole(uplink, now) { Detour::Whole } else { wanted }
    }

    /// Gives the flows on a detour back to the pump.
    pub fn leave_detour(&self) {
        self.live().filter(|(_, slot)| is_tcp_in(*slot) && slot.is_detoured()).for_each(|(_, slot)| {
            slot.void();
        });
    }
}

/// Whether it is of TCP that comes in, with headers whose exchange does not change the family: the link header says what
/// the outer one was.
fn is_tcp_in(slot: Slot<'_>) -> bool {
    let key = slot.key();
    // The record is read last: this is asked of each flow ten times a second.
    key.direction == Direction::Inbound
        && key.protocol == protocol::TCP
        && Family::of(key.source) == slot.record().outer
}
