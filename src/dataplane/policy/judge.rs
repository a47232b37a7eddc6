//! One worker's judgement: whether a packet may pass.
//!
//! 1. the last connection of this direction, which most packets are of;
//! 2. a connection that is known, and was judged by the rules of now;
//! 3. the rules.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use super::active::{ActivePolicy, Fragments, Settings};
use super::case::{Case, Denied, Ends};
use super::connections::{Connection, Connections, Entry, Full, Key, Place, State, expiry};
use super::last::Last;
use super::rules::Decision;
use super::subject::{Kind, Subject};
use super::tuple::Tuple;
use crate::dataplane::observe::Worker;
use crate::dataplane::packet::Direction;
use crate::dataplane::segment::Flow;
use crate::net::DropReason;
use crate::wire::tcp;

/// Buckets that are swept in each batch, and in each second.
const SWEPT: (usize, usize) = (1, 64);

/// The judge of one worker, with the connections that it knows.
#[derive(Debug, Default)]
pub struct Judge {
    table: Option<Connections>,
    /// When the first packet was judged.
    begun: Option<Instant>,
    /// Seconds since then.
    now: u32,
    last: [Option<Last>; 2],
}

impl Judge {
    /// Begins a round of batches under `policy`.
    #[inline]
    pub fn begin(&mut self, policy: Option<&ActivePolicy>, worker: &Worker) {
        if let Some(policy) = policy {
            self.tell_time(policy, worker);
        } else if self.table.is_some() {
            // Policies are off: what is known of connections would be old when they are on again.
            *self = Self::default();
            worker.counters.connections.set(0);
        }
    }

    fn tell_time(&mut self, policy: &ActivePolicy, worker: &Worker) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        // Never 0, which nothing expires after.
        let now = u32::try_from(begun.elapsed().as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let is_later = now != self.now;
        self.now = now;
        let table = self.table.get_or_insert_with(|| new_table(&policy.settings));
        table.sweep(if is_later { SWEPT.1 } else { SWEPT.0 }, now);
        if is_later {
            // What has passed in this second moves its expiry on.
            self.last = [None; 2];
            worker.counters.connections.set(table.len() as u64);
        }
    }

    /// Seconds since the first packet was judged.
    pub fn second(&self) -> u32 {
        self.now
    }

    /// Takes note of a packet that somebody else has carried, of a connection that is known.
    pub fn touch(&mut self, tuple: &Tuple, settings: &Settings) {
        let (key, _) = Key::of(tuple);
        if let Some(place) = self.find(&key)
            && let Some(table) = &mut self.table
        {
            let mut entry = table.entry(place);
            entry.expires = expiry(entry.state, &key, &settings.timeouts, self.now);
            table.set(place, &entry);
        }
    }

    /// Shows the connections from bucket `from` on for so many buckets; returns where to go on.
    pub(super) fn page(
        &self,
        from: usize,
        buckets: usize,
        mut show: impl FnMut(Connection),
    ) -> Option<usize> {
        self.table.as_ref()?.page(from, buckets, self.now, |_, connection| show(connection))
    }

    /// Forgets the connections from bucket `from` on, for so many buckets, that `which` wants forgotten; returns
    /// where to go on.
    pub fn flush(
        &mut self,
        from: usize,
        buckets: usize,
        mut which: impl FnMut(&Connection) -> bool,
    ) -> Option<usize> {
        self.last = [None; 2];
        let table = self.table.as_mut()?;
        let mut gone = [Place::default(); FLUSHED];
        let mut at = from;
        let end = from + buckets;
        while at < end {
            let mut count = 0;
            let next = table.page(at, 1, self.now, |place, connection| {
                if which(&connection)
                    && let Some(slot) = gone.get_mut(count)
                {
                    (*slot, count) = (place, count + 1);
                }
            });
            gone[..count].iter().for_each(|place| table.remove(*place));
            at = next?;
        }
        Some(at)
    }

    /// Judges `packet`, classified as `flow`, which stands for `packets`.
    ///
    /// # Errors
    /// Why it may not pass.
    #[inline]
    pub fn judge(
        &mut self,
        policy: &ActivePolicy,
        (direction, ends): (Direction, Ends),
        flow: &Flow,
        packet: &[u8],
        (packets, worker): (u64, &Worker),
    ) -> Result<(), Denied> {
        let last = Last::of(flow, packet, policy.generation);
        if let (Some(last), Some(before)) = (&last, &self.last[direction as usize])
            && last.is_same(before)
        {
            return Ok(());
        }
        let mut case = Case { policy, direction, ends, packet, packets, worker };
        let known = self.decide(&mut case, flow)?;
        self.last[direction as usize] = last.filter(|_| known);
        Ok(())
    }

    /// Whether `case` is of a connection that is known from now on.
    fn decide(&mut self, case: &mut Case<'_>, flow: &Flow) -> Result<bool, Denied> {
        let subject = Subject::of(flow, case.packet);
        let tuple = subject.tuple;
        // A pod always reaches itself.
        if tuple.source == tuple.destination {
            return Ok(false);
        }
        match subject.kind {
            Kind::Discovery => Ok(false),
            Kind::Plain => self.follow(case, &tuple, Key::of(&tuple), Step::Other),
            Kind::Tcp(flags) => self.follow(case, &tuple, Key::of(&tuple), Step::Tcp(flags)),
            Kind::Query(query) => {
                let (key, lower) = Key::query(&tuple, query);
                // An answer that nobody asked for begins nothing.
                match query.is_answer && self.find(&key).is_none() {
                    true => case.judge(&tuple, case.ends).map(|_| false),
                    false => self.follow(case, &tuple, (key, lower), Step::Other),
                }
            }
            Kind::Error(about) => {
                let known =
                    about.filter(|about| about.tuple.source == tuple.destination).is_some_and(|about| {
                        let (key, _) = match about.query {
                            Some(query) => Key::query(&about.tuple, query),
                            None => Key::of(&about.tuple),
                        };
                        self.find(&key).is_some()
                    });
                if known { Ok(false) } else { case.judge(&tuple, case.ends).map(|_| false) }
            }
            Kind::First(id) => {
                self.follow(case, &tuple, Key::of(&tuple), Step::Other)?;
                self.remember_datagram(case, &tuple, id);
                Ok(false)
            }
            Kind::Later(id) => self.later(case, &tuple, id).map(|()| false),
        }
    }

    fn find(&self, key: &Key) -> Option<Place> {
        self.table.as_ref()?.find(key, self.now)
    }

    /// A packet of a connection, or one that begins it.
    fn follow(
        &mut self,
        case: &mut Case<'_>,
        tuple: &Tuple,
        (key, from_lower): (Key, bool),
        step: Step,
    ) -> Result<bool, Denied> {
        let now = self.now;
        if let Some(place) = self.find(&key)
            && let Some(table) = &mut self.table
        {
            let mut entry = table.entry(place);
            let by_originator = entry.from_lower == from_lower;
            // Its originator is denied what began it, whatever it tries: known as denied, nobody else begins it either.
            let is_denied = entry.state == State::Denied && by_originator;
            if !(step.begins() && entry.state.is_over()) || is_denied {
                if entry.generation != case.policy.generation || entry.state == State::Denied {
                    let (original, ends) = match by_originator {
                        true => (*tuple, case.ends),
                        false => (table.tuple(place), case.ends.swapped()),
                    };
                    let judged = case.judge(&original, ends);
                    entry.generation = case.policy.generation;
                    entry.state = match judged {
                        Ok(_) => entry.state.allowed(key.protocol()),
                        Err(_) => State::Denied,
                    };
                    if let Err(denied) = judged {
                        entry.expires = expiry(entry.state, &key, &case.policy.settings.timeouts, now);
                        table.set(place, &entry);
                        return Err(denied);
                    }
                }
                entry.state = step.after(entry.state, by_originator, &mut entry.fins);
                entry.expires = expiry(entry.state, &key, &case.policy.settings.timeouts, now);
                table.set(place, &entry);
                return Ok(true);
            }
            // The same ports once more: another connection.
            table.remove(place);
        }
        self.begin_connection(case, tuple, (&key, from_lower), step)
    }

    /// A packet of no connection that is known.
    fn begin_connection(
        &mut self,
        case: &mut Case<'_>,
        tuple: &Tuple,
        (key, from_lower): (&Key, bool),
        step: Step,
    ) -> Result<bool, Denied> {
        let settings = &case.policy.settings;
        let mut entry = Entry {
            state: State::Unanswered,
            from_lower,
            generation: case.policy.generation,
            since: self.now,
            ..Entry::default()
        };
        // It may be an answer in a connection that is older than what is known here.
        let may_be_older = step.may_be_an_answer() && self.now <= settings.pick_up;
        let decision = match case.decide(tuple, case.ends) {
            Err(_) if may_be_older && case.decide(&tuple.reversed(), case.ends.swapped()).is_ok() => {
                entry.from_lower = !from_lower;
                Decision { allowed: true, by: None }
            }
            decided => case.count(decided)?,
        };
        // One that may have begun before counts as unanswered, too, until the other end is seen: otherwise segments of
        // connections that there are not would fill the table for good.
        entry.state = step.first();
        entry.expires = expiry(entry.state, key, &settings.timeouts, self.now);
        let Some(table) = &mut self.table else { return Ok(false) };
        match table.insert(key, &entry, self.now) {
            Ok(_) => Ok(true),
            // Without rules for either end nothing has to be known of it.
            Err(Full) if settings.fail_open || (decision.by.is_none() && !case.has_rules(tuple)) => {
                case.worker.counters.untracked_connections.add(1);
                Ok(false)
            }
            Err(Full) => Err(Denied { reason: DropReason::ConnectionsFull, by: None }),
        }
    }

    /// Takes note that the first fragment of a datagram has passed, where there is room.
    fn remember_datagram(&mut self, case: &Case<'_>, tuple: &Tuple, id: u32) {
        let (key, from_lower) = Key::datagram(tuple, id);
        let expires = expiry(State::Unanswered, &key, &case.policy.settings.timeouts, self.now);
        let generation = case.policy.generation;
        let entry = Entry { from_lower, generation, expires, since: self.now, ..Entry::default() };
        let place = self.find(&key);
        if let Some(table) = &mut self.table {
            match place {
                Some(place) => table.set(place, &entry),
                // Without room its other fragments are judged by their addresses.
                None => drop(table.insert(&key, &entry, self.now)),
            }
        }
    }

    /// A later fragment.
    fn later(&mut self, case: &mut Case<'_>, tuple: &Tuple, id: Option<u32>) -> Result<(), Denied> {
        let first = id.is_some_and(|id| {
            let (key, from_lower) = Key::datagram(tuple, id);
            let entry = self.find(&key).and_then(|place| Some(self.table.as_ref()?.entry(place)));
            entry.is_some_and(|entry| {
                entry.from_lower == from_lower && entry.generation == case.policy.generation
            })
        });
        if first || case.policy.settings.fragments == Fragments::Pass {
            return Ok(());
        }
        case.judge(tuple, case.ends).map(drop)
    }
}

/// Most connections of one bucket.
const FLUSHED: usize = 16;

fn new_table(settings: &Settings) -> Connections {
    // The keys of a hash table come from the kernel's random numbers.
    let seed = RandomState::new();
    Connections::new(settings.connections, [seed.hash_one(0_u8), seed.hash_one(1_u8)])
}

/// What a packet does to its connection.
#[derive(Clone, Copy)]
enum Step {
    Tcp(u8),
    Other,
}

impl Step {
    /// Whether it begins a connection: SYN without ACK.
    fn begins(self) -> bool {
        matches!(self, Self::Tcp(flags) if flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN)
    }

    /// The state of a connection of which this is the first packet that is seen.
    fn first(self) -> State {
        match self {
            Self::Tcp(flags) if flags & tcp::RST != 0 => State::Closed,
            Self::Tcp(_) | Self::Other => State::Unanswered,
        }
    }

    /// Whether the one who answers may have sent it.
    fn may_be_an_answer(self) -> bool {
        matches!(self, Self::Tcp(flags) if flags & tcp::ACK != 0)
    }

    fn after(self, state: State, by_originator: bool, fins: &mut u8) -> State {
        match self {
            Self::Tcp(flags) => state.after_tcp(flags, by_originator, fins),
            Self::Other => state.after(by_originator),
        }
    }
}
