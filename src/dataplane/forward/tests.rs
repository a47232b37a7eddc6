//! Both flows over devices and an underlay in memory: two nodes, one wire.
//!
//! ```text
//! node 1  192.0.2.1  10.244.1.0/24  fd00:10:244:1::/64
//! node 2  192.0.2.2  10.244.2.0/24  fd00:10:244:2::/64
//! node 3  192.0.2.3  10.244.3.0/24  fd00:10:244:3::/64   (no process: only the others' peer)
//! ```

mod carry;
mod deliver;
mod drops;
mod ecn;
mod golden;
mod hairpin;
mod hostile;
mod icmp_errors;
mod outbox;
mod peers;
mod policy;
mod scope;
mod sent;
mod speakers;
mod tables;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Forwarding, Hairpin, Inbound, InboundCx, Outbound, OutboundCx, Peer, TunLink, Underlay};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::device::{Deliver, write_icmp_errors};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::observe::{PeerCounters, Worker};
use crate::dataplane::packet::{Channel, Device, Format, Full, Outbox, Paths, Received};
use crate::dataplane::policy::Judge;
use crate::dataplane::segment::merge::Rules;
use crate::dataplane::segment::split::finish_checksum;
use crate::dataplane::segment::{Metadata, MetadataSource, Split};
use crate::net::{DropReason, EncapMode, Mac, Mode, Prefix, Vni};
use crate::route::{EncapPolicy, PeerId, Pool, Rib, Source, Target};
use crate::wire::{Ipv6, VnetHdr};
use sent::{Sent, flatten};

/// What the kernel would say of packets, each known by its bytes.
#[derive(Default)]
struct Told {
    known: Vec<(Vec<u8>, Metadata)>,
    all: bool,
    /// Whether no packet comes with an unfinished checksum.
    real_link: bool,
}

impl MetadataSource for Told {
    fn of(&mut self, inner: &[u8]) -> Option<Metadata> {
        let found = self.known.iter().position(|(packet, _)| inner.starts_with(packet))?;
        Some(self.known.remove(found).1)
    }

    fn knows_all(&self) -> bool {
        self.all
    }

    fn want_all(&mut self) {
        self.all = true;
    }

    fn believes_unfinished(&mut self, _several: bool) -> bool {
        !self.real_link
    }
}

/// One node as a worker sees it.
struct Node {
    forwarding: Forwarding,
    outbound: Outbound,
    inbound: Inbound,
    told: Told,
    outbox: Outbox,
    worker: Worker,
    judge: Judge,
    paths: Paths,
}

fn address(node: u8) -> IpAddr {
    address4(node).into()
}

fn address4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

fn address6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node.into())
}

fn peer(node: u8) -> Peer {
    Peer {
        name: format!("node-{node}").parse().unwrap(),
        address: address(node),
        port: 4789,
        vtep_mac: Mac([0x66, 0, 0, 0, 0, node]),
        hop: None,
        second: None,
        also_from: std::sync::Arc::default(),
        sends_for: std::sync::Arc::default(),
        link_mtus: [None; 2],
        path_mtu: None,
        rumoured: false,
        policed: false,
        way: None,
        counters: PeerCounters::new(1),
    }
}

fn prefixes(node: u8) -> [Prefix; 2] {
    [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")].map(|text| text.parse().unwrap())
}

/// The address of a node in the family that packets on `channel` have outside.
fn outer(channel: Channel, node: u8) -> IpAddr {
    match channel {
        Channel::Udp6(_) | Channel::Raw6 => address6(node).into(),
        _ => address(node),
    }
}

/// Pools over everything that encapsulate always as `mode`.
fn policy(mode: Mode) -> EncapPolicy {
    let when = |this| if mode == this { EncapMode::Always } else { EncapMode::Never };
    let pool = |cidr: &str| Pool {
        cidr: cidr.parse().unwrap(),
        ipip_mode: when(Mode::Ipip),
        vxlan_mode: when(Mode::Vxlan),
        nat_outgoing: false,
        verify: false,
    };
    EncapPolicy::new(&[pool("0.0.0.0/0"), pool("::/0")], "192.0.2.1/24".parse().ok(), None)
}

/// One end of a wire without link addresses, where the sockets are the only way.
fn underlay(node: u8, mtu: u16) -> Underlay {
    Underlay {
        uplink: 0,
        address: Some(address4(node)),
        address6: Some(address6(node)),
        vtep_mac: Mac([2; 6]),
        vni: Vni::CALICO,
        mtu,
        vxlan_port: 4789,
        marking: Marking::fixed(0),
        tun: TunLink::default(),
        tap: None,
    }
}

/// The tables of node `number`, one of 1 and 2; one more route leads `extra` to the first peer.
fn forwarding(number: u8, mode: Mode, extra: Option<&str>) -> Forwarding {
    forwarding_to(peer, number, mode, extra)
}

/// The same with peers as `peer` makes them.
fn forwarding_to(peer: impl Fn(u8) -> Peer, number: u8, mode: Mode, extra: Option<&str>) -> Forwarding {
    let tun = TunLink {
        mtu: 1500,
        address: Some(Ipv4Addr::new(10, 244, number, 0)),
        address6: Some(Ipv6Addr::new(0xfd00, 0x10, 0x244, number.into(), 0, 0, 0, 0)),
        answers_as_target: false,
        hairpin: false,
    };
    forwarding_with(peer, number, mode, extra, tun)
}

/// The same with this TUN.
fn forwarding_with(
    peer: impl Fn(u8) -> Peer,
    number: u8,
    mode: Mode,
    extra: Option<&str>,
    tun: TunLink,
) -> Forwarding {
    let others: Vec<u8> = [1, 2, 3].into_iter().filter(|node| *node != number).collect();
    let peers: Vec<Peer> = others.iter().map(|node| peer(*node)).collect();
    let mut rib = Rib::default();
    for prefix in prefixes(number) {
        rib.insert(prefix, Source::Local, Target::Local).unwrap();
    }
    for (index, node) in others.into_iter().enumerate() {
        for prefix in prefixes(node) {
            rib.insert(prefix, Source::Static, Target::Peer(PeerId(index as u16))).unwrap();
        }
    }
    if let Some(extra) = extra {
        rib.insert(extra.parse().unwrap(), Source::Static, Target::Peer(PeerId(0))).unwrap();
    }
    let underlay = Underlay { vtep_mac: peer(number).vtep_mac, tun, ..underlay(number, 1500) };
    Forwarding::build(underlay, &peers, &policy(mode), &rib).unwrap()
}

impl Node {
    fn new(number: u8, mode: Mode) -> Self {
        Self::with(forwarding(number, mode, None))
    }

    /// The same where all nodes have IPv6 underlay addresses only.
    fn over_ipv6(number: u8, mode: Mode) -> Self {
        let peer = |node| Peer { address: address6(node).into(), ..peer(node) };
        Self::with(forwarding_to(peer, number, mode, None))
    }

    /// One whose peers send to it on `channel`.
    fn for_channel(channel: Channel, number: u8, mode: Mode) -> Self {
        if outer(channel, number).is_ipv4() { Self::new(number, mode) } else { Self::over_ipv6(number, mode) }
    }

    fn with(forwarding: Forwarding) -> Self {
        Self {
            forwarding,
            outbound: Outbound::new((49152..49152 + 256).collect()),
            inbound: Inbound::new(Rules { tcp: true, udp: true }),
            told: Told::default(),
            outbox: Outbox::default(),
            worker: Worker::default(),
            judge: Judge::default(),
            paths: Paths::default(),
        }
    }

    /// One packet from the device into the outbox.
    fn outbound(
        &mut self,
        vnet: &VnetHdr,
        arena: &mut [u8],
        at: std::ops::Range<usize>,
    ) -> Result<Option<Hairpin>, Full> {
        let (tables, paths, out, worker) = (&self.forwarding, self.paths, &mut self.outbox, &self.worker);
        let judge = &mut self.judge;
        judge.begin(tables.policy(), worker);
        self.outbound.packet(
            &mut OutboundCx { tables, paths, arena, out, worker, judge, proofs: None },
            vnet,
            at,
        )
    }

    /// A batch from the device to the wire, sent whenever the outbox is full.
    fn send(&mut self, packets: &[(VnetHdr, Vec<u8>)]) -> Vec<Sent> {
        let (mut arena, mut sent) = (vec![0xa5; 64], Vec::new());
        for (vnet, packet) in packets {
            let at = arena.len()..arena.len() + packet.len();
            arena.extend_from_slice(packet);
            if self.outbound(vnet, &mut arena, at.clone()) == Err(Full) {
                sent.extend(self.flush(&arena));
                assert_eq!(self.outbound(vnet, &mut arena, at), Ok(None), "an empty outbox holds any packet");
            }
            arena.extend_from_slice(&[0xa5; 3]);
        }
        sent.extend(self.flush(&arena));
        sent
    }

    fn flush(&mut self, arena: &[u8]) -> Vec<Sent> {
        let sent = flatten(&self.outbox, arena);
        self.outbox.clear();
        sent
    }

    /// A batch from the wire, sent by `from`, to the device. `gro` coalesces datagrams as UDP_GRO
    /// does.
    fn receive(&mut self, from: IpAddr, sent: &[Sent], gro: bool, device: &mut dyn Device) {
        let (mut arena, mut list) = (vec![0xa5; 7], Vec::<(Format, Received, Channel)>::new());
        for one in sent {
            let (format, bytes, tos) = shown(one);
            match list.last_mut() {
                Some((Format::Vxlan, last, channel))
                    if gro
                        && *channel == one.channel
                        && last.tos == tos
                        && last.segment > 0
                        && last.len % last.segment == 0
                        && bytes.len() <= last.segment
                        && last.len + bytes.len() <= 65507 =>
                {
                    last.len += bytes.len();
                }
                _ => {
                    let len = bytes.len();
                    let received = Received { at: arena.len(), len, segment: len, source: from, tos };
                    list.push((format, received, one.channel));
                }
            }
            arena.extend_from_slice(bytes);
        }
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device, worker: &self.worker, scratch: &mut scratch };
        self.judge.begin(self.forwarding.policy(), &self.worker);
        let mut cx = InboundCx {
            tables: &self.forwarding,
            format: Format::Vxlan,
            arena: &mut arena,
            metadata: &mut self.told,
            sink: &mut sink,
            worker: &self.worker,
            judge: &mut self.judge,
            proofs: None,
        };
        for (format, received, _) in list {
            let segment = if received.segment == received.len { 0 } else { received.segment };
            cx.format = format;
            self.inbound.receive(&mut cx, Received { segment, ..received });
        }
        self.inbound.finish(&mut cx);
    }

    /// One receive of a VXLAN socket, as it is, to the device.
    fn receive_one(&mut self, received: Received, arena: &mut [u8], device: &mut dyn Device) {
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device, worker: &self.worker, scratch: &mut scratch };
        self.judge.begin(self.forwarding.policy(), &self.worker);
        let mut cx = InboundCx {
            tables: &self.forwarding,
            format: Format::Vxlan,
            arena,
            metadata: &mut self.told,
            sink: &mut sink,
            worker: &self.worker,
            judge: &mut self.judge,
            proofs: None,
        };
        self.inbound.receive(&mut cx, received);
        self.inbound.finish(&mut cx);
    }

    /// The ICMP errors that have come back to the device since the last call.
    fn replies(&mut self) -> Vec<Vec<u8>> {
        let mut device = Memory::default();
        write_icmp_errors(self.outbound.errors().drain(), &mut device, &self.worker.counters);
        device.output.into_iter().map(|(_, packet)| packet).collect()
    }

    /// The drop counters that moved.
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = DropReason::ALL.map(|reason| (reason, self.worker.counters.drops(reason)));
        counted.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Packets dropped for any reason.
    fn dropped(&self) -> u64 {
        self.drops().iter().map(|(_, count)| count).sum()
    }
}

/// What a receiving socket shows of a packet on the wire: an outer IPv6 header is not among it.
fn shown(sent: &Sent) -> (Format, &[u8], u8) {
    match sent.channel {
        Channel::Raw => (Format::Ipip, &sent.bytes, sent.tos),
        Channel::Raw6 => {
            let outer = Ipv6::parse(&sent.bytes).unwrap();
            let format = if outer.next_header() == 4 { Format::Ipip6V4 } else { Format::Ipip6V6 };
            (format, outer.payload(), outer.traffic_class())
        }
        _ => (Format::Vxlan, &sent.bytes, sent.tos),
    }
}

/// A packet that nothing is left to do to.
fn plain(packet: Vec<u8>) -> (VnetHdr, Vec<u8>) {
    (VnetHdr::default(), packet)
}

/// What a receiver sees of the packets written to `device`.
fn seen(device: &Memory) -> Vec<Vec<u8>> {
    device.output.iter().flat_map(|(vnet, packet)| expand(vnet, packet)).collect()
}

fn expand(vnet: &VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = packet.to_vec();
    if !vnet.is_gso() {
        if vnet.needs_csum() {
            finish_checksum(&mut packet, vnet).unwrap();
        }
        return vec![packet];
    }
    let mut split = Split::new(&packet, vnet).unwrap();
    let (mut head, mut packets) = (vec![0xa5; split.header_len()], Vec::new());
    while let Some(payload) = split.next_segment(&mut head) {
        packets.push([&head[..], &packet[payload]].concat());
    }
    packets
}
