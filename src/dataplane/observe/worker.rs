//! One worker as the packet path knows it.

use std::sync::Arc;

use super::capture::{Hub, Point, Seen};
use super::counters::WorkerCounters;
use super::largest::Clock;
use crate::dataplane::packet::Direction;
use crate::net::DropReason;

/// Where the packets of one worker are counted and shown.
#[derive(Debug, Default)]
pub struct Worker {
    /// Which worker this is, for counters that are kept elsewhere.
    pub index: usize,
    /// What it counts.
    pub counters: WorkerCounters,
    /// Where its packets are shown while a capture runs; all workers share one.
    pub capture: Arc<Hub>,
    /// What time it is; all workers share one.
    pub clock: Arc<Clock>,
}

impl Worker {
    /// One that has counted nothing.
    pub fn new(index: usize, capture: Arc<Hub>, clock: Arc<Clock>) -> Self {
        Self { index, counters: WorkerCounters::default(), capture, clock }
    }

    /// Counts `n` packets as not delivered, which are one in memory: `parts` are its pieces, shown to
    /// a capture of drops.
    pub fn dropped_packet<'a>(
        &self,
        reason: DropReason,
        n: u64,
        direction: Direction,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        self.counters.dropped(reason, n);
        if self.capture.wants(Point::Drop) {
            self.capture.record(Seen { point: Point::Drop, direction, reason: Some(reason) }, parts);
        }
    }
}
