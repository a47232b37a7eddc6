//! Many strangers at the tunnel's ports are refused by the kernel, before they take the peers' place in the
//! receive buffers.
//!
//! A few are received, and dropped and counted as `unknown_peer` one by one. From `MANY` in one look on the
//! sockets let only those through who may send (`underlay/door.rs`); what is refused then is in the kernel's
//! own count of the sockets. That is taken back after a while. Strangers who are there still are seen by it
//! at the next look, and then it stays for twice as long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::dataplane::forward::{Forwarding, Senders};
use crate::dataplane::observe::Counters;
use crate::dataplane::underlay::Door;
use crate::net::DropReason;
use crate::sync::Published;

/// From one look at the counters to the next.
const LOOK: Duration = Duration::from_millis(200);
/// Strangers' packets at one worker from one look to the next: 5000 a second.
const MANY: u64 = 1000;
/// Looks for which the gate stays closed, at first and at most: 10 s and 160 s.
const CLOSED: u32 = 50;
const LONGEST: u32 = 16 * CLOSED;

/// The receiving sockets of all workers.
pub struct Gate {
    doors: Vec<Door>,
    forwarding: Arc<Published<Forwarding>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who comes through, while not everybody does.
    senders: Option<Senders>,
    /// What each socket has counted, and the sum of what it has counted since the start.
    counted: Vec<u32>,
    dropped: u64,
}

impl Gate {
    /// A gate of these sockets, for those who may send by the table in `forwarding`. It is open.
    pub fn new(doors: Vec<Door>, forwarding: Arc<Published<Forwarding>>) -> Self {
        let counted = vec![0; doors.len()];
        Self { doors, forwarding, state: Mutex::new(State { counted, ..State::default() }) }
    }

    /// Whether only those come through who may send.
    pub fn is_closed(&self) -> bool {
        self.state().senders.is_some()
    }

    /// Packets that the kernel did not put into the receive buffers since the start.
    pub fn dropped(&self) -> u64 {
        let mut state = self.state();
        let State { counted, dropped, .. } = &mut *state;
        for (door, counted) in self.doors.iter().zip(counted) {
            // The kernel counts with 32 bits.
            let Ok(now) = door.drops() else { continue };
            *dropped += u64::from(now.wrapping_sub(std::mem::replace(counted, now)));
        }
        *dropped
    }

    /// Follows a table that was just published: who may send by it comes through from now on.
    pub fn follow(&self) {
        let mut state = self.state();
        let senders = self.forwarding.pin().senders();
        if state.senders.as_ref().is_some_and(|before| !before.same_as(&senders)) {
            self.let_through(&mut state, senders);
        }
    }

    /// Lets only those through who may send; returns whether every socket does that.
    fn close(&self) -> bool {
        // First: a table that is published after this one was looked at is followed afterwards.
        let mut state = self.state();
        let senders = self.forwarding.pin().senders();
        self.let_through(&mut state, senders);
        state.senders.is_some()
    }

    fn let_through(&self, state: &mut State, senders: Senders) {
        let ranges = senders.ranges();
        state.senders = Some(senders);
        if let Err(error) = self.doors.iter().try_for_each(|door| door.close(&ranges)) {
            tracing::debug!("a socket takes no filter: {error}");
            self.open(state);
        }
    }

    fn open(&self, state: &mut State) {
        state.senders = None;
        for door in &self.doors {
            if let Err(error) = door.open() {
                tracing::debug!("a filter cannot be taken from a socket: {error}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the gate while there are many strangers, for ever.
pub async fn watch(gate: Arc<Gate>, counters: Counters) {
    let mut watch = Watch::default();
    loop {
        let strangers = |worker| counters.worker(worker).drops(DropReason::UnknownPeer);
        match watch.look((0..counters.workers()).map(strangers)) {
            Some(Turn::Close) if gate.close() => {
                tracing::warn!("strangers send many tunnel packets: the kernel refuses them until they stop");
            }
            Some(Turn::Close) => tracing::warn!(
                "strangers send many tunnel packets, and the kernel takes no filter that refuses them: they take the \
                 peers' place in the receive buffers"
            ),
            Some(Turn::Open) => gate.open(&mut gate.state()),
            Some(Turn::Over) => tracing::info!("strangers have stopped sending tunnel packets"),
            None => {}
        }
        sleep(LOOK).await;
    }
}

/// When to close and when to open.
#[derive(Debug, Default)]
struct Watch {
    before: Vec<u64>,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// For so many looks more; it was to be for so many.
    Closed(u32, u32),
    /// Open again, to see whether they are there still, after so many looks.
    Trying(u32, u32),
}

/// What to do now.
#[derive(Debug, Eq, PartialEq)]
enum Turn {
    Close,
    Open,
    /// Nothing, but they are gone.
    Over,
}

impl Watch {
    /// `strangers` are the packets of strangers so far, worker by worker.
    fn look(&mut self, strangers: impl Iterator<Item = u64>) -> Option<Turn> {
        let now: Vec<u64> = strangers.collect();
        let before = self.before.iter().copied().chain(std::iter::repeat(0));
        let many = now.iter().zip(before).any(|(now, before)| now - before >= MANY);
        self.before = now;
        let (phase, turn) = match self.phase {
            Phase::Open if many => (Phase::Closed(CLOSED, CLOSED), Some(Turn::Close)),
            Phase::Open => (Phase::Open, None),
            Phase::Closed(0, all) => (Phase::Trying(CLOSED, all), Some(Turn::Open)),
            Phase::Closed(left, all) => (Phase::Closed(left - 1, all), None),
            Phase::Trying(_, all) if many => {
                let longer = (2 * all).min(LONGEST);
                (Phase::Closed(longer, longer), Some(Turn::Close))
            }
            Phase::Trying(0, _) => (Phase::Open, Some(Turn::Over)),
            Phase::Trying(left, all) => (Phase::Trying(left - 1, all), None),
        };
        self.phase = phase;
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{CLOSED, Gate, LONGEST, MANY, Turn, Watch};
    use crate::dataplane::encap::ecn::Marking;
    use crate::dataplane::forward::{Forwarding, TunLink, Underlay};
    use crate::net::{Mac, Vni};
    use crate::route::{EncapPolicy, Rib};
    use crate::sync::Published;

    fn table() -> Forwarding {
        let underlay = Underlay {
            address: Some(Ipv4Addr::new(192, 0, 2, 1)),
            address6: None,
            vtep_mac: Mac([2; 6]),
            vni: Vni::CALICO,
            vxlan_port: 4789,
            mtu: 1500,
            marking: Marking::INHERIT,
            uplink: 0,
            tun: TunLink::default(),
            tap: None,
        };
        Forwarding::build(underlay, &[], &EncapPolicy::default(), &Rib::default()).unwrap()
    }

    #[test]
    fn a_table_published_while_the_gate_closes_is_followed() {
        let forwarding = Arc::new(Published::new(table()));
        let gate = Arc::new(Gate::new(Vec::new(), Arc::clone(&forwarding)));
        let held = gate.state();
        let closing = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.close()
        });
        // It waits for the state, and has seen no table yet.
        std::thread::sleep(Duration::from_millis(100));
        forwarding.publish(table());
        drop(held);
        gate.follow();
        assert!(closing.join().unwrap());
        let senders = forwarding.pin().senders();
        assert!(gate.state().senders.as_ref().is_some_and(|through| through.same_as(&senders)));
    }

    /// Looks until there is something to do, while so many strangers come at each; how many looks it took.
    fn until(watch: &mut Watch, seen: &mut u64, each: u64) -> (u32, Turn) {
        for looks in 1..=2 * LONGEST {
            *seen += each;
            if let Some(turn) = watch.look([0, *seen].into_iter()) {
                return (looks, turn);
            }
        }
        panic!("nothing to do");
    }

    #[test]
    fn few_are_counted_and_many_are_refused_until_they_stop() {
        let (mut watch, mut seen) = (Watch::default(), 0);
        for _ in 0..1000 {
            seen += MANY - 1;
            assert_eq!(watch.look([0, seen].into_iter()), None);
        }
        assert_eq!(until(&mut watch, &mut seen, MANY), (1, Turn::Close));
        // While it is closed workers see none of them.
        assert_eq!(until(&mut watch, &mut seen, 0), (CLOSED + 1, Turn::Open));
        for all in [2, 4, 8, 16, 16] {
            assert_eq!(until(&mut watch, &mut seen, MANY), (1, Turn::Close));
            assert_eq!(until(&mut watch, &mut seen, 0), (all * CLOSED + 1, Turn::Open));
        }
        assert_eq!(until(&mut watch, &mut seen, 1), (CLOSED + 1, Turn::Over));
        assert_eq!(until(&mut watch, &mut seen, MANY), (1, Turn::Close));
        assert_eq!(until(&mut watch, &mut seen, 0), (CLOSED + 1, Turn::Open), "as at first");
    }
}
