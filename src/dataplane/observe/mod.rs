//! Per-worker counters and their sums.
//!
//! Every counter has one writer, the worker that owns it, and any number of readers. A writer
//! therefore adds with a plain load and store; readers add up all workers and may be a few packets
//! behind, never ahead.

pub mod capture;
mod peer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::dataplane::observe::capture::{Hub, Point, Seen};
use crate::net::DropReason;
pub use peer::{PeerCounters, PeerTotals, PeerWorkerCounters};

/// A counter that one thread adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this; two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Packets and bytes each way over one edge, the device or the underlay. *rx* is what the daemon
/// received from that edge, *tx* what it handed over to it.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    /// Packets received from the edge, after segmentation.
    pub rx_packets: Counter,
    /// Bytes received from the edge, IP headers included.
    pub rx_bytes: Counter,
    /// Packets handed to the edge, after segmentation.
    pub tx_packets: Counter,
    /// Bytes handed to the edge, IP headers included.
    pub tx_bytes: Counter,
}

/// All counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Which worker this is, for counters that are kept elsewhere.
    pub index: usize,
    /// Inner packets at the TUN.
    pub device: EdgeCounters,
    /// Outer packets at the underlay.
    pub underlay: EdgeCounters,
    drops: [Counter; DropReason::ALL.len()],
    fallbacks: [Refusals; Fallback::ALL.len()],
    /// Super-packets written to the TAP.
    pub tap_frames: Counter,
    /// Received TCP super-packets whose segment size nobody knew, cut to what every path carries.
    pub recut_super_packets: Counter,
    /// Where the worker's packets are shown while somebody captures; all workers share one.
    pub capture: Arc<Hub>,
    /// ICMP errors written to the TUN. They are no traffic of others, so no edge counts them.
    pub icmp_sent: Counter,
    /// ICMP errors kept back: too many already, or the TUN could not take them.
    pub icmp_suppressed: Counter,
}

/// How often the kernel refused an offload, and with which error. A worker does not log: this is
/// where whoever does sees it.
#[derive(Debug, Default)]
struct Refusals {
    count: Counter,
    /// The last error as the system numbers it, 0 where it has no number.
    errno: AtomicI32,
}

/// An offload that the kernel refused at run time, so that the worker went on without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Fallback {
    /// UDP_SEGMENT.
    UdpGso,
    /// The TAP for super-packets.
    Tap,
    /// The packet socket for IP-in-IP and direct packets.
    PacketSocket,
    /// A super-packet written to the TUN.
    DeviceGso,
}

impl Fallback {
    /// Every one, in the order of listing.
    pub const ALL: [Self; 4] = [Self::UdpGso, Self::Tap, Self::PacketSocket, Self::DeviceGso];

    /// The offload it is about, as named in `status`.
    pub const fn offload(self) -> &'static str {
        match self {
            Self::UdpGso => "udp_gso",
            Self::Tap => "tap",
            Self::PacketSocket => "packet_socket",
            Self::DeviceGso => "gro",
        }
    }
}

impl WorkerCounters {
    /// Counts one refusal of an offload, with the kernel's reason.
    pub fn fell_back(&self, fallback: Fallback, error: &io::Error) {
        let refusals = &self.fallbacks[fallback as usize];
        refusals.errno.store(error.raw_os_error().unwrap_or_default(), Relaxed);
        refusals.count.add(1);
    }

    /// Counts `n` packets as not delivered.
    pub fn dropped(&self, reason: DropReason, n: u64) {
        self.drops[reason as usize].add(n);
    }

    /// Counts `n` packets as not delivered, which are one in memory: `parts` are its pieces, shown to
    /// a capture of drops.
    pub fn dropped_packet<'a>(
        &self,
        reason: DropReason,
        n: u64,
        inbound: bool,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        self.dropped(reason, n);
        if self.capture.wants(Point::Drop) {
            self.capture.record(Seen { point: Point::Drop, inbound, reason: Some(reason) }, parts);
        }
    }

    /// Packets dropped for `reason` so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }
}

/// The counters of all workers of one pump.
#[derive(Clone, Debug)]
pub struct Counters(Arc<[CachePadded<WorkerCounters>]>);

impl Counters {
    /// Zeroed counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        let hub = Arc::<Hub>::default();
        let worker = |index| {
            let capture = Arc::clone(&hub);
            CachePadded::new(WorkerCounters { index, capture, ..WorkerCounters::default() })
        };
        Self((0..workers).map(worker).collect())
    }

    /// Where all workers show their packets.
    pub fn capture(&self) -> Option<&Arc<Hub>> {
        self.0.first().map(|worker| &worker.capture)
    }

    /// The counters of worker `index`.
    pub fn worker(&self, index: usize) -> &WorkerCounters {
        &self.0[index]
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// Refusals of an offload by the kernel, all workers together.
    pub fn fallbacks(&self, fallback: Fallback) -> u64 {
        self.0.iter().map(|worker| worker.fallbacks[fallback as usize].count.get()).sum()
    }

    /// The first worker that an offload was refused to, and the last reason it got.
    pub fn refused(&self, fallback: Fallback) -> Option<(usize, io::Error)> {
        let mut refusals = self.0.iter().map(|worker| &worker.fallbacks[fallback as usize]);
        let worker = refusals.position(|refusals| refusals.count.get() > 0)?;
        let errno = self.0[worker].fallbacks[fallback as usize].errno.load(Relaxed);
        let unknown = || io::Error::other("the system gave no reason");
        Some((worker, if errno == 0 { unknown() } else { io::Error::from_raw_os_error(errno) }))
    }

    /// Super-packets written to the TAP, all workers together.
    pub fn tap_frames(&self) -> u64 {
        self.0.iter().map(|worker| worker.tap_frames.get()).sum()
    }

    /// TCP super-packets of unknown segment size that were cut all the same, all workers together.
    pub fn recut_super_packets(&self) -> u64 {
        self.0.iter().map(|worker| worker.recut_super_packets.get()).sum()
    }

    /// ICMP errors sent and kept back, all workers together.
    pub fn icmp_errors(&self) -> (u64, u64) {
        let each = self.0.iter().map(|worker| (worker.icmp_sent.get(), worker.icmp_suppressed.get()));
        each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// The sums over all workers.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in self.0.iter() {
            totals.device.add(&worker.device);
            totals.underlay.add(&worker.underlay);
            for (sum, counter) in totals.drops.iter_mut().zip(&worker.drops) {
                *sum += counter.get();
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
}
