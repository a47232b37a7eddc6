//! The counters of all workers, and their sums.

use std::io;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::capture::Hub;
use super::counters::{EdgeCounters, Fallback, WorkerCounters};
use super::largest::Clock;
use super::policy::PolicyLog;
use super::worker::Worker;
use crate::net::DropReason;

/// The counters of all workers of one pump, and of the programs in the kernel.
#[derive(Clone, Debug)]
pub struct Counters {
    workers: Arc<[CachePadded<Worker>]>,
    kernel: Arc<WorkerCounters>,
}

impl Counters {
    /// Zeroed counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        let hub = Arc::<Hub>::default();
        let clock = Arc::<Clock>::default();
        let log = Arc::<PolicyLog>::default();
        let worker = |index| {
            CachePadded::new(Worker::new(index, Arc::clone(&hub), Arc::clone(&clock), Arc::clone(&log)))
        };
        Self { workers: (0..workers).map(worker).collect(), kernel: Arc::default() }
    }

    /// Where all workers show their packets.
    pub fn capture(&self) -> Option<&Arc<Hub>> {
        self.workers.first().map(|worker| &worker.capture)
    }

    /// The time of the workers.
    pub fn clock(&self) -> Option<&Clock> {
        self.workers.first().map(|worker| &*worker.clock)
    }

    /// The packets that rules want logged.
    pub fn policy_log(&self) -> Option<&PolicyLog> {
        self.workers.first().map(|worker| &*worker.policy_log)
    }

    /// Connections that are known, all workers together, and those that found no room and passed all the same.
    pub fn connections(&self) -> (u64, u64) {
        let each = self.each().map(|worker| (worker.connections.get(), worker.untracked_connections.get()));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// What worker `index` itself counts and shows its packets with.
    pub fn handle(&self, index: usize) -> &Worker {
        &self.workers[index]
    }

    /// The counters of worker `index`.
    pub fn worker(&self, index: usize) -> &WorkerCounters {
        &self.workers[index].counters
    }

    /// What programs in the kernel have carried; the control plane adds to it.
    pub fn kernel(&self) -> &WorkerCounters {
        &self.kernel
    }

    /// The counters of each worker.
    fn each(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.workers.iter().map(|worker| &worker.counters)
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Refusals of an offload by the kernel, all workers together.
    pub fn fallbacks(&self, fallback: Fallback) -> u64 {
        self.each().map(|worker| worker.refusals(fallback)).sum()
    }

    /// Whether a worker goes on without an offload now.
    pub fn has_given_up(&self, fallback: Fallback) -> bool {
        self.each().any(|worker| worker.has_given_up(fallback))
    }

    /// Offers an offload again to the workers that gave it up.
    pub fn offer(&self, fallback: Fallback) {
        self.each().for_each(|worker| worker.offer(fallback));
    }

    /// The first worker that an offload was refused to, and the last reason it got.
    pub fn refused(&self, fallback: Fallback) -> Option<(usize, io::Error)> {
        let worker = self.each().position(|worker| worker.refusals(fallback) > 0)?;
        let errno = self.worker(worker).last_errno(fallback);
        let unknown = || io::Error::other("the system gave no reason");
        Some((worker, errno.map_or_else(unknown, io::Error::from_raw_os_error)))
    }

    /// Super-packets written to the TAP, all workers together.
    pub fn tap_frames(&self) -> u64 {
        self.each().map(|worker| worker.tap_frames.get()).sum()
    }

    /// TCP super-packets of unknown segment size that were cut all the same, all workers together.
    pub fn recut_super_packets(&self) -> u64 {
        self.each().map(|worker| worker.recut_super_packets.get()).sum()
    }

    /// Datagrams that came joined with others, all workers together.
    pub fn joined_datagrams(&self) -> u64 {
        self.each().map(|worker| worker.joined_datagrams.get()).sum()
    }

    /// Packets that went back to the TUN, all workers together.
    pub fn hairpinned_packets(&self) -> u64 {
        self.each().map(|worker| worker.hairpinned_packets.get()).sum()
    }

    /// Received packets that are the tunnel's own, all workers together: probes, and questions that were answered.
    pub fn tunnel_control(&self) -> (u64, u64) {
        let each = self.each().map(|worker| (worker.probes.get(), worker.questions.get()));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Messages that the kernel refused as too large, all workers together.
    pub fn too_large_sends(&self) -> u64 {
        self.each().map(|worker| worker.too_large_sends.get()).sum()
    }

    /// The workers that make no progress.
    pub fn stuck(&self) -> Vec<usize> {
        let all = self.each().enumerate();
        all.filter(|(_, worker)| worker.is_stuck()).map(|(index, _)| index).collect()
    }

    /// Reads of the TUN that failed, all workers together.
    pub fn device_read_errors(&self) -> u64 {
        self.each().map(|worker| worker.device_read_errors.get()).sum()
    }

    /// ICMP errors sent and kept back, all workers together.
    pub fn icmp_errors(&self) -> (u64, u64) {
        let each = self.each().map(|worker| (worker.icmp_sent.get(), worker.icmp_suppressed.get()));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// The sums over all workers and the programs in the kernel.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in self.each().chain([self.kernel()]) {
            totals.device.add(&worker.device);
            totals.underlay.add(&worker.underlay);
            for (sum, reason) in totals.drops.iter_mut().zip(DropReason::ALL) {
                *sum += worker.drops(reason);
            }
        }
        totals
    }
}

/// Sums over all workers at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Inner packets at the TUN.
    pub device: EdgeTotals,
    /// Outer packets at the underlay.
    pub underlay: EdgeTotals,
    drops: [u64; DropReason::ALL.len()],
}

impl Totals {
    /// Packets dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

/// Sums of one edge.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EdgeTotals {
    /// Packets received from the edge.
    pub rx_packets: u64,
    /// Bytes received from the edge.
    pub rx_bytes: u64,
    /// Packets handed to the edge.
    pub tx_packets: u64,
    /// Bytes handed to the edge.
    pub tx_bytes: u64,
}

impl EdgeTotals {
    fn add(&mut self, edge: &EdgeCounters) {
        self.rx_packets += edge.rx_packets.get();
        self.rx_bytes += edge.rx_bytes.get();
        self.tx_packets += edge.tx_packets.get();
        self.tx_bytes += edge.tx_bytes.get();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Counters, Fallback};
    use crate::net::DropReason;

    #[test]
    fn totals_sum_over_workers() {
        let counters = Counters::new(2);
        counters.worker(0).device.rx_packets.add(3);
        counters.worker(1).device.rx_packets.add(4);
        counters.worker(1).dropped(DropReason::Ecn, 2);
        let totals = counters.totals();
        assert_eq!(totals.device.rx_packets, 7);
        assert_eq!(totals.drops(DropReason::Ecn), 2);
        assert_eq!(totals.drops(DropReason::Loop), 0);
    }

    #[test]
    fn a_refusal_has_its_worker_and_its_reason() {
        let counters = Counters::new(3);
        assert!(counters.refused(Fallback::Tap).is_none());
        for (worker, errno) in [(2, libc::EIO), (1, libc::EINVAL), (1, libc::ENODEV)] {
            counters.worker(worker).fell_back(Fallback::Tap, &io::Error::from_raw_os_error(errno));
        }
        let (worker, error) = counters.refused(Fallback::Tap).unwrap();
        assert_eq!((worker, error.raw_os_error()), (1, Some(libc::ENODEV)));
        assert_eq!(counters.fallbacks(Fallback::Tap), 3);
        counters.worker(0).fell_back(Fallback::UdpGso, &io::ErrorKind::NotConnected.into());
        assert_eq!(counters.refused(Fallback::UdpGso).unwrap().1.raw_os_error(), None);
    }

    #[test]
    fn what_was_given_up_is_taken_up_once_it_is_offered() {
        let counters = Counters::new(2);
        let worker = counters.worker(1);
        // An offer of what is in use is none.
        counters.offer(Fallback::Tap);
        assert!(!worker.takes_up(Fallback::Tap) && !counters.has_given_up(Fallback::Tap));
        worker.fell_back(Fallback::Tap, &io::Error::from_raw_os_error(libc::EIO));
        assert!(counters.has_given_up(Fallback::Tap) && !worker.takes_up(Fallback::Tap));
        counters.offer(Fallback::Tap);
        assert!(!counters.has_given_up(Fallback::Tap));
        assert!(worker.takes_up(Fallback::Tap) && !worker.takes_up(Fallback::Tap));
        // Refused once more between the offer and its taking.
        worker.fell_back(Fallback::Tap, &io::Error::from_raw_os_error(libc::EIO));
        counters.offer(Fallback::Tap);
        worker.fell_back(Fallback::Tap, &io::Error::from_raw_os_error(libc::EIO));
        assert!(!worker.takes_up(Fallback::Tap) && counters.has_given_up(Fallback::Tap));
        assert_eq!(counters.fallbacks(Fallback::Tap), 3);
    }
}
