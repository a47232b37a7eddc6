//! The maps, the programs and the slots: what workers, programs and the control plane share.
//!
//! ```text
//! free ──worker: install──▶ live ──anybody: void──▶ void ──control plane: tidy──▶ free
//!                                                          key removed, grace period, last counts
//! ```

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam::queue::ArrayQueue;

use super::key::{self, FlowKey};
use super::program::{self, Addresses, Maps};
use super::record::Record;
use super::slot::{Counts, Slot};
use super::way::Way;
use super::words::WORDS;
use crate::dataplane::ebpf::{self, Gate, HashMap, Hook, Kind, SharedArray, grace_period};
use crate::dataplane::observe::PeerCounters;
use crate::dataplane::observe::capture::Hub;
use crate::dataplane::packet::Direction;

/// What the kernel path is made for.
#[derive(Debug)]
pub struct Setup {
    /// Entries, one for each direction of a flow.
    pub flows: usize,
    /// What tunnel packets for this node have.
    pub addresses: Addresses,
    /// Index of the TUN.
    pub device: u32,
    /// Whether VXLAN is carried over uplinks, too, that do not segment it themselves.
    pub always: bool,
    /// Whether the peers receive VXLAN over IPv6 without a UDP checksum.
    pub zero_checksum6: bool,
    /// Number of workers.
    pub workers: u16,
    /// UDP source ports of the workers' sockets, by number.
    pub source_ports: Vec<u16>,
    /// Where packets are shown: while a capture runs, the pump has all.
    pub capture: Option<Arc<Hub>>,
}

/// The kernel path of one run of the daemon.
pub struct KernelPath {
    pub(super) setup: Setup,
    pub(super) flows: HashMap<{ key::LEN }>,
    slots: SharedArray<WORDS>,
    pub(super) free: ArrayQueue<u32>,
    /// Whose packets each slot carries.
    owners: Box<[Mutex<Option<PeerCounters>>]>,
    ledger: Mutex<Ledger>,
    outbound: OwnedFd,
    inbound: OwnedFd,
    joined: OwnedFd,
    share: OwnedFd,
    /// Index of the interface whose packets come by; 0, which no interface has, for none.
    uplink: AtomicU32,
    handed_over: AtomicU64,
    without_pause: AtomicU64,
    pub(super) returned: AtomicU64,
    /// What the kernel does not do for packets: a bit for each [`Way`].
    pub(super) refused: AtomicU32,
}

/// What has been counted of each slot.
pub(super) struct Ledger {
    pub(super) counted: Box<[Counts]>,
    /// The second in which it was last seen in use.
    pub(super) used: Box<[u32]>,
}

/// A flow that is being handed over: programs wait until the pump has sent on what came before.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    index: u32,
    key: FlowKey,
    passed: u64,
}

impl Pending {
    /// The flow.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }
}

/// A program that is attached; dropping it detaches it.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "held open: closing it detaches")] OwnedFd);

/// Where programs are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// What is sent to the TUN.
    Device,
    /// What an uplink receives.
    Uplink,
    /// What arrives at the far end of a pair on whose way the kernel joins packets.
    Pair,
}

impl Place {
    /// Which of the packets of an interface these are.
    pub const fn hook(self) -> Hook {
        match self {
            Self::Device => Hook::Egress,
            Self::Uplink | Self::Pair => Hook::Ingress,
        }
    }
}

/// What the programs do, for `status`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Carried {
    /// Entries that programs act on now.
    pub flows: u64,
    /// Entries since the start.
    pub handed_over: u64,
    /// How often programs took up a flow whose packets kept coming, so that a few may have overtaken others.
    pub without_pause: u64,
    /// Entries that are the pump's again.
    pub returned: u64,
}

impl KernelPath {
    /// Makes maps and programs. Nothing is attached yet.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_BPF, EINVAL where something is missing.
    pub fn new(setup: Setup) -> io::Result<Self> {
        // Slots are not used again before this has said so. With `nohz_full` the kernel has no such wait.
        grace_period().map_err(|error| {
            io::Error::other(format!("the kernel does not say when programs have ended: {error}"))
        })?;
        let flows = HashMap::new("underpass_flows", setup.flows)?;
        let slots = SharedArray::new("underpass_slots", setup.flows)?;
        let secret = [0, 1].map(|_| RandomState::new().hash_one(0) as i32);
        let maps = Maps { flows: flows.fd(), slots: slots.fd(), secret };
        let outbound = ebpf::load(Kind::Classifier, "underpass_out", &program::outbound(maps))?;
        let inbound =
            ebpf::load(Kind::Classifier, "underpass_in", &program::inbound(maps, &setup.addresses))?;
        let joined = program::joined(setup.device);
        let joined = ebpf::load(Kind::Classifier, "underpass_join", &joined)?;
        let share = program::share(maps, &setup.addresses, setup.workers);
        let share = ebpf::load(Kind::SocketFilter, "underpass_share", &share)?;
        let free = ArrayQueue::new(setup.flows);
        for index in 0..setup.flows {
            let _ = free.push(index as u32);
        }
        Ok(Self {
            flows,
            slots,
            free,
            owners: (0..setup.flows).map(|_| Mutex::default()).collect(),
            ledger: Mutex::new(Ledger {
                counted: vec![Counts::default(); setup.flows].into(),
                used: vec![0; setup.flows].into(),
            }),
            outbound,
            inbound,
            joined,
            share,
            uplink: AtomicU32::new(0),
            handed_over: AtomicU64::new(0),
            without_pause: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            refused: AtomicU32::new(0),
            setup,
        })
    }

    /// Has the packets of the interface with index `index`, which is at that place, come by.
    ///
    /// # Errors
    /// The kernel's: EINVAL before Linux 6.6, ENODEV.
    pub fn attach(&self, place: Place, index: u32) -> io::Result<Attached> {
        ebpf::attach_tcx(self.program(place), place.hook(), index).map(Attached)
    }

    /// The same for a hook at which programs stay when their process ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn gate(&self, place: Place) -> io::Result<Gate> {
        Gate::to(self.program(place))
    }

    fn program(&self, place: Place) -> &OwnedFd {
        match place {
            Place::Device => &self.outbound,
            Place::Uplink => &self.inbound,
            Place::Pair => &self.joined,
        }
    }

    /// Packets that the interface with index `uplink` receives come by from now on; [`Self::leave_uplink`] goes before
    /// the end of that.
    pub fn enter_uplink(&self, uplink: u32) {
        self.uplink.store(uplink, Ordering::SeqCst);
    }

    /// No flow comes in by the kernel any more.
    pub fn leave_uplink(&self) {
        self.uplink.store(0, Ordering::SeqCst);
        self.review(|record| record.key.direction == Direction::Outbound);
    }

    /// Index of the interface whose packets come by; 0 for none.
    pub fn uplink(&self) -> u32 {
        self.uplink.load(Ordering::SeqCst)
    }

    /// A program for the workers' packet sockets, which the kernel shows packets before programs take them: 0 for what
    /// they will take, else one more than the worker that the packet is for.
    pub fn share(&self) -> &OwnedFd {
        &self.share
    }

    /// Slots that there are.
    pub fn capacity(&self) -> usize {
        self.setup.flows
    }

    /// Shows the flows of which there were packets since `seen`, which has a number for each slot.
    pub fn in_use(&self, seen: &mut [u64], mut show: impl FnMut(&FlowKey)) {
        for (index, seen) in (0..).zip(seen) {
            let slot = self.slot(index);
            if slot.is_live() && std::mem::replace(seen, slot.counts().packets) != *seen {
                show(&slot.key());
            }
        }
    }

    /// Index of the TUN.
    pub fn device(&self) -> u32 {
        self.setup.device
    }

    /// Whether VXLAN is carried over uplinks, too, that do not segment it themselves.
    pub fn always(&self) -> bool {
        self.setup.always
    }

    /// Whether the peers receive VXLAN over IPv6 without a UDP checksum.
    pub fn zero_checksum6(&self) -> bool {
        self.setup.zero_checksum6
    }

    /// UDP source ports of the workers' sockets, by number.
    pub fn source_ports(&self) -> &[u16] {
        &self.setup.source_ports
    }

    /// Begins to hand a flow over: programs are to do what `record` says. `still` is whether what it was made of is
    /// still so; it is asked once others can see the record. The result is for [`Self::sent`]; without one the pump
    /// keeps the flow, because there is no room, something has changed, a capture runs, the kernel does not do that, or it is carried
    /// already.
    pub fn install(
        &self,
        record: &Record,
        peer: &PeerCounters,
        still: impl FnOnce() -> bool,
    ) -> Option<Pending> {
        let key = record.key.bytes();
        let pending = |index| Pending { index, key: record.key, passed: u64::MAX };
        if let Some(before) = self.flows.get(&key) {
            let slot = self.slot(before);
            if slot.record() != *record {
                // What it repeats is not what comes now: it makes room.
                slot.void();
                return None;
            }
            // Packets may have passed that are the pump's, and those behind them.
            return (slot.is_live() && !slot.is_carried()).then(|| pending(before));
        }
        if self.refuses(Way::of(record)) {
            return None;
        }
        let index = self.free.pop()?;
        *self.owner(index) = Some(peer.clone());
        let slot = self.slot(index);
        slot.write(record);
        // Either a review sees the slot, or we see what it is about.
        fence(Ordering::SeqCst);
        if self.is_captured() || !still() || self.flows.insert(&key, index).is_err() {
            // No program has seen it.
            *self.owner(index) = None;
            slot.void();
            return None;
        }
        self.handed_over.fetch_add(1, Ordering::Relaxed);
        Some(pending(index))
    }

    /// Takes note of the packets that have passed to the pump; returns whether there were more than at the last look.
    /// Ask before looking whether the queue is empty that they come by.
    pub fn look(&self, pending: &mut Pending) -> bool {
        let passed = self.slot(pending.index).passed();
        std::mem::replace(&mut pending.passed, passed) != passed
    }

    /// The pump has sent on all packets that had passed at the last look: programs take the flow up if no other has.
    pub fn sent(&self, pending: &Pending) {
        self.slot(pending.index).set_sent(pending.passed);
    }

    /// Whether there is nothing left to do: programs carry the flow, or it is the pump's again.
    pub fn is_settled(&self, pending: &Pending) -> bool {
        let slot = self.slot(pending.index);
        !slot.is_live() || slot.key() != pending.key || slot.is_carried()
    }

    /// Programs have taken up a flow whose packets kept coming.
    pub fn note_without_pause(&self) {
        self.without_pause.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether programs carry a flow.
    pub fn carries(&self, key: &FlowKey) -> bool {
        let index = self.flows.get(&key.bytes());
        index.map(|index| self.slot(index)).is_some_and(|slot| slot.is_live() && slot.is_carried())
    }

    /// Gives the flows back to the pump for which `keep` does not hold.
    pub fn review(&self, mut keep: impl FnMut(&Record) -> bool) {
        fence(Ordering::SeqCst);
        for (_, slot) in self.live() {
            if !keep(&slot.record()) {
                slot.void();
            }
        }
    }

    /// Gives all flows back to the pump. A packet that a program has in hand may still be on its way.
    pub fn void_all(&self) {
        self.review(|_| false);
    }

    /// What the programs do.
    pub fn carried(&self) -> Carried {
        Carried {
            flows: self.live().filter(|(_, slot)| slot.is_carried()).count() as u64,
            handed_over: self.handed_over.load(Ordering::Relaxed),
            without_pause: self.without_pause.load(Ordering::Relaxed),
            returned: self.returned.load(Ordering::Relaxed),
        }
    }

    /// Whether the kernel was seen not to do this.
    pub fn refuses(&self, way: Way) -> bool {
        self.refused.load(Ordering::Relaxed) & way.bit() != 0
    }

    /// What it was seen not to do.
    pub fn refused(&self) -> impl Iterator<Item = Way> {
        Way::all().filter(|way| self.refuses(*way))
    }

    fn is_captured(&self) -> bool {
        self.setup.capture.as_ref().is_some_and(|hub| hub.is_running())
    }

    /// The slots that may be in use.
    pub(super) fn used(&self) -> impl Iterator<Item = (u32, Slot<'_>)> {
        // Mostly none is.
        let count = if self.free.is_full() { 0 } else { self.setup.flows as u32 };
        (0..count).map(|index| (index, self.slot(index)))
    }

    /// The slots that programs use.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, Slot<'_>)> {
        self.used().filter(|(_, slot)| slot.is_live())
    }

    pub(super) fn slot(&self, index: u32) -> Slot<'_> {
        Slot(self.slots.record(index as usize))
    }

    pub(super) fn owner(&self, index: u32) -> MutexGuard<'_, Option<PeerCounters>> {
        self.owners[index as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for KernelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelPath").field("setup", &self.setup).finish_non_exhaustive()
    }
}
