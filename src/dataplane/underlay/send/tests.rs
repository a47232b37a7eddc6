//! What becomes of packets whose way is refused, over real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::take_up::lacks;
use super::{SendSockets, Sender, raw_takes};
use crate::dataplane::encap::frame::{self, Hop};
use crate::dataplane::encap::{ipip6, tunnel_gso, vxlan};
use crate::dataplane::observe::{Counters, Fallback};
use crate::dataplane::packet::{Batch, Channel, Datagram, Outbox, Piece};
use crate::dataplane::underlay::{Setup, sys, udp};
use crate::net::{DropReason, Mac, Vni};
use crate::wire::ethernet;
use crate::wire::testing::Spec;

const SIZE: u16 = 500;
/// Not 127.0.0.1, whose source ports another test counts.
const US: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A receiver on `address`, port `port` (0: any), and its port.
fn peer(address: Ipv4Addr, port: u16) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind(SocketAddrV4::new(address, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn sender(udp_gso: bool) -> Sender {
    // The tests run at the same time.
    let setup = Setup { address: Some(US), workers: 2, udp_gso, ..Setup::default() };
    let (udp, _) = udp::send_all(&setup, US.into()).unwrap();
    let ways = SendSockets { udp, ..SendSockets::default() };
    Sender::new(&setup, ways)
}

/// Queues the super-packet of `spec` for the TAP, as the outbound flow does; its bytes go to `arena`.
fn queue(out: &mut Outbox, arena: &mut Vec<u8>, spec: &Spec, to: Ipv4Addr, ports: (u16, u16)) {
    let (vnet, packet) = spec.build_gso(SIZE);
    let (piece, head) = out.head(tunnel_gso::TEMPLATE);
    head.copy_from_slice(&tunnel_gso::template(Mac([2; 6]), US, to, ports.1, &inner()));
    let (header_len, inner_len) = (spec.header_len(), packet.len());
    tunnel_gso::patch(head, &tunnel_gso::Super { vnet, header_len, inner_len, tos: 0, source_port: ports.0 });
    let body = Piece::arena(arena.len(), packet.len());
    arena.extend(packet);
    let datagram = Datagram { head: piece, body, packets: 2, wire_bytes: 2000 };
    out.push(Channel::Tap, SocketAddr::new(to.into(), ports.1), 0, datagram);
}

fn inner() -> [u8; vxlan::TEMPLATE] {
    vxlan::template(Vni::CALICO, Mac([0x66; 6]), Mac([0x64; 6]), ethernet::IPV4)
}

/// The two datagrams that `spec` must arrive as.
fn expected(spec: &Spec) -> Vec<Vec<u8>> {
    spec.segments(SIZE).iter().map(|segment| [&inner()[..], &segment.build()].concat()).collect()
}

fn received(socket: &UdpSocket) -> (Vec<Vec<u8>>, u16) {
    let mut port = 0;
    let mut one = || {
        let mut buffer = [0; 2000];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        port = from.port();
        buffer[..len].to_vec()
    };
    (vec![one(), one()], port)
}

#[test]
fn super_packets_that_the_tap_does_not_take_reach_each_its_own_peer() {
    let (to_a, to_b) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let (a, port) = peer(to_a, 0);
    let (b, port_b) = peer(to_b, 0);
    let mut sender = sender(false);
    let source_port = sender.ports()[7];
    let (for_a, for_b) = (Spec::tcp4(&[1; 900]), Spec::tcp4(&[2; 900]));
    let (mut out, mut arena) = (Outbox::default(), Vec::new());
    queue(&mut out, &mut arena, &for_a, to_a, (source_port, port));
    queue(&mut out, &mut arena, &for_b, to_b, (source_port, port_b));

    let counters = Counters::new(1);
    sender.send(Batch { outbox: &out, arena: &arena }, counters.handle(0));

    assert_eq!(received(&a), (expected(&for_a), source_port));
    assert_eq!(received(&b), (expected(&for_b), source_port));
    let totals = counters.totals();
    assert_eq!((totals.underlay.tx_packets, totals.underlay.tx_bytes), (4, 2 * 2000));
    assert!(DropReason::ALL.iter().all(|reason| totals.drops(*reason) == 0));
    // There was no TAP to fall back from.
    assert_eq!(counters.fallbacks(Fallback::Tap), 0);
}

#[test]
fn the_raw_socket_takes_from_frames_what_it_can_send() {
    let (us, to): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let hop = Hop { destination: Mac([2; 6]), source: Mac([4; 6]) };
    let head = |ethertype, rest: &[u8]| [&frame::template(hop, ethertype)[..], rest].concat();
    let tunnel = ipip6::template(us, to, 41);
    let pod = ipip6::template(us, "fd00::2".parse().unwrap(), 6);
    let to4 = IpAddr::from([192, 0, 2, 2]);
    assert!(raw_takes(&head(ethernet::IPV4, &[]), to4));
    assert!(!raw_takes(&head(ethernet::IPV6, &pod), to4));
    assert!(raw_takes(&head(ethernet::IPV6, &tunnel), to.into()));
    assert!(!raw_takes(&head(ethernet::IPV6, &pod), to.into()));
    assert!(!raw_takes(&head(ethernet::IPV6, &[]), to.into()));
    assert!(!raw_takes(&head(ethernet::IPV4, &[0x45; 40]), to.into()));
}

/// Two plain datagrams of one message.
fn queue_two(out: &mut Outbox, to: Ipv4Addr, port: u16) {
    for byte in [1, 2] {
        let (head, bytes) = out.head(100);
        bytes.fill(byte);
        let body = Piece::arena(0, 0);
        out.push(
            Channel::Udp(7),
            SocketAddr::new(to.into(), port),
            0,
            Datagram { head, body, packets: 1, wire_bytes: 128 },
        );
    }
}

/// Refused because of its form: all leaves unsegmented, and segmentation is given up.
#[test]
fn segmentation_that_the_kernel_refuses_is_given_up_once() {
    let to = Ipv4Addr::new(127, 0, 0, 4);
    let (receiver, port) = peer(to, 0);
    let mut sender = sender(true);
    sys::set_no_checksum(&sender.udp[7]).unwrap();
    let (mut out, counters) = (Outbox::default(), Counters::new(1));
    queue_two(&mut out, to, port);
    for _ in 0..2 {
        sender.send(Batch { outbox: &out, arena: &[] }, counters.handle(0));
        assert_eq!(received(&receiver).0, [[1; 100], [2; 100]]);
    }
    assert_eq!(counters.fallbacks(Fallback::UdpGso), 1);
    assert!(DropReason::ALL.iter().all(|reason| counters.totals().drops(*reason) == 0));
}

/// Refused because of its size: unsegmented it fares no better, and the next that fits is segmented.
#[test]
fn segmentation_of_what_does_not_fit_is_not_given_up() {
    let to = Ipv4Addr::new(127, 0, 0, 5);
    let (receiver, port) = peer(to, 0);
    let mut sender = sender(true);
    let (mut out, counters) = (Outbox::default(), Counters::new(1));
    // More than UDP can say, so no datagram of it can leave.
    for _ in 0..2 {
        let (head, _) = out.head(40_000);
        let body = Piece::arena(0, 30_000);
        let datagram = Datagram { head, body, packets: 1, wire_bytes: 70_000 };
        out.push(Channel::Udp(7), SocketAddr::new(to.into(), port), 0, datagram);
    }
    queue_two(&mut out, to, port);
    sender.send(Batch { outbox: &out, arena: &[0; 30_000] }, counters.handle(0));
    assert_eq!(received(&receiver).0, [[1; 100], [2; 100]]);
    assert_eq!(counters.fallbacks(Fallback::UdpGso), 0);
    let totals = counters.totals();
    assert_eq!((totals.drops(DropReason::TooBig), totals.underlay.tx_packets), (2, 2));
    assert_eq!(counters.too_large_sends(), 2, "the ways are looked up again");
}

/// Each peer has a port of its own, also where one batch holds datagrams for several.
#[test]
fn datagrams_reach_each_its_own_port() {
    let to = Ipv4Addr::new(127, 0, 0, 6);
    let ((a, port_a), (b, port_b)) = (peer(to, 0), peer(to, 0));
    let (mut out, counters) = (Outbox::default(), Counters::new(1));
    queue_two(&mut out, to, port_a);
    queue_two(&mut out, to, port_b);
    sender(true).send(Batch { outbox: &out, arena: &[] }, counters.handle(0));
    for receiver in [a, b] {
        assert_eq!(received(&receiver).0, [[1; 100], [2; 100]]);
    }
    assert_eq!(counters.totals().underlay.tx_packets, 4);
}

/// The control plane may offer a way between the worker's look for offers and its decision whether to look again.
#[test]
fn offers_are_looked_for_until_they_are_taken() {
    for fallback in [Fallback::UdpGso, Fallback::Tap, Fallback::PacketSocket] {
        let counters = Counters::new(1);
        let worker = counters.worker(0);
        assert!(!lacks(worker), "{fallback:?}");
        worker.fell_back(fallback, &std::io::Error::from_raw_os_error(libc::EIO));
        assert!(!worker.takes_up(fallback) && lacks(worker), "{fallback:?}");
        counters.offer(fallback);
        assert!(lacks(worker), "{fallback:?} is offered, and not taken up");
        assert!(worker.takes_up(fallback) && !lacks(worker), "{fallback:?}");
    }
}

#[test]
fn what_was_offered_is_used_again() {
    let (mut sender, counters) = (sender(true), Counters::new(1));
    let worker = counters.handle(0);
    sender.gso = false;
    sender.give_up(Fallback::UdpGso, &std::io::Error::from_raw_os_error(libc::EIO), worker);
    sender.take_up(worker);
    assert!(!sender.gso && sender.lacks);
    counters.offer(Fallback::UdpGso);
    sender.take_up(worker);
    assert!(sender.gso && !sender.lacks);
}
