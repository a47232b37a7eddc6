//! Raw IPv4 sockets for IP-in-IP and direct traffic (raw(7)).

use std::io;
use std::net::SocketAddrV4;

use socket2::{Domain, Protocol, Socket, Type};

use super::{OpenError, Setup, filter, sys};
use crate::wire::protocol;

/// Outer protocol numbers that carry IP: IPv4 and IPv6 inside.
pub const PROTOCOLS: [u8; 2] = [protocol::IPIP, protocol::IPV6];

const RECEIVE_BUFFER: usize = 8 << 20;
const SEND_BUFFER: usize = 4 << 20;

/// The sending socket: takes whole packets (IP_HDRINCL), and routes them by the address given to
/// `sendto`, which for direct traffic is the peer and not the packet's destination.
pub fn send() -> Result<Socket, OpenError> {
    let open = || {
        let socket =
            Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
        sys::set_send_buffer(&socket, SEND_BUFFER)?;
        sys::set_dont_fragment(&socket)?;
        Ok(socket)
    };
    open().map_err(|error| OpenError { what: "the raw sending socket (CAP_NET_RAW)".to_owned(), error })
}

/// The receiving socket of worker `index` for `number`, bound to this node's address.
///
/// The kernel gives every raw socket a copy of every packet, so with several workers each socket
/// filters out all flows but its share.
pub fn receive(setup: &Setup, number: u8, index: u16) -> Result<Socket, OpenError> {
    let open = || -> io::Result<Socket> {
        let socket =
            Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(Protocol::from(i32::from(number))))?;
        sys::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
        // An ICMP error about an outer packet comes to this socket, and it may be forged.
        sys::ignore_path_mtu(&socket)?;
        if setup.workers > 1 {
            filter::share(&socket, number, index, setup.workers)?;
        }
        socket.bind(&SocketAddrV4::new(setup.address, 0).into())?;
        Ok(socket)
    };
    open().map_err(|error| OpenError {
        what: format!("the raw receiving socket for protocol {number} (CAP_NET_RAW)"),
        error,
    })
}
