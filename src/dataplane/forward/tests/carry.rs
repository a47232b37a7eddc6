//! Node 1 to node 2: what goes in at one device comes out at the other, byte by byte.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Node, address, address6, plain, seen};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::forward::scope::judge;
use crate::dataplane::packet::Channel;
use crate::dataplane::segment::Flow;
use crate::net::Mode;
use crate::wire::VnetHdr;
use crate::wire::testing::{Random, Spec, any_packet, bytes, set_flags, tcp_or_udp, without_id};

/// A packet as the device hands it over, and what must arrive for it.
type Case = ((VnetHdr, Vec<u8>), Vec<Vec<u8>>);

fn case() -> impl Strategy<Value = Case> {
    let one = any_packet(bytes(0usize..1300)).prop_map(|spec| (plain(spec.build()), vec![spec.build()]));
    let partial = tcp_or_udp(bytes(0usize..1300)).prop_map(|spec| (spec.build_partial(), vec![spec.build()]));
    let many = (tcp_or_udp(bytes(0usize..20000)), 20u16..1300).prop_map(gso);
    // What bulk transfers look like: nothing but ACK, so that the other side merges.
    let bulk = (tcp_or_udp(bytes(0usize..60000)), 500u16..1300).prop_map(|(mut spec, size)| {
        spec.options.clear();
        if spec.is_tcp() {
            set_flags(spec.tcp(), 0x18);
        }
        gso((spec, size))
    });
    let any = prop_oneof![3 => one, 1 => partial, 1 => many, 2 => bulk];
    // A port drawn at random may be that of VXLAN, whose datagrams do not travel.
    any.prop_filter("a tunnel packet", |(_, wanted)| !wanted.iter().any(|packet| is_to_vxlan(packet)))
}

fn is_to_vxlan(packet: &[u8]) -> bool {
    Flow::of(packet).is_ok_and(|flow| judge(&flow, packet, 4789, false).is_err())
}

fn gso((spec, size): (Spec, u16)) -> Case {
    (spec.build_gso(size), spec.segments(size).iter().map(Spec::build).collect())
}

/// Packets by flow (protocol and ports), in order.
fn by_flow(packets: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<(u8, Vec<u8>), Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let flow = Flow::of(&packet).unwrap();
        let ports = packet[flow.l4..flow.l4 + 4].to_vec();
        flows.entry((flow.protocol, ports)).or_default().push(without_id(&packet));
    }
    flows
}

fn check(
    (mode, over_ipv6): (Mode, bool),
    cases: Vec<Case>,
    gro: bool,
    without_offloads: bool,
) -> Result<(), TestCaseError> {
    let node = |number| if over_ipv6 { Node::over_ipv6(number, mode) } else { Node::new(number, mode) };
    let at = |number: u8| if over_ipv6 { address6(number).into() } else { address(number) };
    // Bare IPv6 does not travel; its drop has a test of its own.
    let cases: Vec<Case> =
        cases.into_iter().filter(|(input, _)| mode != Mode::Direct || input.1[0] >> 4 == 4).collect();
    let (input, wanted): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let wanted = wanted.concat();
    let bytes: u64 = wanted.iter().map(|packet| packet.len() as u64).sum();
    let mut sender = node(1);
    let sent = sender.send(&input);
    prop_assert_eq!(sender.drops(), []);
    prop_assert_eq!(sent.len(), wanted.len());
    prop_assert_eq!(sender.worker.counters.device.rx_packets.get(), wanted.len() as u64);
    prop_assert_eq!(sender.worker.counters.device.rx_bytes.get(), bytes);
    prop_assert!(sent.iter().all(|one| one.to == at(2)));
    if mode == Mode::Direct {
        // Nothing is taken off at the other end: these are the packets.
        prop_assert!(sent.iter().all(|one| one.channel == Channel::Raw));
        prop_assert_eq!(sent.into_iter().map(|one| one.bytes).collect::<Vec<_>>(), wanted);
        return Ok(());
    }
    let overhead = u64::from(mode.overhead(at(2)));
    let (mut receiver, mut device) = (node(2), Memory { plain: without_offloads, ..Memory::default() });
    receiver.receive(at(1), &sent, gro, &mut device);
    prop_assert_eq!(receiver.drops(), []);
    prop_assert_eq!(receiver.worker.counters.underlay.rx_packets.get(), wanted.len() as u64);
    prop_assert_eq!(receiver.worker.counters.underlay.rx_bytes.get(), bytes + wanted.len() as u64 * overhead);
    prop_assert_eq!(receiver.worker.counters.device.tx_packets.get(), wanted.len() as u64);
    prop_assert_eq!(receiver.worker.counters.device.tx_bytes.get(), bytes);
    if without_offloads {
        prop_assert!(device.output.iter().all(|(vnet, _)| *vnet == VnetHdr::default()));
        prop_assert_eq!(device.output.len(), wanted.len());
    }
    prop_assert_eq!(by_flow(seen(&device)), by_flow(wanted));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn packets_arrive_as_they_left(
        cases in proptest::collection::vec(case(), 1..12), gro: bool, without_offloads: bool,
    ) {
        let ipv4 = [Mode::Ipip, Mode::Vxlan, Mode::Direct].map(|mode| (mode, false));
        for way in ipv4.into_iter().chain([(Mode::Ipip, true), (Mode::Vxlan, true)]) {
            check(way, cases.clone(), gro, without_offloads)?;
        }
    }
}

/// A bulk transfer crosses both nodes in few large writes.
#[test]
fn super_packets_arrive_as_super_packets() {
    let spec = Spec::tcp4(&Random::new(3).bytes(64000));
    for mode in [Mode::Ipip, Mode::Vxlan] {
        let (mut sender, mut receiver, mut device) =
            (Node::new(1, mode), Node::new(2, mode), Memory::default());
        let (vnet, packet) = spec.build_gso(1400);
        let sent = sender.send(&[(vnet, packet.clone())]);
        receiver.receive(address(1), &sent, true, &mut device);
        assert_eq!(device.output, [(vnet, packet)]);
    }
}

/// More than one outbox holds, in one batch.
#[test]
fn a_batch_larger_than_the_outbox_loses_nothing() {
    let mut spec = Spec::tcp4(&Random::new(4).bytes(1365));
    let mut input = Vec::new();
    for _ in 0..7 {
        input.push(spec.build_gso(1));
        spec.tcp().sequence_number += 1365;
    }
    for mode in [Mode::Ipip, Mode::Vxlan] {
        let (mut sender, mut receiver, mut device) =
            (Node::new(1, mode), Node::new(2, mode), Memory::default());
        let sent = sender.send(&input);
        assert_eq!((sent.len(), sender.drops()), (7 * 1365, vec![]));
        receiver.receive(address(1), &sent, true, &mut device);
        let payload: Vec<u8> = seen(&device).iter().map(|packet| packet[40]).collect();
        assert_eq!(payload, spec.payload.repeat(7));
    }
}
