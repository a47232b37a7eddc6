//! All sessions: when each has something to send, and which paths may be used.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::hysteresis::Hysteresis;
use super::session::Session;
use crate::route::DirectPath;
use crate::wire::bfd::{Control, FIRST_SOURCE_PORT};

/// Between packets of one session that is up: three of them missing are noticed within a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// Most packets a second in one direction, of all sessions together. With more sessions the interval grows.
const MOST_PER_SECOND: u32 = 2000;

/// The sessions towards all peers.
#[derive(Debug)]
pub struct Paths {
    random: RandomState,
    counted: u64,
    paths: BTreeMap<DirectPath, Path>,
    /// When each of them has something to do.
    order: BTreeSet<(Instant, DirectPath)>,
    /// Whether some verdict may be another than when they were last asked for.
    changed: bool,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outgoing {
    /// Along this path.
    pub path: DirectPath,
    /// To this address of a pod.
    pub to: IpAddr,
    /// From this UDP port.
    pub port: u16,
    /// What to say.
    pub control: Control,
}

/// Whether a path may be used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Whether it is used.
    pub used: bool,
    /// Whether packets pass both ways, which they have to do for a while before it is used again.
    pub works: bool,
    /// Whether the other end was ever heard.
    pub heard: bool,
    /// How often it was given up.
    pub failures: u64,
}

#[derive(Debug)]
struct Path {
    session: Session,
    hysteresis: Hysteresis,
    /// Where the other end may be, and which of these is next.
    candidates: Vec<IpAddr>,
    turn: usize,
    /// Where it was heard last.
    heard: Option<IpAddr>,
    /// The place in the order.
    deadline: Instant,
}

impl Paths {
    /// No sessions. Their numbers and jitter come from `random`.
    pub fn new(random: RandomState) -> Self {
        Self { random, counted: 0, paths: BTreeMap::new(), order: BTreeSet::new(), changed: false }
    }

    /// Has sessions along these paths and no others; at the other end of each is one of these addresses.
    pub fn follow(&mut self, wanted: BTreeMap<DirectPath, Vec<IpAddr>>, now: Instant) {
        let interval = interval(wanted.len());
        let before = self.paths.len();
        self.paths.retain(|path, _| wanted.contains_key(path));
        self.order.retain(|(_, path)| wanted.contains_key(path));
        self.changed |= self.paths.len() != before || wanted.len() != before;
        for (path, candidates) in wanted {
            if let Some(known) = self.paths.get_mut(&path) {
                known.candidates = candidates;
                known.session.set_interval(interval);
                continue;
            }
            // Not all at once.
            let first = now + interval * u32::from(self.random()) / 256;
            let number = u32::from_be_bytes([(); 4].map(|()| self.random())).max(1);
            let session = Session::new(number, interval, first);
            let (hysteresis, heard) = (Hysteresis::default(), None);
            self.paths
                .insert(path, Path { session, hysteresis, candidates, turn: 0, heard, deadline: first });
            self.order.insert((first, path));
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// When something is to be done.
    pub fn deadline(&self) -> Option<Instant> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// The next packet that is to be sent at `now`, if there is one.
    pub fn due(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some((_, id)) = self.order.first().copied().filter(|(deadline, _)| *deadline <= now) {
            let jitter = self.random();
            let path = self.paths.get_mut(&id)?;
            let control = path.session.due(now, jitter);
            let to = control.and_then(|_| path.target());
            let port = path.port();
            self.settle(id, now);
            if let (Some(control), Some(to)) = (control, to) {
                return Some(Outgoing { path: id, to, port, control });
            }
        }
        None
    }

    /// Follows what came in along `path` from the pod address `from`; returns what it is to be answered at once.
    pub fn receive(
        &mut self,
        id: DirectPath,
        from: IpAddr,
        heard: &Control,
        now: Instant,
    ) -> Option<Outgoing> {
        let path = self.paths.get_mut(&id)?;
        if heard.yours == 0 || heard.yours == path.session.number() {
            self.changed |= path.heard.is_none();
            path.heard = Some(from);
        }
        let answer = path.session.receive(heard, now);
        let port = path.port();
        self.settle(id, now);
        answer.map(|control| Outgoing { path: id, to: from, port, control })
    }

    /// Whether it is worth asking for verdicts.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Which paths may be used.
    pub fn verdicts(&mut self) -> BTreeMap<DirectPath, Verdict> {
        self.changed = false;
        self.paths.iter().map(|(id, path)| (*id, path.verdict())).collect()
    }

    /// Takes over what became of a session, and when it is its turn again.
    fn settle(&mut self, id: DirectPath, now: Instant) {
        let Some(path) = self.paths.get_mut(&id) else { return };
        let before = (path.hysteresis.is_used(), path.hysteresis.works());
        path.hysteresis.follow(path.session.is_up(), now);
        self.changed |= before != (path.hysteresis.is_used(), path.hysteresis.works());
        let session = path.session.deadline();
        let deadline = path.hysteresis.due().map_or(session, |due| due.min(session));
        self.order.remove(&(std::mem::replace(&mut path.deadline, deadline), id));
        self.order.insert((deadline, id));
    }

    fn random(&mut self) -> u8 {
        self.counted += 1;
        self.random.hash_one(self.counted).to_be_bytes()[0]
    }
}

impl Path {
    /// Where to send the next packet: where the other end was heard, else each candidate in turn.
    fn target(&mut self) -> Option<IpAddr> {
        if self.session.is_up() {
            return self.heard;
        }
        self.turn += 1;
        // What was heard once may have moved.
        let all = || self.heard.into_iter().chain(self.candidates.iter().copied());
        all().nth((self.turn - 1) % all().count().max(1))
    }

    /// The source port: the same for as long as the session lives (RFC 5881 §4).
    fn port(&self) -> u16 {
        let [.., high, low] = self.session.number().to_be_bytes();
        FIRST_SOURCE_PORT | u16::from_be_bytes([high, low])
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            used: self.hysteresis.is_used(),
            works: self.hysteresis.works(),
            heard: self.heard.is_some(),
            failures: self.hysteresis.failures(),
        }
    }
}

/// Between packets of a session that is up, where there are so many.
fn interval(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    INTERVAL.max(Duration::from_secs(1) / MOST_PER_SECOND * sessions)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::RandomState;
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::{INTERVAL, Outgoing, Paths, Verdict, interval};
    use crate::route::DirectPath;

    const STEP: Duration = Duration::from_millis(10);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// One of two nodes: its paths, that to the other node, and its pod address.
    struct Node {
        paths: Paths,
        to: DirectPath,
        own: IpAddr,
    }

    fn nodes(now: Instant) -> [Node; 2] {
        let node = |peer: &str, candidates: [&str; 2], own: &str| {
            let to = DirectPath { ipv4: true, next_hop: address(peer) };
            let mut paths = Paths::new(RandomState::new());
            paths.follow(BTreeMap::from([(to, candidates.map(address).to_vec())]), now);
            Node { paths, to, own: address(own) }
        };
        // The second node has not the address that is tried first.
        [
            node("192.0.2.2", ["10.9.9.0", "10.0.2.0"], "10.0.1.0"),
            node("192.0.2.1", ["10.0.1.0", "10.9.9.1"], "10.0.2.0"),
        ]
    }

    fn run(nodes: &mut [Node; 2], from: Instant, span: Duration, passes: bool) -> Instant {
        let mut now = from;
        while now < from + span {
            for sender in 0..2 {
                while let Some(sent) = nodes[sender].paths.due(now) {
                    deliver(nodes, 1 - sender, sent, now, passes);
                }
            }
            now += STEP;
        }
        now
    }

    fn deliver(nodes: &mut [Node; 2], to: usize, sent: Outgoing, now: Instant, passes: bool) {
        let from = nodes[1 - to].own;
        let receiver = &mut nodes[to];
        assert!(sent.port >= 49152);
        if !passes || sent.to != receiver.own {
            return;
        }
        let control = crate::wire::bfd::Control::parse(&sent.control.emit()).unwrap();
        if let Some(answer) = receiver.paths.receive(receiver.to, from, &control, now) {
            deliver(nodes, 1 - to, answer, now, passes);
        }
    }

    fn verdicts(nodes: &mut [Node; 2]) -> [Verdict; 2] {
        [0, 1].map(|node| {
            let Node { paths, to, .. } = &mut nodes[node];
            paths.verdicts()[to]
        })
    }

    #[test]
    fn the_other_end_is_found_and_its_loss_is_noticed_within_a_second() {
        let now = Instant::now();
        let mut nodes = nodes(now);
        assert_eq!(verdicts(&mut nodes), [Verdict::default(); 2]);
        let now = run(&mut nodes, now, Duration::from_secs(6), true);
        let good = Verdict { used: true, works: true, heard: true, failures: 0 };
        assert_eq!(verdicts(&mut nodes), [good; 2]);
        let now = run(&mut nodes, now, Duration::from_secs(1), false);
        let bad = Verdict { used: false, works: false, heard: true, failures: 1 };
        assert_eq!(verdicts(&mut nodes), [bad; 2]);
        let now = run(&mut nodes, now, Duration::from_secs(4), true);
        assert_eq!(verdicts(&mut nodes), [Verdict { works: true, ..bad }; 2]);
        run(&mut nodes, now, Duration::from_secs(6), true);
        assert_eq!(verdicts(&mut nodes), [Verdict { failures: 1, ..good }; 2]);
    }

    #[test]
    fn who_is_not_wanted_any_more_is_forgotten() {
        let now = Instant::now();
        let mut nodes = nodes(now);
        let now = run(&mut nodes, now, Duration::from_secs(6), true);
        let paths = &mut nodes[0].paths;
        paths.follow(BTreeMap::new(), now);
        assert!(paths.is_empty() && paths.deadline().is_none() && paths.verdicts().is_empty());
    }

    #[test]
    fn many_sessions_share_a_rate() {
        assert_eq!(interval(1), INTERVAL);
        assert_eq!(interval(500), INTERVAL);
        assert_eq!(interval(5000), Duration::from_millis(2500));
        assert!(interval(usize::MAX) > Duration::from_secs(1));
    }
}
