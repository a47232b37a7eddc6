//! Listening to the routers: a raw socket that gets the ICMP errors about our own outer packets
//! that were too large, however they were sent.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::filter;

/// A socket that receives what quotes a packet sent from `address`: "fragmentation needed", IP header
/// included, of which the kernel has checked nothing but that header; or `ICMPv6` "packet too big"
/// without its header, of which it has checked the checksum.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn listen(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    match address {
        IpAddr::V4(address) => filter::fragmentation_needed(&socket, address)?,
        IpAddr::V6(address) => filter::packet_too_big(&socket, address)?,
    }
    socket.bind(&SocketAddr::new(address, 0).into())?;
    Ok(socket)
}
