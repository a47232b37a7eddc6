//! UDP sockets for VXLAN.
//!
//! One socket for each source port and worker, because the flow's source port must reach the wire
//! and UDP_SEGMENT needs an ordinary socket; one receiving socket for each worker, which share
//! the port (SO_REUSEPORT).

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::setup::{OpenError, RECEIVE_BUFFER, SEND_BUFFER, SOURCE_PORTS, Setup};
use super::sys;
use crate::dataplane::encap::OUTER_TTL;
use crate::dataplane::encap::vxlan::FIRST_SOURCE_PORT;
use crate::dataplane::packet::Family;
use crate::dataplane::steering::socket_cbpf;

/// Bytes of receive buffer of a socket that only sends: less than the least that the kernel allows (socket(7)).
const SMALLEST_BUFFER: usize = 1;

/// The receiving socket of one worker, bound to this node's `address`: an outer destination that is
/// not ours never arrives.
pub(super) fn receive(setup: &Setup, address: IpAddr) -> Result<Socket, OpenError> {
    let to = SocketAddr::new(address, setup.vxlan_port);
    let open = || {
        let socket = open(to, Type::DGRAM.nonblocking())?;
        socket.set_reuse_port(setup.workers > 1)?;
        sys::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
        match address {
            IpAddr::V4(_) => socket.set_recv_tos_v4(true)?,
            IpAddr::V6(_) => sys::set_receive_traffic_class(&socket)?,
        }
        if address.is_ipv6() && setup.zero_checksum6 {
            sys::accept_zero_checksum6(&socket)?;
        }
        if setup.udp_gro {
            sys::set_udp_gro(&socket)?;
        }
        socket.bind(&to.into())?;
        if setup.workers > 1 {
            sys::attach_reuseport_filter(&socket, &socket_cbpf::pick(setup.workers))?;
        }
        Ok(socket)
    };
    open().map_err(|error| vxlan_socket(to, error))
}

/// A socket of the family of `address`, and of that alone. It may be bound although the kernel still
/// looks for duplicates of an IPv6 address (RFC 4862 §5.4), as it does for a while after boot.
fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    Ok(socket)
}

/// Fails while anybody has the VXLAN port: with SO_REUSEPORT a second daemon of the same user could
/// bind it, too, and each would get half of the flows.
pub(super) fn ensure_free(setup: &Setup) -> Result<(), OpenError> {
    setup.addresses().try_for_each(|address| {
        let to = SocketAddr::new(address, setup.vxlan_port);
        let alone = || open(to, Type::DGRAM)?.bind(&to.into());
        alone().map_err(|error| vxlan_socket(to, error))
    })
}

fn vxlan_socket(address: SocketAddr, error: io::Error) -> OpenError {
    OpenError { what: format!("the VXLAN socket {address}/udp"), error }
}

/// A socket and the port it is bound to.
type Bound = (Socket, u16);

/// The sending sockets of one worker on `address`, each bound to another port in 49152–65535. All workers use the
/// same ports: the port then depends on the flow alone, and stays when the kernel moves the flow to
/// another queue, as it does without a steering program. They are drawn from all of that range at each
/// start, so that a stranger does not know which packets to claim that we sent (RFC 5927 §4.2, RFC 6056).
/// Beside them the one whose packets the kernel may fragment.
pub(super) fn send_all(setup: &Setup, address: IpAddr) -> Result<(Vec<Bound>, Bound), OpenError> {
    let mut ports = shuffled(setup.port_seed).into_iter();
    let mut sockets = Vec::with_capacity(usize::from(SOURCE_PORTS));
    loop {
        let Some(port) = ports.next() else {
            let error = io::Error::from_raw_os_error(libc::EADDRINUSE);
            return Err(OpenError { what: "enough UDP source ports from 49152 to 65535".to_owned(), error });
        };
        let from = SocketAddr::new(address, port);
        match send_from(from, setup.workers > 1) {
            Ok(socket) if sockets.len() < usize::from(SOURCE_PORTS) => sockets.push((socket, port)),
            Ok(socket) => {
                let what = || format!("a sending socket on {from}/udp that lets the kernel fragment");
                sys::let_fragment(&socket, Family::of(address))
                    .map_err(|error| OpenError { what: what(), error })?;
                return Ok((sockets, (socket, port)));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(OpenError { what: format!("a sending socket on {from}/udp"), error });
            }
        }
    }
}

/// All source ports in an order that follows from `seed` (Fisher–Yates over splitmix64).
fn shuffled(seed: u64) -> Vec<u16> {
    let mut ports: Vec<u16> = (FIRST_SOURCE_PORT..=u16::MAX).collect();
    let mut state = seed;
    for left in (1..ports.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        // The upper half times the number of places, without the bias of a remainder.
        let place = usize::try_from(((word >> 32) * (left as u64 + 1)) >> 32).unwrap_or(left);
        ports.swap(left, place);
    }
    ports
}

fn send_from(from: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = open(from, Type::DGRAM.nonblocking())?;
    socket.set_reuse_port(shared)?;
    // This port is only sent from; what is sent to it must not fill memory. A filter that refuses
    // everything would do, but a program a socket is hundreds of programs to make and to free for each daemon, and
    // the kernel frees them one by one.
    socket.set_recv_buffer_size(SMALLEST_BUFFER)?;
    sys::set_send_buffer(&socket, SEND_BUFFER)?;
    match from {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(u32::from(OUTER_TTL))?;
            sys::set_dont_fragment(&socket)?;
        }
        SocketAddr::V6(_) => {
            socket.set_unicast_hops_v6(u32::from(OUTER_TTL))?;
            sys::set_dont_fragment6(&socket)?;
        }
    }
    socket.bind(&from.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use socket2::Socket;

    use super::{Setup, ensure_free, receive, send_all, shuffled};

    fn two_workers(address: Ipv4Addr, vxlan_port: u16) -> Setup {
        Setup { address: Some(address), vxlan_port, workers: 2, ..Setup::default() }
    }

    #[test]
    fn a_port_that_another_daemon_shares_among_its_workers_is_taken() {
        let address = Ipv4Addr::new(127, 0, 0, 10);
        let any = std::net::UdpSocket::bind((address, 0)).unwrap();
        let vxlan_port = any.local_addr().unwrap().port();
        drop(any);
        let setup = two_workers(address, vxlan_port);
        ensure_free(&setup).unwrap();
        let workers = [receive(&setup, address.into()).unwrap(), receive(&setup, address.into()).unwrap()];
        let error = ensure_free(&setup).unwrap_err();
        assert_eq!(error.error.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.what.contains(&vxlan_port.to_string()), "{error}");
        drop(workers);
        ensure_free(&setup).unwrap();
    }

    #[test]
    fn all_workers_send_from_the_same_ports() {
        let setup = two_workers(Ipv4Addr::LOCALHOST, 4789);
        let port = |(socket, _): &(Socket, u16)| socket.local_addr().unwrap().as_socket().unwrap().port();
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let (first, _) = send_all(&setup, address).unwrap();
            let (second, _) = send_all(&setup, address).unwrap();
            let ports: Vec<u16> = first.iter().map(port).collect();
            assert_eq!(ports, second.iter().map(port).collect::<Vec<_>>());
            let distinct: std::collections::BTreeSet<&u16> = ports.iter().collect();
            assert_eq!((distinct.len(), ports.iter().min() >= Some(&49152)), (256, true), "{ports:?}");
        }
    }

    #[test]
    fn the_order_of_ports_follows_from_the_seed_alone() {
        let (one, other) = (shuffled(1), shuffled(2));
        assert_eq!(one, shuffled(1));
        assert_ne!(one[..8], other[..8]);
        for mut ports in [one, other] {
            ports.sort_unstable();
            assert!(ports.into_iter().eq(49152..=u16::MAX));
        }
    }

    #[test]
    fn what_is_sent_to_a_sending_socket_fills_no_memory() {
        let setup = two_workers(Ipv4Addr::LOCALHOST, 4789);
        let (sockets, fragmenting) = send_all(&setup, Ipv4Addr::LOCALHOST.into()).unwrap();
        for (socket, _) in [&sockets[0], &fragmenting] {
            assert!(socket.recv_buffer_size().unwrap() < 4096);
            let stranger = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for _ in 0..100 {
                stranger.send_to(&[0; 1000], socket.local_addr().unwrap().as_socket().unwrap()).unwrap();
            }
            let waiting =
                std::iter::from_fn(|| socket.recv(&mut [std::mem::MaybeUninit::uninit(); 1000]).ok());
            assert!(waiting.count() < 4);
        }
    }
}
