//! What policies decided: counters of each, per worker, and the packets that their rules want logged.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::counters::Counter;

/// What a policy decided in one worker.
#[derive(Debug, Default)]
pub struct PolicyWorkerCounters {
    /// Connections that it allowed.
    pub allowed: Counter,
    /// Packets that it denied.
    pub denied: Counter,
}

/// The counters of one policy, shared by all rulesets it is in.
#[derive(Clone, Debug)]
pub struct PolicyCounters(Arc<[CachePadded<PolicyWorkerCounters>]>);

impl PolicyCounters {
    /// Zeroed counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| CachePadded::default()).collect())
    }

    /// The counters of worker `index`, if there is such a worker.
    #[inline]
    pub fn worker(&self, index: usize) -> Option<&PolicyWorkerCounters> {
        self.0.get(index).map(|counters| &**counters)
    }

    /// Connections allowed and packets denied, by all workers.
    pub fn totals(&self) -> (u64, u64) {
        let each = self.0.iter().map(|worker| (worker.allowed.get(), worker.denied.get()));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// Packets that wait to be logged, at most.
const WAITING: usize = 256;

/// A packet that a rule wants logged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoggedPacket {
    /// The name of the policy.
    pub policy: Arc<str>,
    /// Which of its rules, counted from 0.
    pub rule: Option<u16>,
    /// Whether it is a rule for what leaves an endpoint.
    pub egress: bool,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Source and destination port, where it shows them.
    pub ports: Option<(u16, u16)>,
}

/// The packets that wait to be logged, of all workers. Nobody waits for it: what finds no room is counted.
#[derive(Debug)]
pub struct PolicyLog {
    waiting: ArrayQueue<LoggedPacket>,
    lost: AtomicU64,
}

impl Default for PolicyLog {
    fn default() -> Self {
        Self { waiting: ArrayQueue::new(WAITING), lost: AtomicU64::new(0) }
    }
}

impl PolicyLog {
    /// Takes a packet, if there is room.
    pub fn push(&self, packet: LoggedPacket) {
        if self.waiting.push(packet).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The packet that has waited longest.
    pub fn pop(&self) -> Option<LoggedPacket> {
        self.waiting.pop()
    }

    /// Counts the packets that wait as lost, those that come meanwhile perhaps not among them.
    pub fn pass_over(&self) {
        let waiting = (0..WAITING).take_while(|_| self.waiting.pop().is_some()).count();
        self.lost.fetch_add(waiting as u64, Ordering::Relaxed);
    }

    /// Packets that found no room, or were passed over, so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
