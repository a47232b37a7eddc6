//! The judge on packets as bytes.

use std::net::IpAddr;

use super::testing::{ANY, LOCAL, REMOTE, WEB, policy, web};
use super::{Action, ActivePolicy, Denied, Ends, Filter, Fragments, Judge, Origin, Query, Rule, State};
use crate::dataplane::observe::Worker;
use crate::dataplane::packet::Direction;
use crate::dataplane::segment::Flow;
use crate::net::DropReason;
use crate::wire::{ipv4, protocol, tcp};

struct Node {
    judge: Judge,
    policy: ActivePolicy,
    worker: Worker,
}

impl Node {
    fn new(policy: ActivePolicy) -> Self {
        Self { judge: Judge::default(), policy, worker: Worker::default() }
    }

    fn judge(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.judged(packet).map_err(|denied| denied.reason)
    }

    /// A packet of [`LOCAL`] leaves, any other comes in.
    fn judged(&mut self, packet: &[u8]) -> Result<(), Denied> {
        let flow = Flow::of(packet).unwrap();
        let leaves =
            flow.source == IpAddr::from(LOCAL) || flow.source == "fd00::2".parse::<IpAddr>().unwrap();
        let direction = if leaves { Direction::Outbound } else { Direction::Inbound };
        let ends =
            Ends { egress: leaves, ingress: !leaves, source_is_pod: leaves, destination_is_pod: !leaves };
        self.judge.begin(Some(&self.policy), &self.worker);
        self.judge.judge(&self.policy, (direction, ends), &flow, packet, (1, &self.worker))
    }

    /// The connections, as somebody who asks gets them.
    fn ask(&mut self, filter: Filter, flush: bool) -> Vec<super::Connection> {
        let (reply, answers) = crossbeam::channel::bounded(1);
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let room = Vec::with_capacity(super::PAGE);
            self.judge.answer_query(Query { from: at, filter, flush, room, reply: reply.clone() });
            let answer = answers.recv().unwrap();
            all.extend(answer.connections);
            from = answer.next;
        }
        all
    }

    fn counted(&self) -> (u64, u64) {
        self.policy.rules.policies()[0].counters.totals()
    }
}

fn packet(number: u8, (from, to): ([u8; 4], [u8; 4]), (id, flags): (u16, u16), body: &[u8]) -> Vec<u8> {
    let repr = ipv4::Repr {
        tos: 0,
        total_len: 20 + body.len() as u16,
        id,
        flags,
        ttl: 60,
        protocol: number,
        source: from.into(),
        destination: to.into(),
    };
    [&repr.emit()[..], body].concat()
}

fn ports(from: u16, to: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d]
}

fn tcp_packet(ends: ([u8; 4], [u8; 4]), from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut body = [&ports(from, to)[..], &[0; 16]].concat();
    (body[12], body[13]) = (0x50, flags);
    packet(protocol::TCP, ends, (1, ipv4::DF), &body)
}

fn udp_body(from: u16, to: u16) -> Vec<u8> {
    [&ports(from, to)[..], &[0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

fn udp(ends: ([u8; 4], [u8; 4]), from: u16, to: u16) -> Vec<u8> {
    packet(protocol::UDP, ends, (1, 0), &udp_body(from, to))
}

fn icmp(ends: ([u8; 4], [u8; 4]), kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    packet(protocol::ICMP, ends, (1, 0), &[&[kind, code, 0, 0][..], rest].concat())
}

const IN: ([u8; 4], [u8; 4]) = (REMOTE, LOCAL);
const OUT: ([u8; 4], [u8; 4]) = (LOCAL, REMOTE);
const DENIED_IN: Result<(), DropReason> = Err(DropReason::PolicyIngress);
const DENIED_OUT: Result<(), DropReason> = Err(DropReason::PolicyEgress);

#[test]
fn answers_pass_whatever_rules_say_of_their_direction() {
    let mut node = Node::new(policy(Some(vec![web(Action::Allow, protocol::TCP)]), Some(Vec::new()), 1));
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::SYN | tcp::ACK)), DENIED_OUT, "nobody asked");
    assert_eq!(node.judge(&tcp_packet(IN, 5000, 81, tcp::SYN)), DENIED_IN, "another port");
    assert_eq!(node.judge(&tcp_packet(IN, 5000, WEB, tcp::SYN)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::SYN | tcp::ACK)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(IN, 5000, WEB, tcp::ACK)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::ACK)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5001, tcp::ACK)), DENIED_OUT, "not that connection");
    assert_eq!(node.judge(&tcp_packet(OUT, 5000, WEB, tcp::SYN)), DENIED_OUT, "the other way round");
    assert_eq!(node.counted(), (1, 4));
    let shown = node.ask(Filter::default(), false);
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].state, shown[0].tuple.ports), (State::Established, Some((5000, WEB))));
    assert_eq!(shown[0].tuple.source, IpAddr::from(REMOTE));
}

#[test]
fn an_endpoint_without_rules_may_do_everything_and_is_remembered() {
    // What leaves is not judged, so answers pass when there are rules for what comes in.
    let mut node = Node::new(policy(None, None, 1));
    assert_eq!(node.judge(&udp(OUT, 5000, 53)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(OUT, 5000, 443, tcp::SYN)), Ok(()));
    let isolated = policy(Some(Vec::new()), None, 2);
    node.policy = isolated;
    assert_eq!(node.judge(&udp(IN, 53, 5000)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(IN, 443, 5000, tcp::SYN | tcp::ACK)), Ok(()));
    assert_eq!(node.judge(&udp(IN, 54, 5000)), DENIED_IN);
}

#[test]
fn other_rules_judge_connections_again() {
    let allow = || Some(vec![web(Action::Allow, protocol::TCP)]);
    let mut node = Node::new(policy(allow(), None, 1));
    assert_eq!(node.judge(&tcp_packet(IN, 5000, WEB, tcp::SYN)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::SYN | tcp::ACK)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(IN, 5000, WEB, tcp::ACK)), Ok(()));
    node.policy = policy(allow(), None, 2);
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::ACK)), Ok(()), "judged as it began, and allowed");
    node.policy = policy(Some(Vec::new()), None, 3);
    assert_eq!(
        node.judge(&tcp_packet(OUT, WEB, 5000, tcp::ACK)),
        DENIED_IN,
        "an answer in what is denied now"
    );
    assert_eq!(node.judge(&tcp_packet(IN, 5000, WEB, tcp::ACK)), DENIED_IN);
    assert_eq!(node.ask(Filter::default(), false)[0].state, State::Denied);
    node.policy.settings.pick_up = 600;
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::ACK)), DENIED_IN, "nor the other way round");
    node.policy = policy(allow(), None, 4);
    assert_eq!(node.judge(&tcp_packet(OUT, WEB, 5000, tcp::ACK)), Ok(()), "it may go on");
    assert_eq!(node.ask(Filter::default(), false)[0].state, State::Established);
}

#[test]
fn a_connection_older_than_the_daemon_goes_on() {
    let mut node = Node::new(policy(Some(Vec::new()), None, 1));
    assert_eq!(node.judge(&tcp_packet(IN, 443, 5000, tcp::ACK)), DENIED_IN, "spoofed, for all that is known");
    assert_eq!(node.judge(&tcp_packet(OUT, 5000, 443, tcp::ACK)), Ok(()));
    assert_eq!(node.judge(&tcp_packet(IN, 443, 5000, tcp::ACK)), Ok(()));
    node.policy.settings.pick_up = 600;
    assert_eq!(node.judge(&tcp_packet(IN, 443, 5001, tcp::ACK)), Ok(()), "it may have been there before");
    assert_eq!(node.judge(&tcp_packet(IN, 443, 5002, tcp::SYN)), DENIED_IN);
    let mut both = Node::new(policy(Some(Vec::new()), Some(Vec::new()), 1));
    both.policy.settings.pick_up = 600;
    assert_eq!(both.judge(&tcp_packet(IN, 443, 5001, tcp::ACK)), DENIED_IN, "neither end may begin it");
}

#[test]
fn segments_of_connections_that_there_are_not_fill_no_table() {
    let mut node = Node::new(policy(Some(vec![web(Action::Allow, protocol::TCP)]), None, 1));
    (node.policy.settings.connections, node.policy.settings.pick_up) = (32, 600);
    for (ends, flags) in [(IN, tcp::SYN), (OUT, tcp::SYN | tcp::ACK), (IN, tcp::ACK)] {
        let (from, to) = if ends == IN { (5000, WEB) } else { (WEB, 5000) };
        assert_eq!(node.judge(&tcp_packet(ends, from, to, flags)), Ok(()));
    }
    for port in 10_000..12_000 {
        assert_eq!(node.judge(&tcp_packet(IN, port, WEB, tcp::ACK)), Ok(()), "the port is open");
        let answer = tcp_packet(IN, 443, port, tcp::SYN | tcp::ACK);
        assert_eq!(node.judge(&answer), Ok(()), "it may be older than the daemon");
    }
    let known = node.ask(Filter { port: Some(5000), ..Filter::default() }, false);
    assert_eq!(known.iter().map(|one| one.state).collect::<Vec<_>>(), [State::Established]);
}

#[test]
fn the_same_ports_once_more_are_another_connection() {
    let mut node = Node::new(policy(Some(vec![web(Action::Allow, protocol::TCP)]), None, 1));
    let open = [(IN, tcp::SYN), (OUT, tcp::SYN | tcp::ACK), (IN, tcp::ACK)];
    let close = [(OUT, tcp::FIN | tcp::ACK), (IN, tcp::FIN | tcp::ACK), (OUT, tcp::ACK)];
    for (ends, flags) in open.into_iter().chain(close).chain(open) {
        let (from, to) = if ends == IN { (5000, WEB) } else { (WEB, 5000) };
        assert_eq!(node.judge(&tcp_packet(ends, from, to, flags)), Ok(()), "{flags:#x}");
    }
    assert_eq!(node.ask(Filter::default(), false)[0].state, State::Established);
    assert_eq!(node.counted().0, 2, "judged twice");
    // After a reset the other end may not begin what it was only to answer.
    assert_eq!(node.judge(&tcp_packet(IN, 5000, WEB, tcp::RST)), Ok(()));
    let mut strict = Node::new(policy(Some(vec![web(Action::Allow, protocol::TCP)]), Some(Vec::new()), 1));
    for (ends, flags) in [(IN, tcp::SYN), (OUT, tcp::RST | tcp::ACK)] {
        let (from, to) = if ends == IN { (5000, WEB) } else { (WEB, 5000) };
        assert_eq!(strict.judge(&tcp_packet(ends, from, to, flags)), Ok(()));
    }
    assert_eq!(strict.judge(&tcp_packet(OUT, WEB, 5000, tcp::SYN)), DENIED_OUT);
}

#[test]
fn echo_requests_are_judged_and_answers_follow() {
    let mut node = Node::new(policy(Some(Vec::new()), None, 1));
    let id = [0, 7, 0, 1];
    assert_eq!(node.judge(&icmp(IN, 8, 0, &id)), DENIED_IN);
    assert_eq!(node.judge(&icmp(IN, 0, 0, &id)), DENIED_IN, "nobody asked");
    assert_eq!(node.judge(&icmp(OUT, 8, 0, &id)), Ok(()));
    assert_eq!(node.judge(&icmp(IN, 0, 0, &id)), Ok(()));
    assert_eq!(node.judge(&icmp(IN, 0, 0, &[0, 8, 0, 1])), DENIED_IN, "another identifier");
    assert_eq!(node.judge(&icmp(IN, 8, 0, &id)), DENIED_IN, "a question is no answer");
}

#[test]
fn errors_are_of_the_connection_that_they_quote() {
    let mut node = Node::new(policy(Some(Vec::new()), None, 1));
    let sent = udp(OUT, 5000, 53);
    let router = ([192, 0, 2, 9], LOCAL);
    let error = |quote: &[u8]| icmp(router, 3, 4, &[&[0; 4][..], &quote[..28.min(quote.len())]].concat());
    assert_eq!(node.judge(&error(&sent)), DENIED_IN, "before anything was sent");
    assert_eq!(node.judge(&sent), Ok(()));
    assert_eq!(node.judge(&error(&sent)), Ok(()), "from a router on the way");
    assert_eq!(node.judge(&error(&udp(OUT, 5001, 53))), DENIED_IN, "of a connection that there is not");
    assert_eq!(
        node.judge(&error(&udp(IN, 53, 5000))),
        DENIED_IN,
        "about a packet that was not sent from here"
    );
    for len in 0..28 {
        assert_eq!(
            node.judge(&icmp(router, 3, 4, &[&[0; 4][..], &sent[..len]].concat())).is_ok(),
            len >= 24,
            "{len}"
        );
    }
}

#[test]
fn fragments_follow_their_first_one() {
    let web_udp = || Some(vec![web(Action::Allow, protocol::UDP)]);
    let mut node = Node::new(policy(web_udp(), None, 1));
    let first = |id, to| packet(protocol::UDP, IN, (id, ipv4::MF), &udp_body(5000, to));
    let later = |id| packet(protocol::UDP, IN, (id, 185), &[9; 16]);
    assert_eq!(node.judge(&later(7)), DENIED_IN, "it hides its ports");
    assert_eq!(node.judge(&first(7, WEB)), Ok(()));
    assert_eq!(node.judge(&later(7)), Ok(()));
    assert_eq!(node.judge(&later(8)), DENIED_IN);
    assert_eq!(node.judge(&first(9, 81)), DENIED_IN);
    assert_eq!(node.judge(&later(9)), DENIED_IN);
    // The same identification from the other end is another datagram.
    let mut closed = Node::new(policy(web_udp(), Some(vec![web(Action::Allow, protocol::UDP)]), 1));
    assert_eq!(closed.judge(&first(7, WEB)), Ok(()));
    assert_eq!(closed.judge(&packet(protocol::UDP, OUT, (7, 185), &[9; 16])), DENIED_OUT);
    node.policy.settings.fragments = Fragments::Pass;
    assert_eq!(node.judge(&later(8)), Ok(()));
    // An address alone is enough where rules ask for no ports.
    let all = Rule { action: Action::Allow, ..ANY };
    let mut open = Node::new(policy(Some(vec![all]), None, 1));
    assert_eq!(open.judge(&later(7)), Ok(()));
    let mut but = Node::new(policy(Some(vec![web(Action::Deny, protocol::UDP), all]), None, 1));
    assert_eq!(but.judge(&later(7)), DENIED_IN, "it may be what is denied");
}

#[test]
fn ports_behind_extension_headers_are_seen() {
    let packet = |to: u16, first: u8, headers: &[u8], body: &[u8]| {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[5] = (headers.len() + body.len()) as u8;
        (packet[6], packet[7]) = (first, 60);
        packet[8..24].copy_from_slice(&"fd00::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet[24..40].copy_from_slice(&"fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend_from_slice(headers);
        packet.extend_from_slice(body);
        if body.len() >= 4 {
            let at = packet.len() - body.len() + 2;
            packet[at..at + 2].copy_from_slice(&to.to_be_bytes());
        }
        packet
    };
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let mut node = Node::new(policy(Some(vec![web(Action::Allow, protocol::UDP)]), None, 1));
    assert_eq!(node.judge(&packet(WEB, 60, &options, &udp_body(5000, 0))), Ok(()));
    assert_eq!(node.judge(&packet(81, 60, &options, &udp_body(5000, 0))), DENIED_IN);
    let fragment = |offset: u16| {
        let [a, b] = offset.to_be_bytes();
        [17, 0, a, b, 0, 0, 0, 7]
    };
    assert_eq!(node.judge(&packet(0, 44, &fragment(0x88), &[1, 2])), DENIED_IN);
    assert_eq!(node.judge(&packet(WEB, 44, &fragment(1), &udp_body(5000, 0))), Ok(()));
    assert_eq!(node.judge(&packet(0, 44, &fragment(0x88), &[1, 2])), Ok(()));
    // Neighbour discovery needs no rule.
    assert_eq!(node.judge(&packet(0, 58, &[], &[135, 0, 0, 0, 0, 0, 0, 0])), Ok(()));
}

#[test]
fn unknown_addresses_of_this_node_may_nothing_where_that_is_wanted() {
    let mut node = Node::new(policy(None, None, 1));
    let stranger = [10, 244, 1, 9];
    let ends = |source_is_pod| Ends { egress: true, source_is_pod, ..Ends::default() };
    let packet = udp((stranger, REMOTE), 1, 2);
    let flow = Flow::of(&packet).unwrap();
    let judge = |node: &mut Node, is_pod| {
        node.judge.begin(Some(&node.policy), &node.worker);
        let about = (Direction::Outbound, ends(is_pod));
        node.judge
            .judge(&node.policy, about, &flow, &packet, (1, &node.worker))
            .map_err(|denied| denied.reason)
    };
    node.policy.settings.deny_unknown = true;
    assert_eq!(judge(&mut node, true), DENIED_OUT);
    assert_eq!(judge(&mut node, false), Ok(()), "an address of the node itself");
    node.ask(Filter::default(), true);
    node.policy.settings.deny_unknown = false;
    assert_eq!(judge(&mut node, true), Ok(()));
}

#[test]
fn a_full_table_is_a_drop_by_name_unless_it_fails_open() {
    let mut node = Node::new(policy(Some(vec![Rule { action: Action::Allow, ..ANY }]), None, 1));
    node.policy.settings.connections = 32;
    let mut full = None;
    for port in 1..100 {
        for (ends, from, to, flags) in
            [(IN, port, WEB, tcp::SYN), (OUT, WEB, port, tcp::SYN | tcp::ACK), (IN, port, WEB, tcp::ACK)]
        {
            if let Err(reason) = node.judge(&tcp_packet(ends, from, to, flags)) {
                full.get_or_insert((port, reason));
            }
        }
    }
    let (port, reason) = full.expect("a table of 32 places has room for fewer than 100");
    assert_eq!(reason, DropReason::ConnectionsFull);
    assert!((30..=49).contains(&port), "{port}");
    node.policy.settings.fail_open = true;
    assert_eq!(node.judge(&tcp_packet(IN, 60_000, WEB, tcp::SYN)), Ok(()));
    assert_eq!(node.worker.counters.untracked_connections.get(), 1);
    // Room is where something is forgotten.
    let flushed = node.ask(Filter { port: Some(WEB), ..Filter::default() }, true);
    assert!(flushed.len() >= usize::from(port) - 1, "{}", flushed.len());
    node.policy.settings.fail_open = false;
    assert_eq!(node.judge(&tcp_packet(IN, 60_001, WEB, tcp::SYN)), Ok(()));
}

#[test]
fn what_rules_log_is_told() {
    let log = Rule { action: Action::Log, origin: Origin { policy: 0, rule: Some(3) }, ..ANY };
    let mut node = Node::new(policy(Some(vec![log]), None, 1));
    assert_eq!(node.judge(&udp(IN, 5000, 81)), DENIED_IN);
    let logged = node.worker.policy_log.pop().unwrap();
    assert_eq!((&*logged.policy, logged.rule, logged.egress), ("default/web", Some(3), false));
    assert_eq!((logged.source, logged.ports), (IpAddr::from(REMOTE), Some((5000, 81))));
    assert_eq!(node.worker.policy_log.pop(), None);
}

mod properties {
    use proptest::prelude::*;

    use super::{Action, Direction, Ends, Flow, Judge, Worker, policy, protocol, web};
    use crate::wire::testing::{any_packet, bytes, tcp_or_udp};

    proptest! {
        /// Whatever a packet holds, and wherever it is cut or changed, it is judged.
        #[test]
        fn never_panics(spec in any_packet(bytes(0usize..200)), at in any::<usize>(), byte: u8, cut in any::<usize>()) {
            let mut packet = spec.build();
            let at = at % packet.len();
            packet[at] = byte;
            packet.truncate(packet.len() - cut % 8);
            let (rules, worker) = (policy(Some(vec![web(Action::Allow, protocol::TCP)]), Some(Vec::new()), 1), Worker::default());
            let mut judge = Judge::default();
            if let Ok(flow) = Flow::of(&packet) {
                for (direction, ends) in [
                    (Direction::Outbound, Ends { egress: true, ..Ends::default() }),
                    (Direction::Inbound, Ends { ingress: true, ..Ends::default() }),
                    (Direction::Outbound, Ends { egress: true, ingress: true, ..Ends::default() }),
                ] {
                    judge.begin(Some(&rules), &worker);
                    let _ = judge.judge(&rules, (direction, ends), &flow, &packet, (1, &worker));
                }
            }
        }

        /// What was let out is answered, whatever the rules say of what comes in.
        #[test]
        fn what_may_leave_may_be_answered(mut spec in tcp_or_udp(bytes(0usize..50))) {
            if spec.is_v6() {
                spec.source = "fd00::2".parse().unwrap();
            } else {
                spec.source = super::LOCAL.into();
            }
            if spec.is_tcp() {
                crate::wire::testing::set_flags(spec.tcp(), crate::wire::tcp::SYN);
            }
            let (rules, worker) = (policy(Some(Vec::new()), None, 1), Worker::default());
            let mut judge = Judge::default();
            judge.begin(Some(&rules), &worker);
            let out = (Direction::Outbound, Ends { egress: true, ..Ends::default() });
            let back = (Direction::Inbound, Ends { ingress: true, ..Ends::default() });
            let there = spec.build();
            std::mem::swap(&mut spec.source, &mut spec.destination);
            match &mut spec.transport {
                crate::wire::testing::Transport::Tcp(header) => {
                    std::mem::swap(&mut header.source_port, &mut header.destination_port);
                    crate::wire::testing::set_flags(header, crate::wire::tcp::SYN | crate::wire::tcp::ACK);
                }
                crate::wire::testing::Transport::Udp(from, to) => std::mem::swap(from, to),
                crate::wire::testing::Transport::Echo(..) => {}
            }
            let answer = spec.build();
            let (first, second) = (Flow::of(&there).unwrap(), Flow::of(&answer).unwrap());
            prop_assert!(judge.judge(&rules, back, &second, &answer, (1, &worker)).is_err());
            prop_assert!(judge.judge(&rules, out, &first, &there, (1, &worker)).is_ok());
            prop_assert!(judge.judge(&rules, back, &second, &answer, (1, &worker)).is_ok());
        }
    }
}
