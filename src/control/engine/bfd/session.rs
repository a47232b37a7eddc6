//! One session of BFD in asynchronous mode (RFC 5880 §6).

use std::time::{Duration, Instant};

use crate::wire::bfd::{Control, Diagnostic, State};

/// Intervals without a packet that end a session.
pub(super) const DETECT_MULT: u8 = 3;
/// Between packets of a session that is not up, at least (§6.8.3).
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Most that an interval is shortened by at random, in parts of 256 (§6.8.7: up to a quarter).
const JITTER: u32 = 64;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    state: State,
    diagnostic: Diagnostic,
    mine: u32,
    yours: u32,
    /// Between packets in both directions, as it holds now.
    interval: Duration,
    /// The same as it is to be, once the other end knows (§6.8.3).
    wanted: Duration,
    /// What the other end wants to receive at most.
    their_min_rx: Duration,
    /// When to send.
    next: Instant,
    /// When to have heard something.
    expiry: Option<Instant>,
}

impl Session {
    /// A session with a number of its own that is not 0, which begins at once.
    pub(super) fn new(mine: u32, interval: Duration, now: Instant) -> Self {
        Self {
            state: State::Down,
            diagnostic: Diagnostic::None,
            mine,
            yours: 0,
            interval,
            wanted: interval,
            // Until something is heard (§6.8.1).
            their_min_rx: Duration::from_micros(1),
            next: now,
            expiry: None,
        }
    }

    /// Whether packets pass both ways.
    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.mine
    }

    /// Follows another interval.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.wanted = interval;
        if self.state != State::Up {
            self.interval = interval;
        }
    }

    /// When something is to be done.
    pub(super) fn deadline(&self) -> Instant {
        self.expiry.map_or(self.next, |expiry| expiry.min(self.next))
    }

    /// What is to be sent at `now`, if something is. `jitter` is random.
    pub(super) fn due(&mut self, now: Instant, jitter: u8) -> Option<Control> {
        if self.expiry.is_some_and(|expiry| expiry <= now) {
            self.expire();
        }
        if self.next > now {
            return None;
        }
        let pause = self.pause();
        self.next = now + pause - pause * (u32::from(jitter) * JITTER / 256) / 256;
        // Who wants no packets gets none (§6.8.7).
        (!self.their_min_rx.is_zero()).then(|| self.control(false))
    }

    /// Follows a packet of the other end; returns what it is to be answered at once. One that is of another session
    /// changes nothing.
    pub(super) fn receive(&mut self, heard: &Control, now: Instant) -> Option<Control> {
        if heard.yours != 0 && heard.yours != self.mine {
            return None;
        }
        self.yours = heard.mine;
        self.their_min_rx = micros(heard.min_rx);
        if heard.is_final {
            self.interval = self.wanted;
        }
        let before = self.state;
        self.state = match (self.state, heard.state) {
            (_, State::AdminDown) => State::Down,
            (State::Down, State::Down) => State::Init,
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => State::Up,
            (State::Up, State::Down) => State::Down,
            (state, _) => state,
        };
        match (before, self.state) {
            (State::Up, State::Down) => {
                self.diagnostic = Diagnostic::NeighborDown;
                self.interval = self.wanted;
            }
            (State::Up, _) => {}
            // From slow packets to quick ones, without waiting for the next slow one.
            (_, State::Up) => self.next = now,
            _ => {}
        }
        let silence = self.interval.max(micros(heard.min_tx)) * u32::from(heard.detect_mult);
        self.expiry = Some(now + silence);
        heard.poll.then(|| self.control(true))
    }

    /// Nothing was heard for too long.
    fn expire(&mut self) {
        (self.expiry, self.yours) = (None, 0);
        if self.state != State::Down {
            self.state = State::Down;
            self.diagnostic = Diagnostic::Expired;
        }
        self.interval = self.wanted;
    }

    /// From one packet to the next.
    fn pause(&self) -> Duration {
        self.min_tx(self.interval).max(self.their_min_rx)
    }

    fn min_tx(&self, interval: Duration) -> Duration {
        if self.is_up() { interval } else { interval.max(SLOW) }
    }

    fn control(&self, is_final: bool) -> Control {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Control {
            diagnostic: self.diagnostic,
            state: self.state,
            // A packet is never both (§6.8.7).
            poll: !is_final && self.is_up() && self.wanted != self.interval,
            is_final,
            detect_mult: DETECT_MULT,
            mine: self.mine,
            yours: self.yours,
            min_tx: micros(self.min_tx(self.wanted)),
            min_rx: micros(self.wanted),
        }
    }
}

fn micros(value: u32) -> Duration {
    Duration::from_micros(value.into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{SLOW, Session};
    use crate::wire::bfd::{Control, Diagnostic, State};

    const QUICK: Duration = Duration::from_millis(250);

    /// Has both ends exchange what is due until `end`; packets from an end whose `passes` is false are lost.
    fn run(ends: &mut [Session; 2], from: Instant, span: Duration, passes: [bool; 2]) -> Instant {
        let mut now = from;
        while now < from + span {
            for sender in 0..2 {
                let Some(control) = ends[sender].due(now, 0) else { continue };
                let control = Control { diagnostic: Diagnostic::None, ..control };
                if passes[sender] {
                    let answer = ends[1 - sender].receive(&control, now).filter(|_| passes[1 - sender]);
                    if let Some(answer) = answer {
                        assert!(answer.is_final && !answer.poll);
                        ends[sender].receive(&answer, now);
                    }
                }
            }
            now += Duration::from_millis(10);
        }
        now
    }

    fn pair(now: Instant) -> [Session; 2] {
        [Session::new(1, QUICK, now), Session::new(2, QUICK, now)]
    }

    fn up(ends: &[Session; 2]) -> [bool; 2] {
        [ends[0].is_up(), ends[1].is_up()]
    }

    #[test]
    fn three_packets_bring_both_ends_up_and_silence_takes_them_down() {
        let now = Instant::now();
        let mut ends = pair(now);
        let now = run(&mut ends, now, SLOW * 3, [true, true]);
        assert_eq!(up(&ends), [true, true]);
        // The detection time, and not much more.
        let now = run(&mut ends, now, Duration::from_millis(450), [false, false]);
        assert_eq!(up(&ends), [true, true]);
        let now = run(&mut ends, now, Duration::from_millis(350), [false, false]);
        assert_eq!(up(&ends), [false, false]);
        assert_eq!(ends[0].control(false).diagnostic, Diagnostic::Expired);
        assert_eq!(ends[0].control(false).yours, 0);
        run(&mut ends, now, SLOW * 3, [true, true]);
        assert_eq!(up(&ends), [true, true]);
    }

    #[test]
    fn one_direction_alone_is_not_up() {
        let now = Instant::now();
        let mut ends = pair(now);
        let now = run(&mut ends, now, SLOW * 20, [true, false]);
        assert_eq!(up(&ends), [false, false]);
        let now = run(&mut ends, now, SLOW * 3, [true, true]);
        assert_eq!(up(&ends), [true, true]);
        // Whose packets are lost hears from the other end that it is down.
        run(&mut ends, now, Duration::from_millis(1100), [false, true]);
        assert_eq!(up(&ends), [false, false]);
        assert_eq!(ends[0].control(false).diagnostic, Diagnostic::NeighborDown);
    }

    #[test]
    fn packets_are_slow_until_it_is_up() {
        let now = Instant::now();
        let mut session = Session::new(7, QUICK, now);
        let first = session.due(now, 0).unwrap();
        assert_eq!((first.state, first.min_tx, first.min_rx), (State::Down, 1_000_000, 250_000));
        assert_eq!(session.due(now + SLOW - QUICK, 0), None);
        assert!(session.due(now + SLOW, 255).is_some());
        // At random up to a quarter earlier.
        let early = session.next - (now + SLOW);
        assert!(early < SLOW && early >= SLOW * 3 / 4, "{early:?}");
    }

    #[test]
    fn an_interval_grows_only_once_the_other_end_knows() {
        let now = Instant::now();
        let mut ends = pair(now);
        let now = run(&mut ends, now, SLOW * 3, [true, true]);
        ends[0].set_interval(QUICK * 4);
        assert_eq!(ends[0].pause(), QUICK);
        let now = run(&mut ends, now, SLOW, [true, true]);
        assert_eq!(ends[0].pause(), QUICK * 4);
        assert_eq!(ends[1].pause(), QUICK * 4, "who does not want more gets no more");
        let now = run(&mut ends, now, SLOW * 20, [true, true]);
        assert_eq!(up(&ends), [true, true]);
        ends[0].set_interval(QUICK);
        run(&mut ends, now, SLOW * 3, [true, true]);
        assert_eq!((ends[0].pause(), ends[1].pause()), (QUICK, QUICK));
    }

    #[test]
    fn strange_packets_change_nothing() {
        let now = Instant::now();
        let mut ends = pair(now);
        let now = run(&mut ends, now, SLOW * 3, [true, true]);
        let forged = Control { state: State::Down, ..ends[1].control(false) };
        assert_eq!(ends[0].receive(&Control { yours: 99, ..forged }, now), None);
        assert!(ends[0].is_up());
        // An end that wants nothing, and one that promises a packet a year.
        ends[0].receive(&Control { min_rx: 0, state: State::Up, ..forged }, now);
        assert_eq!(ends[0].due(now + QUICK, 0), None);
        ends[0].receive(&Control { min_tx: u32::MAX, detect_mult: 255, state: State::Up, ..forged }, now);
        assert!(ends[0].deadline() <= now + SLOW);
    }
}
