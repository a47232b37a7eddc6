//! What pods of this node send one another and to the outside, and what comes to them from there: back to the device.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Node, TunLink, expand, forwarding_with, peer, plain, prefixes, underlay};
use crate::dataplane::device::Deliver;
use crate::dataplane::device::memory::Memory;
use crate::dataplane::forward::{Forwarding, Underlay};
use crate::dataplane::observe::PolicyCounters;
use crate::dataplane::packet::Sink;
use crate::dataplane::policy::{
    Action, ActivePolicy, ClassId, Origin, PolicyEntry, Role, Rule, Ruleset, RulesetParts, Settings, Side,
};
use crate::net::{DropReason, EncapMode, Mode, Prefix};
use crate::route::{EncapPolicy, PeerId, Pool, Rib, Source, Target};
use crate::wire::testing::{Spec, any_packet, bytes, tcp_or_udp};
use crate::wire::{VnetHdr, vnet_hdr};

const POOLS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// Node 1 of three, between pools that are not everything; with `hairpin` its kernel leads all of its pods here.
fn node(hairpin: bool) -> Node {
    let tun = TunLink {
        mtu: 1500,
        address: Some([10, 244, 1, 0].into()),
        address6: "fd00:10:244:1::".parse().ok(),
        hairpin,
        ..TunLink::default()
    };
    let pool = |cidr: &str| Pool {
        cidr: cidr.parse().unwrap(),
        ipip_mode: EncapMode::Always,
        vxlan_mode: EncapMode::Never,
        nat_outgoing: false,
        verify: false,
    };
    let mut rib = Rib::default();
    for prefix in prefixes(1) {
        rib.insert(prefix, Source::Local, Target::Local).unwrap();
    }
    for prefix in prefixes(2) {
        rib.insert(prefix, Source::Static, Target::Peer(PeerId(0))).unwrap();
    }
    let policy = EncapPolicy::new(&POOLS.map(pool), None, None);
    Node::with(Forwarding::build(Underlay { tun, ..underlay(1, 1500) }, &[peer(2)], &policy, &rib).unwrap())
}

/// A packet between these addresses.
fn between(source: &str, destination: &str) -> Spec {
    let (source, destination) = (source.parse::<IpAddr>().unwrap(), destination.parse().unwrap());
    Spec { source, destination, ..Spec::udp4(&[7; 100]) }
}

/// What one packet from the device, in the middle of other bytes, is written back as.
fn back(node: &mut Node, (vnet, packet): &(VnetHdr, Vec<u8>), plain: bool) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut arena = vec![0xa5; 64];
    arena.extend_from_slice(packet);
    arena.extend_from_slice(&[0xa5; 9]);
    let hairpin = node.outbound(vnet, &mut arena, 64..64 + packet.len()).unwrap();
    assert!(node.outbox.is_empty() || hairpin.is_none(), "one way only");
    let mut device = Memory { plain, ..Memory::default() };
    if let Some(hairpin) = hairpin {
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device: &mut device, worker: &node.worker, scratch: &mut scratch };
        sink.deliver(&hairpin.delivery(&arena));
    }
    device.output
}

#[test]
fn who_is_given_back_to_the_kernel() {
    let pod6 = "fd00:10:244:1::10";
    for (source, destination, given_back, without) in [
        ("10.244.1.10", "10.244.1.20", true, DropReason::NoRoute),
        (pod6, "fd00:10:244:1::20", true, DropReason::NoRoute),
        // To the outside and from there.
        ("10.244.1.10", "203.0.113.9", true, DropReason::NoRoute),
        (pod6, "2001:db8:9::1", true, DropReason::NoRoute),
        ("203.0.113.9", "10.244.1.10", true, DropReason::SpoofedSource),
        ("2001:db8:9::1", pod6, true, DropReason::SpoofedSource),
        // Bare, from another node's pod or from a node.
        ("10.244.2.20", "10.244.1.10", true, DropReason::NoRoute),
        ("192.0.2.2", "10.244.1.10", true, DropReason::SpoofedSource),
        // What a cloud tells its machines.
        ("10.244.1.10", "169.254.169.254", true, DropReason::Unsupported),
        ("169.254.169.254", "10.244.1.10", true, DropReason::SpoofedSource),
        // A pool is the tunnel's, whoever may have the address.
        ("10.244.1.10", "10.244.9.1", false, DropReason::NoRoute),
        (pod6, "fd00:10:244:9::1", false, DropReason::NoRoute),
        // Neither end is a pod of this node.
        ("203.0.113.9", "198.51.100.1", false, DropReason::SpoofedSource),
        ("203.0.113.9", "10.244.2.20", false, DropReason::SpoofedSource),
        ("169.254.169.254", "203.0.113.9", false, DropReason::SpoofedSource),
        ("10.244.1.10", "224.0.0.9", false, DropReason::Unsupported),
        (pod6, "fe80::1", false, DropReason::Unsupported),
        ("127.0.0.1", "10.244.1.10", false, DropReason::SpoofedSource),
    ] {
        let packet = plain(between(source, destination).build());
        for hairpin in [true, false] {
            let mut node = node(hairpin);
            let written = back(&mut node, &packet, false);
            let counters = &node.worker.counters;
            assert_eq!(counters.device.rx_packets.get(), 1);
            if hairpin && given_back {
                assert_eq!(written, std::slice::from_ref(&packet), "{source} {destination}");
                assert_eq!((counters.hairpinned_packets.get(), counters.device.tx_packets.get()), (1, 1));
                assert_eq!(counters.device.tx_bytes.get(), packet.1.len() as u64);
                assert_eq!((node.drops(), node.replies().len()), (vec![], 0));
            } else {
                assert_eq!(written, [], "{source} {destination} {hairpin}");
                assert_eq!(node.drops(), [(without, 1)], "{source} {destination}");
                assert_eq!(counters.hairpinned_packets.get(), 0);
            }
        }
    }
}

#[test]
fn packets_for_other_nodes_go_there_as_ever() {
    for hairpin in [true, false] {
        let mut node = node(hairpin);
        let packet = plain(between("10.244.1.10", "10.244.2.20").build());
        assert_eq!(back(&mut node, &packet, false), []);
        assert_eq!((node.outbox.is_empty(), node.drops()), (false, vec![]));
    }
}

/// Tunnel packets of pods are no matter of the tunnel where they do not enter it.
#[test]
fn what_does_not_enter_the_tunnel_may_be_one() {
    let spec = Spec {
        transport: crate::wire::testing::Transport::Udp(50000, 4789),
        ..between("10.244.1.10", "203.0.113.9")
    };
    let packet = plain(spec.build());
    assert_eq!(back(&mut node(true), &packet, false), [packet]);
}

#[test]
fn a_super_packet_goes_back_whole() {
    let to = |spec: Spec| Spec { destination: "203.0.113.9".parse().unwrap(), ..spec };
    for spec in [to(Spec::tcp4(&[3; 9000])), to(Spec::udp4(&[3; 9000]))] {
        let (vnet, packet) = spec.build_gso(1000);
        let mut node = node(true);
        // The kernel says how much of it lies in one piece, which may be all.
        let vnet = VnetHdr { hdr_len: packet.len() as u16, ..vnet };
        let written = back(&mut node, &(vnet, packet.clone()), false);
        let hdr_len = spec.header_len() as u16;
        assert_eq!(written, [(VnetHdr { hdr_len, ..vnet }, packet)]);
        assert_eq!(node.worker.counters.hairpinned_packets.get(), 9);
        assert_eq!(node.worker.counters.device.tx_packets.get(), 9);
        assert_eq!(node.worker.counters.device.tx_bytes.get(), node.worker.counters.device.rx_bytes.get());
    }
}

/// A checksum is finished behind the judgement, so it must be one.
#[test]
fn what_would_be_written_over_is_a_checksum() {
    let (vnet, packet) = between("10.244.1.10", "10.244.1.20").build_partial();
    for csum_offset in [0, 2, 4] {
        let mut node = node(true);
        let forged = VnetHdr { csum_offset, ..vnet };
        assert_eq!(back(&mut node, &(forged, packet.clone()), false), []);
        assert_eq!(node.drops(), [(DropReason::Malformed, 1)]);
    }
    let told = VnetHdr { flags: 2, ..VnetHdr::default() };
    let whole = between("10.244.1.10", "10.244.1.20").build();
    assert_eq!(
        back(&mut node(true), &(told, whole.clone()), false),
        [plain(whole)],
        "of no interest to the kernel"
    );
    let mut node = node(true);
    let forged = VnetHdr { csum_start: 12, ..Spec::tcp4(&[1; 3000]).build_gso(1000).0 };
    let spec = Spec { destination: "203.0.113.9".parse().unwrap(), ..Spec::tcp4(&[1; 3000]) };
    assert_eq!(back(&mut node, &(forged, spec.build_gso(1000).1), false), []);
    assert_eq!(node.drops(), [(DropReason::Malformed, 1)]);
}

/// What lies behind a packet is none of it.
#[test]
fn only_the_packet_goes_back() {
    let packet = between("10.244.1.10", "10.244.1.20").build();
    let longer = plain([&packet[..], &[9; 20]].concat());
    let mut node = node(true);
    assert_eq!(back(&mut node, &longer, false), [plain(packet.clone())]);
    assert_eq!(node.worker.counters.device.rx_bytes.get(), longer.1.len() as u64);
    assert_eq!(node.worker.counters.device.tx_bytes.get(), packet.len() as u64);
}

/// Without pools, and with one that is everything.
#[test]
fn pools_may_be_none_or_all() {
    let tun = TunLink { mtu: 1500, hairpin: true, ..TunLink::default() };
    let packet = plain(between("10.244.1.10", "203.0.113.9").build());
    let mut all = Node::with(forwarding_with(peer, 1, Mode::Ipip, None, tun));
    assert_eq!(back(&mut all, &packet, false), []);
    assert_eq!(all.drops(), [(DropReason::NoRoute, 1)]);
    let mut rib = Rib::default();
    let local: Prefix = "10.244.1.0/24".parse().unwrap();
    rib.insert(local, Source::Local, Target::Local).unwrap();
    let underlay = Underlay { tun, ..underlay(1, 1500) };
    let none = Forwarding::build(underlay, &[], &EncapPolicy::default(), &rib).unwrap();
    assert_eq!(back(&mut Node::with(none), &packet, false), [packet]);
}

/// Rules for two pods: the first may send UDP to the second alone, the second takes nothing from one network.
fn rules() -> Arc<ActivePolicy> {
    let any = Rule {
        action: Action::Deny,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
        origin: Origin { policy: 0, rule: Some(0) },
    };
    let among = |set| Side { among: Some(set), ..Side::default() };
    let udp = Rule { action: Action::Allow, protocol: Some(17), destination: among(0), ..any };
    let class = |prefix: &str, class| (prefix.parse().unwrap(), ClassId(class));
    let role = |egress, ingress| Role { is_endpoint: true, egress, ingress };
    let parts = RulesetParts {
        classes: vec![class("10.244.1.10/32", 1), class("10.244.1.20/32", 2), class("203.0.113.0/24", 3)],
        roles: vec![Role::default(), role(Some(0), None), role(None, Some(1)), Role::default()],
        sets: vec![vec![ClassId(2)], vec![ClassId(3)]],
        chains: vec![Box::new([udp, any]), Box::new([Rule { source: among(1), ..any }])],
        policies: vec![PolicyEntry { name: "default/p".into(), counters: PolicyCounters::new(1) }],
        ..RulesetParts::default()
    };
    let rules = Arc::new(Ruleset::new(parts).unwrap());
    // No packet is taken for one of a connection from before.
    let settings = Settings { pick_up: 0, ..Settings::default() };
    Arc::new(ActivePolicy { rules, generation: 1, settings })
}

#[test]
fn both_ends_of_this_node_are_judged() {
    let mut node = node(true);
    node.forwarding = node.forwarding.clone().with_policy(Some(rules()));
    let (first, second, outside) = ("10.244.1.10", "10.244.1.20", "203.0.113.9");
    let tcp = |source: &str, destination: &str| {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Spec { source, destination, ..Spec::tcp4(&[7; 3000]) }
    };
    let answer = |spec: Spec| {
        let crate::wire::testing::Transport::Udp(from, to) = spec.transport else { panic!("no UDP") };
        let transport = crate::wire::testing::Transport::Udp(to, from);
        Spec { source: spec.destination, destination: spec.source, transport, ..spec }
    };
    let mut denied = 0;
    for (packet, reason) in [
        (plain(between(first, second).build()), None),
        (plain(answer(between(first, second)).build()), None),
        (tcp(first, second).build_gso(1000), Some(DropReason::PolicyEgress)),
        (plain(between(first, outside).build()), Some(DropReason::PolicyEgress)),
        (plain(between(outside, second).build()), Some(DropReason::PolicyIngress)),
        (plain(between(outside, first).build()), None),
        // The answer to that is of a connection that is known, whatever the rules say of new ones.
        (plain(answer(between(outside, first)).build()), None),
        (plain(between("192.0.2.99", second).build()), None),
        (plain(between(first, "169.254.169.254").build()), Some(DropReason::PolicyEgress)),
    ] {
        let before = node.drops();
        let written = back(&mut node, &packet, false);
        match reason {
            None => assert_eq!((written.len(), node.drops()), (1, before)),
            Some(reason) => {
                let packets = expand(&packet.0, &packet.1).len() as u64;
                denied += packets;
                let counted = before.iter().find(|(one, _)| *one == reason).map_or(0, |(_, count)| *count);
                assert_eq!(written, []);
                assert_eq!(node.worker.counters.drops(reason), counted + packets, "{reason:?}");
            }
        }
    }
    let counters = &node.worker.counters;
    assert_eq!(counters.device.rx_packets.get(), counters.hairpinned_packets.get() + denied);
    assert_eq!(counters.device.tx_packets.get(), counters.hairpinned_packets.get());
}

proptest! {
    /// Byte by byte, also through a device without offloads.
    #[test]
    fn packets_come_back_as_they_left(
        one in any_packet(bytes(0usize..1300)), many in tcp_or_udp(bytes(1usize..20000)), size in 20u16..1300, plainly: bool,
    ) {
        let here = |mut spec: Spec| {
            spec.destination = if spec.is_v6() { "fd00:10:244:1::77" } else { "10.244.1.77" }.parse().unwrap();
            spec
        };
        let (one, many) = (here(one), here(many));
        let mut node = node(true);
        let written = back(&mut node, &plain(one.build()), plainly);
        prop_assert_eq!(written, [plain(one.build())]);
        let (vnet, packet) = many.build_gso(size);
        let written = back(&mut node, &(vnet, packet.clone()), plainly);
        let seen: Vec<_> = written.iter().flat_map(|(vnet, packet)| expand(vnet, packet)).collect();
        prop_assert_eq!(&seen, &expand(&vnet, &packet));
        prop_assert!(plainly || written.len() == 1);
        prop_assert!(!plainly || written.iter().all(|(vnet, _)| vnet.gso_type == vnet_hdr::GSO_NONE));
        let counters = &node.worker.counters;
        prop_assert_eq!(counters.device.rx_packets.get(), counters.hairpinned_packets.get());
        prop_assert_eq!(counters.device.tx_packets.get(), counters.hairpinned_packets.get());
        prop_assert_eq!(node.dropped(), 0);
    }
}
