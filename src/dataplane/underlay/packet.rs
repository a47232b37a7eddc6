//! The packet socket on the uplink (packet(7)): IP-in-IP and direct traffic as frames.
//!
//! It skips the routing and netfilter work of the raw socket and takes direct super-packets whole
//! (PACKET_VNET_HDR). It needs the next hop's link address, which the control plane reads from the
//! neighbour table; without one, packets go through the raw socket.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::setup::{OpenError, SEND_BUFFER};
use super::sys;

/// The sending socket on the interface `index`. It receives nothing.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub(super) fn send(index: u32) -> Result<Socket, OpenError> {
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
