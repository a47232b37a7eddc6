//! Socket options that socket2 lacks, and the addresses of packet sockets (socket(7), udp(7), ip(7), packet(7)).
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{SockFilter, Socket};

use crate::dataplane::packet::Family;

/// Sets a segment size for all sends; only to see whether the kernel knows how (udp(7), Linux 4.18).
pub(crate) fn set_udp_segment(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 1200)
}

/// Lets the kernel coalesce received datagrams (udp(7), Linux 5.0).
pub(crate) fn set_udp_gro(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Puts a ten-byte vnet header in front of every frame of a packet socket (packet(7)).
pub(crate) fn set_packet_vnet_header(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
}

/// Binds a packet socket to the interface `index` for sending.
pub(crate) fn bind_to_interface(socket: &Socket, index: u32) -> io::Result<()> {
    bind_packet(socket, index, 0)
}

/// Binds a packet socket to everything that crosses the interface `index`, both ways.
pub(crate) fn bind_to_all_of_interface(socket: &Socket, index: u32) -> io::Result<()> {
    bind_packet(socket, index, libc::ETH_P_ALL as u16)
}

/// Binds a packet socket to the IPv4 packets that arrive at the interface `index`.
pub(crate) fn bind_to_ipv4_of_interface(socket: &Socket, index: u32) -> io::Result<()> {
    bind_packet(socket, index, libc::ETH_P_IP as u16)
}

/// Binds a packet socket to everything that crosses any interface.
pub(crate) fn bind_to_all(socket: &Socket) -> io::Result<()> {
    bind_packet(socket, 0, libc::ETH_P_ALL as u16)
}

/// Keeps what this host sends away from a packet socket (packet(7), Linux 4.20).
pub(crate) fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
}

/// From linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// Makes a packet socket the first of a group among which a program chooses (PACKET_FANOUT with
/// PACKET_FANOUT_EBPF, Linux 4.14); returns what others join it by. Without a program the first gets everything.
pub(crate) fn begin_group(socket: &Socket) -> io::Result<c_int> {
    set_option(socket, libc::SOL_PACKET, PACKET_FANOUT, (GROUP | PACKET_FANOUT_FLAG_UNIQUEID) << 16)?;
    // The number that the kernel chose, and the kind, but not the flag that it was to choose one.
    Ok(get_option(socket, libc::SOL_PACKET, PACKET_FANOUT)? & 0xffff | GROUP << 16)
}

/// Makes a packet socket the next of a group.
pub(crate) fn join_group(socket: &Socket, group: c_int) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, PACKET_FANOUT, group)
}

/// Has `program` choose among the group of a packet socket: the number of the one that gets a packet.
pub(crate) fn choose_by(socket: &Socket, program: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, PACKET_FANOUT_DATA, program.as_raw_fd())
}

// From linux/if_packet.h.
const PACKET_FANOUT: c_int = 18;
const PACKET_FANOUT_DATA: c_int = 22;
const PACKET_FANOUT_EBPF: c_int = 7;
const PACKET_FANOUT_FLAG_UNIQUEID: c_int = 0x2000;
const PACKET_FANOUT_FLAG_IGNORE_OUTGOING: c_int = 0x4000;
const GROUP: c_int = PACKET_FANOUT_EBPF | PACKET_FANOUT_FLAG_IGNORE_OUTGOING;

fn bind_packet(socket: &Socket, index: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain old data for which all-zero bytes are a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_ifindex = index as c_int;
    address.sll_protocol = protocol.to_be();
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer leads to a whole `sockaddr_ll`, which the kernel only reads.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets DF on everything and ignores the kernel's idea of the path MTU: what is too large for the
/// link is an error here, not a fragment there.
pub(crate) fn set_dont_fragment(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

/// The same over IPv6, where only the sender can fragment.
pub(crate) fn set_dont_fragment6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
}

/// Lets the kernel fragment what is longer than the link carries. Over IPv4 routers on the way may, too, because DF is
/// clear, and ICMP errors are ignored: the kernel would believe forged ones and apply them to what leaves by the TAP.
/// Over IPv6 nobody else fragments, so it has to believe them, but never below the 1280 bytes of every path.
pub(crate) fn let_fragment(socket: &Socket, family: Family) -> io::Result<()> {
    let (level, name, value) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
    };
    set_option(socket, level, name, value)
}

/// Lets receives tell the traffic class of IPv6 (RFC 3542 §6.5).
pub(crate) fn set_receive_traffic_class(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
}

/// Keeps groups that others on this host have joined away from a raw socket, which otherwise takes
/// them although it is bound to a unicast address (Linux 4.20).
pub(crate) fn refuse_multicast6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
}

/// Accepts UDP over IPv6 without a checksum (RFC 6936), which the kernel drops otherwise.
pub(crate) fn accept_zero_checksum6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, 1)
}

/// From linux/in6.h.
const IPV6_MULTICAST_ALL: c_int = 29;
/// From linux/udp.h.
const UDP_NO_CHECK6_RX: c_int = 102;

/// Keeps the kernel from believing path MTUs for what this socket, one of the family of `address`, is said to have
/// sent.
pub(crate) fn ignore_path_mtu_of(socket: &Socket, address: IpAddr) -> io::Result<()> {
    let (level, name, value) = match address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_INTERFACE),
    };
    set_option(socket, level, name, value)
}

/// Sets the receive buffer, beyond the system's limit where we may.
pub(crate) fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes as c_int)
        .or_else(|_| socket.set_recv_buffer_size(bytes))
}

/// Sets the send buffer, beyond the system's limit where we may.
pub(crate) fn set_send_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes as c_int)
        .or_else(|_| socket.set_send_buffer_size(bytes))
}

/// Lets a classic program pick the socket for each datagram among all that share the port of
/// `socket` (socket(7), Linux 4.5).
pub(crate) fn attach_reuseport_filter(socket: &Socket, program: &[SockFilter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        // `SockFilter` is a transparent `sock_filter`.
        filter: program.as_ptr().cast_mut().cast(),
    };
    let (pointer, len) =
        ((&raw const program).cast::<c_void>(), size_of::<libc::sock_fprog>() as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // SAFETY: the option reads one `sock_fprog`, and as many instructions as it says, which are borrowed.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Packets that were not put into the receive buffer so far (sock_diag(7), `SK_MEMINFO_DROPS`; Linux 4.12).
pub(crate) fn drops(socket: &Socket) -> io::Result<u32> {
    let mut words = [0_u32; MEMINFO_WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, SO_MEMINFO);
    // SAFETY: the kernel writes at most `len` bytes, which are those of `words`, and says how many.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, words.as_mut_ptr().cast::<c_void>(), &raw mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(words[MEMINFO_DROPS]) }
}

/// From asm-generic/socket.h.
const SO_MEMINFO: c_int = 55;
/// From linux/sock_diag.h.
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// Sends without UDP checksums, which UDP_SEGMENT does not allow.
#[cfg(test)]
pub fn set_no_checksum(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

fn get_option(socket: &Socket, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: every option this is called with is one `int`, for which `value` has room, as `len` says.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast::<c_void>(), &raw mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn set_option(socket: &Socket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let (pointer, len) = ((&raw const value).cast::<c_void>(), size_of::<c_int>() as libc::socklen_t);
    // SAFETY: every option this is called with reads one `int`, which `value` is.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
