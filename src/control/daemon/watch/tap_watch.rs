//! Who may be reached through the TAP, kept up to date: the interface of the route to each peer says by its
//! features whether the TAP pays there, and a test whether what is written to it arrives there.
//!
//! Each pair of a mode and an interface has a trial of its own, so that a firewall in front of one
//! uplink costs the others nothing. Only what passed is used.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::tap_device::TapDevice;
use super::tap_test::Outcome as TestOutcome;
use crate::control::daemon::backoff::Backoff;
use crate::control::engine::port::PeerWay;
use crate::control::engine::ways::{self, Features, Use};
use crate::control::engine::{Snapshot, TapUse};
use crate::control::host::{FeatureReader, Guarded, Host};
use crate::dataplane::forward::{Choice, Way};
use crate::dataplane::observe::{Counters, Fallback};
use crate::net::Mode;

/// Failed tests in a row until the TAP is given up: one may fall victim to a busy host.
const PATIENCE: u32 = 2;
/// Peers that are resolved at a time for the test of one pair.
const CANDIDATES: usize = 4;
const NOT_TESTED: &str = "not tested yet";

/// A mode, and the index of an interface.
type Pair = (Mode, u32);

/// The TAP with all that decides about its use.
pub(crate) struct TapWatch {
    tap: TapDevice,
    judge: Judge,
    trials: HashMap<Pair, Trial>,
    counters: Counters,
    /// When workers that gave the TAP up are to try it again.
    offers: Backoff,
    /// Whether a test is due that waits only for its turn.
    due: bool,
    /// Looks so far.
    turn: usize,
    /// Peers that can stand for a pair which cannot be tested for want of a neighbour; a few at a time.
    unresolved: Vec<IpAddr>,
    /// Where a device goes that was made and is to be guarded.
    made: mpsc::UnboundedSender<Guarded>,
}

/// Who says where the TAP pays.
enum Judge {
    /// The features of the interface; not connected to the kernel where that could not be done yet.
    Features(Option<FeatureReader>),
    /// `uplink = "tap"`.
    Configuration,
}

/// What is known of a pair.
struct Trial {
    outcome: Outcome,
    /// Failures since the last success.
    failures: u32,
    last: Option<Instant>,
}

#[derive(Debug, Eq, PartialEq)]
enum Outcome {
    Untested,
    Passed,
    Failed(String),
}

impl Default for Trial {
    fn default() -> Self {
        Self { outcome: Outcome::Untested, failures: 0, last: None }
    }
}

impl Trial {
    /// Whether to test now. What did not pass is tested at once; what passed, when `all` are to be, or
    /// after a failure.
    fn due(&self, all: bool) -> bool {
        all || self.failures > 0 || self.outcome != Outcome::Passed
    }

    fn conclude(&mut self, result: Result<(), String>) {
        self.last = Some(Instant::now());
        match result {
            Ok(()) => (self.outcome, self.failures) = (Outcome::Passed, 0),
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= PATIENCE || self.outcome != Outcome::Passed {
                    self.outcome = Outcome::Failed(reason);
                }
            }
        }
    }

    /// What `choice` for the TAP comes to.
    fn temper(&self, choice: &mut Choice) {
        match &self.outcome {
            Outcome::Passed => {}
            Outcome::Failed(reason) => *choice = Choice::socket(reason.as_str()),
            Outcome::Untested => *choice = Choice::socket(NOT_TESTED),
        }
    }
}

impl TapWatch {
    /// Watches over `tap`; it is used whatever the features where `forced`. What is made again goes to `made`.
    pub(crate) fn new(
        tap: TapDevice,
        forced: bool,
        counters: Counters,
        made: mpsc::UnboundedSender<Guarded>,
    ) -> Self {
        let judge = if forced { Judge::Configuration } else { Judge::Features(None) };
        let (due, unresolved) = (false, Vec::new());
        Self {
            tap,
            judge,
            trials: HashMap::new(),
            counters,
            offers: Backoff::default(),
            due,
            turn: 0,
            unresolved,
            made,
        }
    }

    /// Whether there is something to do although nothing was told.
    pub(crate) fn is_waiting(&self) -> bool {
        self.due || self.tap.is_waiting(Instant::now()) || self.is_refused()
    }

    /// Peers whose neighbours are wanted for a test, a few of them.
    pub(crate) fn take_unresolved(&mut self) -> impl Iterator<Item = IpAddr> + use<> {
        std::mem::take(&mut self.unresolved).into_iter()
    }

    /// Whether workers gave the TAP up and are to try it again.
    fn is_refused(&self) -> bool {
        self.counters.has_given_up(Fallback::Tap) && self.offers.is_due(Instant::now())
    }

    /// Looks at the interfaces of `ways` and says what follows. Tests what is due, and with `all`
    /// everything; only a peer in `resolved` can be asked.
    pub(crate) async fn look(
        &mut self,
        snapshot: &Snapshot,
        host: &Host,
        ways: &[(IpAddr, PeerWay)],
        resolved: &HashSet<IpAddr>,
        all: bool,
    ) -> TapUse {
        if let Some(guarded) = self.tap.ensure(host).await {
            self.trials.clear();
            let _ = self.made.send(guarded);
        }
        // What the workers were refused does not work, whatever was found before.
        let refused = self.is_refused();
        let hops: HashMap<IpAddr, u32> = ways.iter().map(|(peer, way)| (*peer, way.hop.index)).collect();
        let uses = self.uses(snapshot);
        let mut ways = self.ways(host, hops.values().copied()).await;
        let wanted = wanted(&ways, &hops, &uses, resolved);
        self.trials.retain(|pair, _| wanted.contains_key(pair));
        self.unresolved = candidates(&wanted, &hops, &uses, self.turn);
        self.turn = self.turn.wrapping_add(1);
        self.test(snapshot, &wanted, all || refused).await;
        if refused {
            self.offer();
        }
        for (index, way) in &mut ways {
            for mode in [Mode::Vxlan, Mode::Ipip] {
                let untested = Trial::default();
                let trial = self.trials.get(&(mode, *index)).unwrap_or(&untested);
                if let Some(choice) = way.choice_mut(mode).filter(|choice| choice.tap) {
                    match self.tap.own_index() {
                        Some(_) => trial.temper(choice),
                        None => *choice = Choice::socket(self.tap.reason()),
                    }
                }
            }
        }
        self.conclude(snapshot, ways, &hops, &uses)
    }

    /// The peers over IPv4 that are reached by each mode that the TAP has.
    fn uses(&self, snapshot: &Snapshot) -> Vec<(Mode, Ipv4Addr)> {
        let modes = [Mode::Vxlan, Mode::Ipip].into_iter();
        let modes = modes.filter(|mode| *mode != Mode::Ipip || self.tap.carries_ipip());
        let peers = modes.flat_map(|mode| snapshot.peers_by(mode).iter().map(move |peer| (mode, *peer)));
        peers
            .filter_map(|(mode, peer)| if let IpAddr::V4(peer) = peer { Some((mode, peer)) } else { None })
            .collect()
    }

    /// The way by each interface, untested.
    async fn ways(&mut self, host: &Host, interfaces: impl Iterator<Item = u32>) -> BTreeMap<u32, Way> {
        let mut ways = BTreeMap::new();
        for index in interfaces {
            if ways.contains_key(&index) {
                continue;
            }
            // One that is gone leads nowhere.
            let Some(name) = host.link_by_index(index).await.map(|link| link.name) else { continue };
            let mut way = match &mut self.judge {
                Judge::Configuration => ways::forced(&name),
                Judge::Features(reader) => ways::by_features(&name, &read(reader, &name, index).await),
            };
            if !self.tap.carries_ipip() {
                way.ipip = Choice::socket("eBPF is not available for ipip");
            }
            ways.insert(index, way);
        }
        ways
    }

    /// Runs the tests that are due, those that waited longest first. A failure takes half a second, so it
    /// ends the round.
    async fn test(&mut self, snapshot: &Snapshot, wanted: &BTreeMap<Pair, Option<Ipv4Addr>>, all: bool) {
        let mut due: Vec<(Pair, Ipv4Addr)> = Vec::new();
        for (pair, peer) in wanted {
            let trial = self.trials.entry(*pair).or_default();
            due.extend(peer.filter(|_| trial.due(all)).map(|peer| (*pair, peer)));
        }
        due.sort_by_key(|(pair, _)| self.trials.get(pair).and_then(|trial| trial.last));
        self.due = false;
        for ((mode, index), peer) in due {
            let port = snapshot.port_of(peer.into()).unwrap_or_default();
            let Some(test) = self.tap.test() else { return };
            let result = match test.run(mode, index, (peer, port)).await {
                TestOutcome::Passed => Ok(()),
                TestOutcome::Failed(reason) => Err(reason),
                // That says nothing about the way; the next look tries again.
                TestOutcome::Short(error) => {
                    tracing::debug!("the TAP was not tested: {error}");
                    self.due = true;
                    return;
                }
            };
            let failed = result.is_err();
            if let Some(trial) = self.trials.get_mut(&(mode, index)) {
                trial.conclude(result);
            }
            if failed {
                // It is tried again, and so are those behind it.
                self.due = true;
                break;
            }
        }
    }

    /// Offers the TAP again to the workers that gave it up, if probes leave through it.
    fn offer(&mut self) {
        if self.trials.values().any(|trial| trial.outcome == Outcome::Passed && trial.failures == 0) {
            self.counters.offer(Fallback::Tap);
            self.offers.tried(Instant::now());
        }
    }

    fn conclude(
        &mut self,
        snapshot: &Snapshot,
        ways: BTreeMap<u32, Way>,
        hops: &HashMap<IpAddr, u32>,
        uses: &[(Mode, Ipv4Addr)],
    ) -> TapUse {
        let ways: BTreeMap<u32, Arc<Way>> =
            ways.into_iter().map(|(index, way)| (index, Arc::new(way))).collect();
        let of = |peer: &IpAddr| ways.get(hops.get(peer)?);
        let nowhere = Choice::socket("there is no route");
        let used = uses.iter().filter_map(|(mode, peer)| {
            let peer = IpAddr::V4(*peer);
            let choice = of(&peer).map_or(Some(&nowhere), |way| way.choice(*mode))?;
            Some((*mode, peer, choice))
        });
        let used: Vec<Use<'_>> = used.collect();
        let link = self.tap.test().map(|test| test.link());
        let link = link.filter(|_| used.iter().any(|(_, _, choice)| choice.tap));
        let said = (!used.is_empty()).then(|| ways::summary(used.iter().copied(), &self.beside(snapshot)));
        let ways = hops.keys().filter_map(|peer| Some((*peer, Arc::clone(of(peer)?)))).collect();
        TapUse { device: self.tap.own_index(), link, ways, said }
    }

    /// What is to be said beside `active`.
    fn beside(&self, snapshot: &Snapshot) -> String {
        let ipip = if self.tap.carries_ipip() { "" } else { " for vxlan; eBPF is not available for ipip" };
        let ipv6 = if snapshot.known().any(|peer| peer.address.is_ipv6()) {
            "; sockets towards peers over IPv6"
        } else {
            ""
        };
        format!("{ipip}{ipv6}")
    }
}

/// Reads features, by a connection that is made where there is none: for want of descriptors or memory there may
/// have been none so far.
async fn read(reader: &mut Option<FeatureReader>, name: &str, index: u32) -> Result<Features, String> {
    if reader.is_none() {
        *reader = Some(FeatureReader::connect().map_err(|error| error.to_string())?);
    }
    match reader {
        Some(reader) => reader.read(name, index).await,
        None => Err("no answer".to_owned()),
    }
}

/// The pairs for which the TAP pays and that are in use, each with a peer to test it with.
fn wanted(
    ways: &BTreeMap<u32, Way>,
    hops: &HashMap<IpAddr, u32>,
    uses: &[(Mode, Ipv4Addr)],
    resolved: &HashSet<IpAddr>,
) -> BTreeMap<Pair, Option<Ipv4Addr>> {
    let mut wanted = BTreeMap::new();
    for (mode, peer) in uses {
        let address = IpAddr::V4(*peer);
        let Some(index) = hops.get(&address) else { continue };
        let way = ways.get(index).and_then(|way| way.choice(*mode));
        if way.is_some_and(|choice| choice.tap) {
            let with = wanted.entry((*mode, *index)).or_insert(None);
            *with = with.or(Some(*peer).filter(|_| resolved.contains(&address)));
        }
    }
    wanted
}

/// Peers to resolve so that pairs can be tested that have none: others at each turn, as some may be down.
fn candidates(
    wanted: &BTreeMap<Pair, Option<Ipv4Addr>>,
    hops: &HashMap<IpAddr, u32>,
    uses: &[(Mode, Ipv4Addr)],
    turn: usize,
) -> Vec<IpAddr> {
    let of = |(mode, index): Pair| {
        let behind = move |(used, peer): &&(Mode, Ipv4Addr)| {
            *used == mode && hops.get(&IpAddr::V4(*peer)) == Some(&index)
        };
        let all: Vec<IpAddr> = uses.iter().filter(behind).map(|(_, peer)| IpAddr::V4(*peer)).collect();
        let begin = (turn * CANDIDATES) % all.len().max(1);
        all.into_iter().cycle().skip(begin).take(CANDIDATES)
    };
    wanted.iter().filter(|(_, with)| with.is_none()).flat_map(|(pair, _)| of(*pair)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Outcome, Trial, wanted};
    use crate::control::engine::ways::forced;
    use crate::dataplane::forward::Choice;
    use crate::net::Mode;

    #[test]
    fn one_failure_is_forgiven_only_where_it_worked_before() {
        let mut trial = Trial::default();
        assert!(trial.due(false));
        trial.conclude(Err("no".to_owned()));
        assert_eq!(trial.outcome, Outcome::Failed("no".to_owned()));
        trial.conclude(Ok(()));
        assert!(!trial.due(false) && trial.due(true));
        trial.conclude(Err("busy".to_owned()));
        assert_eq!(trial.outcome, Outcome::Passed);
        assert!(trial.due(false));
        let mut choice = Choice::tap("fast");
        trial.temper(&mut choice);
        assert!(choice.tap);
        trial.conclude(Err("gone".to_owned()));
        trial.temper(&mut choice);
        assert_eq!(choice, Choice::socket("gone"));
    }

    #[test]
    fn pairs_in_use_are_tested_with_a_peer_that_can_answer() {
        let address = |last: u8| Ipv4Addr::new(192, 0, 2, last);
        let mut slow = forced("u1");
        slow.vxlan = Choice::socket("slow");
        let ways = BTreeMap::from([(1, forced("u0")), (2, slow)]);
        let hops: HashMap<IpAddr, u32> =
            [(2, 1), (3, 1), (4, 2)].map(|(last, index)| (address(last).into(), index)).into();
        let uses = [(2, Mode::Vxlan), (3, Mode::Vxlan), (4, Mode::Vxlan), (4, Mode::Ipip), (5, Mode::Vxlan)]
            .map(|(last, mode)| (mode, address(last)));
        let resolved = HashSet::from([IpAddr::V4(address(3))]);
        let expected = BTreeMap::from([((Mode::Vxlan, 1), Some(address(3))), ((Mode::Ipip, 2), None)]);
        assert_eq!(wanted(&ways, &hops, &uses, &resolved), expected);
    }
}
