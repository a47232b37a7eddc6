//! The last step, on devices that refuse or fail.

use std::io;
use std::os::fd::RawFd;

use super::{Node, address, plain};
use crate::device::Device;
use crate::device::memory::Memory;
use crate::forward::Deliver;
use crate::net::{DropReason, Mode};
use crate::offload::Delivery;
use crate::underlay::memory::Sent;
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
        assert_eq!(node.counters.device.tx_packets.get(), 0);
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
        assert_eq!(node.counters.device.tx_packets.get(), 5);
        assert_eq!(node.counters.device.tx_bytes.get(), (5 * spec.header_len() + 4500) as u64);
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
        assert_eq!(node.counters.device.tx_packets.get(), 1);
    }
}

/// The same above the MTU, as kernel tunnels on virtual links send it: a super-packet in disguise.
#[test]
fn unfinished_super_packets_are_cut_to_the_mtu() {
    for spec in [Spec::tcp4(&[1; 4000]), Spec::tcp6(&[1; 4000]), Spec::udp4(&[2; 4000])] {
        let mut sent = wire(plain(Spec { payload: vec![], ..spec.clone() }.build()));
        let header = sent[0].bytes.len() - spec.header_len();
        sent[0].bytes.truncate(header);
        sent[0].bytes.extend(spec.build_partial().1);
        let size = 1450 - spec.header_len() as u16;
        let wanted: Vec<_> = spec.segments(size).iter().map(|one| plain(one.build())).collect();
        let mut device = Memory::default();
        let node = receive(&sent, &mut device);
        assert_eq!(device.output, [spec.build_gso(size)]);
        assert_eq!(node.counters.device.tx_packets.get(), wanted.len() as u64);
        let mut device = Memory { plain: true, ..Memory::default() };
        let node = receive(&sent, &mut device);
        assert_eq!((device.output, node.drops()), (wanted.clone(), vec![]));
        assert_eq!(node.counters.device.tx_packets.get(), wanted.len() as u64);
    }
}

/// What merging never makes, but a caller could.
#[test]
fn impossible_deliveries_are_dropped_by_name() {
    let (vnet, packet) = Spec::tcp4(&[1; 100]).build_partial();
    let gso = Spec::tcp4(&[1; 100]).build_gso(10).0;
    for vnet in [VnetHdr { csum_start: 500, ..vnet }, VnetHdr { gso_size: 0, ..gso }] {
        let (node, mut device) = (Node::new(2, Mode::Vxlan), Memory { plain: true, ..Memory::default() });
        let mut scratch = Deliver::scratch();
        let mut sink = Deliver { device: &mut device, counters: &node.counters, scratch: &mut scratch };
        let delivery =
            Delivery { vnet, head: &packet, pieces: &[], arena: &[], packets: 7, bytes: packet.len() as u64 };
        crate::offload::Sink::deliver(&mut sink, &delivery);
        assert_eq!(node.drops(), [(DropReason::Malformed, 7)]);
        assert_eq!(device.output, []);
    }
}
