//! The MTU of the path to each peer, as routers report it: which reports are believed, and for how long.
//!
//! ```text
//! report ──▶ trial: probe as large as now ──▶ the peer answers: the report was wrong
//!                                         ├─▶ a router quotes the probe: believed, and asked again later
//!                                         └─▶ silence: believed at the third time, but not for long
//! ```
//!
//! Reports can be forged, and what they quote guessed. So one only causes a trial, and that only where a route to
//! that peer uses the mode of the packet that it quotes, and such large packets were sent of late. What is
//! believed can only lower the MTU, never below a floor, and is tried again after a while, as the path may have
//! changed (RFC 1191 §6.3).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::event::{Effect, PathMtu, Probed};
use super::state::State;

/// From a belief to the next trial, at first and at most: it doubles each time nothing has changed.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// How long no report causes a trial after one that was wrong.
const REST: Duration = Duration::from_secs(5);
/// How long a trial takes without an answer, and when its second probe is sent.
const TRIAL: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(400);
/// Reports in a row whose trial nobody answers, until one is believed: some networks drop every echo request.
const SILENT: u32 = 3;
/// From one to the next, at most.
const IN_A_ROW: Duration = Duration::from_secs(60);
/// How long the kernel may believe what it was told (`net.ipv4.route.mtu_expires`).
const RUMOUR: Duration = Duration::from_secs(600);
/// The smallest path MTU that is believed: 576 bytes (RFC 791) inside the largest overhead, so that
/// Linux pods, which go no lower than 552 and then clear DF, always fit.
const LEAST: u16 = 576 + 70;

/// What is going on about the paths to some peers, by address.
#[derive(Debug, Default)]
pub(super) struct PathMtus {
    paths: HashMap<IpAddr, Path>,
}

/// What is going on about one path.
#[derive(Debug, Default)]
struct Path {
    trial: Option<Trial>,
    /// Trials of reports in a row that nobody answered, and until when that counts.
    silent: Option<(u32, Instant)>,
    /// Until when reports are passed over.
    rest: Option<Instant>,
    /// When what is believed is tried again, and the pause before that.
    retry: Option<(Instant, Duration)>,
    /// Whether a router confirmed what is believed.
    confirmed: bool,
    /// Until when the kernel may believe a report.
    rumour: Option<Instant>,
}

/// A question that was asked of a path.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// What a report claims; `None` where what is believed is tried again.
    claim: Option<u16>,
    /// Bytes of the probes.
    size: u16,
    begun: Instant,
    probes: u8,
}

impl Trial {
    fn deadline(&self) -> Instant {
        self.begun + if self.probes < 2 { AGAIN } else { TRIAL }
    }
}

impl PathMtus {
    /// Follows a report: it may cause a trial.
    pub(super) fn learn(&mut self, state: &mut State, report: PathMtu, now: Instant) -> Option<Effect> {
        let place = place(state, report.peer)?;
        let peer = &state.peers[place];
        let size = peer.path_mtu.unwrap_or(state.underlay.link_mtu(peer));
        let its_port = report.port.is_none_or(|port| port == peer.port);
        let used = its_port && state.peers_by(report.mode).contains(&report.peer);
        let path = self.paths.entry(report.peer).or_default();
        if report.port.is_some() {
            // It names a socket of ours, so the kernel has believed it.
            path.rumour = Some(now + RUMOUR);
            set_rumoured(state, place, true);
        }
        let sent = report.quoted <= report.sent;
        let lower = report.mtu.max(LEAST) < size;
        let ready = path.trial.is_none() && path.rest.is_none_or(|rest| rest <= now);
        if !(used && sent && lower && ready) {
            return None;
        }
        path.trial = Some(Trial { claim: Some(report.mtu), size, begun: now, probes: 1 });
        Some(Effect::ProbePath { peer: report.peer, size })
    }

    /// Follows the answer to a probe.
    pub(super) fn probed(&mut self, state: &mut State, address: IpAddr, answer: Probed, now: Instant) {
        let (Some(path), Some(place)) = (self.paths.get_mut(&address), place(state, address)) else { return };
        let Some(trial) = path.trial else { return };
        match answer {
            Probed::TooBig(mtu) if mtu < trial.size => {
                (path.trial, path.silent, path.confirmed) = (None, None, true);
                believe(state, place, mtu, "says a router");
                path.try_later(now);
            }
            Probed::Passed(size) if size == trial.size => {
                (path.trial, path.silent, path.retry) = (None, None, None);
                match trial.claim {
                    Some(claim) => {
                        path.rest = Some(now + REST);
                        tracing::info!("path to {address}: {size} bytes pass, a report of {claim} was wrong");
                    }
                    None => forget(state, place),
                }
            }
            _ => {}
        }
    }

    /// Follows the time: trials that nobody answers, and beliefs that are to be tried again.
    pub(super) fn expire(&mut self, state: &mut State, now: Instant) -> Vec<Effect> {
        let mut probes = Vec::new();
        self.paths.retain(|address, path| {
            let Some(place) = place(state, *address) else { return false };
            if path.rumour.is_some_and(|until| until <= now) {
                path.rumour = None;
                set_rumoured(state, place, false);
            }
            path.rest = path.rest.filter(|rest| *rest > now);
            path.silent = path.silent.filter(|(_, until)| *until > now);
            let size = path.follow_trial(state, place, now).or_else(|| path.try_again(state, place, now));
            probes.extend(size.map(|size| Effect::ProbePath { peer: *address, size }));
            path.deadline().is_some()
        });
        probes
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paths.values().filter_map(Path::deadline).min()
    }
}

impl Path {
    fn deadline(&self) -> Option<Instant> {
        // While a trial goes on, its end decides.
        let retry = self.retry.map(|(at, _)| at).filter(|_| self.trial.is_none());
        let trial = self.trial.map(|trial| trial.deadline());
        let silent = self.silent.map(|(_, until)| until);
        [self.rumour, self.rest, silent, retry, trial].into_iter().flatten().min()
    }

    /// Tries what is believed again after a pause, which is longer each time.
    fn try_later(&mut self, now: Instant) {
        let pause = self.retry.map_or(RETRY.0, |(_, pause)| (pause * 2).min(RETRY.1));
        self.retry = Some((now + pause, pause));
    }

    /// What to do about a trial at its deadline: returns the size of a probe to send.
    fn follow_trial(&mut self, state: &mut State, place: usize, now: Instant) -> Option<u16> {
        let trial = self.trial.as_mut().filter(|trial| trial.deadline() <= now)?;
        if trial.probes < 2 {
            trial.probes += 1;
            return Some(trial.size);
        }
        let claim = trial.claim;
        self.trial = None;
        match claim {
            Some(claim) => {
                let times = self.silent.map_or(0, |(times, _)| times) + 1;
                self.silent = Some((times, now + IN_A_ROW)).filter(|_| times < SILENT);
                if self.silent.is_none() {
                    self.confirmed = false;
                    believe(state, place, claim, "say reports, and probes are not answered");
                    self.try_later(now);
                }
            }
            // What a router has said once may still be so; the longest pause is as long as the RFC has it hold.
            None if self.confirmed && self.retry.is_some_and(|(_, pause)| pause < RETRY.1) => {
                self.try_later(now);
            }
            None => {
                forget(state, place);
                self.retry = self.retry.map(|(_, pause)| (now + RETRY.1, pause));
            }
        }
        None
    }

    /// Begins the trial of a belief that is due: returns the size of the probe.
    fn try_again(&mut self, state: &State, place: usize, now: Instant) -> Option<u16> {
        let (at, _) = self.retry?;
        if at > now || self.trial.is_some() {
            return None;
        }
        let peer = &state.peers[place];
        if peer.path_mtu.is_none() {
            // Forgotten with the link it was about, or a while ago.
            self.retry = None;
            return None;
        }
        let size = state.underlay.link_mtu(peer);
        self.trial = Some(Trial { claim: None, size, begun: now, probes: 1 });
        Some(size)
    }
}

/// The place of the peer that has outer packets sent to `address`.
fn place(state: &State, address: IpAddr) -> Option<usize> {
    let place = usize::from(state.roster.at(address).flatten()?.0);
    state.peers.get(place).is_some_and(|peer| peer.address == address).then_some(place)
}

/// Takes `mtu` as that of a path.
fn believe(state: &mut State, place: usize, mtu: u16, who: &str) {
    let known = mtu.max(LEAST);
    if state.peers[place].path_mtu != Some(known) {
        let address = state.peers[place].address;
        tracing::info!("path to {address}: outer packets of {mtu} bytes at most, {who}");
        state.peer_mut(place).path_mtu = Some(known);
        state.publish_now();
    }
}

/// Uses the MTU of the first link again.
fn forget(state: &mut State, place: usize) {
    if state.peers[place].path_mtu.is_some() {
        let address = state.peers[place].address;
        tracing::info!("path to {address}: using the MTU of the first link again");
        state.peer_mut(place).path_mtu = None;
        state.publish_now();
    }
}

fn set_rumoured(state: &mut State, place: usize, rumoured: bool) {
    if state.peers[place].rumoured != rumoured {
        state.peer_mut(place).rumoured = rumoured;
        state.publish_now();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::{PathMtus, RETRY, RUMOUR};
    use crate::control::engine::event::{Effect, PathMtu, Probed};
    use crate::control::engine::state::{Setup, State};
    use crate::net::Mode;

    const CONFIG: &str = r#"
        [node]
        name = "a"
        address = "192.0.2.1/24"
        address6 = "2001:db8::1/64"
        [local]
        subnets = ["10.1.0.0/24"]
        [[pool]]
        cidr = "10.0.0.0/8"
        ipip_mode = "Always"
        [[peer]]
        name = "b"
        address = "198.51.100.3"
        subnets = ["10.2.0.0/24"]
        [[peer]]
        name = "c"
        address = "2001:db8:3::3"
        subnets = ["10.3.0.0/24"]
    "#;
    const B: &str = "198.51.100.3";

    /// The paths of a node, and its time.
    struct Node {
        state: State,
        paths: PathMtus,
        now: Instant,
    }

    impl Node {
        fn new(config: &str) -> Self {
            let config = crate::config::parse(config, "f").unwrap();
            let mut state = State::new(config, Setup::sample()).unwrap();
            state.publish().unwrap();
            Self { state, paths: PathMtus::default(), now: Instant::now() }
        }

        /// Hands over a report about a packet as large as the largest; returns the size of the probe.
        fn report(&mut self, peer: &str, mode: Mode, port: Option<u16>, mtu: u16) -> Option<u16> {
            let (quoted, sent) = (1500, 1500);
            let report = PathMtu { peer: peer.parse().unwrap(), mode, port, mtu, quoted, sent };
            self.hear(report)
        }

        fn hear(&mut self, report: PathMtu) -> Option<u16> {
            self.paths.learn(&mut self.state, report, self.now).map(|effect| size(&effect))
        }

        fn answer(&mut self, answer: Probed) {
            self.paths.probed(&mut self.state, B.parse().unwrap(), answer, self.now);
        }

        /// Lets time pass, from deadline to deadline; returns the sizes of the probes.
        fn pass(&mut self, time: Duration) -> Vec<u16> {
            let end = self.now + time;
            let mut probes = Vec::new();
            while let Some(due) = self.paths.deadline().filter(|due| *due <= end) {
                self.now = due;
                let effects = self.paths.expire(&mut self.state, due);
                probes.extend(effects.iter().map(size));
            }
            self.now = end;
            probes
        }

        /// Bytes of the largest outer packet to `peer`.
        fn known(&self, peer: &str) -> u16 {
            let address: IpAddr = peer.parse().unwrap();
            let peer = self.state.peers.iter().find(|peer| peer.address == address).unwrap();
            peer.path_mtu.unwrap_or(self.state.underlay.link_mtu(peer))
        }
    }

    fn size(effect: &Effect) -> u16 {
        match effect {
            Effect::ProbePath { size, .. } => *size,
            _ => panic!("{effect:?}"),
        }
    }

    #[test]
    fn a_report_is_believed_when_a_router_confirms_it() {
        let mut node = Node::new(CONFIG);
        // No route to the peer uses VXLAN, and this is no peer.
        assert_eq!(node.report(B, Mode::Vxlan, Some(4789), 1300), None);
        assert_eq!(node.report("198.51.100.9", Mode::Ipip, None, 1300), None);
        assert_eq!(node.report(B, Mode::Ipip, None, 1500), None);
        assert_eq!(node.report(B, Mode::Ipip, None, 600), Some(1500));
        assert_eq!((node.known(B), node.report(B, Mode::Ipip, None, 1200)), (1500, None));
        // What the router says of the probe counts, not what caused it.
        node.answer(Probed::TooBig(1300));
        assert_eq!(node.known(B), 1300);
        // A link behind the first.
        assert_eq!(node.report(B, Mode::Ipip, None, 100), Some(1300));
        node.answer(Probed::TooBig(68));
        assert_eq!(node.known(B), 646);
        // Another link, another start.
        node.state.set_uplink_mtu(1400);
        assert_eq!((node.known(B), node.state.wanted_mtu()), (1400, 1360));
        assert_eq!(node.known("2001:db8:3::3"), 1400);
    }

    #[test]
    fn a_report_is_wrong_when_the_peer_answers_to_large_probes() {
        let mut node = Node::new(CONFIG);
        assert_eq!(node.report(B, Mode::Ipip, None, 600), Some(1500));
        node.answer(Probed::Passed(1499));
        node.answer(Probed::Passed(1500));
        node.answer(Probed::TooBig(600));
        assert_eq!((node.known(B), node.report(B, Mode::Ipip, None, 600)), (1500, None));
        node.pass(Duration::from_secs(6));
        assert_eq!((node.known(B), node.paths.paths.len()), (1500, 0));
        assert_eq!(node.report(B, Mode::Ipip, None, 600), Some(1500));
    }

    #[test]
    fn such_packets_must_have_been_sent_of_late() {
        let mut node = Node::new(CONFIG);
        let (peer, mode, port) = (B.parse().unwrap(), Mode::Ipip, None);
        let report = |quoted, sent| PathMtu { peer, mode, port, mtu: 600, quoted, sent };
        for (quoted, sent) in [(1500, 0), (1500, 1499), (601, 600)] {
            assert_eq!(node.hear(report(quoted, sent)), None, "{quoted} {sent}");
        }
        assert_eq!(node.hear(report(1400, 1500)), Some(1500));
    }

    #[test]
    fn without_answers_the_third_report_is_believed_for_a_short_time() {
        let mut node = Node::new(CONFIG);
        for known in [1500, 1500, 700] {
            assert_eq!(node.report(B, Mode::Ipip, None, 700), Some(1500));
            assert_eq!(node.pass(Duration::from_secs(2)), [1500]);
            assert_eq!(node.known(B), known);
        }
        // Two probes, and the link's MTU again.
        assert_eq!(node.pass(RETRY.0 + Duration::from_secs(2)), [1500, 1500]);
        assert_eq!(node.known(B), 1500);
        // Once more it holds twice as long.
        for _ in 0..3 {
            assert_eq!(node.report(B, Mode::Ipip, None, 700), Some(1500));
            node.pass(Duration::from_secs(1));
        }
        assert_eq!((node.pass(RETRY.0), node.known(B)), (vec![], 700));
        assert_eq!((node.pass(RETRY.0 + Duration::from_secs(2)).len(), node.known(B)), (2, 1500));
    }

    #[test]
    fn what_a_router_confirmed_is_tried_again_ever_more_seldom() {
        let mut node = Node::new(CONFIG);
        node.report(B, Mode::Ipip, None, 1300);
        node.answer(Probed::TooBig(1300));
        let mut pause = RETRY.0;
        for _ in 0..3 {
            assert_eq!(node.pass(pause), [1500], "{pause:?}");
            node.answer(Probed::TooBig(1300));
            assert_eq!(node.known(B), 1300);
            pause *= 2;
        }
        // Larger by now, but not as large as the link.
        assert_eq!(node.pass(pause), [1500]);
        node.answer(Probed::TooBig(1450));
        assert_eq!(node.known(B), 1450);
        // One that is lost changes nothing.
        pause = (pause * 2).min(RETRY.1);
        assert_eq!(node.pass(pause + Duration::from_secs(2)), [1500, 1500]);
        assert_eq!(node.known(B), 1450);
        assert_eq!(node.pass(RETRY.1 - Duration::from_secs(1)), [1500]);
        node.answer(Probed::Passed(1500));
        assert_eq!((node.known(B), node.paths.deadline()), (1500, None));
    }

    #[test]
    fn what_the_kernel_may_have_believed_is_remembered() {
        let config = CONFIG
            .replace("ipip_mode", "vxlan_mode")
            .replace("address = \"198", "port = 8472\naddress = \"198");
        let mut node = Node::new(&config);
        let rumoured = |node: &Node| node.state.peers.iter().map(|peer| peer.rumoured).collect::<Vec<_>>();
        // A report must quote the peer's own port, but the kernel does not look at that.
        assert_eq!(node.report(B, Mode::Vxlan, Some(4789), 600), None);
        assert_eq!(rumoured(&node), [true, false]);
        assert_eq!(node.report(B, Mode::Vxlan, Some(8472), 600), Some(1500));
        node.answer(Probed::Passed(1500));
        assert_eq!((node.known(B), rumoured(&node)), (1500, vec![true, false]));
        node.pass(RUMOUR);
        assert_eq!((rumoured(&node), node.paths.deadline()), (vec![false, false], None));
    }
}
