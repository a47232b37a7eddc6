//! The life of a slot, with the kernel's maps.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::words::{PACKETS, REFUSED, WHOLE};
use super::{Addresses, Detour, Encapsulation, FlowKey, Inbound, KernelPath, Outbound, Rates, Record, Setup};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::observe::{Counters, PeerCounters};
use crate::dataplane::packet::Direction;
use crate::net::{Mac, Mode, Vni};
use crate::wire::{ethernet, protocol};

fn path() -> KernelPath {
    let addresses = Addresses {
        own: Some(Ipv4Addr::LOCALHOST),
        own6: None,
        vxlan_port: 4789,
        vni: Vni::CALICO,
        zero_checksum6: false,
    };
    let setup = Setup {
        flows: 4,
        addresses,
        device: 1,
        always: true,
        zero_checksum6: false,
        workers: 2,
        source_ports: Vec::new(),
        capture: None,
    };
    KernelPath::new(setup).unwrap()
}

fn record(port: u16) -> Record {
    let key = FlowKey {
        source: [10, 0, 0, 1].into(),
        destination: [10, 1, 0, 1].into(),
        ports: u32::from(port) << 16 | 80,
        protocol: protocol::TCP,
        direction: Direction::Outbound,
    };
    let link = ethernet::header(Mac([2; 6]), Mac([4; 6]), ethernet::IPV4);
    let encapsulation = Encapsulation { link: &link, outer: &[] };
    let how =
        Outbound { mode: Mode::Direct, interface: 1, mtu: 1500, marking: Marking::INHERIT, encapsulation };
    Record::outbound(key, 0, &how).unwrap()
}

#[test]
#[ignore = "needs root"]
fn idle_flows_are_the_pumps_again_and_their_slots_begin_anew() {
    let (path, counters, peer) = (path(), Counters::new(1), PeerCounters::new(1));
    let install = |port| {
        let mut pending = path.install(&record(port), &peer, || true)?;
        // Nothing has passed to the pump meanwhile.
        path.look(&mut pending);
        assert!(!path.is_settled(&pending));
        path.sent(&pending);
        assert!(path.is_settled(&pending));
        Some(())
    };
    let carried = || (path.carried().flows, path.carried().returned);
    install(1).unwrap();
    path.count(&counters, 1);
    for (now, left) in [(1, (1, 0)), (60, (1, 0)), (61, (0, 1))] {
        path.tidy(&counters, now);
        assert_eq!(carried(), left, "second {now}");
    }
    // One that was not counted yet is not idle, whatever was in its slot before.
    for port in 1..=4 {
        install(port).unwrap();
    }
    assert!(install(5).is_none(), "there are four slots");
    path.tidy(&counters, 200);
    assert_eq!(carried(), (4, 1));
    path.count(&counters, 200);
    path.tidy(&counters, 259);
    assert_eq!(carried(), (4, 1));
    path.tidy(&counters, 260);
    assert_eq!(carried(), (0, 5));
}

#[test]
#[ignore = "needs root"]
fn what_the_kernel_does_not_do_is_left_to_the_pump() {
    let (path, counters, peer) = (path(), Counters::new(1), PeerCounters::new(1));
    let install = |port| path.install(&record(port), &peer, || true);
    let note =
        |word: usize, value| path.live().for_each(|(_, slot)| slot.0[word].store(value, Ordering::Relaxed));
    install(1).unwrap();
    // Of a kind that programs do carry; then one that was refused too few times.
    for (refused, packets) in [(100, 1), (7, 0)] {
        note(REFUSED, refused);
        note(PACKETS, packets);
        path.tidy(&counters, 1);
        assert!(install(2).is_some() && path.refused().next().is_none());
        path.void_all();
        path.tidy(&counters, 1);
        install(1).unwrap();
    }
    note(REFUSED, 8);
    path.tidy(&counters, 1);
    assert_eq!(path.carried().flows, 0);
    assert!(install(2).is_none());
    let refused: Vec<String> = path.refused().map(|way| way.to_string()).collect();
    assert_eq!(refused, ["direct out, IPv4"]);
}

#[test]
#[ignore = "needs root"]
fn bulk_takes_a_detour_where_no_super_packet_comes() {
    const PAIR: u32 = 77;
    const UPLINK: u32 = 5;
    let (path, peer) = (path(), PeerCounters::new(1));
    let comes_in = |port: u16, protocol: u8| {
        let key = FlowKey { protocol, ..record(port).key.reversed() };
        let how = Inbound { mode: Mode::Ipip, outer_source: Ipv4Addr::LOCALHOST.into(), uplink: UPLINK };
        path.install(&Record::inbound(key, 0, 1, &how).unwrap(), &peer, || true).unwrap();
    };
    comes_in(1, protocol::TCP);
    comes_in(2, protocol::UDP);
    path.install(&record(3), &peer, || true).unwrap();
    let note =
        |word: usize, value| path.live().for_each(|(_, slot)| slot.0[word].store(value, Ordering::Relaxed));
    let detoured = || {
        let live =
            path.live().filter(|(_, slot)| slot.key().direction == Direction::Inbound && slot.is_detoured());
        live.map(|(_, slot)| slot.key().port_pair().1).collect::<Vec<_>>()
    };
    path.enter_uplink(UPLINK);
    let mut rates = Rates::new(path.capacity());
    let now = Instant::now();
    let mut looks = Vec::new();
    for (packets, pair) in
        [(999, None), (1998, Some(PAIR)), (3000, None), (3100, Some(PAIR)), (4100, Some(PAIR))]
    {
        note(PACKETS, packets);
        looks.push((path.detour(&mut rates, pair, now), detoured().len()));
    }
    assert_eq!(looks[..4], [(Detour::Stay, 0), (Detour::Stay, 0), (Detour::Wanted, 0), (Detour::Stay, 0)]);
    assert_eq!((looks[4], detoured()), ((Detour::Stay, 1), vec![1]));
    note(WHOLE, 1);
    assert_eq!(path.detour(&mut rates, Some(PAIR), now), Detour::Whole);
    path.leave_detour();
    assert_eq!((path.live().count(), detoured()), (2, vec![]));
    // It is so for a minute, and until the uplink is another one.
    let minute = Duration::from_secs(60);
    for (uplink, after, found) in [
        (UPLINK, Duration::ZERO, Detour::Whole),
        (UPLINK, minute - Duration::from_millis(1), Detour::Whole),
        (UPLINK, minute, Detour::Stay),
        (UPLINK + 1, Duration::ZERO, Detour::Stay),
    ] {
        path.enter_uplink(uplink);
        assert_eq!(path.detour(&mut rates, None, now + after), found, "{uplink} {after:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_no_longer_so_is_not_handed_over() {
    let (path, counters, peer) = (path(), Counters::new(1), PeerCounters::new(1));
    assert!(path.install(&record(1), &peer, || false).is_none());
    path.install(&record(2), &peer, || true).unwrap();
    path.review(|record| record.key.ports >> 16 != 2);
    assert_eq!((path.carried().flows, path.carried().handed_over), (0, 1));
    path.tidy(&counters, 1);
    assert_eq!(path.carried().returned, 1);
    for port in 1..=4 {
        path.install(&record(port), &peer, || true).unwrap();
    }
}
