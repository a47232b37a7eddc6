//! Sockets for BFD between addresses of pods: what arrives bare at the uplink, and what leaves bare towards a node.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::{filter, packet, raw, sys};
use crate::wire::bfd::{PORT, TTL};

/// Bytes of the receive buffer: some thousand packets, whose bookkeeping in the kernel is larger than they are.
const RECEIVE_BUFFER: usize = 1 << 22;

/// A socket that receives control packets for `own`, an address on the TUN, that arrive at the interface `uplink`
/// and have passed no router (RFC 5881 §5). What was in a tunnel arrives at the TUN.
///
/// # Errors
/// The kernel's: EADDRINUSE where another program has the port on this address and does not share it.
pub fn listen(own: IpAddr, uplink: &str) -> io::Result<Socket> {
    let (domain, ttl_at) = match own {
        IpAddr::V4(_) => (Domain::IPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, 7),
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    filter::network_byte(&socket, ttl_at, TTL)?;
    sys::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
    // BIRD and FRR have the port on every address, and share it.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(uplink.as_bytes()))?;
    // The address may be on its way to the TUN.
    match own {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&SocketAddr::new(own, PORT).into())?;
    Ok(socket)
}

/// A socket that sends whole IPv4 packets, routed to the address of a node that is given to `sendto`, as the packet
/// path sends bare packets.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn packets(own: IpAddr) -> io::Result<Socket> {
    raw::send(own).map_err(|refused| refused.error)
}

/// A socket that sends frames at the interface with `index`, each behind an empty vnet header.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn frames(index: u32) -> io::Result<Socket> {
    packet::send(index).map_err(|refused| refused.error)
}
