//! The programs on packets, instruction by instruction.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Addresses, Maps, NEXT, inbound, joined, outbound, share};
use crate::dataplane::ebpf::machine::{Map, Outcome, PROCESSOR_HERE, Skb, run_with};
use crate::dataplane::ebpf::{Instruction, R2, add_register, load64, store64};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::encap::{OUTER_TTL, ipip, ipip6, outer, vxlan};
use crate::dataplane::kernel_path::slot::{Counts, Slot};
use crate::dataplane::kernel_path::words::WORDS;
use crate::dataplane::kernel_path::{Encapsulation, FlowKey, Inbound, Outbound, Record};
use crate::dataplane::packet::{Direction, Family};
use crate::dataplane::segment::Flow;
use crate::net::{Mac, Mode, Vni};
use crate::wire::testing::{Spec, Transport, set_flags};
use crate::wire::{Ipv4, be16, ethernet, ipv4, ipv6, put16, tcp};

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
const HERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6);
const THERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 6, 5, 4, 3, 2, 1);
/// The flow label of packets to the other node.
const LABEL: u32 = 0xa_bcde;
const REDIRECTED: i64 = 7;
const UPLINK: u32 = 5;
const TUN: u32 = 9;
const VXLAN: Tunnel = Tunnel(Mode::Vxlan, Family::V4);
const VXLAN6: Tunnel = Tunnel(Mode::Vxlan, Family::V6);
const IPIP: Tunnel = Tunnel(Mode::Ipip, Family::V4);
const IPIP6: Tunnel = Tunnel(Mode::Ipip, Family::V6);
const BARE: Tunnel = Tunnel(Mode::Direct, Family::V4);
/// Those with outer headers.
const TUNNELS: [Tunnel; 4] = [VXLAN, IPIP, VXLAN6, IPIP6];
const ADDRESSES: Addresses = Addresses {
    own: Some(HERE),
    own6: Some(HERE6),
    vxlan_port: 4789,
    vni: Vni::CALICO,
    zero_checksum6: true,
};
const WORKERS: u16 = 3;
/// The places of the maps of a node.
const MAPS: Maps = Maps { flows: 0, slots: 1, secret: [1, 2] };

/// The interpreter knows no atomic instructions.
fn plainly(base: u8, at: i16, from: u8) -> Vec<Instruction> {
    vec![load64(R2, base, at), add_register(R2, from), store64(base, at, R2)]
}

/// A format on the wire: a mode, and the family of its outer headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Tunnel(Mode, Family);

/// A node that carries one flow.
struct Node {
    words: Vec<AtomicU64>,
    flows: Vec<(Vec<u8>, u32)>,
}

impl Node {
    fn with(record: &Record) -> Self {
        let words: Vec<AtomicU64> = (0..3 * WORDS).map(|_| AtomicU64::new(0)).collect();
        let node = Self { words, flows: vec![(record.key.bytes().to_vec(), 2)] };
        node.slot().write(record);
        node.catch_up();
        node
    }

    /// The pump has sent on what has passed to it.
    fn catch_up(&self) {
        self.slot().set_sent(self.slot().passed());
    }

    fn slot(&self) -> Slot<'_> {
        Slot(&self.words[2 * WORDS..])
    }

    fn outcome(&self, program: &[Instruction], skb: &Skb) -> (Outcome, Option<(u32, u64)>) {
        let maps = [Map::Hash(&self.flows), Map::Array(&self.words, WORDS)];
        run_with(program, skb, &maps)
    }

    fn run(&self, program: &[Instruction], skb: &Skb) -> (i64, Vec<u8>, Option<(u32, u64)>) {
        let (outcome, redirected) = self.outcome(program, skb);
        (outcome.result, outcome.packet, redirected)
    }

    fn send(&self, skb: &Skb) -> (i64, Vec<u8>, Option<(u32, u64)>) {
        self.run(&outbound::program(MAPS, plainly), skb)
    }

    fn receive(&self, skb: &Skb) -> (i64, Vec<u8>, Option<(u32, u64)>) {
        let before: Vec<u64> = self.words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let inbound = inbound::program(MAPS, &ADDRESSES, plainly);
        let result = self.run(&inbound, skb);
        // The packet socket is told the same, which begins at the outer IP header.
        let shown = Skb { bytes: skb.bytes[ethernet::LEN..].to_vec(), interface: UPLINK, ..skb.clone() };
        let elsewhere = Skb { interface: UPLINK + 1, ..shown.clone() };
        let worker = share::tests::worker_of(&shown.bytes, HERE, WORKERS);
        assert_eq!(self.share(&elsewhere), worker);
        if self.slot().is_live() || result.0 == REDIRECTED {
            assert_eq!(self.share(&shown), if result.0 == REDIRECTED { 0 } else { worker });
        }
        // And what it has found is what is found again.
        let words = || self.words.iter().map(|word| word.load(Ordering::Relaxed));
        let after: Vec<u64> = words().collect();
        let put = |values: &[u64]| {
            self.words.iter().zip(values).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        };
        put(&before);
        let cb = self.shown(&shown).cb;
        assert_eq!(cb[..2] == MAPS.secret.map(|word| word as u32), self.share(&shown) == 0 && cb != [0; 5]);
        assert_eq!(self.run(&inbound, &Skb { cb, ..skb.clone() }), result);
        assert!(words().eq(after));
        result
    }

    /// Which of the packet sockets gets a packet.
    fn share(&self, skb: &Skb) -> i64 {
        self.shown(skb).result
    }

    fn shown(&self, skb: &Skb) -> Outcome {
        let maps = [Map::Hash(&self.flows), Map::Array(&self.words, WORDS)];
        run_with(&share::program(MAPS, &ADDRESSES, WORKERS), skb, &maps).0
    }

    fn counts(&self) -> (u64, u64) {
        let Counts { packets, bytes, lost } = self.slot().counts();
        assert_eq!(lost, 0);
        (packets, bytes)
    }
}

fn key(packet: &[u8], direction: Direction) -> FlowKey {
    FlowKey::of(&Flow::of(packet).unwrap(), packet, direction).unwrap()
}

fn link(family: u16) -> [u8; ethernet::LEN] {
    ethernet::header(Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 1]), family)
}

/// The outer headers as the pump would send them but for the VXLAN checksum, to the other node, or from there.
fn outer_of(Tunnel(mode, outer): Tunnel, inner: Family, from_there: bool) -> Vec<u8> {
    let [from, to] = if from_there { [THERE, HERE] } else { [HERE, THERE] };
    let [from6, to6] = if from_there { [THERE6, HERE6] } else { [HERE6, THERE6] };
    let number = if inner == Family::V6 { 41 } else { 4 };
    let behind = vxlan::template(Vni::CALICO, Mac([6; 6]), Mac([4; 6]), inner.ethertype());
    match (mode, outer) {
        (Mode::Direct, _) => Vec::new(),
        (Mode::Ipip, Family::V4) => ipip::template(from, to, number).to_vec(),
        (Mode::Ipip, Family::V6) => {
            let mut header = ipip6::template(from6, to6, number);
            ipip6::patch(&mut header, 0, LABEL, 0);
            header.to_vec()
        }
        (Mode::Vxlan, Family::V4) => outer::vxlan(OUTER_TTL, (from, 0xc001), (to, 4789), &behind).to_vec(),
        (Mode::Vxlan, Family::V6) => outer::vxlan6(LABEL, (from6, 0xc001), (to6, 4789), &behind).to_vec(),
    }
}

/// Completes outer headers for `inner_len` bytes behind them.
fn complete(Tunnel(mode, outer): Tunnel, headers: &mut [u8], tos: u8, inner_len: usize) {
    let len = headers.len() + inner_len;
    let ip_len = match outer {
        Family::V4 => {
            ipv4::patch_tos(&mut headers[..ipv4::LEN], tos);
            ipv4::patch_len_id(&mut headers[..ipv4::LEN], len as u16, 0);
            ipv4::LEN
        }
        Family::V6 => {
            ipip6::patch(headers, tos, LABEL, len - ipv6::LEN);
            ipv6::LEN
        }
    };
    if mode == Mode::Vxlan {
        put16(headers, ip_len + 4, (len - ip_len) as u16);
    }
}

fn inner_family(packet: &[u8]) -> Family {
    if packet[0] >> 4 == 6 { Family::V6 } else { Family::V4 }
}

/// The ethertype of what is sent for `packet`.
fn ethertype(Tunnel(mode, outer): Tunnel, packet: &[u8]) -> u16 {
    if mode == Mode::Direct { inner_family(packet).ethertype() } else { outer.ethertype() }
}

fn outbound_record(tunnel: Tunnel, packet: &[u8], mtu: u16) -> Record {
    let outer = outer_of(tunnel, inner_family(packet), false);
    let how = Outbound {
        mode: tunnel.0,
        interface: UPLINK,
        mtu,
        marking: Marking::fixed(46),
        encapsulation: Encapsulation { link: &link(ethertype(tunnel, packet)), outer: &outer },
    };
    let record = Record::outbound(key(packet, Direction::Outbound), 0, &how).unwrap();
    assert_eq!(Tunnel(record.mode, record.outer), tunnel);
    record
}

fn inbound_record(Tunnel(mode, outer): Tunnel, packet: &[u8]) -> Record {
    let outer_source = if outer == Family::V6 { IpAddr::V6(THERE6) } else { IpAddr::V4(THERE) };
    let how = Inbound { mode, outer_source, uplink: UPLINK };
    let record = Record::inbound(key(packet, Direction::Inbound), 0, TUN, &how).unwrap();
    assert_eq!(record.outer_source(), outer_source);
    record
}

/// A tunnel packet from the other node.
fn frame(tunnel: Tunnel, inner: &[u8]) -> Vec<u8> {
    let mut outer = outer_of(tunnel, inner_family(inner), true);
    complete(tunnel, &mut outer, 0, inner.len());
    [&link(tunnel.1.ethertype())[..], &outer, inner].concat()
}

/// A frame that the uplink receives.
fn arriving(frame: &[u8]) -> Skb {
    Skb { protocol: be16(frame, 12), ..Skb::of(frame) }
}

fn packets() -> [Vec<u8>; 4] {
    let (tcp, udp) = (Spec::tcp4(b"data"), Spec::udp4(b"data"));
    let with_tos = |spec: Spec| Spec { tos: 0x4a, ..spec };
    [tcp.clone(), udp.clone(), tcp.v6(), udp.v6()].map(|spec| with_tos(spec).build())
}

#[test]
fn a_packet_leaves_as_the_pump_would_send_it() {
    for packet in packets() {
        for tunnel in TUNNELS.into_iter().chain([BARE]) {
            let node = Node::with(&outbound_record(tunnel, &packet, 1450));
            let (result, sent, redirected) = node.send(&Skb::of(&packet));
            assert_eq!((result, redirected), (REDIRECTED, Some((UPLINK, 0))));
            let mut outer = outer_of(tunnel, inner_family(&packet), false);
            if tunnel != BARE {
                // DSCP 46, and the inner ECN.
                complete(tunnel, &mut outer, 0xba, packet.len());
            }
            assert_eq!(sent, [&link(ethertype(tunnel, &packet))[..], &outer, &packet].concat(), "{tunnel:?}");
            if tunnel != BARE && tunnel.1 == Family::V4 {
                assert!(Ipv4::parse(&sent[ethernet::LEN..]).unwrap().checksum_ok());
            }
            assert_eq!(node.counts(), (1, packet.len() as u64));
            assert_eq!(node.slot().take_largest(), packet.len() as u64);
        }
    }
}

#[test]
fn a_packet_comes_in_without_its_headers() {
    for packet in packets() {
        for tunnel in TUNNELS {
            let node = Node::with(&inbound_record(tunnel, &packet));
            let (result, got, redirected) = node.receive(&arriving(&frame(tunnel, &packet)));
            // BPF_F_INGRESS
            assert_eq!((result, redirected), (REDIRECTED, Some((TUN, 1))), "{tunnel:?}");
            assert_eq!(
                (&got[..ethernet::LEN], &got[ethernet::LEN..]),
                (&link(tunnel.1.ethertype())[..], &packet[..])
            );
            assert_eq!(node.counts(), (1, packet.len() as u64));
        }
    }
}

#[test]
fn super_packets_of_tcp_count_as_their_segments() {
    for (v6, ipip, vxlan) in [(false, IPIP, VXLAN6), (true, IPIP6, VXLAN)] {
        for (payload, segments) in [(1000, 1), (1001, 2), (64_000, 64)] {
            let spec = Spec::tcp4(&vec![7; payload]);
            let spec = if v6 { spec.v6() } else { spec };
            let (packet, headers) = (spec.build(), spec.header_len());
            let node = Node::with(&outbound_record(ipip, &packet, 1000 + headers as u16));
            let skb = Skb { gso_size: 1000, ..Skb::of(&packet) };
            assert_eq!(node.send(&skb).0, REDIRECTED);
            assert_eq!(node.counts(), (segments, (payload as u64) + segments * headers as u64));
            assert_eq!(node.slot().take_largest(), 1000 + headers as u64);
            let narrow = Node::with(&outbound_record(ipip, &packet, 999 + headers as u16));
            assert_eq!(narrow.send(&skb).0, i64::from(NEXT));
            let receiver = Node::with(&inbound_record(vxlan, &packet));
            let skb = Skb { gso_size: 1000, ..arriving(&frame(vxlan, &packet)) };
            assert_eq!(receiver.receive(&skb).0, REDIRECTED);
            assert_eq!(receiver.counts(), (segments, (payload as u64) + segments * headers as u64));
        }
    }
}

/// What the pump gets, unchanged and uncounted.
fn to_pump(node: &Node, skb: &Skb, received: bool) {
    let (result, packet, redirected) = if received { node.receive(skb) } else { node.send(skb) };
    assert_eq!((result, redirected), (i64::from(NEXT), None));
    assert_eq!(packet, skb.bytes);
    assert_eq!(node.counts(), (0, 0));
    node.catch_up();
}

/// Packets of the flow of [`Spec::tcp4`] that are not usual ones.
fn unusual(spec: &Spec) -> Vec<Vec<u8>> {
    let usual = spec.build();
    let patched = |at: usize, value: u8| {
        let mut packet = usual.clone();
        packet[at] = value;
        packet
    };
    let mut all = vec![[&usual[..], b"x"].concat(), usual[..usual.len() - 1].to_vec()];
    if !spec.is_v6() {
        all.extend([patched(6, 0x20), patched(7, 1), patched(8, 0), patched(9, 132), patched(0, 0x46)]);
        all.push(Spec { options: vec![1; 4], ..spec.clone() }.build());
    } else {
        all.extend([patched(7, 0), patched(6, 44), patched(6, 0)]);
    }
    // Other ends.
    all.push(patched(spec.l4(), 1));
    all.push(patched(spec.l4() + 3, 1));
    all.push(patched(spec.l4() - 1, 1));
    // A TCP header shorter than it can be, and one longer than the packet.
    all.extend([patched(spec.l4() + 12, 0x40), patched(spec.l4() + 12, 0xf0)]);
    all.push(Spec { transport: Transport::Echo(1, 1), ..spec.clone() }.build());
    all
}

#[test]
fn what_is_unusual_is_the_pumps() {
    for spec in [Spec::tcp4(b"data"), Spec::tcp4(b"data").v6()] {
        let packet = spec.build();
        for tunnel in TUNNELS.into_iter().chain([BARE]) {
            let sender = Node::with(&outbound_record(tunnel, &packet, 1450));
            for other in unusual(&spec) {
                to_pump(&sender, &Skb::of(&other), false);
            }
            if tunnel == BARE {
                continue;
            }
            let receiver = Node::with(&inbound_record(tunnel, &packet));
            for other in unusual(&spec) {
                to_pump(&receiver, &arriving(&frame(tunnel, &other)), true);
            }
        }
    }
}

#[test]
fn what_the_kernel_refuses_is_noted_and_the_pumps() {
    let packet = Spec::tcp4(b"data").build();
    for tunnel in TUNNELS {
        let (out, inward) = (outbound_record(tunnel, &packet, 1450), inbound_record(tunnel, &packet));
        let programs = [outbound::program(MAPS, plainly), inbound::program(MAPS, &ADDRESSES, plainly)];
        let shown = [Skb::of(&packet), arriving(&frame(tunnel, &packet))];
        for ((record, program), skb) in [out, inward].iter().zip(&programs).zip(shown) {
            let node = Node::with(record);
            let refused = Skb { room: false, ..skb.clone() };
            assert_eq!(node.run(program, &refused), (i64::from(NEXT), skb.bytes.clone(), None));
            assert_eq!((node.slot().refused(), node.counts()), (1, (0, 0)));
            // Those behind it are the pump's until it has sent this one on.
            assert_eq!(node.run(program, &skb).0, i64::from(NEXT));
            node.catch_up();
            assert_eq!(node.run(program, &skb).0, REDIRECTED);
            assert_eq!((node.slot().refused(), node.counts()), (1, (1, packet.len() as u64)));
        }
    }
}

#[test]
fn other_tunnel_packets_are_the_pumps() {
    let packet = Spec::tcp4(b"data").build();
    for tunnel in TUNNELS {
        let node = Node::with(&inbound_record(tunnel, &packet));
        let usual = frame(tunnel, &packet);
        let patched = |at: usize, value: u8| {
            let mut frame = usual.clone();
            frame[at] = value;
            arriving(&frame)
        };
        let others: &[(usize, u8)] = match tunnel.1 {
            // Options, fragments, protocol, source, destination, CE, and ECT(1) over Not-ECT.
            Family::V4 => &[(14, 0x46), (20, 0x20), (21, 1), (23, 132), (29, 9), (33, 9), (15, 3), (15, 1)],
            // Next header, both halves of the source, each word of the destination, CE, ECT(1).
            Family::V6 => &[
                (20, 132),
                (20, 60),
                (25, 9),
                (37, 9),
                (38, 9),
                (42, 9),
                (46, 9),
                (53, 9),
                (15, 0x3a),
                (15, 0x1a),
            ],
        };
        for (at, value) in others {
            to_pump(&node, &patched(*at, *value), true);
        }
        let udp = if tunnel.1 == Family::V4 { 34 } else { 54 };
        if tunnel.0 == Mode::Vxlan {
            // Port, I flag, VNI, inner ethertype.
            for (at, value) in [(3, 9), (8, 0), (12, 9), (14, 9), (29, 0xdd), (28, 0x86)] {
                to_pump(&node, &patched(udp + at, value), true);
            }
        }
        for other in TUNNELS.into_iter().filter(|other| *other != tunnel) {
            to_pump(&node, &arriving(&frame(other, &packet)), true);
        }
        let skb = arriving(&usual);
        to_pump(&node, &Skb { vlan: true, ..skb.clone() }, true);
        to_pump(&node, &Skb { packet_type: 3, ..skb.clone() }, true);
        to_pump(&node, &Skb { protocol: ethernet::ARP, ..skb }, true);
    }
}

#[test]
fn without_a_checksum_over_ipv6_only_where_that_is_received() {
    let packet = Spec::tcp4(b"data").build();
    for (zero_checksum6, checksum, carried) in
        [(false, 0, false), (false, 0x1234, true), (true, 0x1234, true)]
    {
        let addresses = Addresses { zero_checksum6, ..ADDRESSES };
        let node = Node::with(&inbound_record(VXLAN6, &packet));
        let mut frame = frame(VXLAN6, &packet);
        put16(&mut frame, 54 + 6, checksum);
        let (result, ..) = node.run(&inbound::program(MAPS, &addresses, plainly), &arriving(&frame));
        assert_eq!(result == REDIRECTED, carried);
    }
}

#[test]
fn nodes_with_one_family_leave_the_other_alone() {
    let packet = Spec::tcp4(b"data").build();
    for (own, own6) in [(Some(HERE), None), (None, Some(HERE6))] {
        let addresses = Addresses { own, own6, ..ADDRESSES };
        for tunnel in TUNNELS {
            let node = Node::with(&inbound_record(tunnel, &packet));
            let skb = arriving(&frame(tunnel, &packet));
            let (result, ..) = node.run(&inbound::program(MAPS, &addresses, plainly), &skb);
            assert_eq!(result == REDIRECTED, (tunnel.1 == Family::V4) == own.is_some(), "{tunnel:?}");
        }
    }
}

#[test]
fn nothing_overtakes_what_the_pump_has() {
    let (usual, large) = (Spec::udp4(b"data").build(), Spec::udp4(&[7; 1000]).build());
    let node = Node::with(&outbound_record(VXLAN, &usual, 500));
    let send = |packet: &[u8]| node.send(&Skb::of(packet)).0 == REDIRECTED;
    assert_eq!([send(&usual), send(&large), send(&usual)], [true, false, false]);
    assert_eq!(node.slot().passed(), 2);
    node.slot().set_sent(1);
    assert!(!send(&usual), "one is still there");
    node.catch_up();
    assert!(send(&usual));
    // The same on the way in; others cannot hold the flow up.
    let node = Node::with(&inbound_record(IPIP, &usual));
    let usual = frame(IPIP, &usual);
    let receive = |at: usize, value: u8| {
        let mut packet = usual.clone();
        packet[at] = value;
        node.receive(&Skb::of(&packet)).0 == REDIRECTED
    };
    assert_eq!([receive(29, 9), receive(15, 0), receive(15, 3), receive(15, 0)], [false, true, false, false]);
    node.catch_up();
    assert!(receive(15, 0));
    // Nor several that the kernel has joined, of which one begins as the usual ones.
    let joined = [&usual[..], &usual[14..]].concat();
    assert_ne!(node.receive(&Skb::of(&joined)).0, REDIRECTED);
    assert!(!receive(15, 0), "the pump has those");
    node.catch_up();
    assert!(receive(15, 0));
}

#[test]
fn an_ect_field_that_both_have_is_no_change() {
    let packet = Spec { tos: 2, ..Spec::tcp4(b"data") }.build();
    let node = Node::with(&inbound_record(IPIP, &packet));
    for (outer, carried) in [(2, true), (0, true), (1, false), (3, false)] {
        let mut frame = frame(IPIP, &packet);
        frame[15] = outer;
        assert_eq!(node.receive(&Skb::of(&frame)).0 == REDIRECTED, carried);
        node.catch_up();
    }
}

#[test]
fn super_packets_of_udp_are_the_pumps() {
    let packet = Spec::udp4(&[7; 3000]).build();
    let node = Node::with(&outbound_record(VXLAN, &packet, 1450));
    to_pump(&node, &Skb { gso_size: 1000, ..Skb::of(&packet) }, false);
    let node = Node::with(&inbound_record(VXLAN, &packet));
    to_pump(&node, &Skb { gso_size: 1000, ..arriving(&frame(VXLAN, &packet)) }, true);
}

#[test]
fn a_flow_that_ends_is_the_pumps_again() {
    for flags in [tcp::SYN, tcp::FIN | tcp::ACK, tcp::RST] {
        let usual = Spec::tcp4(b"data");
        let mut last = usual.clone();
        set_flags(last.tcp(), flags);
        let sender = Node::with(&outbound_record(VXLAN, &usual.build(), 1450));
        to_pump(&sender, &Skb::of(&last.build()), false);
        assert!(sender.slot().is_void());
        to_pump(&sender, &Skb::of(&usual.build()), false);
        let receiver = Node::with(&inbound_record(IPIP, &usual.build()));
        let spoofed = {
            let mut frame = frame(IPIP, &last.build());
            frame[29] = 9;
            frame
        };
        to_pump(&receiver, &Skb::of(&spoofed), true);
        assert!(receiver.slot().is_live(), "others cannot end it");
        to_pump(&receiver, &arriving(&frame(IPIP, &last.build())), true);
        assert!(receiver.slot().is_void());
    }
}

#[test]
fn a_detour_is_for_single_packets() {
    const PAIR: u32 = 77;
    let packet = Spec::tcp4(&[7; 2500]).build();
    for tunnel in TUNNELS {
        let node = Node::with(&inbound_record(tunnel, &packet));
        let skb = arriving(&frame(tunnel, &packet));
        assert!(!node.slot().is_detoured());
        node.slot().detour(PAIR);
        assert!(node.slot().is_detoured() && node.slot().record() == inbound_record(tunnel, &packet));
        let (result, got, redirected) = node.receive(&skb);
        assert_eq!((result, redirected), (REDIRECTED, Some((PAIR, 0))));
        assert_eq!(got[ethernet::LEN..], packet);
        assert_eq!((node.counts(), node.slot().take_whole()), ((1, packet.len() as u64), false));
        // By the queue of the processor.
        let (outcome, _) = node.outcome(&inbound::program(MAPS, &ADDRESSES, plainly), &skb);
        assert_eq!((outcome.queue, node.counts()), (1 + PROCESSOR_HERE, (2, 2 * packet.len() as u64)));
        // One of several gives the flow back.
        let whole = Skb { gso_size: 1000, ..skb };
        let (result, got, redirected) = node.receive(&whole);
        assert_eq!((result, got, redirected), (i64::from(NEXT), whole.bytes, None));
        assert!(node.slot().is_void() && node.slot().take_whole() && !node.slot().take_whole());
        assert_eq!(node.counts(), (2, 2 * packet.len() as u64));
    }
}

#[test]
fn what_was_joined_is_for_this_host() {
    let packet = Spec::tcp4(b"data").build();
    let skb = Skb { packet_type: 3, queue: 5, ..arriving(&frame(IPIP, &packet)) };
    let (outcome, redirected) = run_with(&joined(TUN), &skb, &[]);
    assert_eq!((outcome.result, outcome.packet_type, redirected), (REDIRECTED, 0, Some((TUN, 1))));
    assert_eq!(outcome.queue, 0);
    assert_eq!(outcome.packet, skb.bytes);
}

#[test]
fn what_is_larger_than_its_way_is_the_pumps() {
    let packet = Spec::udp4(&[7; 1000]).build();
    let len = packet.len() as u16;
    for (mtu, carried) in [(len, true), (len - 1, false)] {
        let node = Node::with(&outbound_record(VXLAN, &packet, mtu));
        assert_eq!(node.send(&Skb::of(&packet)).0 == REDIRECTED, carried);
    }
    // With headers in front longer than IPv4 can say.
    let largest = Spec::tcp4(&vec![7; 65_535 - 40]).build();
    let node = Node::with(&outbound_record(VXLAN, &largest, 1450));
    to_pump(&node, &Skb { gso_size: 1000, ..Skb::of(&largest) }, false);
}
