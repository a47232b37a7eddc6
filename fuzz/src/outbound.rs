//! The outbound flow, from reads of the TUN to what is handed to the sockets.
//!
//! ```text
//! | flags | ( vnet header (10) | len (2) | bytes )… |
//! ```
//!
//! Flags: 3 the mode, 4 with packet socket and TAP, 8 leave checksums as they are, 16 over IPv6, 32 packets of local
//! pods go back.

use underpass::dataplane::encap::{frame, ipip, ipip_gso, ipip6, tunnel_gso, vxlan};
use underpass::dataplane::forward::{Forwarding, Outbound, OutboundCx};
use underpass::dataplane::observe::Worker;
use underpass::dataplane::packet::{Channel, Datagram, Delivery, Family, Outbox, Paths};
use underpass::dataplane::policy::Judge;
use underpass::dataplane::segment::Flow;
use underpass::net::Mode;
use underpass::wire::{Ipv4, Ipv6, VnetHdr, ethernet, ipv6, vnet_hdr, vxlan as header};

use crate::input::Input;
use crate::node::{MTU, address, dropped, expand, forwarding, is_pod_of, repair_ip};

/// Packets and super-packets as the TUN hands them over.
pub fn tun_read(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let mode = [Mode::Ipip, Mode::Vxlan, Mode::Direct, Mode::Vxlan][usize::from(flags & 3)];
    let fast = flags & 4 != 0;
    let ipv6 = flags & 16 != 0;
    let mut run = Run {
        forwarding: forwarding(mode, ipv6, fast, flags & 32 != 0),
        paths: Paths { tap: fast, packet: fast },
        worker: Worker::default(),
        out: Outbox::default(),
        mode,
        ipv6,
        back: 0,
        sent: 0,
        sent_bytes: 0,
    };
    let mut outbound = Outbound::new((49152..49152 + 256).collect());
    let mut arena = vec![0xa5; 5];
    while !input.is_empty() {
        let vnet = VnetHdr::parse(&input.array());
        let len = input.short();
        let at = arena.len();
        arena.extend_from_slice(input.bytes(usize::from(len)));
        if flags & 8 == 0 {
            repair_ip(&mut arena[at..]);
        }
        let range = at..arena.len();
        let mut packet = |arena: &mut [u8], run: &mut Run| {
            let (tables, paths, out, worker) = (&run.forwarding, run.paths, &mut run.out, &run.worker);
            let judge = &mut Judge::default();
            outbound.packet(
                &mut OutboundCx { tables, paths, arena, out, worker, judge, proofs: None },
                &vnet,
                range.clone(),
            )
        };
        let taken = packet(&mut arena, &mut run).or_else(|_| {
            run.flush(&arena);
            packet(&mut arena, &mut run)
        });
        let hairpin = taken.expect("an empty outbox holds any one packet");
        if let Some(hairpin) = hairpin {
            run.give_back(&hairpin.delivery(&arena));
        }
        arena.extend_from_slice(&[0xa5; 3]);
    }
    run.flush(&arena);
    let received = run.worker.counters.device.rx_packets.get();
    let counted = run.sent + run.back + dropped(&run.worker.counters);
    assert_eq!(received, counted, "every packet is sent, given back or dropped, once");
    assert_eq!(run.worker.counters.hairpinned_packets.get(), run.back);
    assert!(run.sent_bytes <= run.worker.counters.device.rx_bytes.get());
}

struct Run {
    forwarding: Forwarding,
    paths: Paths,
    worker: Worker,
    out: Outbox,
    mode: Mode,
    ipv6: bool,
    /// Packets that went back to the device.
    back: u64,
    sent: u64,
    /// Inner bytes.
    sent_bytes: u64,
}

impl Run {
    /// Judges everything in the outbox and empties it.
    fn flush(&mut self, arena: &[u8]) {
        let out = std::mem::replace(&mut self.out, Outbox::hollow());
        for message in out.messages() {
            let datagrams = out.datagrams(message);
            let bytes: u32 = datagrams.iter().map(Datagram::bytes).sum();
            assert_eq!(bytes, message.bytes);
            assert!(message.count == 1 || message.bytes <= 65507, "more than one send takes");
            for (index, datagram) in datagrams.iter().enumerate() {
                let last = index + 1 == datagrams.len();
                let equal = datagram.bytes() == u32::from(message.segment);
                assert!(message.count == 1 || equal || last && datagram.bytes() < u32::from(message.segment));
                let head = datagram.head.resolve(out.slab(), arena);
                let body = datagram.body.resolve(out.slab(), arena);
                self.datagram(message.channel, datagram, head, body);
            }
        }
        self.out = out;
        self.out.clear();
    }

    /// Judges what goes back to the device: as it came, to or from a pod here, and for no other node's.
    fn give_back(&mut self, delivery: &Delivery<'_>) {
        assert!(delivery.pieces.is_empty());
        let packets = expand(&delivery.vnet, delivery.head);
        assert_eq!(packets.len(), delivery.packets as usize);
        assert_eq!(packets.iter().map(Vec::len).sum::<usize>() as u64, delivery.bytes);
        for packet in &packets {
            let flow = Flow::of(packet).expect("a whole packet");
            let elsewhere = |address| [2, 3].iter().any(|node| is_pod_of(*node, address));
            let inwards = is_pod_of(1, flow.destination);
            assert!(inwards || is_pod_of(1, flow.source) && !elsewhere(flow.destination), "{flow:?}");
        }
        self.back += packets.len() as u64;
    }

    fn datagram(&mut self, channel: Channel, datagram: &Datagram, head: &[u8], body: &[u8]) {
        let (vnet, inner) = self.strip(channel, head, body);
        let packets = expand(&vnet, &inner);
        assert_eq!(packets.len(), usize::from(datagram.packets));
        let overhead = usize::from(self.mode.overhead(address(2, self.ipv6)));
        let mut wire = 0;
        for packet in &packets {
            let flow = Flow::of(packet).expect("a whole packet");
            assert_eq!(flow.total_len, packet.len());
            assert!(is_pod_of(1, flow.source), "{}", flow.source);
            assert!(is_pod_of(2, flow.destination) || is_pod_of(3, flow.destination), "{}", flow.destination);
            let fits = packet.len() + overhead <= usize::from(MTU);
            let in_fragments = matches!(channel, Channel::FragmentingUdp(_) | Channel::FragmentingRaw(_));
            let demanded = packet.len() <= usize::from(ipv6::MIN_MTU) && flow.source.is_ipv6();
            assert!(fits || in_fragments && demanded, "larger than the path carries");
            wire += packet.len() + overhead;
            self.sent_bytes += packet.len() as u64;
        }
        assert_eq!(wire, datagram.wire_bytes as usize);
        self.sent += packets.len() as u64;
    }

    /// The inner packet of one write, and what the kernel is to do to it.
    fn strip(&self, channel: Channel, head: &[u8], body: &[u8]) -> (VnetHdr, Vec<u8>) {
        let whole = [head, body].concat();
        let moved = |vnet: VnetHdr, by: usize| VnetHdr {
            csum_start: vnet.csum_start.saturating_sub(by as u16),
            ..vnet
        };
        match channel {
            Channel::Udp(_) | Channel::Udp6(_) | Channel::FragmentingUdp(_) => {
                assert_eq!(Some(self.ipv6), channel.kernel_header().map(|family| family == Family::V6));
                let (vni, _) = header::parse(&whole).expect("a VXLAN header");
                assert_eq!(vni, Some(4096));
                (VnetHdr::default(), whole[vxlan::TEMPLATE..].to_vec())
            }
            Channel::FragmentingRaw(_) => (VnetHdr::default(), whole),
            Channel::Raw | Channel::Raw6 => (VnetHdr::default(), self.strip_raw(&whole)),
            Channel::Packet => {
                let vnet = VnetHdr::parse(whole.first_chunk().expect("a vnet header"));
                let vnet = if vnet.is_gso() { moved(vnet, ethernet::LEN) } else { vnet };
                (vnet, self.strip_raw(&whole[frame::TEMPLATE..]))
            }
            Channel::Tap if head.len() == ipip_gso::TEMPLATE => {
                let (vnet, _) = ipip_gso::unpatch(head).expect("a head for IP-in-IP");
                (vnet, body.to_vec())
            }
            Channel::Tap => {
                let vnet = VnetHdr::parse(whole.first_chunk().expect("a vnet header"));
                let gso_type = vnet.gso_type & !vnet_hdr::GSO_UDP_TUNNEL_IPV4;
                let vnet = moved(vnet, tunnel_gso::TEMPLATE - vnet_hdr::TUNNEL_LEN);
                (VnetHdr { gso_type, flags: vnet_hdr::NEEDS_CSUM, ..vnet }, body.to_vec())
            }
        }
    }

    fn strip_raw(&self, packet: &[u8]) -> Vec<u8> {
        if self.mode == Mode::Direct {
            return packet.to_vec();
        }
        if self.ipv6 {
            let outer = Ipv6::parse(packet).expect("a whole outer packet");
            assert_eq!(outer.total_len(), packet.len());
            return packet[ipip6::OVERHEAD..].to_vec();
        }
        let outer = Ipv4::parse(packet).expect("a whole outer packet");
        assert!(outer.checksum_ok());
        assert_eq!(outer.total_len(), packet.len());
        packet[ipip::OVERHEAD..].to_vec()
    }
}
