use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{PeerWays, ROUND, TOGETHER};
use crate::control::engine::port::Notice;
use crate::control::engine::port::{FirstHop, PeerWay};
use crate::dataplane::observe::PeerCounters;

fn address(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from(0xc612_0000 + number).into()
}

fn way(index: u32, via: IpAddr) -> PeerWay {
    PeerWay { hop: FirstHop { index, via, onlink: false }, mtu: 1500, route_mtu: None }
}

/// So many peers on the link with index 2, all looked up.
fn known(count: u32, now: Instant) -> (PeerWays, Vec<PeerCounters>) {
    let counters: Vec<PeerCounters> = (0..count).map(|_| PeerCounters::new(1)).collect();
    let mut ways = PeerWays::default();
    ways.follow((0..).map(address).zip(counters.iter().cloned()), &Vec::new());
    while ways.is_due() {
        for address in ways.take_due(now) {
            assert!(ways.set(address, Some(way(2, address)), now));
        }
    }
    (ways, counters)
}

#[test]
fn idle_peers_are_looked_up_once_and_then_a_few_at_a_time() {
    let start = Instant::now();
    let (mut ways, _) = known(2 * TOGETHER as u32, start);
    let mut looked = 0;
    for second in 1..=60 {
        let now = start + Duration::from_secs(second);
        ways.count(now);
        let due = ways.take_due(now);
        looked += due.len();
        assert!(due.iter().all(|address| !ways.set(*address, Some(way(2, *address)), now)), "it is the same");
        assert!(!ways.is_due() && ways.used(now).next().is_none());
    }
    assert_eq!(looked, 60 * ROUND);
}

#[test]
fn who_has_traffic_is_looked_up_again_and_again_before_all_others() {
    let start = Instant::now();
    let (mut ways, counters) = known(1000, start);
    counters[700].worker(0).unwrap().tx_dropped.add(1);
    let mut looks = 0;
    for second in 1..=40 {
        let now = start + Duration::from_secs(second);
        ways.count(now);
        assert_eq!(ways.used(now).count(), usize::from(second < 31), "second {second}");
        let due = ways.take_due(now);
        looks += due.iter().filter(|found| **found == address(700)).count();
        for address in due {
            ways.set(address, Some(way(2, address)), now);
        }
    }
    assert!((6..=7).contains(&looks), "{looks}");
    let now = start + Duration::from_secs(50);
    counters[700].worker(0).unwrap().tx_packets.add(1);
    ways.count(now);
    ways.expire();
    assert_eq!(ways.take_due(now)[0], address(700));
    assert_eq!(ways.take_due(now).len(), TOGETHER);
}

#[test]
fn notices_concern_the_ways_that_they_are_about() {
    let now = Instant::now();
    let (mut ways, _) = known(10, now);
    ways.set(address(3), Some(way(7, "192.0.2.254".parse().unwrap())), now);
    let mut due = |notice| {
        let told = ways.hear(notice);
        let due = ways.take_due(now);
        assert_eq!(told, !due.is_empty(), "{notice:?}");
        due
    };
    assert_eq!(due(Notice::Link(7)), [address(3)]);
    assert_eq!(due(Notice::Address(2)).len(), 9);
    assert!(due(Notice::Link(9)).is_empty());
    let route = |prefix: &str| Notice::Route { prefix: prefix.parse().unwrap(), device: None };
    assert_eq!(due(route("198.18.0.4/30")), [4, 5, 6, 7].map(address));
    assert_eq!(due(route("0.0.0.0/0")).len(), 10);
    assert!(due(route("10.0.0.0/8")).is_empty() && due(route("::/0")).is_empty());
    assert_eq!(due(Notice::Elsewhere("198.18.0.9/32".parse().unwrap())), [address(9)]);
    assert_eq!(due(Notice::Policy).len(), 10);
    assert!(
        ways.leads_by((2, address(1))) && !ways.leads_by((2, address(3))) && !ways.leads_by((7, address(3)))
    );
    assert!(ways.leads_by((7, "192.0.2.254".parse().unwrap())));
}

#[test]
fn peers_come_and_go_and_what_was_found_before_counts() {
    let now = Instant::now();
    let (mut ways, counters) = known(2, now);
    let found = vec![(address(5), way(4, address(5)))];
    let peers = [(address(1), counters[1].clone()), (address(5), PeerCounters::new(1))];
    ways.follow(peers.into_iter(), &found);
    assert_eq!(ways.iter().collect::<Vec<_>>(), [(address(1), way(2, address(1))), found[0]]);
    assert_eq!(ways.take_due(now), [address(5)]);
    // Another peer at the address of a former one.
    ways.follow([(address(1), PeerCounters::new(1))].into_iter(), &Vec::new());
    assert_eq!(ways.iter().next(), None);
    assert_eq!(ways.take_due(now), [address(1)]);
}
