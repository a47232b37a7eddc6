//! One worker as the packet path knows it.

use std::sync::Arc;

use super::capture::{Hub, Point, Seen};
use super::counters::WorkerCounters;
use super::largest::Clock;
use super::policy::{LoggedPacket, PolicyLog};
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
    /// The packets that rules want logged; all workers share one.
    pub policy_log: Arc<PolicyLog>,
}

impl Worker {
    /// One that has counted nothing.
    pub fn new(index: usize, capture: Arc<Hub>, clock: Arc<Clock>, policy_log: Arc<PolicyLog>) -> Self {
        Self { index, counters: WorkerCounters::default(), capture, clock, policy_log }
    }

    /// Counts `n` packets as not delivered, which are one in memory: `parts` are its pieces, shown to
    /// a capture of drops with the policy that denied them, if one did.
    pub fn dropped_packet<'a>(
        &self,
        (reason, policy): (DropReason, Option<&Arc<str>>),
        n: u64,
        direction: Direction,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        self.counters.dropped(reason, n);
        if self.capture.wants(Point::Drop) {
            let seen =
                Seen { reason: Some(reason), policy: policy.cloned(), ..Seen::at(Point::Drop, direction) };
            self.capture.record(seen, parts);
        }
    }

    /// Shows a packet that a rule wants logged to the log and to a capture.
    #[cold]
    pub fn logged_packet(&self, logged: LoggedPacket, direction: Direction, packet: &[u8]) {
        if self.capture.wants(Point::Log) {
            let seen = Seen { policy: Some(Arc::clone(&logged.policy)), ..Seen::at(Point::Log, direction) };
            self.capture.record(seen, std::iter::once(packet));
        }
        self.policy_log.push(logged);
    }
}
