//! Arbitrary bytes from either side: no panic, and every packet is delivered or has a drop.

use proptest::prelude::*;

use super::sent::Sent;
use super::{Node, address, address4, address6, outer, plain, seen};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::packet::Channel;
use crate::net::Mode;
use crate::wire::testing::{Random, any_packet, bytes};
use crate::wire::{VnetHdr, ipv4, ipv6};

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Ipip), Just(Mode::Vxlan), Just(Mode::Direct)]
}

/// Real packets with a few bytes overwritten get deeper than noise does.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let damaged =
        (any_packet(bytes(0usize..200)), any::<u64>(), 0usize..6).prop_map(|(spec, seed, count)| {
            let (mut packet, mut random) = (spec.build(), Random::new(seed));
            for _ in 0..count {
                let limit = if random.below(2) == 0 { packet.len().min(24) } else { packet.len() };
                let at = random.below(limit as u64) as usize;
                packet[at] = random.next() as u8;
            }
            let keep =
                if random.below(4) == 0 { random.below(packet.len() as u64) as usize } else { packet.len() };
            packet.truncate(keep);
            packet
        });
    prop_oneof![1 => bytes(0usize..120), 5 => damaged]
}

fn vnet() -> impl Strategy<Value = VnetHdr> {
    let raw = (any::<[u8; 10]>(), 0u8..8, any::<bool>()).prop_map(|(mut raw, gso_type, small)| {
        raw[1] = gso_type | raw[1] & 0x80;
        if small {
            [raw[5], raw[7], raw[9]] = [0; 3];
        }
        VnetHdr::parse(&raw)
    });
    prop_oneof![1 => Just(VnetHdr::default()), 3 => raw]
}

fn check_inbound(
    channel: Channel,
    inner: Vec<Vec<u8>>,
    damage: u64,
    tos: u8,
    without_offloads: bool,
) -> Result<(), TestCaseError> {
    let mut random = Random::new(damage);
    let mut node = Node::for_channel(channel, 2, Mode::Vxlan);
    let mut device = Memory { plain: without_offloads, ..Memory::default() };
    let wrap = |inner: Vec<u8>| {
        let v6 = inner.first().is_some_and(|byte| byte >> 4 == 6);
        let (source, destination) = (address4(1), address4(2));
        let (total_len, protocol) = (20 + inner.len() as u16, if v6 { 41 } else { 4 });
        let mut head = match channel {
            Channel::Raw => {
                ipv4::Repr { tos, total_len, id: 0, flags: 0, ttl: 9, protocol, source, destination }
                    .emit()
                    .to_vec()
            }
            Channel::Raw6 => {
                let mut head = ipv6::emit(if v6 { 41 } else { 4 }, 9, address6(1), address6(2)).to_vec();
                ipv6::patch_payload_len(&mut head, inner.len() as u16);
                ipv6::patch_traffic_class(&mut head, tos);
                // What the kernel checks before a raw socket sees the rest stays as it is.
                return Sent { channel, to: address6(2).into(), tos, bytes: [head, inner].concat() };
            }
            _ => {
                let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
                [&[8, 0, 0, 0, 0, 0x10, 0, 0][..], &[0x66; 12], &ethertype].concat()
            }
        };
        if random.below(4) == 0 {
            let at = random.below(head.len() as u64) as usize;
            head[at] = random.next() as u8;
        }
        Sent { channel, to: outer(channel, 2), tos, bytes: [head, inner].concat() }
    };
    let sent: Vec<_> = inner.into_iter().map(wrap).collect();
    node.receive(outer(channel, 1), &sent, true, &mut device);
    let received = node.worker.counters.underlay.rx_packets.get();
    prop_assert_eq!(received, node.worker.counters.device.tx_packets.get() + node.dropped());
    prop_assert_eq!(seen(&device).len() as u64, node.worker.counters.device.tx_packets.get());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn outbound_accounts_for_everything(
        mode in mode(), packets in proptest::collection::vec((vnet(), packet()), 1..8),
    ) {
        let mut node = Node::new(1, mode);
        let sent = node.send(&packets);
        prop_assert_eq!(node.worker.counters.device.rx_packets.get(), sent.len() as u64 + node.dropped());
    }

    #[test]
    fn inbound_accounts_for_everything(
        raw: bool, over_ipv6: bool, inner in proptest::collection::vec(packet(), 1..8),
        damage: u64, tos: u8, without_offloads: bool,
    ) {
        // What node 1 would send from its pods to those of node 2, and worse.
        let channel = match (raw, over_ipv6) {
            (true, false) => Channel::Raw,
            (false, false) => Channel::Udp(1),
            (true, true) => Channel::Raw6,
            (false, true) => Channel::Udp6(1),
        };
        check_inbound(channel, inner, damage, tos, without_offloads)?;
    }

    #[test]
    fn inbound_noise_is_dropped(
        raw: bool, noise in proptest::collection::vec(bytes(0usize..120), 1..5), source: u8,
    ) {
        let (mut node, mut device) = (Node::new(2, Mode::Ipip), Memory::default());
        let channel = if raw { Channel::Raw } else { Channel::Udp(1) };
        let wrap = |bytes| Sent { channel, to: address(2), tos: 0, bytes };
        let sent: Vec<_> = noise.into_iter().map(wrap).collect();
        node.receive(address(source % 5), &sent, false, &mut device);
        prop_assert_eq!(node.dropped(), sent.len() as u64);
        prop_assert_eq!(node.worker.counters.underlay.rx_packets.get(), sent.len() as u64);
        prop_assert_eq!(device.output, []);
    }
}

#[test]
fn an_empty_read_is_a_malformed_packet() {
    let mut node = Node::new(1, Mode::Vxlan);
    assert_eq!(node.send(&[plain(vec![])]), []);
    assert_eq!((node.dropped(), node.worker.counters.device.rx_packets.get()), (1, 1));
}
