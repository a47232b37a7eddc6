//! What one worker counts.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::net::DropReason;

/// A counter that one thread adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this; two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Makes it another value. Only the owning thread may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
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
    /// Inner packets at the TUN.
    pub device: EdgeCounters,
    /// Outer packets at the underlay.
    pub underlay: EdgeCounters,
    drops: [Counter; DropReason::ALL.len()],
    fallbacks: [Refusals; Fallback::ALL.len()],
    /// Super-packets written to the TAP.
    pub tap_frames: Counter,
    /// Received TCP super-packets whose segment size is unknown, cut to what every path carries.
    pub recut_super_packets: Counter,
    /// Datagrams that came joined with others (UDP_GRO).
    pub joined_datagrams: Counter,
    /// Received probes by which other nodes test their way to us. They are no traffic, so no edge counts them.
    pub probes: Counter,
    /// Questions of kernel tunnels that were answered. No edge counts them either.
    pub questions: Counter,
    /// Messages that the kernel refused to send as too large: the way they took carries less than was known.
    pub too_large_sends: Counter,
    /// Reads of the TUN that failed, but for those that say that it is gone.
    pub device_read_errors: Counter,
    /// Grows each time the worker comes by its edges: one that does not although it is woken is stuck.
    pub beat: Counter,
    stuck: AtomicBool,
    /// Packets that went back to the TUN they came from; both counts of the device have them.
    pub hairpinned_packets: Counter,
    /// ICMP errors written to the TUN. They are no traffic of others, so no edge counts them.
    pub icmp_sent: Counter,
    /// ICMP errors kept back: too many already, or the TUN could not take them.
    pub icmp_suppressed: Counter,
    /// Connections that are known now, as of the last second with packets; it may fall.
    pub connections: Counter,
    /// Connections that found no room in the table and passed all the same.
    pub untracked_connections: Counter,
}

/// How often the kernel refused an offload, and with which error. A worker does not log: the
/// control plane reads it here.
#[derive(Debug, Default)]
struct Refusals {
    count: Counter,
    /// The last error as the system numbers it, 0 where it has no number.
    errno: AtomicI32,
    standing: AtomicU8,
}

/// The worker uses the offload.
const IN_USE: u8 = 0;
/// The worker goes on without it.
const GIVEN_UP: u8 = 1;
/// The control plane has offered it again, and the worker has not come by yet.
const OFFERED: u8 = 2;

/// An offload that the kernel refused at run time, so that the worker went on without until it is
/// offered again.
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
    /// Counts one refusal of an offload, with the kernel's reason. The worker goes on without it.
    pub fn fell_back(&self, fallback: Fallback, error: &io::Error) {
        let refusals = &self.fallbacks[fallback as usize];
        refusals.errno.store(error.raw_os_error().unwrap_or_default(), Relaxed);
        refusals.standing.store(GIVEN_UP, Relaxed);
        refusals.count.add(1);
    }

    /// Says whether the worker makes no progress; returns what was said before. The control plane says it.
    pub fn set_stuck(&self, stuck: bool) -> bool {
        self.stuck.swap(stuck, Relaxed)
    }

    /// Whether the worker makes no progress.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Relaxed)
    }

    /// Whether the worker goes on without an offload.
    pub fn has_given_up(&self, fallback: Fallback) -> bool {
        self.fallbacks[fallback as usize].standing.load(Relaxed) == GIVEN_UP
    }

    /// Whether the worker uses an offload, as far as it has one: it neither gave it up nor has yet to take up an
    /// offer.
    pub fn is_in_use(&self, fallback: Fallback) -> bool {
        self.fallbacks[fallback as usize].standing.load(Relaxed) == IN_USE
    }

    /// Offers the worker an offload again that it gave up.
    pub fn offer(&self, fallback: Fallback) {
        let standing = &self.fallbacks[fallback as usize].standing;
        // It may have given it up again, or taken it up by itself, meanwhile.
        let _ = standing.compare_exchange(GIVEN_UP, OFFERED, Relaxed, Relaxed);
    }

    /// Takes up an offload that was offered; the worker itself asks.
    pub fn takes_up(&self, fallback: Fallback) -> bool {
        let standing = &self.fallbacks[fallback as usize].standing;
        standing.load(Relaxed) == OFFERED
            && standing.compare_exchange(OFFERED, IN_USE, Relaxed, Relaxed).is_ok()
    }

    /// The worker found by itself that it can use an offload again.
    pub fn took_up(&self, fallback: Fallback) {
        self.fallbacks[fallback as usize].standing.store(IN_USE, Relaxed);
    }

    /// How often the kernel refused an offload.
    pub fn refusals(&self, fallback: Fallback) -> u64 {
        self.fallbacks[fallback as usize].count.get()
    }

    /// The last reason for that, where the system has a number for it.
    pub fn last_errno(&self, fallback: Fallback) -> Option<i32> {
        Some(self.fallbacks[fallback as usize].errno.load(Relaxed)).filter(|errno| *errno != 0)
    }

    /// Counts `n` packets as not delivered.
    pub fn dropped(&self, reason: DropReason, n: u64) {
        self.drops[reason as usize].add(n);
    }

    /// Packets dropped for `reason` so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }
}
