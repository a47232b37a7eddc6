//! The memory of one flow that programs and this process share.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key::{self, FlowKey};
use super::record::Record;
use super::words::{
    ARRIVES, BYTES, FORMAT, FREE, GENERATION, INTERFACE, KEY, LARGEST, LIVE, LOST, PACKETS, PASSED,
    REDIRECT_FLAGS, REFUSED, SENT, STATE, TO, VOID, WHOLE, by, of_format,
};
use crate::dataplane::packet::Direction;

/// One slot.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(pub &'a [AtomicU64]);

/// What programs have done for a flow so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Inner packets, after segmentation.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were lost for want of memory, not after segmentation.
    pub lost: u64,
}

impl Counts {
    /// What has come since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(before.packets),
            bytes: self.bytes.wrapping_sub(before.bytes),
            lost: self.lost.wrapping_sub(before.lost),
        }
    }
}

impl Slot<'_> {
    fn get(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    fn put(self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    /// Writes a record into a free slot. Programs and reviews see it whole.
    pub(super) fn write(self, record: &Record) {
        for (word, value) in record.words.iter().enumerate().skip(STATE + 1) {
            self.put(word, *value);
        }
        let bytes = record.key.bytes();
        let (chunks, _) = bytes.as_chunks::<8>();
        for (place, chunk) in chunks.iter().enumerate() {
            self.put(KEY + place, u64::from_ne_bytes(*chunk));
        }
        self.put(GENERATION, record.generation.into());
        self.put(PASSED, 0);
        self.put(SENT, u64::MAX);
        self.put(REFUSED, 0);
        let interface = record.words[INTERFACE] as u32;
        self.put(TO, by(interface, record.key.direction == Direction::Inbound));
        self.put(WHOLE, 0);
        self.0[STATE].store(LIVE, Ordering::SeqCst);
    }

    /// The key that it has.
    pub(super) fn key(self) -> FlowKey {
        let mut bytes = [0; key::LEN];
        for (place, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&self.get(KEY + place).to_ne_bytes());
        }
        FlowKey::parse(&bytes)
    }

    /// What it repeats.
    pub(super) fn record(self) -> Record {
        let mut words = [0; KEY];
        for (place, word) in words.iter_mut().enumerate() {
            *word = self.get(place);
        }
        words[STATE] = LIVE;
        words[PACKETS..=LOST].fill(0);
        let generation = self.get(GENERATION) as u32;
        let (mode, outer) = of_format(words[FORMAT]);
        Record { key: self.key(), mode, outer, generation, words }
    }

    /// Whether programs use it.
    pub(super) fn is_live(self) -> bool {
        self.0[STATE].load(Ordering::SeqCst) == LIVE
    }

    /// Whether its flow is the pump's again, and it is not yet free.
    pub(super) fn is_void(self) -> bool {
        self.0[STATE].load(Ordering::SeqCst) == VOID
    }

    /// Gives its flow back to the pump; returns whether it was not before.
    pub(super) fn void(self) -> bool {
        self.0[STATE].compare_exchange(LIVE, VOID, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Packets that have passed to the pump, to be asked before the worker looks whether its queue is empty.
    pub(super) fn passed(self) -> u64 {
        self.0[PASSED].load(Ordering::Acquire)
    }

    /// How many of them programs would have carried, had the kernel let them.
    pub(super) fn refused(self) -> u64 {
        self.get(REFUSED)
    }

    /// The pump has sent on so many of them. Programs carry the flow from its next packet on if no other has passed.
    pub(super) fn set_sent(self, passed: u64) {
        self.0[SENT].store(passed, Ordering::Release);
    }

    /// Whether programs carry the flow, or would.
    pub(super) fn is_carried(self) -> bool {
        self.get(PASSED) == self.get(SENT)
    }

    /// What programs have done so far.
    pub(super) fn counts(self) -> Counts {
        Counts { packets: self.get(PACKETS), bytes: self.get(BYTES), lost: self.get(LOST) }
    }

    /// The largest inner packet since this was last asked.
    pub(super) fn take_largest(self) -> u64 {
        self.0[LARGEST].swap(0, Ordering::Relaxed)
    }

    /// Whether a super-packet came in since this was last asked.
    pub(super) fn take_whole(self) -> bool {
        self.0[WHOLE].swap(0, Ordering::Relaxed) != 0
    }

    /// The index of the interface that what comes in arrives at.
    pub(super) fn arrives(self) -> u32 {
        self.get(ARRIVES) as u32
    }

    /// Whether what comes in goes by another interface than the one that it is for.
    pub(super) fn is_detoured(self) -> bool {
        self.get(TO) >> REDIRECT_FLAGS == 0
    }

    /// What comes in is sent by `interface` from now on, which brings it to where it is for. What was there before is not
    /// overtaken: it takes longer.
    pub(super) fn detour(self, interface: u32) {
        self.put(TO, by(interface, false));
    }

    /// Makes it a free one, once no program uses it any more.
    pub(super) fn clear(self) {
        for word in PACKETS..=LOST {
            self.put(word, 0);
        }
        self.0[STATE].store(FREE, Ordering::SeqCst);
    }
}
