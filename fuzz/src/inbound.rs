//! The inbound flow, from the bytes of a receive to what is written to the TUN.
//!
//! ```text
//! | flags | ( sender | TOS | segment (2) | len (2) | bytes )… |
//! ```
//!
//! Flags: 1 a device without offloads, 2 no merging, 4 leave checksums as they are, 8 over IPv6; the
//! raw sockets then leave out the outer header, and 16 says what is inside, 4 or 6.

use underpass::dataplane::device::Deliver;
use underpass::dataplane::device::memory::Memory;
use underpass::dataplane::encap::probe;
use underpass::dataplane::forward::{Inbound, InboundCx};
use underpass::dataplane::observe::Worker;
use underpass::dataplane::packet::{Format, Received};
use underpass::dataplane::policy::Judge;
use underpass::dataplane::segment::merge::Rules;
use underpass::dataplane::segment::{Flow, Metadata, MetadataSource};
use underpass::net::Mode;
use underpass::wire::{Ipv4, ethernet, protocol, vxlan};

use crate::input::Input;
use crate::node::{Transport, address, comparable, dropped, expand, forwarding, is_pod_of, repair};

/// Bytes in front of the inner packet of a VXLAN datagram.
const VXLAN_INNER: usize = vxlan::LEN + ethernet::LEN;

/// Packets of the raw sockets.
pub fn inbound_ipip(data: &[u8]) {
    let format = match data.first().map_or(0, |flags| flags & 24) {
        8 => Format::Ipip6V4,
        24 => Format::Ipip6V6,
        _ => Format::Ipip,
    };
    check(format, data);
}

/// Payloads of the UDP socket.
pub fn inbound_vxlan(data: &[u8]) {
    check(Format::Vxlan, data);
}

fn check(format: Format, data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let ipv6 = match format {
        Format::Vxlan => flags & 8 != 0,
        Format::Ipip => false,
        Format::Ipip6V4 | Format::Ipip6V6 => true,
    };
    let (mut arena, receives) = receives(format, ipv6, &mut input, flags & 4 == 0);
    let mut seen = Seen::new(format, &arena, &receives);
    let forwarding = forwarding(Mode::Vxlan, ipv6, false, false);
    let worker = Worker::default();
    let merging = flags & 2 == 0;
    let mut inbound = Inbound::new(Rules { tcp: merging, udp: merging });
    let mut metadata = Hearsay { all: flags & 32 != 0, talks: flags & 16 != 0 };
    seen.uncut |= metadata.talks;
    let mut device = Memory { plain: flags & 1 != 0, ..Memory::default() };
    let mut scratch = Deliver::scratch();
    let mut sink = Deliver { device: &mut device, worker: &worker, scratch: &mut scratch };
    let mut cx = InboundCx {
        tables: &forwarding,
        format,
        arena: &mut arena,
        metadata: &mut metadata,
        sink: &mut sink,
        worker: &worker,
        judge: &mut Judge::default(),
        proofs: None,
    };
    for received in receives {
        inbound.receive(&mut cx, received);
    }
    inbound.finish(&mut cx);

    let counters = &worker.counters;
    let (received, delivered) = (counters.underlay.rx_packets.get(), counters.device.tx_packets.get());
    assert!(received >= seen.packets, "{received} counted of {}", seen.packets);
    assert_eq!(received, delivered + dropped(counters), "every packet is delivered or dropped, once");
    let packets: Vec<_> = device.output.iter().flat_map(|(vnet, packet)| expand(vnet, packet)).collect();
    assert_eq!(packets.len() as u64, delivered);
    assert_eq!(packets.iter().map(Vec::len).sum::<usize>() as u64, counters.device.tx_bytes.get());
    for packet in &packets {
        admitted(packet);
        seen.contains(packet);
    }
}

/// A kernel that says anything: of each packet what its last bytes come to.
struct Hearsay {
    talks: bool,
    all: bool,
}

impl MetadataSource for Hearsay {
    fn of(&mut self, inner: &[u8]) -> Option<Metadata> {
        let [.., said, gso_type, high, low] = inner else { return None };
        let start = if inner[0] >> 4 == 6 { 40 } else { u16::from(inner[0] & 15) * 4 };
        let csum_start = match said % 4 {
            0 => None,
            1 => Some(u16::from(*said)),
            _ => Some(start),
        };
        let gso_type = [0, 1, 4, 5, 0x81, 0x84, 0x85, *gso_type][usize::from(gso_type % 8)];
        self.talks.then_some(Metadata { csum_start, gso_type, gso_size: u16::from_be_bytes([*high, *low]) })
    }

    fn knows_all(&self) -> bool {
        self.all
    }

    fn want_all(&mut self) {
        self.all = true;
    }

    fn believes_unfinished(&mut self, several: bool) -> bool {
        self.talks == several
    }
}

/// The input as an arena and what lies in it. `mend`: with right inner checksums.
fn receives(format: Format, ipv6: bool, input: &mut Input<'_>, mend: bool) -> (Vec<u8>, Vec<Received>) {
    let (mut arena, mut receives) = (vec![0xa5; 5], Vec::new());
    while !input.is_empty() && receives.len() < 64 {
        let (sender, tos, segment) = (input.byte(), input.byte(), input.short());
        let len = input.short();
        let bytes = input.bytes(usize::from(len));
        let segment = if format == Format::Vxlan { usize::from(segment) } else { 0 };
        // Mostly a peer, sometimes an unknown sender.
        let source = address(if sender < 0xc0 { 2 + sender % 2 } else { sender }, ipv6);
        let at = arena.len();
        arena.extend_from_slice(bytes);
        if mend {
            for datagram in arena[at..].chunks_mut(segment_or_all(segment, bytes.len())) {
                mend_inner(format, datagram);
            }
        }
        receives.push(Received { at, len: bytes.len(), segment, source, tos });
        arena.extend_from_slice(&[0xa5; 3]);
    }
    (arena, receives)
}

fn segment_or_all(segment: usize, len: usize) -> usize {
    if segment == 0 { len.max(1) } else { segment }
}

fn mend_inner(format: Format, datagram: &mut [u8]) {
    let at = inner_at(format, datagram);
    // One that says "partial" is a case of its own.
    let Some(inner) = datagram.get_mut(at..) else { return };
    match Transport::of(inner) {
        Some(transport) if transport.is_partial(inner) => crate::node::repair_ip(inner),
        _ => repair(inner),
    }
}

fn inner_at(format: Format, datagram: &[u8]) -> usize {
    match format {
        Format::Vxlan => VXLAN_INNER,
        Format::Ipip => datagram.first().map_or(0, |byte| usize::from(byte & 15) * 4),
        Format::Ipip6V4 | Format::Ipip6V6 => 0,
    }
}

/// What was in the receives, for comparison.
struct Seen {
    /// Datagrams that are traffic, at least: an uncut one stands for several.
    packets: u64,
    exact: Vec<Vec<u8>>,
    /// Without transport checksums, of packets that leave theirs to be finished.
    partial: Vec<Vec<u8>>,
    /// Whether some packet came uncut, so that its segments are in neither list.
    uncut: bool,
}

impl Seen {
    fn new(format: Format, arena: &[u8], receives: &[Received]) -> Self {
        let mut seen = Self { packets: 0, exact: Vec::new(), partial: Vec::new(), uncut: false };
        for received in receives {
            let bytes = &arena[received.at..received.at + received.len];
            seen.receive(format, received.segment, bytes);
        }
        seen
    }

    fn receive(&mut self, format: Format, segment: usize, bytes: &[u8]) {
        let coalesced = segment != 0 && segment < bytes.len();
        // An inner packet that fills a coalesced receive is one packet after all.
        let inner = bytes.get(inner_at(format, bytes)..).unwrap_or_default();
        let whole = Flow::of(inner).is_ok_and(|flow| {
            flow.total_len == inner.len() && flow.protocol == protocol::UDP && !flow.fragment
        });
        self.uncut |= coalesced && whole;
        let step = if coalesced && whole { bytes.len() } else { segment_or_all(segment, bytes.len()) };
        let datagrams = if bytes.is_empty() { vec![bytes] } else { bytes.chunks(step).collect() };
        for datagram in datagrams {
            let probe = match format {
                Format::Vxlan => probe::is_vxlan(datagram),
                Format::Ipip => probe::is_ipip(datagram),
                Format::Ipip6V4 | Format::Ipip6V6 => false,
            };
            self.packets += u64::from(!probe);
            self.note(datagram.get(inner_at(format, datagram)..).unwrap_or_default());
        }
    }

    fn note(&mut self, inner: &[u8]) {
        let Ok(flow) = Flow::of(inner) else { return };
        let packet = &inner[..flow.total_len];
        // Cut to what every path carries, at the worst.
        self.uncut |= packet.len() > 576;
        match Transport::of(packet) {
            Some(transport) if transport.is_partial(packet) => self.partial.push(comparable(packet, true)),
            _ => self.exact.push(comparable(packet, false)),
        }
    }

    /// Fails unless `packet` was received as it is delivered.
    fn contains(&mut self, packet: &[u8]) {
        let known = self.exact.contains(&comparable(packet, false))
            || self.partial.contains(&comparable(packet, true))
            || self.uncut;
        assert!(known, "delivered, but never received: {packet:02x?}");
    }
}

/// Fails unless this may be delivered at all.
fn admitted(packet: &[u8]) {
    let flow = Flow::of(packet).expect("a whole packet");
    assert_eq!(flow.total_len, packet.len(), "no padding is delivered");
    assert!(is_pod_of(2, flow.source) || is_pod_of(3, flow.source), "{}", flow.source);
    assert!(is_pod_of(1, flow.destination), "{}", flow.destination);
    assert_ne!(flow.ttl, 0);
    if let Ok(ip) = Ipv4::parse(packet) {
        assert!(ip.checksum_ok());
    }
}
