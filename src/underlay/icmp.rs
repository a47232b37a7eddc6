//! Listening to the routers: a raw socket that gets the ICMP errors about our own outer packets
//! that were too large, however they were sent.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

use super::filter;

/// A socket that receives, IP header included, "fragmentation needed" that quotes a packet sent from
/// `address`. The kernel has checked nothing but the outer IP header.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn listen(address: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW.nonblocking(), Some(Protocol::ICMPV4))?;
    filter::fragmentation_needed(&socket, address)?;
    socket.bind(&SocketAddrV4::new(address, 0).into())?;
    Ok(socket)
}
