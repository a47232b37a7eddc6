//! The compiled table against the slow truth: the longest route says who, the policy says how.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{address6, peer, underlay};
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::forward::{Choice, Forwarding, Peer, TapLink, Underlay, Way};
use crate::dataplane::packet::Family;
use crate::net::{EncapMode, Mac, Prefix};
use crate::route::{EncapPolicy, NextHop, PeerId, Pool, Rib, Source, Target, Via};
use crate::wire::testing::Random;

/// An address from a corner of the space, so that pools and routes nest and collide.
fn address(random: &mut Random) -> IpAddr {
    let low = random.below(0x1000);
    if random.below(3) == 0 {
        (0xfd << 120 | u128::from(low) << 100 | u128::from(random.next())).to_be_bytes().into()
    } else {
        (0x0a00_0000 | (low as u32) << 12 | random.below(0x1000) as u32).to_be_bytes().into()
    }
}

fn prefix(random: &mut Random) -> Prefix {
    let address = address(random);
    let len = if address.is_ipv4() { random.below(33) } else { random.below(129) };
    Prefix::containing(address, len as u8).unwrap()
}

fn pools(random: &mut Random) -> Vec<Pool> {
    let when = [EncapMode::Never, EncapMode::CrossSubnet, EncapMode::Always];
    let count = random.below(12);
    let mut pools: Vec<Pool> = Vec::new();
    for _ in 0..count {
        let (cidr, mode) = (prefix(random), when[random.below(3) as usize]);
        let (ipip_mode, vxlan_mode) =
            if random.below(2) == 0 { (mode, EncapMode::Never) } else { (EncapMode::Never, mode) };
        if pools.iter().all(|pool| pool.cidr != cidr) {
            pools.push(Pool { cidr, ipip_mode, vxlan_mode, nat_outgoing: false, verify: false });
        }
    }
    pools
}

fn rib(random: &mut Random, peers: usize) -> Rib {
    let mut rib = Rib::default();
    for _ in 0..1 + random.below(40) {
        let target = match random.below(peers as u64 + 1) as u16 {
            0 => Target::Local,
            peer => Target::Peer(PeerId(peer - 1)),
        };
        let source = if target == Target::Local { Source::Local } else { Source::Static };
        // A second route of the same source is refused, which is as good.
        let _ = rib.insert(prefix(random), source, target);
    }
    rib
}

/// First and last addresses of every prefix and their neighbours: where a table goes wrong.
fn borders(prefix: Prefix) -> Vec<IpAddr> {
    if let Some((first, len)) = prefix.as_ipv4() {
        let first = u32::from(first);
        let last = first | u32::MAX.checked_shr(len.into()).unwrap_or(0);
        return [first, first.wrapping_sub(1), last, last.wrapping_add(1)]
            .map(|a| Ipv4Addr::from(a).into())
            .into();
    }
    let (first, len) = prefix.as_ipv6().unwrap();
    let first = u128::from(first);
    let last = first | u128::MAX.checked_shr(len.into()).unwrap_or(0);
    [first, first.wrapping_sub(1), last, last.wrapping_add(1)]
        .map(|a| std::net::Ipv6Addr::from(a).into())
        .into()
}

fn expected(
    underlay: Underlay,
    peers: &[Peer],
    policy: &EncapPolicy,
    rib: &Rib,
    address: IpAddr,
) -> Option<NextHop> {
    Some(match rib.lookup(address)?.target {
        Target::Local => NextHop::Local,
        Target::Peer(peer) => {
            let next = peers[usize::from(peer.0)].address;
            let mode = policy.decide(Prefix::host(address), next).mode;
            NextHop::Peer(Via { peer, mode, mtu: underlay.path_mtu(mode, next) })
        }
        Target::Group(_) => unreachable!("none was added"),
    })
}

#[test]
fn every_address_travels_as_decided() {
    let mut random = Random::new(11);
    let mut hits = 0;
    for round in 0..150 {
        // Two peers in the node's subnet, two outside.
        let peers: Vec<_> =
            [2, 3, 200, 201].map(|n| Peer { address: [192, 0, 2, n].into(), ..peer(n) }).into();
        let node = if round % 5 == 0 { "192.0.2.1/32" } else { "192.0.2.1/25" };
        let policy = EncapPolicy::new(&pools(&mut random), node.parse().ok(), None);
        let rib = rib(&mut random, peers.len());
        let underlay = underlay(1, 1500);
        let forwarding = Forwarding::build(underlay, &peers, &policy, &rib).unwrap();
        let mut probes: Vec<_> = (0..100).map(|_| address(&mut random)).collect();
        probes.extend(rib.best().flat_map(|route| borders(route.prefix)));
        probes.extend(policy.pools().flat_map(|pool| borders(pool.cidr)));
        for probe in probes {
            let wanted = expected(underlay, &peers, &policy, &rib, probe);
            assert_eq!(forwarding.lookup(probe), wanted, "round {round}: {probe}");
            hits += usize::from(wanted.is_some());
        }
    }
    assert!(hits > 10_000, "{hits}");
}

#[test]
fn senders_are_known_by_their_underlay_address_only() {
    let forwarding = super::forwarding(1, crate::net::Mode::Ipip, None);
    assert_eq!(forwarding.sender([192, 0, 2, 2].into()), Some(PeerId(0)));
    assert_eq!(forwarding.sender([192, 0, 2, 3].into()), Some(PeerId(1)));
    for stranger in [[192, 0, 2, 1], [192, 0, 2, 4], [0, 0, 0, 0], [255, 255, 255, 255]] {
        assert_eq!(forwarding.sender(stranger.into()), None);
    }
    for stranger in ["2001:db8::2", "::ffff:192.0.2.2", "::", "fe80::2"] {
        assert_eq!(forwarding.sender(stranger.parse().unwrap()), None);
    }
    assert_eq!(forwarding.peer(PeerId(1)).unwrap().address, Ipv4Addr::new(192, 0, 2, 3));
    assert!(forwarding.peer(PeerId(2)).is_none());
}

/// Both addresses of a dual-stack peer are its own; the better one is for outer headers, and bare
/// packets go to the one of their family.
#[test]
fn a_dual_stack_peer_has_two_addresses() {
    let dual = |n| Peer { second: Some((address6(n).into(), None)), ..peer(n) };
    let forwarding = super::forwarding_to(dual, 1, crate::net::Mode::Ipip, None);
    for (node, id) in [(2, PeerId(0)), (3, PeerId(1))] {
        assert_eq!(forwarding.sender(super::address(node)), Some(id));
        assert_eq!(forwarding.sender(address6(node).into()), Some(id));
        let headers = forwarding.peer(id).unwrap();
        assert_eq!(headers.address, super::address(node));
        let bare = [Family::V4, Family::V6].map(|family| headers.bare[family].to);
        assert_eq!(bare, [super::address(node), address6(node).into()]);
    }
    assert_eq!(forwarding.sender(address6(1).into()), None);
    let each = [(super::address(2), Family::V6), (address6(2).into(), Family::V4)];
    for (first, other) in each {
        let single = Peer { address: first, ..peer(2) };
        assert_eq!([Family::V4, Family::V6].map(|family| single.next_hop(family).0), [first, first]);
        assert!(single.addresses().all(|address| Family::of(address) != other));
    }
}

/// CrossSubnet goes by the address that bare packets would be sent to.
#[test]
fn cross_subnet_of_a_dual_stack_peer_goes_by_family() {
    let pool = |cidr: &str| Pool {
        cidr: cidr.parse().unwrap(),
        ipip_mode: EncapMode::CrossSubnet,
        vxlan_mode: EncapMode::Never,
        nat_outgoing: false,
        verify: false,
    };
    let near_by_ipv6 =
        Peer { address: [198, 51, 100, 2].into(), second: Some((address6(2).into(), None)), ..peer(2) };
    let mut rib = Rib::default();
    for prefix in ["10.244.2.0/24", "fd00:2::/64"] {
        rib.insert(prefix.parse().unwrap(), Source::Static, Target::Peer(PeerId(0))).unwrap();
    }
    let policy = EncapPolicy::new(
        &[pool("10.244.0.0/16"), pool("fd00::/16")],
        "192.0.2.1/24".parse().ok(),
        "2001:db8::1/64".parse().ok(),
    );
    let forwarding = Forwarding::build(underlay(1, 1500), &[near_by_ipv6], &policy, &rib).unwrap();
    let mode = |address: &str| match forwarding.lookup(address.parse().unwrap()) {
        Some(NextHop::Peer(via)) => (via.mode, via.mtu),
        other => panic!("{other:?}"),
    };
    assert_eq!(mode("10.244.2.2"), (crate::net::Mode::Ipip, 1480));
    assert_eq!(mode("fd00:2::2"), (crate::net::Mode::Direct, 1500));
}

/// The kernel's idea of such a path may be worse than ours, so nothing is left to its forwarding.
#[test]
fn a_peer_behind_a_smaller_path_is_not_reached_by_the_tap() {
    let tap = Some(TapLink { mac: Mac([2; 6]), ipip: true });
    let underlay = Underlay { tap, ..underlay(1, 1500) };
    let way = Some(Arc::new(Way {
        interface: "u0".to_owned(),
        vxlan: Choice::tap("by features"),
        ipip: Choice::tap("by features"),
    }));
    let peers =
        [Peer { way: way.clone(), ..peer(2) }, Peer { path_mtu: Some(1300), way: way.clone(), ..peer(3) }];
    let forwarding = Forwarding::build(underlay, &peers, &EncapPolicy::default(), &Rib::default()).unwrap();
    let by_tap = |id| forwarding.peer(PeerId(id)).map(|peer| (peer.tap.is_some(), peer.tap_ipip.is_some()));
    assert_eq!((by_tap(0), by_tap(1)), (Some((true, true)), Some((false, false))));
}

/// A report that the kernel may have believed keeps super-packets from it, and a policy whatever does not pass it.
#[test]
fn rumours_and_policies_leave_the_sockets() {
    let tap = Some(TapLink { mac: Mac([2; 6]), ipip: true });
    let underlay = Underlay { tap, ..underlay(1, 1500) };
    let way = Way {
        interface: "u0".to_owned(),
        vxlan: Choice::tap("by features"),
        ipip: Choice::tap("by features"),
    };
    let hop = Some(Hop { destination: Mac([2; 6]), source: Mac([4; 6]) });
    let with = |node| Peer { way: Some(Arc::new(way.clone())), hop, ..peer(node) };
    let peers = [with(2), Peer { rumoured: true, ..with(3) }, Peer { policed: true, ..with(4) }];
    let forwarding = Forwarding::build(underlay, &peers, &EncapPolicy::default(), &Rib::default()).unwrap();
    let ways = |id| forwarding.peer(PeerId(id)).map(|peer| (peer.tap.is_some(), peer.frame.is_some()));
    assert_eq!([0, 1, 2].map(ways), [(true, true), (false, true), (false, false)].map(Some));
    // Bare packets have the addresses of pods; what is decided about those comes before the tunnel.
    assert!(forwarding.peer(PeerId(2)).unwrap().bare[Family::V4].frame.is_some());
}

/// Each mode goes the way of its own, and without any decision none goes to the TAP.
#[test]
fn the_tap_is_for_peers_whose_way_it_is() {
    let tap = Some(TapLink { mac: Mac([2; 6]), ipip: true });
    let underlay = Underlay { tap, ..underlay(1, 1500) };
    let choice = |tap| if tap { Choice::tap("fast") } else { Choice::socket("slow") };
    let way = |vxlan, ipip| Way { interface: "u0".to_owned(), vxlan: choice(vxlan), ipip: choice(ipip) };
    let ways = [None, Some(way(true, false)), Some(way(false, true)), Some(way(false, false))];
    let peers = [2, 3, 4, 5]
        .map(|node| Peer { way: ways[usize::from(node) - 2].clone().map(Arc::new), ..peer(node) });
    let forwarding = Forwarding::build(underlay, &peers, &EncapPolicy::default(), &Rib::default()).unwrap();
    let by_tap = |id| forwarding.peer(PeerId(id)).map(|peer| (peer.tap.is_some(), peer.tap_ipip.is_some()));
    let expected = [(false, false), (true, false), (false, true), (false, false)].map(Some);
    assert_eq!([0, 1, 2, 3].map(by_tap), expected);
}

/// The MTU of a path is the uplink's less the mode's headers, and never so small as to underflow.
#[test]
fn path_mtu() {
    use crate::net::Mode::{Direct, Ipip, Vxlan};
    let paths = |outer, mtu| [Ipip, Vxlan, Direct].map(|mode| underlay(1, mtu).path_mtu(mode, outer));
    let (over4, over6) = (super::address(2), address6(2).into());
    assert_eq!(paths(over4, 1500), [1480, 1450, 1500]);
    assert_eq!(paths(over6, 1500), [1460, 1430, 1500]);
    assert_eq!(paths(over4, 0), [556, 526, 576]);
    assert_eq!(paths(over6, 0), [536, 506, 576]);
    assert_eq!(paths(over4, u16::MAX), [65515, 65485, 65535]);
}
