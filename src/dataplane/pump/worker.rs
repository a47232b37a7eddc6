//! One worker: poll, then one batch from each edge that has something, then poll again.
//!
//! Nothing waits for a timer: a batch is whatever is there. Both sides are drained before the
//! worker sleeps, and while it is busy the poll returns at once. Before it sleeps it looks again for a moment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver as Queries;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::capture_tap;
use super::handover::{Handover, KernelCarrier, PAUSE};
use super::lane::Lane;
use crate::dataplane::device::{Deliver, write_icmp_errors};
use crate::dataplane::forward::{Forwarding, Inbound, InboundCx, Outbound, OutboundCx};
use crate::dataplane::kernel_path::Candidates;
use crate::dataplane::observe::capture::Point;
use crate::dataplane::observe::{Counters, Worker};
use crate::dataplane::packet::{Delivery, Device, Full, MAX_PACKET, Outbox, Sink};
use crate::dataplane::policy::{Judge, Query};
use crate::dataplane::segment::merge::Rules;
use crate::dataplane::underlay::{MetadataSocket, Receiver, Sockets};
use crate::net::DropReason;
use crate::sync::Published;

/// Bytes of the outbound arena: packets are read behind one another until the next might not fit.
const ARENA: usize = 1 << 20;
/// Bytes read until the batch is sent and the arena used again from its start, so that what is sent
/// is still in the cache of this core.
const FLUSH: usize = 48 * 1024;
/// Most reads from the device in one batch: bounds how long the other direction waits.
const READS: usize = 64;
/// Most errors in a row from a receiving socket in one batch.
const RECEIVE_ERRORS: usize = 8;
/// Every packet starts at a multiple of this, a cache line.
const ALIGN: usize = 64;

/// From a read of the device that failed to the next one, at most.
const RETRY: Duration = Duration::from_millis(10);

const WAKER: Token = Token(usize::MAX);
const DEVICE: Token = Token(usize::MAX - 1);

/// Everything one thread owns.
pub(super) struct WorkerThread {
    poll: Poll,
    device: Box<dyn Device>,
    sockets: Sockets,
    outbound: Outbound,
    inbound: Inbound,
    judge: Judge,
    handover: Option<Handover>,
    queries: Queries<Query>,
    outbox: Outbox,
    arena: Box<[u8]>,
    scratch: Box<[u8]>,
    index: usize,
    counters: Counters,
    /// Which edges may have something: the device first, then the receivers.
    ready: Vec<bool>,
    /// Whether the last read from the device failed.
    faulty: bool,
    /// How long it looks for packets behind the last one before it sleeps.
    busy_poll: Duration,
    /// Whether there were packets since the last wait.
    had_packets: bool,
}

impl WorkerThread {
    /// A worker and the handle that wakes it.
    pub(super) fn new(
        lane: Lane,
        rules: Rules,
        kernel: Option<KernelCarrier>,
        queries: Queries<Query>,
        index: usize,
        counters: Counters,
        busy_poll: Duration,
    ) -> io::Result<(Self, mio::Waker)> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        if let Some(fd) = lane.device.fd() {
            poll.registry().register(&mut SourceFd(&fd), DEVICE, Interest::READABLE)?;
        }
        let mut edges = 1;
        for (number, fd) in lane.sockets.fds().enumerate() {
            poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)?;
            edges += 1;
        }
        let worker = Self {
            poll,
            outbound: Outbound::new(lane.sockets.source_ports().to_vec()),
            device: lane.device,
            sockets: lane.sockets,
            inbound: Inbound::new(rules),
            judge: Judge::default(),
            handover: kernel.map(Handover::new),
            queries,
            outbox: Outbox::default(),
            arena: vec![0; ARENA].into_boxed_slice(),
            scratch: Deliver::scratch(),
            index,
            counters,
            ready: vec![true; edges],
            faulty: false,
            busy_poll,
            had_packets: false,
        };
        Ok((worker, waker))
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// When the device or the poll fails for good.
    pub(super) fn run(
        &mut self,
        forwarding: &Arc<Published<Forwarding>>,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let mut events = Events::with_capacity(16);
        while !stop.load(Ordering::Acquire) {
            let busy = self.ready.contains(&true);
            let retry = std::mem::take(&mut self.faulty);
            let pause = self.handover.as_ref().and_then(|handover| handover.waiting().next()).map(|_| PAUSE);
            let timeout = if retry { Some(pause.map_or(RETRY, |pause| pause.min(RETRY))) } else { pause };
            self.wait(&mut events, if busy { Some(Duration::ZERO) } else { timeout })?;
            self.ready[0] |= retry;
            for edge in self.handover.iter().flat_map(Handover::waiting) {
                self.ready[edge] = true;
            }
            self.counters.handle(self.index).counters.beat.add(1);
            let tables = forwarding.pin();
            self.judge.begin(tables.policy(), self.counters.handle(self.index));
            if let Ok(query) = self.queries.try_recv() {
                let forgets = query.flush;
                self.judge.answer_query(query);
                if let Some(handover) = self.handover.as_ref().filter(|_| forgets) {
                    handover.give_back();
                }
            }
            if let Some(handover) = &mut self.handover {
                handover.keep_known(&mut self.judge, &tables);
            }
            for edge in 0..self.ready.len() {
                if self.ready[edge] {
                    self.ready[edge] = self.serve(edge, &tables, forwarding)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a batch from an edge: the device is 0, then come the receivers. Returns whether more may wait.
    fn serve(
        &mut self,
        edge: usize,
        tables: &Forwarding,
        forwarding: &Published<Forwarding>,
    ) -> io::Result<bool> {
        if let Some(handover) = &mut self.handover {
            handover.look(edge);
        }
        let batch = match edge.checked_sub(1) {
            None => self.outbound_batch(tables)?,
            Some(receiver) => self.inbound_batch(tables, receiver)?,
        };
        self.had_packets |= batch != Taken::Nothing;
        let Some(handover) = &mut self.handover else { return Ok(batch == Taken::Full) };
        handover.read(edge, batch == Taken::Nothing);
        handover.begin(edge, tables, forwarding);
        Ok(batch == Taken::Full)
    }

    /// Waits for packets. Behind one there is often another soon, and going to sleep and waking up take longer than to
    /// look for it for a moment.
    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let had_packets = std::mem::take(&mut self.had_packets) && timeout != Some(Duration::ZERO);
        let until = (had_packets && !self.busy_poll.is_zero()).then(|| Instant::now() + self.busy_poll);
        loop {
            let stays_awake = until.is_some_and(|until| Instant::now() < until);
            match self.poll.poll(events, if stays_awake { Some(Duration::ZERO) } else { timeout }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
                result => result?,
            }
            if !stays_awake || !events.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        for event in events.iter() {
            match event.token() {
                WAKER => {}
                DEVICE => self.ready[0] = true,
                Token(number) => self.ready[number + 1] = true,
            }
        }
        Ok(())
    }

    /// Reads a batch from the device and sends it off.
    fn outbound_batch(&mut self, tables: &Forwarding) -> io::Result<Taken> {
        let worker = self.counters.handle(self.index);
        self.sockets.follow(tables.underlay().uplink, worker);
        self.sockets.take_up(worker);
        let (paths, watched) = (self.sockets.paths(), worker.capture.wants(Point::Device));
        let (arena, out, judge) = (&mut self.arena, &mut self.outbox, &mut self.judge);
        let proofs = self.handover.as_mut().map(Handover::candidates);
        let mut cx = OutboundCx { tables, paths, arena, out, worker, judge, proofs };
        let mut at = 0;
        let (mut has_read, mut is_empty) = (false, false);
        for _ in 0..READS {
            if at + MAX_PACKET > ARENA {
                break;
            }
            let (vnet, len) = match self.device.read(&mut cx.arena[at..at + MAX_PACKET]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    is_empty = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_gone(&error) => return Err(error),
                Err(_) => {
                    // Packets may wait all the same, and nothing tells when it is over.
                    worker.counters.device_read_errors.add(1);
                    (is_empty, has_read, self.faulty) = (true, true, true);
                    break;
                }
            };
            has_read = true;
            if watched {
                capture_tap::read(worker, &cx.arena[at..at + len]);
            }
            let taken = self.outbound.packet(&mut cx, &vnet, at..at + len).or_else(|Full| {
                self.sockets.send(cx.out, cx.arena, worker);
                // An empty outbox holds any one packet.
                self.outbound.packet(&mut cx, &vnet, at..at + len)
            });
            if let Ok(Some(hairpin)) = taken {
                let sink = Deliver { device: &mut *self.device, worker, scratch: &mut self.scratch };
                give_back(&hairpin.delivery(cx.arena), sink, watched);
            }
            at = (at + len).next_multiple_of(ALIGN);
            if at >= FLUSH {
                self.sockets.send(cx.out, cx.arena, worker);
                at = 0;
            }
        }
        if !cx.out.is_empty() {
            self.sockets.send(cx.out, cx.arena, worker);
        }
        write_icmp_errors(self.outbound.errors().drain(), &mut *self.device, &worker.counters);
        Ok(match (is_empty, has_read) {
            (false, _) => Taken::Full,
            (true, true) => Taken::Some,
            (true, false) => Taken::Nothing,
        })
    }

    /// Receives a batch from socket `receiver` and writes it to the device.
    fn inbound_batch(&mut self, tables: &Forwarding, receiver: usize) -> io::Result<Taken> {
        let worker = self.counters.handle(self.index);
        let (receiver, metadata) = self.sockets.receiver(receiver);
        let Some(count) = received(receiver) else { return Ok(Taken::Nothing) };
        let sink = Deliver { device: &mut *self.device, worker, scratch: &mut self.scratch };
        if worker.capture.wants(Point::Underlay) {
            capture_tap::received(worker, tables, receiver, count);
        }
        let taken = if receiver.was_full(count) { Taken::Full } else { Taken::Some };
        let proofs = self.handover.as_mut().map(Handover::candidates);
        let batch = Receives { receiver, count, metadata, judge: &mut self.judge, proofs };
        if worker.capture.wants(Point::Device) {
            deliver(&mut self.inbound, batch, tables, capture_tap::Shown(sink), worker);
        } else {
            deliver(&mut self.inbound, batch, tables, sink, worker);
        }
        if !self.inbound.replies().is_empty() {
            self.inbound.replies().send(&mut self.outbox);
            self.sockets.send(&mut self.outbox, &self.arena, worker);
        }
        Ok(taken)
    }
}

/// Writes a packet to the device that it was read from.
fn give_back(delivery: &Delivery<'_>, mut sink: Deliver<'_>, watched: bool) {
    if watched { capture_tap::Shown(sink).deliver(delivery) } else { sink.deliver(delivery) }
}

/// Whether the device is no more: the kernel has detached its queues, or its driver is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO))
}

/// What a batch found at its edge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Taken {
    /// There was nothing.
    Nothing,
    /// That was all, but for what may have come since.
    Some,
    /// More may wait.
    Full,
}

/// A batch of receives.
struct Receives<'a> {
    receiver: &'a mut Receiver,
    count: usize,
    metadata: &'a mut MetadataSocket,
    judge: &'a mut Judge,
    proofs: Option<&'a mut Candidates>,
}

/// Takes a batch through the inbound flow.
fn deliver(
    inbound: &mut Inbound,
    batch: Receives<'_>,
    tables: &Forwarding,
    mut sink: impl Sink,
    worker: &Worker,
) {
    let Receives { receiver, count, metadata, judge, mut proofs } = batch;
    let format = receiver.format();
    for index in 0..count {
        let packet = receiver.packet(index);
        let (arena, metadata, sink) = (receiver.arena(), &mut *metadata, &mut sink);
        let (judge, proofs) = (&mut *judge, proofs.as_deref_mut());
        let mut cx = InboundCx { tables, format, arena, metadata, sink, worker, judge, proofs };
        match packet {
            Some(packet) => inbound.receive(&mut cx, packet),
            None => worker.counters.dropped(DropReason::UnknownPeer, 1),
        }
    }
    let (arena, sink) = (receiver.arena(), &mut sink);
    let mut cx = InboundCx { tables, format, arena, metadata, sink, worker, judge, proofs };
    inbound.finish(&mut cx);
}

/// Receives a batch; `None` when nothing waits. Errors of single packets (an ICMP for an earlier
/// send) end nothing; a socket that only has errors is left alone until it is ready again, so that it
/// cannot keep the worker busy.
fn received(receiver: &mut Receiver) -> Option<usize> {
    for _ in 0..RECEIVE_ERRORS {
        match receiver.receive() {
            Ok(received) => return Some(received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => {}
        }
    }
    None
}
