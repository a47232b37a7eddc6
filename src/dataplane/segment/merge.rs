//! Coalescing of received segments into super-packets for the TUN (what the kernel's GRO does for
//! its own devices, `net/ipv4/tcp_offload.c` and `udp_offload.c`).
//!
//! Segments join a *run* while every rule of `Run::accepts` holds. A packet that cannot join
//! flushes the run of its flow first, so order inside a flow is kept; between flows there is none
//! to keep. No run outlives its batch: nothing waits for a timer.

pub use super::candidate::{Candidate, Grouping, Rules};
use super::flow::Flow;
use super::metadata::MetadataSource;
use super::shape::{Segment, Shape, Whole, csum_offset, gso_type, hides_ports, pseudo, shape, unfinished};
use crate::dataplane::packet::{Delivery, MAX_PACKET, MAX_PIECES, Piece, Sink};
use crate::wire::{VnetHdr, be16, be32, checksum, ipv4, ipv6, put16, tcp, udp};

/// Open runs per batch.
const RUNS: usize = 8;
/// Most segments in one super-packet: as many as are written at once.
const MAX_SEGMENTS: usize = MAX_PIECES;
/// Bytes of IP and TCP header without IP options: 40 + 60.
const MAX_HEADER: usize = 100;
/// Bytes of IP and TCP header with all the options there may be: 60 + 60.
const MAX_LIST_HEADER: usize = 120;

/// The runs of one batch.
#[derive(Debug)]
pub struct Merge {
    runs: Vec<Run>,
    open: usize,
    rules: Rules,
}

/// A packet that may be several in one, and there is no telling where one ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownSize;

/// What a packet stands for once it is cut: one packet, unless it is an uncut super-packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    /// Number of packets, at least 1.
    pub packets: u32,
    /// Bytes they have together beyond those of the whole: headers once more for each but one.
    pub repeated: usize,
    /// Whether they are of another size than they were sent in, because that one is unknown.
    pub recut: bool,
}

impl Cut {
    const NONE: Self = Self { packets: 1, repeated: 0, recut: false };

    /// Of `whole`, a packet of `total` bytes.
    fn of(total: usize, whole: &Whole) -> Self {
        let (header, size) = (usize::from(whole.vnet.hdr_len), usize::from(whole.vnet.gso_size));
        if size == 0 {
            return Self::NONE;
        }
        let packets = total.saturating_sub(header).div_ceil(size).max(1);
        Self { packets: packets as u32, repeated: (packets - 1) * header, recut: whole.recut }
    }
}

impl Merge {
    /// Nothing open.
    pub fn new(rules: Rules) -> Self {
        Self { runs: (0..RUNS).map(|_| Run::new()).collect(), open: 0, rules }
    }

    /// Adds the next packet of the batch; returns what it stands for.
    ///
    /// # Errors
    /// Where it is unknown what it stands for; nothing is delivered of it then.
    pub fn push(
        &mut self,
        packet: Candidate,
        arena: &[u8],
        metadata: &mut impl MetadataSource,
        sink: &mut impl Sink,
    ) -> Result<Cut, UnknownSize> {
        let bytes = &arena[packet.at..packet.at + packet.flow.total_len];
        match shape(&packet, bytes, self.rules, metadata) {
            Shape::Segment(segment) => {
                self.push_segment(&packet, &segment, arena, sink);
                Ok(Cut::NONE)
            }
            Shape::Plain => {
                self.flush_flow(&packet.flow, arena, sink);
                sink.deliver(&single(bytes, arena, VnetHdr::default()));
                Ok(Cut::NONE)
            }
            Shape::Whole(whole) => {
                self.flush_flow(&packet.flow, arena, sink);
                Ok(deliver_whole(&packet, &whole, arena, sink))
            }
            Shape::Unknown => Err(UnknownSize),
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
}

/// The device write of one packet that is not part of a run.
fn single<'a>(bytes: &'a [u8], arena: &'a [u8], vnet: VnetHdr) -> Delivery<'a> {
    Delivery { vnet, head: bytes, pieces: &[], arena, packets: 1, bytes: bytes.len() as u64 }
}

/// Delivers a packet with work left; returns what it stands for.
fn deliver_whole(packet: &Candidate, whole: &Whole, arena: &[u8], sink: &mut impl Sink) -> Cut {
    let (flow, header) = (&packet.flow, usize::from(whole.vnet.hdr_len));
    let bytes = &arena[packet.at..packet.at + flow.total_len];
    let cut = Cut::of(flow.total_len, whole);
    let mut delivery = Delivery {
        packets: cut.packets,
        bytes: (flow.total_len + cut.repeated) as u64,
        ..single(bytes, arena, whole.vnet)
    };
    if !whole.list {
        sink.deliver(&delivery);
        return cut;
    }
    let mut head = [0; MAX_LIST_HEADER];
    head[..header].copy_from_slice(&bytes[..header]);
    let field = flow.l4 + usize::from(whole.vnet.csum_offset);
    put16(&mut head, field, checksum::fold(pseudo(flow, flow.total_len - flow.l4)));
    let rest = [Piece::arena(packet.at + header, flow.total_len - header)];
    (delivery.head, delivery.pieces) = (&head[..header], &rest);
    sink.deliver(&delivery);
    cut
}

/// Consecutive segments of one flow.
#[derive(Debug)]
struct Run {
    hash: u32,
    flow: Option<Flow>,
    tcp: bool,
    closed: bool,
    /// Whether the first segment's checksum is right as it stands.
    finished: bool,
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
            finished: true,
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
        self.finished = segment.finished;
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
            && self.header_len + self.payload + segment.payload <= MAX_PACKET
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
        let vnet = unfinished(flow.l4, self.header_len, self.tcp);
        if self.pieces.len() == 1 {
            let vnet = if self.finished { VnetHdr::default() } else { vnet };
            let bytes = &arena[self.first_at..self.first_at + flow.total_len];
            sink.deliver(&single(bytes, arena, vnet));
            return;
        }
        let packets = self.pieces.len();
        self.finish_headers(&flow);
        let gso_type = gso_type(self.tcp, flow.source.is_ipv6());
        sink.deliver(&Delivery {
            vnet: VnetHdr { gso_type, gso_size: self.segment as u16, ..vnet },
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
