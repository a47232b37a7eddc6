//! Merging is lossless: whatever goes in comes out when super-packets are cut again, in order
//! within each flow. Only the identification of an IPv4 packet with DF is not kept, because such
//! packets merge whatever it is and segmentation numbers them anew.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::merge::{ALL, merge, merge_with};
use super::{Delivered, cut};
use crate::dataplane::segment::Flow;
use crate::dataplane::segment::merge::Rules;
use crate::dataplane::segment::split::finish_checksum;
use crate::wire::put16;
use crate::wire::testing::{Random, Spec, Transport, bytes, set_flags, tcp_or_udp, without_id};

/// The packets a delivery stands for, as a receiver would see them.
fn expand(delivered: &Delivered) -> Vec<Vec<u8>> {
    if delivered.vnet.is_gso() {
        return cut(&delivered.packet, &delivered.vnet);
    }
    let mut packet = delivered.packet.clone();
    if delivered.vnet.needs_csum() {
        finish_checksum(&mut packet, &delivered.vnet).unwrap();
    }
    vec![packet]
}

/// Packets by flow, in order, without what is not kept. Flows are told apart by source address.
fn by_flow(packets: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<std::net::IpAddr, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let flow = Flow::of(&packet).unwrap();
        flows.entry(flow.source).or_default().push(without_id(&packet[..flow.total_len]));
    }
    flows
}

/// One sender with its own address, ports and habits.
struct Sender {
    spec: Spec,
    size: usize,
}

impl Sender {
    fn new(number: usize, random: &mut Random) -> Self {
        let mut spec = if random.below(3) == 0 { Spec::udp4(&[]) } else { Spec::tcp4(&[]) };
        if spec.is_tcp() && random.below(2) == 0 {
            let len = 4 * random.below(11) as usize;
            let options = random.bytes(len);
            spec.tcp().set_options_raw(&options).unwrap();
        }
        (spec.df, spec.id) = (random.below(2) == 0, random.next() as u16);
        if spec.is_tcp() {
            spec.tcp().sequence_number = random.next() as u32;
        }
        if random.below(3) == 0 {
            spec = spec.v6();
            spec.source = (0xfd << 120 | number as u128).to_be_bytes().into();
        } else {
            spec.source = [10, 244, 1, number as u8].into();
        }
        Self { spec, size: 1 + random.below(200) as usize }
    }

    /// The next packet, and what its receiver must see of it.
    fn next(&mut self, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
        let mut spec = Spec { payload: random.bytes(self.size), ..self.spec.clone() };
        let kind = random.below(24);
        self.vary(kind, &mut spec, random);
        self.spec.id = spec.id.wrapping_add(1);
        if spec.is_tcp() {
            let next = spec.tcp().sequence_number.wrapping_add(spec.payload.len() as u32);
            self.spec.tcp().sequence_number = next;
        }
        let whole = spec.build();
        match kind {
            20 => (spec.build_partial().1, whole),
            21 => damaged(whole, &spec, random),
            22 if !spec.is_v6() => {
                let mut fragment = whole;
                put16(&mut fragment, 6, 0x2000 | random.below(50) as u16);
                (fragment.clone(), fragment)
            }
            23 => {
                let padding = random.below(5) as usize;
                ([whole.clone(), random.bytes(padding)].concat(), whole)
            }
            _ => (whole.clone(), whole),
        }
    }

    /// One way in which packets of a stream are not all alike; most are.
    fn vary(&mut self, kind: u64, spec: &mut Spec, random: &mut Random) {
        match kind {
            0 => spec.payload.truncate(random.below(self.size as u64 + 1) as usize),
            1 => spec.payload = random.bytes(self.size + 1),
            2 => spec.ttl ^= 1,
            3 => spec.tos = random.next() as u8,
            4 => spec.df = !spec.df,
            5 => spec.id = spec.id.wrapping_add(random.below(3) as u16),
            6 if !spec.is_v6() => spec.options = vec![1; 4],
            7 => spec.flow_label = random.below(1 << 20) as u32,
            8 => self.size = 1 + random.below(200) as usize,
            9..=14 if spec.is_tcp() => vary_tcp(kind, spec, random),
            _ => {}
        }
    }
}

fn vary_tcp(kind: u64, spec: &mut Spec, random: &mut Random) {
    let header = spec.tcp();
    match kind {
        9 => set_flags(header, random.next() as u8),
        10 => header.psh = true,
        11 => header.sequence_number = header.sequence_number.wrapping_add(random.below(3) as u32),
        12 => header.acknowledgment_number += 1,
        13 => header.window_size ^= 1,
        _ => header.set_options_raw(&random.bytes(4)).unwrap(),
    }
}

/// A packet whose last byte has a wrong bit, which leaves it in its flow.
fn damaged(whole: Vec<u8>, spec: &Spec, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let (vnet, unfinished) = spec.build_partial();
    let field = usize::from(vnet.csum_start + vnet.csum_offset);
    let mut packet = whole.clone();
    *packet.last_mut().unwrap() ^= 1 << random.below(8);
    // The one wrong checksum that says "unfinished" is for kind 20.
    let packet = if packet[field..field + 2] == unfinished[field..field + 2] { whole } else { packet };
    (packet.clone(), packet)
}

fn check_lossless(
    seed: u64,
    senders: usize,
    packets: usize,
    rules: Rules,
    collide: bool,
) -> Result<(), TestCaseError> {
    let mut random = Random::new(seed);
    let mut all: Vec<_> = (0..senders).map(|number| Sender::new(number, &mut random)).collect();
    let (mut input, mut wanted, mut turn) = (Vec::new(), Vec::new(), 0);
    for _ in 0..packets {
        // Bursts of one sender are common and interleavings arbitrary.
        if random.below(3) == 0 {
            turn = random.below(senders as u64) as usize;
        }
        let (packet, seen) = all[turn].next(&mut random);
        input.push(packet);
        wanted.push(seen);
    }
    let delivered = merge_with(rules, &input, |flow| if collide { Flow { hash: 1, ..flow } } else { flow });
    for one in &delivered {
        let expanded = expand(one);
        prop_assert_eq!(expanded.len(), one.packets as usize);
        prop_assert_eq!(expanded.iter().map(Vec::len).sum::<usize>() as u64, one.bytes);
        prop_assert!(one.packet.len() <= 65535);
    }
    let got = by_flow(delivered.iter().flat_map(expand));
    prop_assert_eq!(got, by_flow(wanted));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn merging_loses_nothing_and_keeps_the_order(
        seed: u64, senders in 1usize..14, packets in 1usize..120, tcp: bool, udp: bool, collide: bool,
    ) {
        check_lossless(seed, senders, packets, Rules { tcp: tcp || !udp, udp }, collide)?;
    }

    #[test]
    fn merging_undoes_splitting(spec in tcp_or_udp(bytes(1usize..20000)), size in 500u16..1300) {
        let mut spec = Spec { options: Vec::new(), ..spec };
        match &mut spec.transport {
            Transport::Tcp(header) => set_flags(header, if header.psh { 0x18 } else { 0x10 }),
            Transport::Udp(from, to) => (*from, *to) = (*from | 0x8000, *to | 0x8000),
            Transport::Echo(..) => unreachable!(),
        }
        let (vnet, packet) = spec.build_gso(size);
        let delivered = merge(ALL, &cut(&packet, &vnet));
        prop_assert_eq!(delivered.len(), 1);
        if spec.payload.len() > usize::from(size) {
            prop_assert_eq!(delivered[0].vnet, vnet);
            prop_assert_eq!(&delivered[0].packet, &packet);
        } else {
            prop_assert_eq!(&delivered[0].packet, &spec.build());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn arbitrary_bytes_never_panic(seed: u64, packets in 1usize..20) {
        let mut random = Random::new(seed);
        let packet = |_| {
            let len = random.below(160) as usize;
            let mut packet = random.bytes(len);
            if len > 60 {
                let v6 = random.below(2) == 0;
                packet[0] = if v6 { 0x60 } else { 0x40 | (4 + random.below(4)) as u8 };
                put16(&mut packet, if v6 { 4 } else { 2 }, (if v6 { len - 40 } else { len }) as u16);
                packet[if v6 { 6 } else { 9 }] = if random.below(2) == 0 { 6 } else { 17 };
            }
            packet
        };
        let input: Vec<_> = (0..packets).map(packet).collect();
        let valid: Vec<_> = input.iter().filter_map(|packet| {
            Flow::of(packet).ok().map(|flow| packet[..flow.total_len].to_vec())
        }).collect();
        let delivered = merge(ALL, &input);
        let mut got: Vec<_> = delivered.iter().map(|one| one.packet.clone()).collect();
        let mut wanted = valid;
        got.sort();
        wanted.sort();
        prop_assert_eq!(got, wanted);
    }
}
