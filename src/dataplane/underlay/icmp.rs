//! Listening to the routers, and asking them: raw sockets for the ICMP errors about our own outer packets, however
//! they were sent, and for probes of a path.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::{filter, raw};

/// A socket that receives errors that quote a packet sent from `address`, and answers to echo requests with the
/// identifier `echo_id`: IP header included, of which the kernel has checked nothing but that header; or
/// `ICMPv6` without its header, of which it has checked the checksum.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn listen(address: IpAddr, echo_id: u16) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    match address {
        IpAddr::V4(address) => filter::icmp_for(&socket, address, echo_id)?,
        IpAddr::V6(address) => filter::icmp6_for(&socket, address, echo_id)?,
    }
    // An error about a packet of this protocol comes to this socket, and it may be forged.
    super::sys::ignore_path_mtu_of(&socket, address)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    Ok(socket)
}

/// A socket that sends whole IP packets from `address`, routed as our outer packets are.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn send(address: IpAddr) -> io::Result<Socket> {
    raw::send(address).map_err(|refused| refused.error)
}

/// A socket that sends whole IP packets of the family of `address` to pods.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn to_pods(address: IpAddr) -> io::Result<Socket> {
    raw::unbound(address)
}
