//! The last step, on devices that refuse or fail.

use std::io;
use std::os::fd::RawFd;

use super::sent::Sent;
use super::{Node, address, plain};
use crate::dataplane::device::Deliver;
use crate::dataplane::device::memory::Memory;
use crate::dataplane::observe::EdgeCounters;
use crate::dataplane::packet::{Delivery, Device, Received};
use crate::dataplane::segment::Metadata;
use crate::net::{DropReason, Mode};
use crate::wire::VnetHdr;
use crate::wire::testing::Spec;

/// A device that answers some writes with an error.
#[derive(Default)]
struct Faulty {
    inner: Memory,
    /// The error of writes with work left.
    offloads: Option<i32>,
    /// The error of plain writes.
    plain: Option<i32>,
}

impl Device for Faulty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        self.inner.read(buffer)
    }

    fn write(&mut self, delivery: &Delivery<'_>) -> io::Result<()> {
        let error = if delivery.vnet == VnetHdr::default() { self.plain } else { self.offloads };
        error.map_or_else(|| self.inner.write(delivery), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn takes_offloads(&self) -> bool {
        true
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

fn wire(packet: (VnetHdr, Vec<u8>)) -> Vec<Sent> {
    Node::new(1, Mode::Vxlan).send(&[packet])
}

fn receive(sent: &[Sent], device: &mut dyn Device) -> Node {
    let mut node = Node::new(2, Mode::Vxlan);
    node.receive(address(1), sent, true, device);
    node
}

#[test]
fn a_full_device_costs_every_packet_of_a_super_packet() {
    for errno in [libc::EAGAIN, libc::ENOBUFS, libc::EBADFD, libc::EIO] {
        let sent = wire(Spec::tcp4(&[1; 5000]).build_gso(1000));
        let node = receive(&sent, &mut Faulty { offloads: Some(errno), ..Faulty::default() });
        assert_eq!(node.drops(), [(DropReason::DeviceFull, 5)]);
        assert_eq!(node.worker.counters.device.tx_packets.get(), 0);
        let sent = wire(plain(Spec::tcp4(&[1; 50]).build()));
        let node = receive(&sent, &mut Faulty { plain: Some(errno), ..Faulty::default() });
        assert_eq!(node.drops(), [(DropReason::DeviceFull, 1)]);
    }
}

#[test]
fn refused_super_packets_are_cut_here() {
    for (errno, spec) in [libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP]
        .into_iter()
        .flat_map(|errno| [Spec::tcp4(&[1; 4500]), Spec::udp4(&[2; 4500]).v6()].map(|spec| (errno, spec)))
    {
        let mut device = Faulty { offloads: Some(errno), ..Faulty::default() };
        let node = receive(&wire(spec.build_gso(1000)), &mut device);
        let wanted: Vec<_> = spec.segments(1000).iter().map(|one| plain(one.build())).collect();
        assert_eq!(device.inner.output, wanted);
        assert_eq!(node.drops(), []);
        assert_eq!(node.worker.counters.device.tx_packets.get(), 5);
        assert_eq!(node.worker.counters.device.tx_bytes.get(), (5 * spec.header_len() + 4500) as u64);
        // And when that fails, too, each packet is a drop of its own.
        let mut device =
            Faulty { offloads: Some(errno), plain: Some(libc::ENOBUFS), inner: Memory::default() };
        let node = receive(&wire(spec.build_gso(1000)), &mut device);
        assert_eq!(node.drops(), [(DropReason::DeviceFull, 5)]);
    }
}

#[test]
fn unfinished_checksums_reach_a_plain_device_finished() {
    for spec in
        [Spec::tcp4(&[1; 333]), Spec::udp4(&[2; 333]), Spec::tcp6(&[3; 334]), Spec::udp4(&[2; 1]).v6()]
    {
        // A peer whose kernel left the inner checksum to a device that never came.
        let mut sent = wire(plain(spec.build()));
        let (vnet, partial) = spec.build_partial();
        let header = sent[0].bytes.len() - partial.len();
        sent[0].bytes[header..].copy_from_slice(&partial);
        let mut device = Memory::default();
        let node = receive(&sent, &mut device);
        assert_eq!((device.output, node.drops()), (vec![(vnet, partial)], vec![]));
        let mut device = Memory { plain: true, ..Memory::default() };
        let node = receive(&sent, &mut device);
        assert_eq!((device.output, node.drops()), (vec![plain(spec.build())], vec![]));
        assert_eq!(node.worker.counters.device.tx_packets.get(), 1);
    }
}

/// Super-packets as kernel tunnels on virtual links send them, of a size that the kernel knows.
#[test]
fn unfinished_super_packets_are_cut_as_they_were() {
    for (spec, size) in
        [(Spec::tcp4(&[1; 4000]), 1409), (Spec::tcp6(&[1; 4000]), 700), (Spec::udp4(&[2; 4000]), 99)]
    {
        let mut sent = wire(plain(Spec { payload: vec![], ..spec.clone() }.build()));
        let header = sent[0].bytes.len() - spec.header_len();
        sent[0].bytes.truncate(header);
        let (vnet, partial) = spec.build_gso(size);
        sent[0].bytes.extend(&partial);
        let known =
            Metadata { csum_start: Some(vnet.csum_start), gso_type: vnet.gso_type, gso_size: vnet.gso_size };
        let wanted: Vec<_> = spec.segments(size).iter().map(|one| plain(one.build())).collect();
        for offloads in [true, false] {
            let mut device = Memory { plain: !offloads, ..Memory::default() };
            let mut node = Node::new(2, Mode::Vxlan);
            node.told.known.push((partial.clone(), known));
            node.receive(address(1), &sent, true, &mut device);
            let whole = vec![spec.build_gso(size)];
            assert_eq!(
                (device.output, node.drops()),
                (if offloads { whole } else { wanted.clone() }, vec![])
            );
            assert_counted(&node, &wanted);
        }
    }
}

/// The same where nobody knows the size, through a raw socket.
#[test]
fn super_packets_of_unknown_size_are_counted() {
    for (spec, drops, recut) in [
        (Spec::tcp4(&[1; 4000]), vec![], 1),
        (Spec::udp4(&[2; 4000]), vec![(DropReason::UnknownSegmentSize, 1)], 0),
    ] {
        let mut sent =
            Node::new(1, Mode::Ipip).send(&[plain(Spec { payload: vec![], ..spec.clone() }.build())]);
        sent[0].bytes.truncate(20);
        sent[0].bytes.extend(spec.build_partial().1);
        let len = sent[0].bytes.len() as u16;
        crate::wire::ipv4::patch_len_id(&mut sent[0].bytes, len, 1);
        let mut device = Memory::default();
        let mut node = Node::new(2, Mode::Ipip);
        node.receive(address(1), &sent, true, &mut device);
        assert_eq!((node.drops(), node.worker.counters.recut_super_packets.get()), (drops, recut));
        assert_eq!(device.output.len() as u64, recut);
    }
}

/// Every segment counts at both edges, however few pieces they came and went in.
fn assert_counted(node: &Node, wanted: &[(VnetHdr, Vec<u8>)]) {
    let (packets, counters) = (wanted.len() as u64, &node.worker.counters);
    let inner: u64 = wanted.iter().map(|(_, packet)| packet.len() as u64).sum();
    let counted = |edge: &EdgeCounters| {
        [edge.rx_packets.get(), edge.rx_bytes.get(), edge.tx_packets.get(), edge.tx_bytes.get()]
    };
    assert_eq!(counted(&counters.device), [0, 0, packets, inner]);
    let outer = inner + packets * u64::from(Mode::Vxlan.overhead(address(1)));
    assert_eq!(counted(&counters.underlay), [packets, outer, 0, 0]);
}

/// What a kernel tunnel on a virtual link makes of UDP_SEGMENT: one datagram with the whole inner
/// super-packet, announced the way coalesced datagrams are, with the inner segment size.
#[test]
fn uncut_udp_super_packets_keep_their_datagrams() {
    for (len, size) in [(2, 1), (300, 100), (6000, 1200), (6001, 1200), (60_000, 1400)] {
        for spec in [Spec::udp4(&vec![7; len]), Spec::udp4(&vec![7; len]).v6()] {
            let mut template = wire(plain(Spec { payload: vec![], ..spec.clone() }.build())).remove(0).bytes;
            template.truncate(template.len() - spec.header_len());
            let mut arena = [template, spec.build_partial().1].concat();
            let received = Received { at: 0, len: arena.len(), segment: size, source: address(1), tos: 0 };
            for offloads in [true, false] {
                let (mut node, mut device) =
                    (Node::new(2, Mode::Vxlan), Memory { plain: !offloads, ..Memory::default() });
                node.receive_one(received, &mut arena, &mut device);
                let wanted: Vec<_> =
                    spec.segments(size as u16).iter().map(|one| plain(one.build())).collect();
                let whole = vec![spec.build_gso(size as u16)];
                assert_eq!(device.output, if offloads { whole } else { wanted.clone() });
                assert_eq!(node.drops(), []);
                assert_counted(&node, &wanted);
                assert_eq!(node.worker.counters.joined_datagrams.get(), 0);
            }
        }
    }
}

/// Coalesced datagrams whose first claims to be all of them: nobody but UDP super-packets comes so.
#[test]
fn a_claimed_length_does_not_swallow_the_datagrams_behind() {
    let sent = wire(plain(Spec::tcp4(&[7; 60]).build()));
    let mut bytes = [&sent[0].bytes[..], &sent[0].bytes, &sent[0].bytes].concat();
    let (at, segment) = (22, sent[0].bytes.len());
    let total = (bytes.len() - at) as u16;
    bytes[at + 2..at + 4].copy_from_slice(&total.to_be_bytes());
    let (mut node, mut device) = (Node::new(2, Mode::Vxlan), Memory::default());
    let received = Received { at: 0, len: bytes.len(), segment, source: address(1), tos: 0 };
    node.receive_one(received, &mut bytes, &mut device);
    assert_eq!(node.drops(), [(DropReason::Malformed, 1)]);
    assert_eq!((node.worker.counters.underlay.rx_packets.get(), device.output.len()), (3, 2));
    assert_eq!(node.worker.counters.joined_datagrams.get(), 3);
}

/// What merging never makes, but a caller could.
#[test]
fn impossible_deliveries_are_dropped_by_name() {
    let (vnet, packet) = Spec::tcp4(&[1; 100]).build_partial();
    let gso = Spec::tcp4(&[1; 100]).build_gso(10).0;
    for vnet in [VnetHdr { csum_start: 500, ..vnet }, VnetHdr { gso_size: 0, ..gso }] {
        let (node, mut device) = (Node::new(2, Mode::Vxlan), Memory { plain: true, ..Memory::default() });
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device: &mut device, worker: &node.worker, scratch: &mut scratch };
        let delivery =
            Delivery { vnet, head: &packet, pieces: &[], arena: &[], packets: 7, bytes: packet.len() as u64 };
        crate::dataplane::packet::Sink::deliver(&mut sink, &delivery);
        assert_eq!(node.drops(), [(DropReason::Malformed, 7)]);
        assert_eq!(device.output, []);
    }
}
