//! Raw sockets for IP-in-IP and, over IPv4, direct traffic (raw(7), ipv6(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::door::Share;
use super::setup::{OpenError, RECEIVE_BUFFER, SEND_BUFFER, Setup};
use super::{filter, sys};
use crate::dataplane::encap::OUTER_TTL;
use crate::dataplane::packet::{Family, Format};
use crate::wire::protocol;

/// Outer protocol numbers that carry IP: IPv4 and IPv6 inside.
pub(super) const PROTOCOLS: [u8; 2] = [protocol::IPIP, protocol::IPV6];

/// What the receiving socket for protocol `number` on `address` hands over: over IPv6 without the
/// outer header.
pub(super) fn format(address: IpAddr, number: u8) -> Format {
    match address {
        IpAddr::V4(_) => Format::Ipip,
        IpAddr::V6(_) if number == protocol::IPIP => Format::Ipip6V4,
        IpAddr::V6(_) => Format::Ipip6V6,
    }
}

/// The sending socket on this node's `address`: takes whole packets (IP_HDRINCL, which IPPROTO_RAW implies in
/// both families), and routes them by the address given to `sendto`, which for direct traffic is the peer
/// and not the packet's destination. It is bound, so that rules about the source (`ip rule from …`) apply as
/// they do to a kernel tunnel with that `local` address.
pub(super) fn send(address: IpAddr) -> Result<Socket, OpenError> {
    let open = || {
        let socket = unbound(address)?;
        sys::set_send_buffer(&socket, SEND_BUFFER)?;
        match address {
            IpAddr::V4(_) => sys::set_dont_fragment(&socket)?,
            IpAddr::V6(_) => {
                sys::set_dont_fragment6(&socket)?;
                // As in udp.rs: the address may be new.
                socket.set_freebind_v6(true)?;
            }
        }
        socket.bind(&SocketAddr::new(address, 0).into())?;
        Ok(socket)
    };
    open().map_err(|error| OpenError { what: "the raw sending socket (CAP_NET_RAW)".to_owned(), error })
}

/// The socket on this node's `address` that takes inner IPv6 packets and leaves the outer header, and with it
/// fragmentation, to the kernel.
pub(super) fn fragmenting(address: IpAddr) -> Result<Socket, OpenError> {
    let open = || {
        let socket =
            Socket::new(domain(address), Type::RAW.nonblocking(), Some(i32::from(protocol::IPV6).into()))?;
        // It is only sent from, and would get a copy of every packet with this protocol.
        filter::refuse_all(&socket)?;
        sys::set_send_buffer(&socket, SEND_BUFFER)?;
        sys::let_fragment(&socket, Family::of(address))?;
        match address {
            IpAddr::V4(_) => socket.set_ttl_v4(u32::from(OUTER_TTL))?,
            IpAddr::V6(_) => {
                socket.set_unicast_hops_v6(u32::from(OUTER_TTL))?;
                // As in udp.rs: the address may be new.
                socket.set_freebind_v6(true)?;
            }
        }
        socket.bind(&SocketAddr::new(address, 0).into())?;
        Ok(socket)
    };
    open().map_err(|error| OpenError {
        what: "the raw socket for IPv6 packets in fragments (CAP_NET_RAW)".to_owned(),
        error,
    })
}

/// A socket that takes whole packets of the family of `address`, from whatever source.
pub(super) fn unbound(address: IpAddr) -> io::Result<Socket> {
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    Socket::new(domain(address), Type::RAW.nonblocking(), Some(protocol))
}

/// The receiving socket of a worker for protocol `number`, bound to this node's `address`.
///
/// The kernel gives every raw socket a copy of every packet, so with several workers each socket
/// filters out all flows but its share.
pub(super) fn receive(address: IpAddr, number: u8, share: Option<Share>) -> Result<Socket, OpenError> {
    let open = || -> io::Result<Socket> {
        let protocol = Protocol::from(i32::from(number));
        let socket = Socket::new(domain(address), Type::RAW.nonblocking(), Some(protocol))?;
        sys::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
        if let Some(share) = share {
            socket.attach_filter(&share.filter())?;
        }
        // An ICMP error about an outer packet comes to this socket, and it may be forged.
        sys::ignore_path_mtu_of(&socket, address)?;
        match address {
            IpAddr::V4(_) => {}
            IpAddr::V6(_) => {
                sys::set_receive_traffic_class(&socket)?;
                sys::refuse_multicast6(&socket)?;
                // As in udp.rs: the address may be new.
                socket.set_freebind_v6(true)?;
            }
        }
        socket.bind(&SocketAddr::new(address, 0).into())?;
        Ok(socket)
    };
    open().map_err(|error| OpenError {
        what: format!("the raw receiving socket for protocol {number} on {address} (CAP_NET_RAW)"),
        error,
    })
}

/// The share of worker `index` of packets in `format`, where there are other workers.
pub(super) fn share(setup: &Setup, format: Format, index: u16) -> Option<Share> {
    (setup.workers > 1).then(|| Share { outer: format == Format::Ipip, index, of: setup.workers })
}

fn domain(address: IpAddr) -> Domain {
    Domain::for_address(SocketAddr::new(address, 0))
}
