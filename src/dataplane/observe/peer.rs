//! Counters of one peer, per worker.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::counters::Counter;
use super::largest::Largest;

/// What one worker exchanged with one peer: inner packets, after segmentation. *tx* is towards the
/// peer.
#[derive(Debug, Default)]
pub struct PeerWorkerCounters {
    /// Packets accepted from the peer.
    pub rx_packets: Counter,
    /// Their bytes, IP headers included.
    pub rx_bytes: Counter,
    /// Packets from the peer that were dropped.
    pub rx_dropped: Counter,
    /// Packets sent to the peer.
    pub tx_packets: Counter,
    /// Their bytes, IP headers included.
    pub tx_bytes: Counter,
    /// Packets for the peer that were dropped instead of being sent.
    pub tx_dropped: Counter,
    /// The largest packet sent to it of late, a segment of a super-packet for itself.
    pub largest: Largest,
}

/// The counters of one peer, shared by all tables it is in.
#[derive(Clone, Debug)]
pub struct PeerCounters(Arc<[CachePadded<PeerWorkerCounters>]>);

/// The same counters, not the same numbers.
impl PartialEq for PeerCounters {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for PeerCounters {}

impl PeerCounters {
    /// Zeroed counters for `workers` workers, and for the programs in the kernel.
    pub fn new(workers: usize) -> Self {
        Self((0..=workers).map(|_| CachePadded::default()).collect())
    }

    /// The counters of worker `index`, if there is such a worker.
    #[inline]
    pub fn worker(&self, index: usize) -> Option<&PeerWorkerCounters> {
        let (_, workers) = self.0.split_last()?;
        workers.get(index).map(|counters| &**counters)
    }

    /// What programs in the kernel have carried; the control plane adds to it.
    pub fn kernel(&self) -> &PeerWorkerCounters {
        // There is one more than workers.
        &self.0[self.0.len() - 1]
    }

    /// Bytes of the largest inner packet that any worker has sent in the last seconds, at step `now`; 0 for none.
    pub fn largest_lately(&self, now: u64) -> u16 {
        self.0.iter().map(|worker| worker.largest.lately(now)).max().unwrap_or(0)
    }

    /// Packets that were for the peer, sent or not, by all workers. It changes where there is traffic towards it.
    pub fn offered(&self) -> u64 {
        let sum =
            |worker: &CachePadded<PeerWorkerCounters>| worker.tx_packets.get() + worker.tx_dropped.get();
        self.0.iter().map(sum).sum()
    }

    /// The sums over all workers.
    pub fn totals(&self) -> PeerTotals {
        let sum = |counter: fn(&PeerWorkerCounters) -> &Counter| {
            self.0.iter().map(|worker| counter(worker).get()).sum()
        };
        PeerTotals {
            rx_packets: sum(|worker| &worker.rx_packets),
            rx_bytes: sum(|worker| &worker.rx_bytes),
            rx_dropped: sum(|worker| &worker.rx_dropped),
            tx_packets: sum(|worker| &worker.tx_packets),
            tx_bytes: sum(|worker| &worker.tx_bytes),
            tx_dropped: sum(|worker| &worker.tx_dropped),
        }
    }
}

/// Sums of one peer at one moment; see [`PeerWorkerCounters`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PeerTotals {
    /// Packets accepted from the peer.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets from the peer that were dropped.
    pub rx_dropped: u64,
    /// Packets sent to the peer.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets for the peer that were dropped.
    pub tx_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::{PeerCounters, PeerTotals};

    #[test]
    fn totals_sum_over_workers() {
        let counters = PeerCounters::new(2);
        counters.worker(0).unwrap().rx_packets.add(3);
        counters.worker(1).unwrap().rx_packets.add(4);
        counters.worker(1).unwrap().tx_dropped.add(2);
        assert!(counters.worker(2).is_none());
        let expected = PeerTotals { rx_packets: 7, tx_dropped: 2, ..PeerTotals::default() };
        assert_eq!(counters.totals(), expected);
    }
}
