use super::{Connections, Entry, Full, Key, PLACES, State};
use crate::dataplane::policy::subject::Query;
use crate::dataplane::policy::tuple::Tuple;
use crate::wire::protocol;

fn tuple(number: u32) -> Tuple {
    let [a, b, c, d] = number.to_be_bytes();
    Tuple {
        source: [10, a, b, c].into(),
        destination: [10, 244, 2, 2].into(),
        protocol: protocol::TCP,
        ports: Some((1000 + u16::from(d), 80)),
        icmp: None,
    }
}

fn entry(state: State, since: u32, expires: u32) -> Entry {
    Entry { state, since, expires, generation: 7, ..Entry::default() }
}

fn table(connections: usize) -> Connections {
    Connections::new(connections, [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321])
}

#[test]
fn both_ways_of_a_connection_are_one() {
    let there = tuple(7);
    let (key, lower) = Key::of(&there);
    let (back, higher) = Key::of(&there.reversed());
    assert_eq!(key, back);
    assert_ne!(lower, higher);
    for from_lower in [true, false] {
        let wanted = if from_lower == lower { there } else { there.reversed() };
        assert_eq!(key.tuple(from_lower), wanted);
    }
    let v6 = Tuple {
        source: "fd00::1".parse().unwrap(),
        destination: "fd00::2".parse().unwrap(),
        protocol: protocol::ICMPV6,
        ports: None,
        icmp: Some((128, 0)),
    };
    let query = Query { identifier: 7, request: 128, is_answer: false };
    let (key, lower) = Key::query(&v6, query);
    assert_eq!(key.tuple(lower), v6);
    assert_eq!(key, Key::query(&v6.reversed(), Query { is_answer: true, ..query }).0);
    assert_ne!(key, Key::query(&v6.reversed(), query).0, "the other end asks");
    assert_ne!(key, Key::query(&v6, Query { identifier: 8, ..query }).0, "another identifier");
    assert_ne!(key, Key::datagram(&v6, key.numbers).0, "fragments are no queries");
}

#[test]
fn what_was_put_in_is_found_until_it_expires() {
    let mut table = table(4096);
    for number in 0..4000 {
        let (key, from_lower) = Key::of(&tuple(number));
        let entry = Entry { from_lower, ..entry(State::Established, 3, 10 + number % 2) };
        table.insert(&key, &entry, 3).unwrap();
    }
    assert_eq!(table.len(), 4000);
    for number in 0..4000 {
        let (key, from_lower) = Key::of(&tuple(number));
        let place = table.find(&key, 9).unwrap();
        let wanted = Entry { from_lower, ..entry(State::Established, 3, 10 + number % 2) };
        assert_eq!(table.entry(place), wanted);
        assert_eq!(table.tuple(place), tuple(number));
        assert_eq!(table.find(&key, 10).is_some(), number % 2 == 1);
    }
    assert_eq!(table.find(&Key::of(&tuple(4001)).0, 9), None);
    let mut shown = Vec::new();
    assert_eq!(table.page(0, usize::MAX / 2, 10, |_, connection| shown.push(connection.tuple)), None);
    assert_eq!(shown.len(), 2000);
    table.sweep(4096, 10);
    assert_eq!(table.len(), 2000);
}

#[test]
fn a_full_table_gives_up_what_nobody_answered_first() {
    let mut table = table(64);
    let places = table.buckets * PLACES;
    let mut known = Vec::new();
    for number in 0.. {
        let (key, _) = Key::of(&tuple(number));
        match table.insert(&key, &entry(State::Established, number, 1000), 5) {
            Ok(_) => known.push(key),
            Err(Full) => break,
        }
    }
    assert!(known.len() >= 64 && table.len() == known.len(), "{} of {places}", known.len());
    assert!(known.iter().all(|key| table.find(key, 5).is_some()), "no established connection has gone");
    // All of them were unanswered: there is always room, and the oldest goes.
    let mut attempts = Connections::new(64, [1, 2]);
    for number in 0..10_000 {
        attempts.insert(&Key::of(&tuple(number)).0, &entry(State::Unanswered, number, u32::MAX), 5).unwrap();
    }
    assert!(attempts.len() <= places);
    assert!(attempts.find(&Key::of(&tuple(9_999)).0, 5).is_some());
    assert_eq!(attempts.find(&Key::of(&tuple(0)).0, 5), None);
}

#[test]
fn a_flood_leaves_established_connections_alone() {
    let mut table = table(1024);
    let known: Vec<Key> = (0..500).map(|number| Key::of(&tuple(number)).0).collect();
    for key in &known {
        table.insert(key, &entry(State::Established, 1, 1000), 1).unwrap();
    }
    for number in 1_000_000..1_100_000 {
        // Whatever becomes of it.
        let _ = table.insert(&Key::of(&tuple(number)).0, &entry(State::Unanswered, 2, 120), 2);
    }
    assert!(known.iter().all(|key| table.find(key, 3).is_some()));
    assert!(table.len() <= table.buckets * PLACES);
}

#[test]
fn a_connection_takes_86_bytes_at_most() {
    let table = table(1_000_000);
    let bytes = size_of_val(&*table.tags) + size_of_val(&*table.words);
    assert!(bytes <= 1_000_000 * 86, "{bytes}");
}

#[test]
fn tcp_goes_through_its_states() {
    use crate::wire::tcp::{ACK, FIN, RST, SYN};
    let mut fins = 0;
    let mut state = State::default();
    let steps = [
        (SYN, true, State::Unanswered),
        (SYN, true, State::Unanswered),
        (SYN | ACK, false, State::Answered),
        (ACK, true, State::Established),
        (ACK, false, State::Established),
        (FIN | ACK, false, State::Closing),
        (ACK, true, State::Closing),
        (FIN | ACK, true, State::TimeWait),
        (ACK, false, State::TimeWait),
    ];
    for (number, (flags, by_originator, wanted)) in steps.into_iter().enumerate() {
        state = state.after_tcp(flags, by_originator, &mut fins);
        assert_eq!(state, wanted, "step {number}");
    }
    let mut fins = 0;
    let reset = State::Established.after_tcp(RST, false, &mut fins);
    assert_eq!(reset, State::Closed);
    assert_eq!(reset.after_tcp(ACK, true, &mut fins), State::Established, "nobody took the reset for one");
    assert_eq!(State::Unanswered.after_tcp(RST | ACK, false, &mut fins), State::Closed, "refused");
}
