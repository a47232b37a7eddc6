//! Cutting and joining: what goes into a batch of segments comes out of it, byte for byte and in
//! order within each flow.
//!
//! ```text
//! | flags | flow | gso size (2) | payload len (2) | tcp flags | sequence (4) | damage… |
//! ```
//!
//! Flags: 1 UDP, 2 IPv6, 4 a second flow, each segment of it behind one of the first's, 8 with DF.
//! Damage: ( segment | at | value )…, applied after the checksums.

use underpass::dataplane::packet::{Delivery, Sink};
use underpass::dataplane::segment::merge::{Candidate, Grouping, Rules};
use underpass::dataplane::segment::metadata::NoMetadata;
use underpass::dataplane::segment::{Flow, Merge, Split};
use underpass::wire::{VnetHdr, checksum, ipv4, vnet_hdr};

use crate::input::Input;
use crate::node::{Transport, expand, forget_id, repair_ip};

/// A super-packet cut, damaged, joined and cut again.
pub fn split_merge(data: &[u8]) {
    let mut input = Input::new(data);
    let spec = Spec::read(&mut input);
    let first = spec.super_packet(spec.flow);
    let mut segments = cut(&first.0, &first.1);
    for segment in &segments {
        check_segment(segment);
    }
    let payload: Vec<u8> = segments.iter().flat_map(|one| one[spec.header()..].to_vec()).collect();
    assert_eq!(payload, first.1[spec.header()..], "cutting loses nothing");
    if spec.flags & 4 != 0 {
        let second = spec.super_packet(spec.flow.wrapping_add(1));
        let second = cut(&second.0, &second.1);
        segments = segments.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
    }
    damage(&mut segments, &mut input);
    let joined = join(&segments);
    for flow in flows(&segments) {
        let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
            packets.iter().filter(|packet| hash(packet) == flow).map(|packet| plain(packet)).collect()
        };
        same(&of_flow(&joined), &of_flow(&segments));
    }
    assert_eq!(joined.len(), segments.iter().filter(|one| whole(one).is_some()).count());
}

/// A TCP or UDP super-packet.
struct Spec {
    flags: u8,
    flow: u8,
    gso_size: u16,
    len: usize,
    tcp_flags: u8,
    sequence: [u8; 4],
}

impl Spec {
    fn read(input: &mut Input<'_>) -> Self {
        Self {
            flags: input.byte(),
            flow: input.byte(),
            // Small sizes make many segments, and no segment is above the MTU.
            gso_size: 1 + input.short() % 1380,
            len: usize::from(input.short()),
            tcp_flags: input.byte(),
            sequence: input.array(),
        }
    }

    fn udp(&self) -> bool {
        self.flags & 1 != 0
    }

    fn v6(&self) -> bool {
        self.flags & 2 != 0
    }

    fn l4(&self) -> usize {
        if self.v6() { 40 } else { 20 }
    }

    fn header(&self) -> usize {
        self.l4() + if self.udp() { 8 } else { 20 }
    }

    /// With its vnet header, as a kernel hands it over.
    fn super_packet(&self, flow: u8) -> (VnetHdr, Vec<u8>) {
        let most = (usize::from(self.gso_size) * 1300).min(65535 - self.header());
        let payload: Vec<u8> = (0..self.len.min(most)).map(|at| (at * 7 + at / 251) as u8).collect();
        let l4_len = self.header() - self.l4() + payload.len();
        let mut packet = self.ip(l4_len);
        packet.extend([0x80 | flow, 1, 0, 80]);
        if self.udp() {
            packet.extend((l4_len as u16).to_be_bytes());
            packet.extend([0, 0]);
        } else {
            packet.extend(self.sequence);
            packet.extend([0, 0, 0, 77, 0x50, self.tcp_flags | 0x10, 0x20, 0, 0, 0, 0, 0]);
        }
        packet.extend(payload);
        if let Some(transport) = Transport::of(&packet) {
            let field = transport.field..transport.field + 2;
            packet[field].copy_from_slice(&checksum::fold(transport.pseudo).to_be_bytes());
        }
        let gso_type = match (self.udp(), self.v6()) {
            (true, _) => vnet_hdr::GSO_UDP_L4,
            (false, true) => vnet_hdr::GSO_TCPV6,
            (false, false) => vnet_hdr::GSO_TCPV4,
        };
        let vnet = VnetHdr {
            flags: vnet_hdr::NEEDS_CSUM,
            gso_type,
            hdr_len: self.header() as u16,
            gso_size: self.gso_size,
            csum_start: self.l4() as u16,
            csum_offset: if self.udp() { 6 } else { 16 },
        };
        (vnet, packet)
    }

    fn ip(&self, l4_len: usize) -> Vec<u8> {
        let protocol = if self.udp() { 17 } else { 6 };
        if self.v6() {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((l4_len as u16).to_be_bytes());
            header.extend([protocol, 63]);
            header.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            header.extend([0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            return header;
        }
        let repr = ipv4::Repr {
            tos: 0,
            total_len: (20 + l4_len) as u16,
            id: u16::from_be_bytes([self.sequence[0], self.sequence[3]]),
            flags: if self.flags & 8 != 0 { ipv4::DF } else { 0 },
            ttl: 63,
            protocol,
            source: [10, 244, 1, 2].into(),
            destination: [10, 244, 2, 2].into(),
        };
        repr.emit().to_vec()
    }
}

fn cut(vnet: &VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut split = Split::new(packet, vnet).expect("a super-packet");
    let (count, largest) = (split.segments(), split.largest());
    let (mut head, mut segments) = (vec![0xa5; split.header_len()], Vec::new());
    while let Some(len) = split.next_len() {
        let payload = split.next_segment(&mut head).expect("as announced");
        segments.push([&head[..], &packet[payload]].concat());
        assert_eq!(segments[segments.len() - 1].len(), len);
        assert!(len <= largest);
    }
    assert_eq!(segments.len(), count);
    segments
}

/// Fails unless lengths and checksums are right.
fn check_segment(segment: &[u8]) {
    let flow = Flow::of(segment).expect("a whole packet");
    assert_eq!(flow.total_len, segment.len());
    let transport = Transport::of(segment).expect("a whole transport header");
    let sum = checksum::sum(&segment[transport.covered.clone()]) + transport.pseudo;
    assert_eq!(checksum::fold(sum), 0xffff, "the transport checksum");
    if segment[0] >> 4 == 4 {
        assert_eq!(checksum::fold(checksum::sum(&segment[..20])), 0xffff, "the header checksum");
    }
}

fn damage(segments: &mut [Vec<u8>], input: &mut Input<'_>) {
    while !input.is_empty() {
        let [which, at, value] = input.array();
        let count = segments.len();
        let Some(segment) = segments.get_mut(usize::from(which) % count.max(1)) else { return };
        let at = usize::from(at) % segment.len().max(1);
        let length = if segment[0] >> 4 == 4 { 2..4 } else { 4..6 };
        // Not what the flow refuses before this step: another version or length, a wrong header
        // checksum.
        if at != 0 && !length.contains(&at) {
            segment[at] = value;
            repair_ip(segment);
        }
    }
}

/// Fails, in few words, unless both lists are the same: joining changes no byte and no order.
fn same(joined: &[Vec<u8>], segments: &[Vec<u8>]) {
    assert_eq!(joined.len(), segments.len(), "packets of one flow");
    for (index, (a, b)) in joined.iter().zip(segments).enumerate() {
        assert_eq!(a.len(), b.len(), "bytes of packet {index}");
        let differs = a.iter().zip(b).position(|(a, b)| a != b);
        assert_eq!(
            differs,
            None,
            "packet {index}, {:02x?} from {:02x?}",
            &a[..40.min(a.len())],
            &b[..40.min(b.len())]
        );
    }
}

/// The flow of a packet that is long enough to be merged or delivered.
fn whole(packet: &[u8]) -> Option<Flow> {
    Flow::of(packet).ok()
}

fn hash(packet: &[u8]) -> Option<u32> {
    whole(packet).map(|flow| flow.hash)
}

fn flows(segments: &[Vec<u8>]) -> Vec<Option<u32>> {
    let mut flows: Vec<_> = segments.iter().map(|one| hash(one)).filter(Option::is_some).collect();
    flows.sort_unstable();
    flows.dedup();
    flows
}

/// A packet without what merging may change: a transport checksum that is left to be finished, and
/// the identification where DF makes it meaningless.
fn plain(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(transport) = Transport::of(&packet) {
        let sum = checksum::sum(&packet[transport.covered.clone()]) + transport.pseudo;
        if transport.is_partial(&packet) || checksum::fold(sum) == 0xffff {
            packet[transport.field..transport.field + 2].fill(0);
        }
    }
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        forget_id(&mut packet);
        packet[10..12].fill(0);
    }
    packet
}

/// Collects what is delivered, cut again.
#[derive(Default)]
struct Collect(Vec<Vec<u8>>);

impl Sink for Collect {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let mut packet = vec![0; delivery.len()];
        delivery.gather(&mut packet).expect("room");
        let packets = expand(&delivery.vnet, &packet);
        assert_eq!(packets.len(), delivery.packets as usize);
        assert_eq!(packets.iter().map(Vec::len).sum::<usize>() as u64, delivery.bytes);
        self.0.extend(packets);
    }
}

/// One batch through the merger.
fn join(segments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut arena, mut at) = (vec![0xa5; 7], Vec::new());
    for segment in segments {
        at.push(arena.len());
        arena.extend_from_slice(segment);
        arena.extend_from_slice(&[0xa5; 2]);
    }
    let mut merge = Merge::new(Rules { tcp: true, udp: true });
    let mut collect = Collect::default();
    for (segment, at) in segments.iter().zip(at) {
        let Some(flow) = whole(segment) else { continue };
        let candidate = Candidate { flow, at, grouping: Grouping::Single };
        let cut = merge.push(candidate, &arena, &mut NoMetadata, &mut collect);
        assert!(cut.is_ok_and(|cut| cut.packets == 1), "each is a single packet");
    }
    merge.finish(&arena, &mut collect);
    collect.0
}
