//! Handing flows over to the kernel, in order.
//!
//! A packet that a program carries overtakes those that still wait for the worker, or behind it in the queue of a
//! processor. So programs leave a flow to the pump until its packets have paused for a moment, with nothing in the
//! queue that they come by. A flow that never pauses is handed over all the same after a while, when the queue is empty;
//! then a few of its packets may overtake others, which is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataplane::forward::Forwarding;
use crate::dataplane::kernel_path::{Candidates, FlowKey, KernelPath, Pending};
use crate::dataplane::policy::{Judge, Tuple};
use crate::sync::Published;

/// The pause in which a flow is handed over.
pub(super) const PAUSE: Duration = Duration::from_millis(2);
/// How long a pause is waited for, and how long an empty queue.
const PATIENCE: Duration = Duration::from_millis(50);
const NEVER_EMPTY: Duration = Duration::from_millis(250);
/// Directions of flows that are being handed over.
const PENDING: usize = 64;

/// How the kernel path is used.
#[derive(Clone, Debug)]
pub struct KernelCarrier {
    /// The maps and programs.
    pub path: Arc<KernelPath>,
    /// Packets each way after which a flow is handed over.
    pub after: u16,
}

/// A direction of a flow that is being handed over.
struct Handing {
    flow: Pending,
    /// The queue that its packets come by: 0 is the device's, then those of the receiving sockets.
    edge: usize,
    begun: Instant,
    /// When a packet of it was last known to have passed to the pump.
    last: Instant,
    /// Whether they kept coming when programs were last told to take it up.
    kept_coming: bool,
}

/// The part of one worker.
pub(super) struct Handover {
    path: Arc<KernelPath>,
    candidates: Candidates,
    /// What is being handed over.
    pending: Vec<Handing>,
    /// Packets of each slot, as of the last second.
    seen: Box<[u64]>,
    second: u32,
}

impl Handover {
    pub(super) fn new(carrier: KernelCarrier) -> Self {
        let seen = vec![0; carrier.path.capacity()].into_boxed_slice();
        Self {
            path: carrier.path,
            candidates: Candidates::new(carrier.after),
            pending: Vec::with_capacity(PENDING),
            seen,
            second: 0,
        }
    }

    /// The flows that may be handed over.
    pub(super) fn candidates(&mut self) -> &mut Candidates {
        &mut self.candidates
    }

    /// The queues that something comes by which is being handed over: they are to be looked at after each pause.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> + '_ {
        self.pending.iter().map(|one| one.edge)
    }

    /// Before a batch is read from queue `edge`.
    #[inline]
    pub(super) fn look(&mut self, edge: usize) {
        if !self.pending.is_empty() {
            self.look_at_pending(edge);
        }
    }

    #[cold]
    fn look_at_pending(&mut self, edge: usize) {
        let now = Instant::now();
        for one in self.pending.iter_mut().filter(|one| one.edge == edge) {
            if self.path.look(&mut one.flow) {
                one.last = now;
            }
        }
    }

    /// After a batch from queue `edge`, or after it was found empty.
    #[inline]
    pub(super) fn read(&mut self, edge: usize, empty: bool) {
        if !self.pending.is_empty() {
            self.sent(edge, empty);
        }
    }

    #[cold]
    fn sent(&mut self, edge: usize, empty: bool) {
        let (path, candidates, now) = (&self.path, &mut self.candidates, Instant::now());
        self.pending.retain_mut(|one| {
            if one.edge != edge {
                return true;
            }
            if path.is_settled(&one.flow) {
                if one.kept_coming {
                    path.note_without_pause();
                }
                candidates.handed_over(one.flow.key());
                return false;
            }
            let waited = now.duration_since(one.begun);
            let pauses = now.duration_since(one.last) >= PAUSE;
            if empty && (pauses || waited >= PATIENCE) {
                one.kept_coming = !pauses;
            } else if waited >= NEVER_EMPTY {
                path.look(&mut one.flow);
                one.kept_coming = true;
            } else {
                return true;
            }
            path.sent(&one.flow);
            true
        });
    }

    /// Begins to hand over what has proved itself in a batch from queue `edge`.
    #[inline]
    pub(super) fn begin(&mut self, edge: usize, tables: &Forwarding, forwarding: &Published<Forwarding>) {
        if !self.candidates.has_proved() {
            return;
        }
        let still = || std::ptr::eq(&*forwarding.pin(), tables);
        let (path, pending, now) = (&self.path, &mut self.pending, Instant::now());
        let handing = |flow| Handing { flow, edge, begun: now, last: now, kept_coming: false };
        // What finds no place is not handed over, and proves itself again.
        let is_carried = |key: &FlowKey| path.carries(key);
        for key in self.candidates.proved_outbound(is_carried) {
            if pending.len() < PENDING {
                pending.extend(tables.hand_over_outbound(path, &key, still).map(handing));
            }
        }
        for (key, how) in self.candidates.proved_inbound(is_carried) {
            if pending.len() < PENDING {
                pending.extend(tables.hand_over_inbound(path, (&key, how), still).map(handing));
            }
        }
    }

    /// Keeps the connections known that the kernel carries: their packets do not come here. Once a second.
    #[inline]
    pub(super) fn keep_known(&mut self, judge: &mut Judge, tables: &Forwarding) {
        let Some(policy) = tables.policy() else { return };
        if judge.second() == std::mem::replace(&mut self.second, judge.second()) {
            return;
        }
        self.path.in_use(&mut self.seen, |key| {
            let ports = Some(key.port_pair());
            let (source, destination, protocol) = (key.source, key.destination, key.protocol);
            judge.touch(&Tuple { source, destination, protocol, ports, icmp: None }, &policy.settings);
        });
    }

    /// Gives all flows back: what is known of connections is forgotten.
    pub(super) fn give_back(&self) {
        self.path.void_all();
    }
}
