//! Counting what programs have carried, and making slots free again whose flows are the pump's.

use std::sync::atomic::Ordering;

use super::shared::{KernelPath, Ledger};
use super::slot::Counts;
use super::way::Way;
use crate::dataplane::ebpf::grace_period;
use crate::dataplane::observe::Counters;
use crate::dataplane::packet::Direction;
use crate::net::DropReason;

/// Seconds without a packet after which a flow is the pump's again.
const IDLE: u32 = 60;
/// After so many packets that the kernel refused, and none that it took, it does not do what they take.
const REFUSALS: u64 = 8;
/// One part in so many slots is kept free, if there are idle flows.
const SPARE: usize = 16;

impl KernelPath {
    /// Adds what programs have done since the last time to the counters of the kernel; returns the slots in use.
    pub fn count(&self, counters: &Counters, now: u32) -> usize {
        let mut ledger = self.ledger();
        let used = self.used().filter(|(_, slot)| slot.is_live() || slot.is_void());
        used.map(|(index, _)| self.count_slot(&mut ledger, index, counters, now)).count()
    }

    /// Gives idle flows back and those that the kernel refuses, and makes slots of such flows free again. It waits for
    /// the kernel. Returns what the kernel was not known to refuse before.
    pub fn tidy(&self, counters: &Counters, now: u32) -> Vec<Way> {
        self.give_back_idle(now);
        let refused = self.give_back_refused();
        let void = self.used().filter(|(_, slot)| slot.is_void());
        let gone: Vec<u32> = void.map(|(index, _)| index).collect();
        if gone.is_empty() {
            return refused;
        }
        for index in &gone {
            let key = self.slot(*index).key().bytes();
            // It may be another slot's by now.
            if self.flows.get(&key) == Some(*index) {
                self.flows.remove(&key);
            }
        }
        if grace_period().is_err() {
            return refused;
        }
        let mut ledger = self.ledger();
        for index in gone {
            self.count_slot(&mut ledger, index, counters, now);
            (ledger.counted[index as usize], ledger.used[index as usize]) = (Counts::default(), 0);
            self.slot(index).clear();
            if self.owner(index).take().is_some() {
                self.returned.fetch_add(1, Ordering::Relaxed);
            }
            let _ = self.free.push(index);
        }
        drop(ledger);
        refused
    }

    fn give_back_idle(&self, now: u32) {
        let ledger = self.ledger();
        let mut idle: Vec<(u32, u32)> = self
            .live()
            .map(|(index, _)| (ledger.used[index as usize], index))
            // Not one that nobody has looked at yet.
            .filter(|(used, _)| *used > 0 && *used < now)
            .map(|(used, index)| (now - used, index))
            .collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        let wanted = (self.setup.flows / SPARE).saturating_sub(self.free.len());
        for (place, (seconds, index)) in idle.into_iter().enumerate() {
            if seconds >= IDLE || place < wanted {
                self.slot(index).void();
            }
        }
    }

    /// Flows whose packets the kernel does not let programs carry; no other of their kind is handed over.
    fn give_back_refused(&self) -> Vec<Way> {
        let mut news = Vec::new();
        for (_, slot) in self.live() {
            if slot.refused() >= REFUSALS && slot.counts().packets == 0 {
                let way = Way::of(&slot.record());
                if self.refused.fetch_or(way.bit(), Ordering::Relaxed) & way.bit() == 0 {
                    news.push(way);
                }
            }
        }
        if self.refused.load(Ordering::Relaxed) != 0 {
            self.review(|record| !self.refuses(Way::of(record)));
        }
        news
    }

    fn count_slot(&self, ledger: &mut Ledger, index: u32, counters: &Counters, now: u32) {
        let (slot, place) = (self.slot(index), index as usize);
        let counts = slot.counts();
        let before = std::mem::replace(&mut ledger.counted[place], counts);
        let more = counts.since(before);
        let owner = self.owner(index);
        let Some(peer) = &*owner else { return };
        if more == Counts::default() {
            // One that is new has been used just now.
            if before == Counts::default() && ledger.used[place] == 0 {
                ledger.used[place] = now;
            }
            return;
        }
        ledger.used[place] = now;
        let (kernel, peer) = (counters.kernel(), peer.kernel());
        let record = slot.record();
        let wire_bytes = more.bytes + more.packets * record.overhead();
        match record.key.direction {
            Direction::Outbound => {
                kernel.device.rx_packets.add(more.packets + more.lost);
                kernel.device.rx_bytes.add(more.bytes);
                kernel.underlay.tx_packets.add(more.packets);
                kernel.underlay.tx_bytes.add(wire_bytes);
                kernel.dropped(DropReason::UnderlayFull, more.lost);
                peer.tx_packets.add(more.packets);
                peer.tx_bytes.add(more.bytes);
                peer.tx_dropped.add(more.lost);
                let step = counters.clock().map_or(0, |clock| clock.now());
                peer.largest.note(step, slot.take_largest() as usize);
            }
            Direction::Inbound => {
                kernel.underlay.rx_packets.add(more.packets);
                kernel.underlay.rx_bytes.add(wire_bytes);
                kernel.device.tx_packets.add(more.packets);
                kernel.device.tx_bytes.add(more.bytes);
                peer.rx_packets.add(more.packets);
                peer.rx_bytes.add(more.bytes);
            }
        }
    }
}
