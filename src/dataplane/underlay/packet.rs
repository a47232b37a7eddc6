//! The packet socket on the uplink (packet(7)): IP-in-IP and direct traffic as frames.
//!
//! It skips the routing and netfilter work of the raw socket and takes direct super-packets whole
//! (PACKET_VNET_HDR). It needs the next hop's link address, which the control plane reads from the
//! neighbour table; without one, packets go through the raw socket.

use std::io;
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, Socket, Type};

use super::{OpenError, filter, sys};

const SEND_BUFFER: usize = 4 << 20;

/// The sending socket on the interface `index`. It receives nothing.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn send(index: u32) -> Result<Socket, OpenError> {
    let open = || -> io::Result<Socket> {
        // Protocol 0: no frame is ever delivered to this socket.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        sys::set_packet_vnet_header(&socket)?;
        sys::set_send_buffer(&socket, SEND_BUFFER)?;
        sys::bind_to_interface(&socket, index)?;
        Ok(socket)
    };
    open().map_err(|error| OpenError {
        what: "the packet socket on the uplink (CAP_NET_RAW)".to_owned(),
        error,
    })
}

/// What an observer looks for, from the IP header on.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Source address.
    pub source: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Two bytes that tell it from others.
    pub id: u16,
    /// Their offset.
    pub id_at: u32,
}

/// A blocking socket that sees packets with `mark` leave or enter the interface `index`.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn observe(index: u32, mark: &Mark) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
    filter::one_packet(&socket, mark)?;
    // Only now that the filter stands does the socket listen to anything.
    sys::bind_to_all_of_interface(&socket, index)?;
    Ok(socket)
}
