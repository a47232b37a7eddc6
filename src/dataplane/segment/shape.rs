//! What a received packet is to the merger: a segment that may join others, a super-packet already, or neither.
//!
//! A segment size is never guessed. A packet whose checksum field holds no more than the pseudo-header sum has its
//! checksum still to be finished, and may be many in one; so may one whose checksum is wrong, which is how lists of
//! packets look that the kernel joined without touching their headers (`NETIF_F_GRO_FRAGLIST`). The socket's word, or
//! else the kernel's [`Metadata`], says which. Where neither does, and unfinished checksums are to be expected, UDP is
//! dropped, because the borders of datagrams are data; TCP, a stream of bytes, is cut to what every path carries, and
//! counted. A checksum that is wrong and only looks unfinished stays wrong, for the receiver to see.

use super::candidate::{Candidate, Grouping, Rules};
use super::flow::Flow;
use super::metadata::{Metadata, MetadataSource};
use crate::wire::{Udp, VnetHdr, checksum, ipv4, ipv6, protocol, tcp, udp, vnet_hdr};

/// Bytes of the largest packet that every path carries: what every IPv4 host takes (RFC 791 §3.1) and every IPv6
/// link carries (RFC 8200 §5).
const SMALLEST: [usize; 2] = [576, 1280];

/// UDP ports whose datagrams are themselves tunnels: Linux mishandles super-packets of those that
/// it decapsulates (VXLAN, OTV, Geneve, GTP-U, IKE).
const TUNNEL_PORTS: [u16; 6] = [4789, 8472, 6081, 2152, 500, 4500];

/// What a packet is to the merger.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Not mergeable; goes as it is.
    Plain,
    /// A segment that may join others.
    Segment(Segment),
    /// Work is left in it, as a vnet header says; it goes alone.
    Whole(Whole),
    /// It is unknown how many packets it is.
    Unknown,
}

/// A segment whose transport checksum is right, or still to be finished.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub tcp: bool,
    /// Bytes of IP and transport headers.
    pub header: usize,
    pub payload: usize,
    pub finished: bool,
}

/// A packet with work left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub vnet: VnetHdr,
    /// Whether the checksum field is the first segment's and the pseudo-header sum is to be put there.
    pub list: bool,
    /// Whether its TCP is cut to another size than it was sent in, which is unknown.
    pub recut: bool,
}

/// A transport header, its checksum not yet judged.
struct Transport {
    tcp: bool,
    /// Bytes of IP and transport headers.
    header: usize,
    checksum: u16,
    /// Whether it may join others at all, were its checksum right.
    mergeable: bool,
}

/// Judges `packet`, whose `bytes` are exactly its own.
pub(super) fn shape(
    packet: &Candidate,
    bytes: &[u8],
    rules: Rules,
    metadata: &mut impl MetadataSource,
) -> Shape {
    let flow = &packet.flow;
    if flow.fragment {
        return Shape::Plain;
    }
    let open = packet.grouping != Grouping::Single;
    if hides_ports(flow) {
        let known = if open { metadata.of(bytes) } else { None };
        return known.map_or(Shape::Plain, |known| behind_extensions(&known, bytes));
    }
    let transport = match flow.protocol {
        protocol::TCP => tcp(flow, bytes, rules),
        protocol::UDP => udp(flow, bytes, rules),
        _ => None,
    };
    let Some(transport) = transport else { return Shape::Plain };
    let pseudo = pseudo(flow, bytes.len() - flow.l4);
    let looks_unfinished = transport.checksum == checksum::fold(pseudo);
    let any = packet.grouping == Grouping::Any;
    if open
        && (looks_unfinished || any && metadata.knows_all())
        && let Some(known) = metadata.of(bytes)
    {
        return told(&known, flow, &transport, bytes, pseudo);
    }
    if !looks_unfinished && !any && !transport.mergeable {
        return Shape::Plain;
    }
    if !transport.tcp && transport.checksum == 0 {
        return Shape::Plain;
    }
    if verify(&bytes[flow.l4..], pseudo) {
        return finished(&transport, bytes);
    }
    if looks_unfinished {
        return untold(packet, &transport, bytes, metadata);
    }
    if any {
        metadata.want_all();
    }
    Shape::Plain
}

/// Whether an IPv6 packet may carry TCP or UDP behind extension headers, which are not walked here.
pub(super) fn hides_ports(flow: &Flow) -> bool {
    flow.source.is_ipv6() && !matches!(flow.protocol, protocol::TCP | protocol::UDP | protocol::ICMPV6)
}

fn tcp(flow: &Flow, bytes: &[u8], rules: Rules) -> Option<Transport> {
    let view = tcp::Tcp::parse(&bytes[flow.l4..]).ok()?;
    let flags = view.flags() & !tcp::PSH;
    let mergeable = rules.tcp && is_plain_ip(flow) && flags == tcp::ACK && !view.payload().is_empty();
    Some(Transport { tcp: true, header: flow.l4 + view.header_len(), checksum: view.checksum(), mergeable })
}

fn udp(flow: &Flow, bytes: &[u8], rules: Rules) -> Option<Transport> {
    let view = Udp::parse(&bytes[flow.l4..]).ok()?;
    let tunnel =
        TUNNEL_PORTS.contains(&view.destination_port()) || TUNNEL_PORTS.contains(&view.source_port());
    let mergeable = rules.udp && is_plain_ip(flow) && !tunnel && !view.payload().is_empty();
    Some(Transport { tcp: false, header: flow.l4 + udp::LEN, checksum: view.checksum(), mergeable })
}

/// Without options.
fn is_plain_ip(flow: &Flow) -> bool {
    flow.l4 == if flow.source.is_ipv6() { ipv6::LEN } else { ipv4::LEN }
}

/// A packet of which everything is known.
fn told(known: &Metadata, flow: &Flow, transport: &Transport, bytes: &[u8], pseudo: u32) -> Shape {
    if known.csum_start.is_some_and(|start| usize::from(start) != flow.l4) {
        return Shape::Unknown;
    }
    let unfinished = known.csum_start.is_some();
    match known.gso_type & !vnet_hdr::GSO_ECN {
        vnet_hdr::GSO_NONE if unfinished => single_unfinished(flow, transport, bytes),
        vnet_hdr::GSO_NONE => {
            let right = transport.mergeable && transport.checksum != 0 && verify(&bytes[flow.l4..], pseudo);
            if right { finished(transport, bytes) } else { Shape::Plain }
        }
        kind if kind == gso_type(transport.tcp, flow.source.is_ipv6()) => {
            let vnet = vnet(flow.l4, transport, (known.gso_type, known.gso_size));
            Shape::Whole(Whole { vnet, list: !unfinished, recut: false })
        }
        _ => Shape::Unknown,
    }
}

/// A packet whose checksum is wrong as it stands and looks unfinished, and of which the kernel's metadata did not
/// come. Where no packets come with unfinished checksums it is a damaged one, and goes as it is.
fn untold(
    packet: &Candidate,
    transport: &Transport,
    bytes: &[u8],
    metadata: &mut impl MetadataSource,
) -> Shape {
    let flow = &packet.flow;
    let v6 = flow.source.is_ipv6();
    let short = transport.tcp && bytes.len() <= SMALLEST[usize::from(v6)];
    let several = packet.grouping != Grouping::Single && !short;
    // Of datagrams in one the socket has told.
    let told = matches!(packet.grouping, Grouping::Datagrams(_)) && !transport.tcp;
    if !told && !metadata.believes_unfinished(several) {
        return Shape::Plain;
    }
    match packet.grouping {
        Grouping::Single => single_unfinished(flow, transport, bytes),
        Grouping::Datagrams(size) if !transport.tcp => {
            let vnet = vnet(flow.l4, transport, (vnet_hdr::GSO_UDP_L4, size));
            Shape::Whole(Whole { vnet, list: false, recut: false })
        }
        // Of UDP the socket would have told.
        Grouping::Tcp if !transport.tcp => single_unfinished(flow, transport, bytes),
        _ if transport.tcp => {
            let size = SMALLEST[usize::from(v6)] - transport.header;
            if bytes.len() - transport.header <= size {
                return single_unfinished(flow, transport, bytes);
            }
            let vnet = vnet(flow.l4, transport, (gso_type(true, v6), size as u16));
            Shape::Whole(Whole { vnet, list: false, recut: true })
        }
        _ => Shape::Unknown,
    }
}

/// One packet whose checksum is right.
fn finished(transport: &Transport, bytes: &[u8]) -> Shape {
    if transport.mergeable { segment(transport, bytes, true) } else { Shape::Plain }
}

/// One packet whose checksum is still to be finished.
fn single_unfinished(flow: &Flow, transport: &Transport, bytes: &[u8]) -> Shape {
    if transport.mergeable {
        return segment(transport, bytes, false);
    }
    let vnet = unfinished(flow.l4, transport.header, transport.tcp);
    Shape::Whole(Whole { vnet, list: false, recut: false })
}

fn segment(transport: &Transport, bytes: &[u8], finished: bool) -> Shape {
    let payload = bytes.len() - transport.header;
    Shape::Segment(Segment { tcp: transport.tcp, header: transport.header, payload, finished })
}

/// A packet with IPv6 extension headers, of which the kernel knows where its transport header is.
fn behind_extensions(known: &Metadata, bytes: &[u8]) -> Shape {
    let Some(start) = known.csum_start.map(usize::from) else {
        // A list of packets whose transport header is unknown.
        return if known.gso_size == 0 { Shape::Plain } else { Shape::Unknown };
    };
    let tcp = match (known.gso_type & !vnet_hdr::GSO_ECN, bytes.get(start..)) {
        (vnet_hdr::GSO_TCPV6, Some(_)) => true,
        (vnet_hdr::GSO_UDP_L4, Some(_)) => false,
        // One packet: which checksum it has is not told.
        _ => return Shape::Plain,
    };
    let header = if tcp { tcp::Tcp::parse(&bytes[start..]).map(tcp::Tcp::header_len) } else { Ok(udp::LEN) };
    let Some(header) = header.ok().map(|len| start + len).filter(|header| *header <= bytes.len()) else {
        return Shape::Unknown;
    };
    let transport = Transport { tcp, header, checksum: 0, mergeable: false };
    let vnet = vnet(start, &transport, (known.gso_type, known.gso_size));
    Shape::Whole(Whole { vnet, list: false, recut: false })
}

fn vnet(l4: usize, transport: &Transport, (gso_type, gso_size): (u8, u16)) -> VnetHdr {
    VnetHdr { gso_type, gso_size, ..unfinished(l4, transport.header, transport.tcp) }
}

/// The vnet header of one packet whose transport header is at `l4` and whose checksum is still to be finished;
/// `header` bytes of it are headers.
pub(super) fn unfinished(l4: usize, header: usize, tcp: bool) -> VnetHdr {
    VnetHdr {
        flags: vnet_hdr::NEEDS_CSUM,
        gso_type: vnet_hdr::GSO_NONE,
        hdr_len: header as u16,
        gso_size: 0,
        csum_start: l4 as u16,
        csum_offset: csum_offset(tcp),
    }
}

pub(super) fn gso_type(tcp: bool, v6: bool) -> u8 {
    match (tcp, v6) {
        (false, _) => vnet_hdr::GSO_UDP_L4,
        (true, false) => vnet_hdr::GSO_TCPV4,
        (true, true) => vnet_hdr::GSO_TCPV6,
    }
}

pub(super) fn csum_offset(tcp: bool) -> u16 {
    (if tcp { tcp::FIELD_CHECKSUM } else { udp::FIELD_CHECKSUM }) as u16
}

/// The pseudo-header sum of `flow` with `len` bytes of transport header and payload.
pub(super) fn pseudo(flow: &Flow, len: usize) -> u32 {
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
