//! A packet socket that watches for one packet of our own (packet(7)).

use std::io;
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, Socket, Type};

use super::{filter, sys};

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
    one_packet(&socket, mark)?;
    // Only now that the filter stands does the socket listen to anything.
    sys::bind_to_all_of_interface(&socket, index)?;
    Ok(socket)
}

/// A socket that sees the IPv4 packets that arrive at the interface `index`, and returns at once where none waits.
///
/// # Errors
/// The kernel's: EPERM without CAP_NET_RAW.
pub fn arrivals(index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), Some(Protocol::from(0)))?;
    sys::bind_to_ipv4_of_interface(&socket, index)?;
    Ok(socket)
}

/// Lets through packets with `mark`; the socket sees packets from their IP header on.
fn one_packet(socket: &Socket, mark: &Mark) -> io::Result<()> {
    let fields = [
        (libc::BPF_B, 9, u32::from(mark.protocol)),
        (libc::BPF_W, 12, u32::from(mark.source)),
        (libc::BPF_H, mark.id_at, u32::from(mark.id)),
    ];
    filter::all_equal(socket, &fields)
}
