//! Coalescing of received segments into super-packets for the TUN (what the kernel's GRO does for
//! its own devices, `net/ipv4/tcp_offload.c` and `udp_offload.c`).
//!
//! Segments join a *run* while every rule of [`Run::accepts`] holds. A packet that cannot join
//! flushes the run of its flow first, so order inside a flow is kept; between flows there is none
//! to keep. No run outlives its batch: nothing waits for a timer.

use super::{Delivery, Flow, Piece, Sink};
use crate::wire::{Udp, VnetHdr, be16, be32, checksum, ipv4, ipv6, protocol, put16, tcp, udp, vnet_hdr};

/// Open runs per batch.
const RUNS: usize = 8;
/// Most segments in one super-packet.
const MAX_SEGMENTS: usize = 64;
/// Most bytes of a super-packet: what an IPv4 total length can say.
const MAX_TOTAL: usize = 65535;
/// Bytes of IP and TCP header without IP options: 40 + 60.
const MAX_HEADER: usize = 100;
/// UDP ports whose datagrams are themselves tunnels: Linux mishandles super-packets of those that
/// it decapsulates (VXLAN, OTV, Geneve, GTP-U, IKE).
const TUNNEL_PORTS: [u16; 6] = [4789, 8472, 6081, 2152, 500, 4500];

/// What may be merged; the switches of the configuration and what the device takes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Merge TCP.
    pub tcp: bool,
    /// Merge UDP.
    pub udp: bool,
    /// Bytes of the largest plain packet: anything longer came as a super-packet.
    pub mtu: usize,
}

/// The runs of one batch.
#[derive(Debug)]
pub struct Merge {
    runs: Vec<Run>,
    open: usize,
    rules: Rules,
}

/// A packet on its way to the device: `at..at + flow.total_len` of the arena.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What it is.
    pub flow: Flow,
    /// Offset in the arena.
    pub at: usize,
    /// Payload bytes of each segment where this is known to be an uncut UDP super-packet, else 0.
    pub segment: usize,
}

/// What a packet stands for once it is cut: one packet, unless it is an uncut super-packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    /// Number of packets, at least 1.
    pub packets: u32,
    /// Bytes they have together beyond those of the whole: headers once more for each but one.
    pub repeated: usize,
}

impl Cut {
    const NONE: Self = Self { packets: 1, repeated: 0 };

    /// Of a packet of `total` bytes, the first `header` of them headers, into payloads of `gso`.
    fn of(total: usize, header: usize, gso: u16) -> Self {
        if gso == 0 {
            return Self::NONE;
        }
        let packets = total.saturating_sub(header).div_ceil(usize::from(gso)).max(1);
        Self { packets: packets as u32, repeated: (packets - 1) * header }
    }
}

impl Merge {
    /// Nothing open.
    pub fn new(rules: Rules) -> Self {
        Self { runs: (0..RUNS).map(|_| Run::new()).collect(), open: 0, rules }
    }

    /// Changes [`Rules::mtu`].
    pub fn set_mtu(&mut self, mtu: usize) {
        self.rules.mtu = mtu;
    }

    /// Adds the next packet of the batch; returns what it stands for.
    pub fn push(&mut self, packet: Candidate, arena: &[u8], sink: &mut impl Sink) -> Cut {
        match self.shape(&packet, arena) {
            Shape::Segment(segment) => {
                self.push_segment(&packet, &segment, arena, sink);
                Cut::NONE
            }
            shape => {
                self.flush_flow(&packet.flow, arena, sink);
                sink.deliver(&single(&packet, arena, shape));
                shape.cut(packet.flow.total_len)
            }
        }
    }

    fn push_segment(&mut self, packet: &Candidate, segment: &Segment, arena: &[u8], sink: &mut impl Sink) {
        let found = self.runs[..self.open].iter().position(|run| run.hash == packet.flow.hash);
        if let Some(index) = found {
            if self.runs[index].accepts(packet, segment, arena) {
                self.runs[index].append(packet, segment, arena);
                if self.runs[index].closed {
                    self.flush(index, arena, sink);
                }
                return;
            }
            self.flush(index, arena, sink);
        } else if self.open == RUNS {
            self.flush(0, arena, sink);
        }
        self.runs[self.open].start(packet, segment, arena);
        self.open += 1;
        if self.runs[self.open - 1].closed {
            self.flush(self.open - 1, arena, sink);
        }
    }

    /// Ends the batch.
    pub fn finish(&mut self, arena: &[u8], sink: &mut impl Sink) {
        for index in 0..self.open {
            self.runs[index].emit(arena, sink);
        }
        self.open = 0;
    }

    /// Flushes whatever a packet that cannot be merged must not overtake. One that hides its ports
    /// may be of any flow, so it waits for everything.
    fn flush_flow(&mut self, flow: &Flow, arena: &[u8], sink: &mut impl Sink) {
        if flow.fragment || hides_ports(flow) {
            self.finish(arena, sink);
        } else if let Some(index) = self.runs[..self.open].iter().position(|run| run.hash == flow.hash) {
            self.flush(index, arena, sink);
        }
    }

    fn flush(&mut self, index: usize, arena: &[u8], sink: &mut impl Sink) {
        self.runs[index].emit(arena, sink);
        self.open -= 1;
        // Runs stay in order of age, so that the oldest goes first when all are taken.
        self.runs[index..=self.open].rotate_left(1);
    }

    /// Whether `packet` can take part in a run.
    fn shape(&self, packet: &Candidate, arena: &[u8]) -> Shape {
        let flow = &packet.flow;
        let bytes = &arena[packet.at..packet.at + flow.total_len];
        let plain_ip = if bytes[0] >> 4 == 4 { flow.l4 == ipv4::LEN } else { flow.l4 == ipv6::LEN };
        if !plain_ip || flow.fragment {
            return Shape::Other;
        }
        let l4 = &bytes[flow.l4..];
        match flow.protocol {
            protocol::TCP => tcp_shape(flow, l4, self.rules),
            protocol::UDP => udp_shape(packet, l4, self.rules),
            _ => Shape::Other,
        }
    }
}

/// What a packet is to the merger.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Not mergeable; goes as it is.
    Other,
    /// The checksum field holds only the pseudo-header sum (a kernel tunnel peer on a virtual
    /// link sends such): goes with `NEEDS_CSUM`, and as a super-packet when above the MTU.
    Partial { header: usize, tcp: bool, gso: u16 },
    /// A verified segment.
    Segment(Segment),
}

impl Shape {
    /// What a packet of this shape and of `total` bytes stands for.
    fn cut(self, total: usize) -> Cut {
        match self {
            Self::Partial { header, gso, .. } => Cut::of(total, header, gso),
            _ => Cut::NONE,
        }
    }
}

/// A segment whose transport checksum is right.
#[derive(Clone, Copy, Debug)]
struct Segment {
    tcp: bool,
    /// Bytes of IP and transport headers.
    header: usize,
    payload: usize,
}

/// Whether an IPv6 packet may carry TCP or UDP behind extension headers, which nobody walks here.
fn hides_ports(flow: &Flow) -> bool {
    flow.source.is_ipv6() && !matches!(flow.protocol, protocol::TCP | protocol::UDP | protocol::ICMPV6)
}

fn tcp_shape(flow: &Flow, l4: &[u8], rules: Rules) -> Shape {
    let Ok(view) = tcp::Tcp::parse(l4) else { return Shape::Other };
    let header = flow.l4 + view.header_len();
    let pseudo = pseudo(flow, l4.len());
    if is_partial(flow, view.checksum(), l4, pseudo, rules) {
        return partial(flow, header, true, rules);
    }
    let flags = view.flags() & !tcp::PSH;
    let mergeable = rules.tcp && flags == tcp::ACK && !view.payload().is_empty() && verify(l4, pseudo);
    if !mergeable {
        return Shape::Other;
    }
    Shape::Segment(Segment { tcp: true, header, payload: view.payload().len() })
}

fn udp_shape(packet: &Candidate, l4: &[u8], rules: Rules) -> Shape {
    let flow = &packet.flow;
    let Ok(view) = Udp::parse(l4) else { return Shape::Other };
    let header = flow.l4 + udp::LEN;
    let pseudo = pseudo(flow, l4.len());
    if view.checksum() == 0 {
        return Shape::Other;
    }
    if is_partial(flow, view.checksum(), l4, pseudo, rules) {
        return match packet.segment {
            0 => partial(flow, header, false, rules),
            segment => Shape::Partial { header, tcp: false, gso: u16::try_from(segment).unwrap_or(u16::MAX) },
        };
    }
    let tunnel =
        TUNNEL_PORTS.contains(&view.destination_port()) || TUNNEL_PORTS.contains(&view.source_port());
    if !rules.udp || tunnel || view.payload().is_empty() || !verify(l4, pseudo) {
        return Shape::Other;
    }
    Shape::Segment(Segment { tcp: false, header, payload: view.payload().len() })
}

/// Whether the checksum field holds no more than the pseudo-header sum. One packet in 65536 has that
/// value as its true checksum; above the MTU, where none is a plain packet, there is no need to
/// read it all to make sure.
fn is_partial(flow: &Flow, field: u16, l4: &[u8], pseudo: u32, rules: Rules) -> bool {
    field == checksum::fold(pseudo) && (flow.total_len > rules.mtu || !verify(l4, pseudo))
}

/// A packet whose checksum is still to be finished; above the MTU it is a super-packet whose
/// segment size nobody told us: the largest that fits.
fn partial(flow: &Flow, header: usize, tcp: bool, rules: Rules) -> Shape {
    let gso = if flow.total_len > rules.mtu { rules.mtu.saturating_sub(header) as u16 } else { 0 };
    Shape::Partial { header, tcp, gso }
}

fn pseudo(flow: &Flow, len: usize) -> u32 {
    match (flow.source, flow.destination) {
        (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
            checksum::pseudo_v4(s, d, flow.protocol, len as u32)
        }
        (std::net::IpAddr::V6(s), std::net::IpAddr::V6(d)) => {
            checksum::pseudo_v6(s, d, flow.protocol, len as u32)
        }
        _ => 0,
    }
}

fn verify(l4: &[u8], pseudo: u32) -> bool {
    checksum::fold(checksum::sum(l4) + pseudo) == 0xffff
}

/// The device write of one packet that is not part of a run.
fn single<'a>(packet: &Candidate, arena: &'a [u8], shape: Shape) -> Delivery<'a> {
    let vnet = match shape {
        Shape::Partial { header, tcp, gso } => VnetHdr {
            flags: vnet_hdr::NEEDS_CSUM,
            gso_type: if gso == 0 { vnet_hdr::GSO_NONE } else { gso_type(tcp, packet.flow.source.is_ipv6()) },
            hdr_len: header as u16,
            gso_size: gso,
            csum_start: packet.flow.l4 as u16,
            csum_offset: csum_offset(tcp),
        },
        _ => VnetHdr::default(),
    };
    let cut = shape.cut(packet.flow.total_len);
    Delivery {
        vnet,
        head: &arena[packet.at..packet.at + packet.flow.total_len],
        pieces: &[],
        arena,
        packets: cut.packets,
        bytes: (packet.flow.total_len + cut.repeated) as u64,
    }
}

fn gso_type(tcp: bool, v6: bool) -> u8 {
    match (tcp, v6) {
        (false, _) => vnet_hdr::GSO_UDP_L4,
        (true, false) => vnet_hdr::GSO_TCPV4,
        (true, true) => vnet_hdr::GSO_TCPV6,
    }
}

fn csum_offset(tcp: bool) -> u16 {
    (if tcp { tcp::FIELD_CHECKSUM } else { udp::FIELD_CHECKSUM }) as u16
}

/// Consecutive segments of one flow.
#[derive(Debug)]
struct Run {
    hash: u32,
    flow: Option<Flow>,
    tcp: bool,
    closed: bool,
    /// Headers of the first segment; PSH and lengths are brought up to date.
    header: [u8; MAX_HEADER],
    header_len: usize,
    /// Payload bytes of the first segment.
    segment: usize,
    payload: usize,
    next_sequence: u32,
    next_id: u16,
    /// Offset of the first packet in the arena.
    first_at: usize,
    pieces: Vec<Piece>,
}

impl Run {
    fn new() -> Self {
        Self {
            hash: 0,
            flow: None,
            tcp: false,
            closed: false,
            header: [0; MAX_HEADER],
            header_len: 0,
            segment: 0,
            payload: 0,
            next_sequence: 0,
            next_id: 0,
            first_at: 0,
            pieces: Vec::with_capacity(MAX_SEGMENTS),
        }
    }

    fn start(&mut self, packet: &Candidate, segment: &Segment, arena: &[u8]) {
        let bytes = &arena[packet.at..packet.at + packet.flow.total_len];
        self.hash = packet.flow.hash;
        self.flow = Some(packet.flow);
        self.tcp = segment.tcp;
        self.closed = false;
        self.header_len = segment.header;
        self.header[..segment.header].copy_from_slice(&bytes[..segment.header]);
        self.segment = segment.payload;
        self.payload = 0;
        self.first_at = packet.at;
        self.pieces.clear();
        self.append(packet, segment, arena);
    }

    /// The rules of merging. Addresses, protocol and ports are compared with the headers, byte by
    /// byte, because equal hashes do not make equal flows.
    fn accepts(&self, packet: &Candidate, segment: &Segment, arena: &[u8]) -> bool {
        let new = &arena[packet.at..packet.at + segment.header];
        let old = &self.header[..self.header_len];
        self.tcp == segment.tcp
            && self.header_len == segment.header
            && segment.payload <= self.segment
            && self.pieces.len() < MAX_SEGMENTS
            && self.header_len + self.payload + segment.payload <= MAX_TOTAL
            && self.same_ip(old, new)
            && if self.tcp {
                self.same_tcp(old, new, packet.flow.l4)
            } else {
                same_ports(old, new, packet.flow.l4)
            }
    }

    /// Version, TOS, flags, TTL, protocol and addresses equal; identification counting up unless
    /// DF makes it meaningless.
    fn same_ip(&self, old: &[u8], new: &[u8]) -> bool {
        if old[0] >> 4 == 6 {
            return old[..4] == new[..4] && old[6..40] == new[6..40];
        }
        let id_follows = be16(new, 6) & ipv4::DF != 0 || be16(new, 4) == self.next_id;
        old[..2] == new[..2] && old[6..10] == new[6..10] && old[12..20] == new[12..20] && id_follows
    }

    /// Ports, acknowledgment, header length, window, urgent pointer and options equal; sequence
    /// follows. With that, segmentation gives back every segment as it was.
    fn same_tcp(&self, old: &[u8], new: &[u8], l4: usize) -> bool {
        let (old, new) = (&old[l4..], &new[l4..]);
        old[..4] == new[..4]
            && be32(new, tcp::FIELD_SEQUENCE) == self.next_sequence
            && old[8..13] == new[8..13]
            && old[14..16] == new[14..16]
            && old[18..] == new[18..]
    }

    fn append(&mut self, packet: &Candidate, segment: &Segment, arena: &[u8]) {
        let new = &arena[packet.at..packet.at + segment.header];
        let l4 = packet.flow.l4;
        if self.tcp {
            self.next_sequence = be32(new, l4 + tcp::FIELD_SEQUENCE).wrapping_add(segment.payload as u32);
            let push = new[l4 + tcp::FIELD_FLAGS] & tcp::PSH;
            self.header[l4 + tcp::FIELD_FLAGS] |= push;
            self.closed |= push != 0;
        }
        if new[0] >> 4 == 4 {
            self.next_id = be16(new, 4).wrapping_add(1);
        }
        self.closed |= segment.payload < self.segment || self.pieces.len() + 1 == MAX_SEGMENTS;
        self.payload += segment.payload;
        self.pieces.push(Piece::arena(packet.at + segment.header, segment.payload));
    }

    fn emit(&mut self, arena: &[u8], sink: &mut impl Sink) {
        let Some(flow) = self.flow.take() else { return };
        if self.pieces.len() == 1 {
            sink.deliver(&single(&Candidate { flow, at: self.first_at, segment: 0 }, arena, Shape::Other));
            return;
        }
        let packets = self.pieces.len();
        self.finish_headers(&flow);
        sink.deliver(&Delivery {
            vnet: VnetHdr {
                flags: vnet_hdr::NEEDS_CSUM,
                gso_type: gso_type(self.tcp, flow.source.is_ipv6()),
                hdr_len: self.header_len as u16,
                gso_size: self.segment as u16,
                csum_start: flow.l4 as u16,
                csum_offset: csum_offset(self.tcp),
            },
            head: &self.header[..self.header_len],
            pieces: &self.pieces,
            arena,
            packets: packets as u32,
            bytes: (packets * self.header_len + self.payload) as u64,
        });
    }

    /// Lengths and checksums of the whole: IP header finished, transport pseudo-header sum only.
    fn finish_headers(&mut self, flow: &Flow) {
        let total = self.header_len + self.payload;
        if flow.source.is_ipv6() {
            ipv6::patch_payload_len(&mut self.header, (total - ipv6::LEN) as u16);
        } else {
            let id = be16(&self.header, 4);
            ipv4::patch_len_id(&mut self.header, total as u16, id);
        }
        let l4_len = total - flow.l4;
        if !self.tcp {
            put16(&mut self.header, flow.l4 + udp::FIELD_LENGTH, l4_len as u16);
        }
        let field = flow.l4 + usize::from(csum_offset(self.tcp));
        put16(&mut self.header, field, checksum::fold(pseudo(flow, l4_len)));
    }
}

fn same_ports(old: &[u8], new: &[u8], l4: usize) -> bool {
    old[l4..l4 + 4] == new[l4..l4 + 4]
}
