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
mod hostile;
mod outbox;
mod scope;
mod tables;

use std::net::Ipv4Addr;

use super::{
    Channel, Deliver, Format, Forwarding, Full, Inbound, Outbound, Outbox, Paths, Peer, Received, Underlay,
};
use crate::device::Device;
use crate::device::memory::Memory;
use crate::metrics::WorkerCounters;
use crate::net::{DropReason, EncapMode, Mac, Mode, Prefix, Vni};
use crate::offload::Split;
use crate::offload::merge::Rules;
use crate::offload::split::finish_checksum;
use crate::route::{PeerId, Policy, Pool, Rib, Source, Target};
use crate::underlay::memory::{Sent, flatten};
use crate::wire::VnetHdr;

/// One node as a worker sees it.
struct Node {
    forwarding: Forwarding,
    outbound: Outbound,
    inbound: Inbound,
    outbox: Outbox,
    counters: WorkerCounters,
}

fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

fn peer(node: u8) -> Peer {
    Peer {
        name: format!("node-{node}").parse().unwrap(),
        address: address(node),
        vtep_mac: Mac([0x66, 0, 0, 0, 0, node]),
        hop: None,
    }
}

fn prefixes(node: u8) -> [Prefix; 2] {
    [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")].map(|text| text.parse().unwrap())
}

/// Pools over everything that encapsulate always as `mode`.
fn policy(mode: Mode) -> Policy {
    let when = |this| if mode == this { EncapMode::Always } else { EncapMode::Never };
    let pool = |cidr: &str| Pool {
        cidr: cidr.parse().unwrap(),
        ipip_mode: when(Mode::Ipip),
        vxlan_mode: when(Mode::Vxlan),
    };
    Policy::new(&[pool("0.0.0.0/0"), pool("::/0")], "192.0.2.1/24".parse().ok(), None)
}

/// One end of a wire without link addresses, where the sockets are the only way.
fn underlay(address: Ipv4Addr, mtu: u16) -> Underlay {
    Underlay { address, vtep_mac: Mac([2; 6]), vni: Vni::CALICO, mtu, vxlan_port: 4789, tap: None }
}

/// The tables of node `number`, one of 1 and 2; one more route leads `extra` to the first peer.
fn forwarding(number: u8, mode: Mode, extra: Option<&str>) -> Forwarding {
    let peers = [1, 2, 3].into_iter().filter(|node| *node != number).map(peer).collect::<Vec<_>>();
    let mut rib = Rib::default();
    for prefix in prefixes(number) {
        rib.insert(prefix, Source::Local, Target::Local).unwrap();
    }
    let others = [1, 2, 3].into_iter().filter(|node| *node != number);
    for (index, node) in others.enumerate() {
        for prefix in prefixes(node) {
            rib.insert(prefix, Source::Static, Target::Peer(PeerId(index as u16))).unwrap();
        }
    }
    if let Some(extra) = extra {
        rib.insert(extra.parse().unwrap(), Source::Static, Target::Peer(PeerId(0))).unwrap();
    }
    let underlay = Underlay { vtep_mac: peer(number).vtep_mac, ..underlay(address(number), 1500) };
    Forwarding::build(underlay, &peers, &policy(mode), &rib)
}

impl Node {
    fn new(number: u8, mode: Mode) -> Self {
        Self::with(forwarding(number, mode, None), mode)
    }

    fn with(forwarding: Forwarding, mode: Mode) -> Self {
        let mtu = usize::from(forwarding.underlay().path_mtu(mode));
        Self {
            forwarding,
            outbound: Outbound::new((49152..49152 + 256).collect()),
            inbound: Inbound::new(Rules { tcp: true, udp: true, mtu }),
            outbox: Outbox::default(),
            counters: WorkerCounters::default(),
        }
    }

    /// One packet from the device into the outbox.
    fn outbound(&mut self, vnet: &VnetHdr, arena: &mut [u8], at: std::ops::Range<usize>) -> Result<(), Full> {
        let (paths, out) = (Paths::default(), &mut self.outbox);
        self.outbound.packet(&self.forwarding, paths, vnet, arena, at, out, &self.counters)
    }

    /// A batch from the device to the wire, sent whenever the outbox is full.
    fn send(&mut self, packets: &[(VnetHdr, Vec<u8>)]) -> Vec<Sent> {
        let (mut arena, mut sent) = (vec![0xa5; 64], Vec::new());
        for (vnet, packet) in packets {
            let at = arena.len()..arena.len() + packet.len();
            arena.extend_from_slice(packet);
            if self.outbound(vnet, &mut arena, at.clone()) == Err(Full) {
                sent.extend(self.flush(&arena));
                assert_eq!(self.outbound(vnet, &mut arena, at), Ok(()), "an empty outbox holds any packet");
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
    fn receive(&mut self, from: Ipv4Addr, sent: &[Sent], gro: bool, device: &mut dyn Device) {
        let (mut arena, mut list) = (vec![0xa5; 7], Vec::<(Format, Received, Channel)>::new());
        for one in sent {
            let format = if one.channel == Channel::Raw { Format::Ipip } else { Format::Vxlan };
            match list.last_mut() {
                Some((Format::Vxlan, last, channel))
                    if gro
                        && *channel == one.channel
                        && last.tos == one.tos
                        && last.segment > 0
                        && last.len % last.segment == 0
                        && one.bytes.len() <= last.segment
                        && last.len + one.bytes.len() <= 65507 =>
                {
                    last.len += one.bytes.len();
                }
                _ => {
                    let len = one.bytes.len();
                    let received =
                        Received { at: arena.len(), len, segment: len, source: from, tos: one.tos };
                    list.push((format, received, one.channel));
                }
            }
            arena.extend_from_slice(&one.bytes);
        }
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device, counters: &self.counters, scratch: &mut scratch };
        for (format, received, _) in list {
            let segment = if received.segment == received.len { 0 } else { received.segment };
            let received = Received { segment, ..received };
            self.inbound.receive(&self.forwarding, format, received, &mut arena, &mut sink, &self.counters);
        }
        self.inbound.finish(&arena, &mut sink);
    }

    /// One receive of a VXLAN socket, as it is, to the device.
    fn receive_one(&mut self, received: Received, arena: &mut [u8], device: &mut dyn Device) {
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device, counters: &self.counters, scratch: &mut scratch };
        self.inbound.receive(&self.forwarding, Format::Vxlan, received, arena, &mut sink, &self.counters);
        self.inbound.finish(arena, &mut sink);
    }

    /// The drop counters that moved.
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = DropReason::ALL.map(|reason| (reason, self.counters.drops(reason)));
        counted.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Packets dropped for any reason.
    fn dropped(&self) -> u64 {
        self.drops().iter().map(|(_, count)| count).sum()
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
