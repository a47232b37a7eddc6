//! Ways out that a sender lost, and how it gets them back.

use std::io;

use super::{Sender, sys};
use crate::dataplane::observe::{Fallback, Worker, WorkerCounters};

/// What a sender can lose and get back.
const LOSABLE: [Fallback; 3] = [Fallback::UdpGso, Fallback::Tap, Fallback::PacketSocket];

impl Sender {
    /// Has the packet socket follow the uplink to the interface with index `uplink`.
    #[inline]
    pub(crate) fn follow(&mut self, uplink: u32, worker: &Worker) {
        if self.uplink.is_some_and(|bound| bound != uplink) {
            self.rebind(uplink, worker);
        }
    }

    /// Takes up again what was given up and is offered.
    #[inline]
    pub(crate) fn take_up(&mut self, worker: &Worker) {
        if self.lacks {
            self.look_for_offers(worker);
        }
    }

    #[cold]
    fn look_for_offers(&mut self, worker: &Worker) {
        let counters = &worker.counters;
        self.gso |= counters.takes_up(Fallback::UdpGso);
        self.paths.tap |= counters.takes_up(Fallback::Tap);
        if counters.takes_up(Fallback::PacketSocket)
            && let Some(uplink) = self.uplink
        {
            // An interface that went took the binding with it.
            self.rebind(uplink, worker);
        }
        self.lacks = lacks(counters);
    }

    #[cold]
    fn rebind(&mut self, uplink: u32, worker: &Worker) {
        self.uplink = Some(uplink);
        let Some(socket) = &self.packet else { return };
        let bound = sys::bind_to_interface(socket, uplink);
        self.paths.packet = bound.is_ok();
        match bound {
            Ok(()) => worker.counters.took_up(Fallback::PacketSocket),
            Err(error) => self.give_up(Fallback::PacketSocket, &error, worker),
        }
    }

    #[cold]
    pub(super) fn give_up(&mut self, fallback: Fallback, error: &io::Error, worker: &Worker) {
        worker.counters.fell_back(fallback, error);
        self.lacks = true;
    }
}

/// Whether there is something to look for. An offer that came after the look at it is: nobody would look again.
pub(super) fn lacks(counters: &WorkerCounters) -> bool {
    LOSABLE.iter().any(|fallback| !counters.is_in_use(*fallback))
}
