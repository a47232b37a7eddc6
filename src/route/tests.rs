//! The forwarding table at size, against an oracle of another kind: a map per prefix length.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Fib, FibEditor, HopsFull, NextHop, PeerId, Rib, Source, Target, Via, Ways};
use crate::net::{Mode, Prefix};
use crate::wire::testing::Random;

const STEPS: usize = 10_000;

/// Every prefix in a map; a lookup asks for the containing prefix of each length, longest first.
#[derive(Default)]
struct Oracle(HashMap<Prefix, NextHop>);

impl Oracle {
    fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|len| self.0.get(&Prefix::containing(address, len)?).copied())
    }
}

/// Clustered, as real tables are: most addresses are near one seen before.
fn address(random: &mut Random, known: &[IpAddr]) -> IpAddr {
    let near = if known.is_empty() { None } else { Some(known[random.below(known.len() as u64) as usize]) };
    match near.filter(|_| random.below(3) > 0) {
        Some(IpAddr::V4(a)) => (u32::from(a) ^ 1 << random.below(32)).to_be_bytes().into(),
        Some(IpAddr::V6(a)) => (u128::from(a) ^ 1 << random.below(128)).to_be_bytes().into(),
        None if random.below(2) == 0 => (random.next() as u32).to_be_bytes().into(),
        None => (u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes().into(),
    }
}

fn next_hop(random: &mut Random) -> NextHop {
    match random.below(500) as u16 {
        0 => NextHop::Local,
        peer => NextHop::Peer(Via { peer: PeerId(peer), mode: Mode::Vxlan, mtu: 1450 }),
    }
}

fn prefix(random: &mut Random, address: IpAddr) -> Prefix {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    // Long prefixes are common, short ones shadow everything and are rare.
    let shortest = if random.below(50) == 0 { 0 } else { longest / 4 };
    let len = longest - random.below(longest - shortest + 1);
    Prefix::containing(address, len as u8).unwrap()
}

/// The editor's tables: both families, next hops by id, groups among them.
#[test]
fn the_fib_agrees_with_the_oracle() {
    let mut random = Random::new(5);
    let (mut oracle, mut editor, mut known) = (Oracle::default(), FibEditor::default(), Vec::new());
    for step in 1..=STEPS {
        let address = address(&mut random, &known);
        known.push(address);
        let (prefix, next_hop) = (prefix(&mut random, address), next_hop(&mut random));
        editor.apply([(prefix, Some(ways(next_hop)))]).unwrap();
        oracle.0.insert(prefix, next_hop);
        if step.is_power_of_two() || step == STEPS {
            probe(&editor.fib(|_, _| 1450), &oracle, &known, &mut random);
        }
    }
    assert!(oracle.0.len() > STEPS / 2);
    assert_eq!(editor.len(), oracle.0.len());
}

fn ways(next_hop: NextHop) -> Ways {
    match next_hop {
        NextHop::Peer(via) => Ways::Peers { peers: [(via.peer, via.mode)].into(), mtu: None },
        _ => Ways::Local,
    }
}

fn probe(fib: &Fib, oracle: &Oracle, known: &[IpAddr], random: &mut Random) {
    let (mut found, count) = (0, 2 * known.len().min(STEPS / 4));
    for _ in 0..count {
        let address = address(random, known);
        let wanted = oracle.lookup(address);
        assert_eq!(fib.lookup(address), wanted, "{address}");
        found += usize::from(wanted.is_some());
    }
    assert!(found > 0 || count < 100);
}

#[test]
fn equal_cost_ways_and_limits_of_routes() {
    let mut editor = FibEditor::default();
    let peers: Box<[_]> = [(PeerId(1), Mode::Vxlan), (PeerId(2), Mode::Ipip)].into();
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let both = Ways::Peers { peers: peers.clone(), mtu: Some(1460) };
    editor.apply([(prefix("10.0.0.0/8"), Some(both)), (prefix("fd00::/8"), Some(Ways::Local))]).unwrap();
    let mtu = |_: PeerId, mode: Mode| 1500 - mode.overhead([192, 0, 2, 2].into());
    let fib = editor.fib(mtu);
    let Some(NextHop::Group(group)) = fib.lookup("10.1.2.3".parse().unwrap()) else { panic!("no group") };
    let expected = [(1, Mode::Vxlan, 1450), (2, Mode::Ipip, 1460)].map(|(peer, mode, mtu)| Via {
        peer: PeerId(peer),
        mode,
        mtu,
    });
    assert_eq!(fib.members(group), expected);
    assert_eq!(fib.lookup("fd00::1".parse().unwrap()), Some(NextHop::Local));
    // The MTU of a path changes without any route.
    editor.forget_mtus();
    let narrow = editor.fib(|_, _| 1000);
    let Some(NextHop::Group(group)) = narrow.lookup("10.1.2.3".parse().unwrap()) else { panic!("no group") };
    assert!(narrow.members(group).iter().all(|via| via.mtu == 1000));
}

/// Ids are used up by what comes and goes, and free again after all routes are replaced.
#[test]
fn too_many_next_hops_are_refused() {
    let mut editor = FibEditor::default();
    let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
    let to = |n: u32| Ways::Peers {
        peers: [(PeerId(n as u16), Mode::Ipip)].into(),
        mtu: Some(1 + (n >> 16) as u16),
    };
    for n in 0..65_535 {
        editor.apply([(prefix, Some(to(n)))]).unwrap();
    }
    assert_eq!(editor.apply([(prefix, Some(to(65_535)))]), Err(HopsFull));
    let peer = |editor: &mut FibEditor| match editor.fib(|_, _| 1480).lookup([10, 0, 0, 1].into()) {
        Some(NextHop::Peer(via)) => via.peer,
        other => panic!("{other:?}"),
    };
    assert_eq!(peer(&mut editor), PeerId(65_534));
    editor.replace([(prefix, to(7))]).unwrap();
    editor.apply([(prefix, Some(to(65_535)))]).unwrap();
    assert_eq!(peer(&mut editor), PeerId(65_535));
}

/// The editable table answers like the oracle, too, with two sources for some prefixes.
#[test]
fn the_rib_agrees_with_the_oracle() {
    let mut random = Random::new(6);
    let (mut rib, mut oracle, mut known) = (Rib::default(), Oracle::default(), Vec::new());
    for _ in 0..400 {
        let address = address(&mut random, &known);
        known.push(address);
        let prefix = prefix(&mut random, address);
        let peer = PeerId(random.below(100) as u16);
        let local = random.below(10) == 0;
        let (source, target) =
            if local { (Source::Local, Target::Local) } else { (Source::Static, Target::Peer(peer)) };
        if rib.insert(prefix, source, target).is_err() {
            continue;
        }
        let via = NextHop::Peer(Via { peer, mode: Mode::Ipip, mtu: 1480 });
        match (local, oracle.0.get(&prefix)) {
            (true, _) => drop(oracle.0.insert(prefix, NextHop::Local)),
            (false, Some(NextHop::Local)) => {}
            (false, _) => drop(oracle.0.insert(prefix, via)),
        }
    }
    assert_eq!(rib.len(), oracle.0.len());
    for _ in 0..500 {
        let address = address(&mut random, &known);
        let got = rib.lookup(address).map(|route| match route.target {
            Target::Local => NextHop::Local,
            Target::Peer(peer) => NextHop::Peer(Via { peer, mode: Mode::Ipip, mtu: 1480 }),
            Target::Group(_) => unreachable!("none was added"),
        });
        assert_eq!(got, oracle.lookup(address), "{address}");
    }
}
