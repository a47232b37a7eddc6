//! The system calls of the network edge: `sendmmsg` and `recvmmsg` over reusable arrays, and
//! socket options that socket2 lacks (udp(7), ip(7), cmsg(3)).
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{SockFilter, Socket};

use crate::dataplane::observe::WorkerCounters;
use crate::dataplane::packet::{Channel, Datagram, Message, Outbox, Piece, Received};
use crate::net::DropReason;

/// Messages in one `sendmmsg`.
const MESSAGES: usize = 256;
/// Pieces in one `sendmmsg`.
const PIECES: usize = 4096;
/// Bytes of control data of one message: UDP_SEGMENT and IP_TOS or IPV6_TCLASS, or UDP_GRO and one of
/// these, each aligned.
const CONTROL: usize = 64;
/// Bytes between receive buffers, so that the starts of large ones do not all fall into the same cache sets.
const GAP: usize = 192;

/// Sets a segment size for all sends; only to see whether the kernel knows how (udp(7), Linux 4.18).
pub fn set_udp_segment(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 1200)
}

/// Lets the kernel coalesce received datagrams (udp(7), Linux 5.0).
pub fn set_udp_gro(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Puts a ten-byte vnet header in front of every frame of a packet socket (packet(7)).
pub fn set_packet_vnet_header(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
}

/// Binds a packet socket to the interface `index` for sending.
pub fn bind_to_interface(socket: &Socket, index: u32) -> io::Result<()> {
    bind_packet(socket, index, 0)
}

/// Binds a packet socket to everything that crosses the interface `index`, both ways.
pub fn bind_to_all_of_interface(socket: &Socket, index: u32) -> io::Result<()> {
    bind_packet(socket, index, libc::ETH_P_ALL as u16)
}

/// Binds a packet socket to everything that crosses any interface.
pub fn bind_to_all(socket: &Socket) -> io::Result<()> {
    bind_packet(socket, 0, libc::ETH_P_ALL as u16)
}

/// Keeps what this host sends away from a packet socket (packet(7), Linux 4.20).
pub fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
}

/// From linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: c_int = 23;

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
pub fn set_dont_fragment(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

/// The same over IPv6, where only the sender can fragment.
pub fn set_dont_fragment6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
}

/// Lets receives tell the traffic class of IPv6 (RFC 3542 §6.5).
pub fn set_receive_traffic_class(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
}

/// Keeps groups that others on this host have joined away from a raw socket, which otherwise takes
/// them although it is bound to a unicast address (Linux 4.20).
pub fn refuse_multicast6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
}

/// Accepts UDP over IPv6 without a checksum (RFC 6936), which the kernel drops otherwise.
pub fn accept_zero_checksum6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, 1)
}

/// From linux/in6.h.
const IPV6_MULTICAST_ALL: c_int = 29;
/// From linux/udp.h.
const UDP_NO_CHECK6_RX: c_int = 102;

/// Keeps the kernel from believing path MTUs for what this socket is said to have sent.
pub fn ignore_path_mtu(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE)
}

/// The same over IPv6.
pub fn ignore_path_mtu6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_INTERFACE)
}

/// Sets the receive buffer, beyond the system's limit where we may.
pub fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes as c_int)
        .or_else(|_| socket.set_recv_buffer_size(bytes))
}

/// Sets the send buffer, beyond the system's limit where we may.
pub fn set_send_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes as c_int)
        .or_else(|_| socket.set_send_buffer_size(bytes))
}

/// Lets a classic program pick the socket for each datagram among all that share the port of
/// `socket` (socket(7), Linux 4.5).
pub fn attach_reuseport_filter(socket: &Socket, program: &[SockFilter]) -> io::Result<()> {
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

/// Sends without UDP checksums, which UDP_SEGMENT does not allow.
#[cfg(test)]
pub fn set_no_checksum(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

fn set_option(socket: &Socket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let (pointer, len) = ((&raw const value).cast::<c_void>(), size_of::<c_int>() as libc::socklen_t);
    // SAFETY: every option this is called with reads one `int`, which `value` is.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Control data, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// A socket address of one of the families we use; the family is the first field of each.
#[derive(Clone, Copy)]
#[repr(C)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    link: libc::sockaddr_ll,
}

impl Address {
    /// `to` at `port`, and how many bytes of it count.
    fn of(to: IpAddr, port: u16) -> (Self, libc::socklen_t) {
        match to {
            IpAddr::V4(to) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: port.to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(to).to_be() },
                    sin_zero: [0; 8],
                };
                (Self { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            IpAddr::V6(to) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: port.to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.octets() },
                    sin6_scope_id: 0,
                };
                (Self { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The UDP port.
    fn port(&self) -> u16 {
        // SAFETY: as in `ip`. The port is at the same place in both variants (RFC 3493 §3.3).
        u16::from_be(unsafe { self.v4 }.sin_port)
    }

    /// The type of device that a packet socket names; `None` for other families.
    fn device_type(&self) -> Option<u16> {
        // SAFETY: as in `ip`.
        let link = unsafe { self.link };
        (c_int::from(link.sll_family) == libc::AF_PACKET).then_some(link.sll_hatype)
    }

    /// The IP address; `None` for other families.
    fn ip(&self) -> Option<IpAddr> {
        // SAFETY: all variants are plain old data, valid for all bytes, and all bytes of the largest
        // one are initialised: they were zeroed, and the kernel writes to them.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        match c_int::from(v4.sin_family) {
            libc::AF_INET => Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into()),
            _ => None,
        }
    }
}

/// What a message counts as, kept for after the send.
#[derive(Clone, Copy, Default)]
struct Weight {
    packets: u32,
    bytes: u32,
    segmented: bool,
}

/// A reusable `sendmmsg` argument. The arrays never grow, so pointers between them stay valid.
pub struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    weights: [Weight; MESSAGES],
    len: usize,
    used: usize,
    /// The slab and the arena that `pieces` point into.
    buffers: [*const [u8]; 2],
}

// SAFETY: the pointers inside lead into the batch's own boxes or are refilled before each send;
// every method that follows them takes `&mut self`.
unsafe impl Send for SendBatch {}

impl Default for SendBatch {
    fn default() -> Self {
        // SAFETY: `mmsghdr`, `Address` and `iovec` are plain old data for which all-zero
        // bytes are a valid value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            headers: vec![header; MESSAGES].into_boxed_slice(),
            addresses: vec![address; MESSAGES].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); MESSAGES].into_boxed_slice(),
            pieces: vec![piece; PIECES].into_boxed_slice(),
            weights: [Weight::default(); MESSAGES],
            len: 0,
            used: 0,
            buffers: [std::ptr::slice_from_raw_parts(std::ptr::null(), 0); 2],
        }
    }
}

impl SendBatch {
    /// Messages in the batch.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Fills the batch with as many of `messages` as it holds, one kernel message each (several
    /// datagrams by UDP_SEGMENT), and returns how many it took.
    pub fn fill(&mut self, outbox: &Outbox, messages: &[Message], arena: &[u8]) -> usize {
        self.start(outbox, arena);
        for message in messages {
            let datagrams = outbox.datagrams(message);
            if !self.add(outbox, message, datagrams, arena) {
                break;
            }
        }
        self.len
    }

    /// Fills the batch with the datagrams of `message`, a kernel message each.
    pub fn fill_unsegmented(&mut self, outbox: &Outbox, message: &Message, arena: &[u8]) {
        self.start(outbox, arena);
        for datagram in outbox.datagrams(message) {
            self.add(outbox, message, std::slice::from_ref(datagram), arena);
        }
    }

    fn start(&mut self, outbox: &Outbox, arena: &[u8]) {
        (self.len, self.used) = (0, 0);
        self.buffers = [outbox.slab(), arena];
    }

    fn add(&mut self, outbox: &Outbox, message: &Message, datagrams: &[Datagram], arena: &[u8]) -> bool {
        let (index, from) = (self.len, self.used);
        if index == MESSAGES || from + 2 * datagrams.len() > PIECES {
            return false;
        }
        let segmented = datagrams.len() > 1;
        let mut weight = Weight { segmented, ..Weight::default() };
        for datagram in datagrams {
            for piece in [datagram.head, datagram.body] {
                self.pieces[self.used] = iovec(piece, outbox.slab(), arena);
                self.used += 1;
            }
            weight.packets += u32::from(datagram.packets);
            weight.bytes += datagram.wire_bytes;
        }
        self.weights[index] = weight;
        let (address, address_len) = Address::of(message.to, message.port);
        self.addresses[index] = address;
        let control = self.control(index, message, segmented);
        let header = &mut self.headers[index].msg_hdr;
        // A packet socket is bound to its interface and wants no address.
        let named = message.channel != Channel::Packet;
        header.msg_name = if named { (&raw mut self.addresses[index]).cast() } else { std::ptr::null_mut() };
        header.msg_namelen = if named { address_len } else { 0 };
        header.msg_iov = &raw mut self.pieces[from];
        header.msg_iovlen = self.used - from;
        header.msg_control =
            if control == 0 { std::ptr::null_mut() } else { self.controls[index].0.as_mut_ptr().cast() };
        header.msg_controllen = control;
        self.len += 1;
        true
    }

    /// Writes the control data of message `index` and returns its length, 0 for none.
    fn control(&mut self, index: usize, message: &Message, segmented: bool) -> usize {
        let buffer = &mut self.controls[index].0;
        let mut used = 0;
        if segmented {
            used += control_message(
                &mut buffer[used..],
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                &message.segment.to_ne_bytes(),
            );
        }
        // A zero TOS is the socket's default; naming it would cost a route lookup each time.
        if message.tos != 0 && message.channel.is_udp() {
            let tos = c_int::from(message.tos).to_ne_bytes();
            let (level, kind) = match message.channel {
                Channel::Udp6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
                _ => (libc::IPPROTO_IP, libc::IP_TOS),
            };
            used += control_message(&mut buffer[used..], level, kind, &tos);
        }
        used
    }

    /// Sends from message `from` on; returns how many the kernel took, at least one. `outbox` and
    /// `arena` are those the batch was filled from.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for another outbox or arena.
    pub fn send(&mut self, fd: RawFd, from: usize, outbox: &Outbox, arena: &[u8]) -> io::Result<usize> {
        let buffers: [*const [u8]; 2] = [outbox.slab(), arena];
        if !std::iter::zip(buffers, self.buffers).all(|(now, then)| std::ptr::eq(now, then)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let headers = &mut self.headers[from..self.len];
        // SAFETY: the headers were filled by `add`: names, iovecs and control data point into this
        // batch's boxes, and the iovecs into the slab and arena, which are still borrowed, as the
        // comparison above shows.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Whether message `index` relies on UDP_SEGMENT.
    pub fn is_segmented(&self, index: usize) -> bool {
        self.weights[index].segmented
    }

    /// Counts the messages of `range` as sent.
    pub fn count_sent(&self, range: Range<usize>, counters: &WorkerCounters) {
        for weight in &self.weights[range] {
            counters.underlay.tx_packets.add(u64::from(weight.packets));
            counters.underlay.tx_bytes.add(u64::from(weight.bytes));
        }
    }

    /// Counts message `index` as dropped.
    pub fn count_dropped(&self, index: usize, counters: &WorkerCounters, reason: DropReason) {
        counters.dropped(reason, u64::from(self.weights[index].packets));
    }

    /// What kernel message `index` of this batch, filled from `messages`, stands for.
    pub fn what<'a>(
        &self,
        index: usize,
        outbox: &'a Outbox,
        messages: &'a [Message],
    ) -> (&'a Message, &'a [Datagram]) {
        // A batch has either whole messages or the datagrams of a single one.
        if self.len > messages.len() {
            let datagrams = outbox.datagrams(&messages[0]);
            return (&messages[0], datagrams.get(index..=index).unwrap_or_default());
        }
        (&messages[index], outbox.datagrams(&messages[index]))
    }
}

fn iovec(piece: Piece, slab: &[u8], arena: &[u8]) -> libc::iovec {
    let bytes = piece.resolve(slab, arena);
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Writes one control message to `buffer` and returns the bytes it takes, padding included. Laid
/// out by hand (cmsg(3)): length, level, type, data.
fn control_message(buffer: &mut [u8], level: c_int, kind: c_int, data: &[u8]) -> usize {
    let header = size_of::<libc::cmsghdr>();
    let len = header + data.len();
    buffer[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    buffer[size_of::<usize>()..size_of::<usize>() + 4].copy_from_slice(&level.to_ne_bytes());
    buffer[size_of::<usize>() + 4..header].copy_from_slice(&kind.to_ne_bytes());
    buffer[header..len].copy_from_slice(data);
    len.next_multiple_of(size_of::<usize>())
}

/// A reusable `recvmmsg` argument: one arena, one fixed place for each message.
pub struct ReceiveBatch {
    /// Bytes of each place.
    room: usize,
    arena: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
}

// SAFETY: the pointers inside lead into the batch's own boxes, which move with it; every method
// that lets the kernel follow them takes `&mut self`.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// Room for `count` messages of up to `room` bytes; what is beyond that is lost.
    pub fn new(count: usize, room: usize) -> Self {
        // SAFETY: plain old data for which all-zero bytes are a valid value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            room,
            arena: vec![0; count * (room + GAP)].into_boxed_slice(),
            headers: vec![header; count].into_boxed_slice(),
            addresses: vec![address; count].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); count].into_boxed_slice(),
            pieces: vec![piece; count].into_boxed_slice(),
        }
    }

    /// Most messages in a batch.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// The buffers.
    pub fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// Receives without waiting; returns how many messages came.
    pub fn receive(&mut self, fd: RawFd) -> io::Result<usize> {
        self.prepare();
        let count = self.headers.len() as u32;
        // SAFETY: `prepare` pointed every header at places inside this batch's boxes with their
        // true lengths.
        let received = unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// The kernel overwrites lengths with what it used, so they are set anew each time.
    fn prepare(&mut self) {
        for (index, buffer) in self.arena.chunks_exact_mut(self.room + GAP).enumerate() {
            self.pieces[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: self.room };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_namelen = size_of::<Address>() as libc::socklen_t;
            header.msg_iov = &raw mut self.pieces[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
    }

    /// UDP source port of message `index` of the last receive.
    pub fn port(&self, index: usize) -> u16 {
        self.addresses.get(index).map_or(0, Address::port)
    }

    /// Describes message `index` of the last receive.
    pub fn packet(&self, index: usize) -> Option<Received> {
        let (header, from) = (self.headers.get(index)?, self.addresses.get(index)?);
        let source = from.ip()?;
        let control = &self.controls[index].0[..header.msg_hdr.msg_controllen.min(CONTROL)];
        let (tos, segment) = read_control(control);
        Some(Received { at: self.at(index), len: self.len(header), segment, source, tos })
    }

    /// Message `index` of the last receive from a packet socket, and the type of device it came from (`ARPHRD_`).
    pub fn frame(&self, index: usize) -> Option<(&[u8], u16)> {
        let (header, from) = (self.headers.get(index)?, self.addresses.get(index)?);
        let bytes = self.arena.get(self.at(index)..self.at(index) + self.len(header))?;
        Some((bytes, from.device_type()?))
    }

    fn at(&self, index: usize) -> usize {
        index * (self.room + GAP)
    }

    fn len(&self, header: &libc::mmsghdr) -> usize {
        (header.msg_len as usize).min(self.room)
    }
}

/// The TOS or traffic class byte and the UDP_GRO segment size among the control messages; 0 where absent.
fn read_control(mut control: &[u8]) -> (u8, usize) {
    let header = size_of::<libc::cmsghdr>();
    let (mut tos, mut segment) = (0, 0);
    while let Some(head) = control.get(..header) {
        let word = |at: usize| c_int::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut len_bytes = [0; size_of::<usize>()];
        len_bytes.copy_from_slice(&head[..size_of::<usize>()]);
        let len = usize::from_ne_bytes(len_bytes);
        let Some(data) = control.get(header..len) else { break };
        match (word(size_of::<usize>()), word(size_of::<usize>() + 4), data) {
            (libc::IPPROTO_IP, libc::IP_TOS, [byte, ..]) => tos = *byte,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, [a, b, c, d, ..]) => {
                tos = c_int::from_ne_bytes([*a, *b, *c, *d]) as u8;
            }
            (libc::SOL_UDP, libc::UDP_GRO, [a, b, c, d, ..]) => {
                segment = usize::try_from(c_int::from_ne_bytes([*a, *b, *c, *d])).unwrap_or(0);
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or(&[]);
    }
    (tos, segment)
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, control_message, read_control};

    #[test]
    fn control_messages_round_trip() {
        let mut buffer = [0xa5; CONTROL];
        let mut used = control_message(&mut buffer, libc::IPPROTO_IP, libc::IP_TOS, &[0x03]);
        used += control_message(&mut buffer[used..], libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes());
        assert_eq!(used % 8, 0);
        assert_eq!(read_control(&buffer[..used]), (3, 1472));
        let used =
            control_message(&mut buffer, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0xb9i32.to_ne_bytes());
        assert_eq!(read_control(&buffer[..used]), (0xb9, 0));
    }

    #[test]
    fn hostile_control_lengths_end_the_walk() {
        for len in [0usize, 1, 15, usize::MAX] {
            let mut buffer = [0; CONTROL];
            buffer[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(read_control(&buffer), (0, 0));
        }
    }
}
