//! Captures: copies of packets for a client, made by the workers only while a capture runs.
//!
//! ```text
//! worker ──record──▶ free ─fill─▶ full ──drain──▶ control plane ──pcapng──▶ client
//!                      ▲                │
//!                      └────────────────┘  buffers of one session, all made at its start
//! ```
//!
//! Off, a capture costs the workers a few relaxed loads per batch and one per dropped packet. On, a
//! packet is compared with the filter and copied into a free buffer; where there is none it is
//! counted as lost. Neither side ever waits for the other.

mod filter;
mod outer;
pub mod pcapng;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::SystemTime;

use crossbeam::queue::ArrayQueue;

pub use filter::{Filter, FilterError};
pub use outer::Outer;

use crate::dataplane::packet::Direction;
use crate::net::DropReason;
use crate::sync::Published;

/// Bytes that all buffers of a session hold together.
const MEMORY: usize = 8 << 20;
/// Most and fewest packets that wait to be read.
const PACKETS: std::ops::RangeInclusive<usize> = 64..=4096;
/// Bytes of a packet that the filter looks at.
const HEAD: usize = 256;

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Point {
    /// At the TUN: inner packets, super-packets whole.
    Device,
    /// At the sockets: outer packets.
    Underlay,
    /// Where it is dropped, in the form it has there.
    Drop,
    /// Where a rule of a policy wants it logged: inner packets.
    Log,
}

impl Point {
    /// Every point, in the order of the interfaces in a file.
    pub const ALL: [Self; 4] = [Self::Device, Self::Underlay, Self::Drop, Self::Log];

    /// The word of the command line and the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Underlay => "underlay",
            Self::Drop => "drop",
            Self::Log => "log",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What is known about a packet besides its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Where.
    pub point: Point,
    /// Which way it travels.
    pub direction: Direction,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
    /// The policy that denied it or wants it logged, if one does.
    pub policy: Option<Arc<str>>,
}

impl Seen {
    /// A packet of which nothing more is to be said.
    pub fn at(point: Point, direction: Direction) -> Self {
        Self { point, direction, reason: None, policy: None }
    }
}

/// What a capture is to hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The points; none is all.
    pub points: Vec<Point>,
    /// Which packets; all without one.
    pub filter: Option<Filter>,
    /// Bytes of each packet that are kept, at most 65535.
    pub snaplen: usize,
    /// UDP ports of VXLAN, behind which the filter looks.
    pub vxlan_ports: Vec<u16>,
}

/// One copied packet.
#[derive(Debug)]
pub struct Record {
    /// What is known about it.
    pub seen: Seen,
    /// When it was copied.
    pub time: SystemTime,
    /// Bytes of the whole packet.
    pub len: usize,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// The running capture.
#[derive(Debug)]
struct Session {
    filter: Option<Filter>,
    vxlan_ports: Vec<u16>,
    snaplen: usize,
    free: ArrayQueue<Record>,
    full: ArrayQueue<Record>,
    lost: [AtomicU64; Point::ALL.len()],
}

/// Where workers and the control plane meet. At most one capture runs at a time.
#[derive(Debug)]
pub struct Hub {
    /// Points of the running capture, as bits.
    points: AtomicU8,
    taken: AtomicBool,
    session: Published<Option<Arc<Session>>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { points: AtomicU8::new(0), taken: AtomicBool::new(false), session: Published::new(None) }
    }
}

impl Hub {
    /// Whether a capture wants packets of `point`.
    #[inline]
    pub fn wants(&self, point: Point) -> bool {
        self.points.load(Ordering::Relaxed) & point.bit() != 0
    }

    /// Whether a capture runs, for those who keep packets from the workers. Whoever has asked before it began is told
    /// by who begins it.
    pub fn is_running(&self) -> bool {
        self.points.load(Ordering::SeqCst) != 0
    }

    /// Copies the packet that `parts` are the pieces of, if the running capture wants it.
    #[cold]
    pub fn record<'a>(&self, seen: Seen, parts: impl Iterator<Item = &'a [u8]> + Clone) {
        let session = self.session.pin();
        let Some(session) = session.as_deref().filter(|_| self.wants(seen.point)) else { return };
        if let Some(filter) = &session.filter {
            let mut head = [0; HEAD];
            let len = gather(parts.clone(), &mut head);
            if !filter.matches(&head[..len], &session.vxlan_ports) {
                return;
            }
        }
        let Some(mut record) = session.free.pop() else {
            session.lost[seen.point as usize].fetch_add(1, Ordering::Relaxed);
            return;
        };
        record.seen = seen;
        record.time = SystemTime::now();
        record.len = parts.clone().map(<[u8]>::len).sum();
        record.bytes.clear();
        for part in parts {
            let room = session.snaplen - record.bytes.len();
            record.bytes.extend_from_slice(&part[..part.len().min(room)]);
        }
        // As many buffers as places, so there is one.
        let _ = session.full.push(record);
    }

    /// Starts a capture; it ends when the result is dropped. `None` when another one runs.
    pub fn start(self: &Arc<Self>, wanted: Wanted) -> Option<Capture> {
        if self.taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        let snaplen = wanted.snaplen.clamp(1, usize::from(u16::MAX));
        let packets = (MEMORY / snaplen).clamp(*PACKETS.start(), *PACKETS.end());
        let session = Arc::new(Session {
            filter: wanted.filter,
            vxlan_ports: wanted.vxlan_ports,
            snaplen,
            free: ArrayQueue::new(packets),
            full: ArrayQueue::new(packets),
            lost: Default::default(),
        });
        for _ in 0..packets {
            let _ = session.free.push(Record::empty(snaplen));
        }
        self.session.publish(Some(Arc::clone(&session)));
        let points = if wanted.points.is_empty() { &Point::ALL[..] } else { &wanted.points };
        let bits = points.iter().fold(0, |bits, point| bits | point.bit());
        self.points.store(bits, Ordering::SeqCst);
        Some(Capture { hub: Arc::clone(self), session })
    }
}

/// Copies as much of `parts` as `out` holds and returns how much that is.
fn gather<'a>(parts: impl Iterator<Item = &'a [u8]>, out: &mut [u8]) -> usize {
    let mut used = 0;
    for part in parts {
        let len = part.len().min(out.len() - used);
        out[used..used + len].copy_from_slice(&part[..len]);
        used += len;
    }
    used
}

impl Record {
    fn empty(snaplen: usize) -> Self {
        Self {
            seen: Seen::at(Point::Device, Direction::Outbound),
            time: SystemTime::UNIX_EPOCH,
            len: 0,
            bytes: Vec::with_capacity(snaplen),
        }
    }
}

/// The reading end of the running capture.
#[derive(Debug)]
pub struct Capture {
    hub: Arc<Hub>,
    session: Arc<Session>,
}

impl Capture {
    /// Shows up to `most` packets that wait to `take`; returns how many.
    pub fn drain(&self, most: usize, mut take: impl FnMut(&Record)) -> usize {
        for done in 0..most {
            let Some(record) = self.session.full.pop() else { return done };
            take(&record);
            let _ = self.session.free.push(record);
        }
        most
    }

    /// Packets of each point that found no free buffer so far.
    pub fn lost(&self) -> [u64; Point::ALL.len()] {
        std::array::from_fn(|point| self.session.lost[point].load(Ordering::Relaxed))
    }

    /// Bytes of each packet that are kept.
    pub fn snaplen(&self) -> usize {
        self.session.snaplen
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.hub.points.store(0, Ordering::Release);
        self.hub.session.publish(None);
        self.hub.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
