//! One batch of outer packets on their way to the underlay.
//!
//! Headers are written to a slab, payload stays in the arena it was read into; a datagram is one
//! piece of each. Consecutive datagrams of equal size on one channel to one peer share a message,
//! which leaves as a single UDP_SEGMENT send where the kernel has it.

use std::net::SocketAddr;

use super::delivery::Piece;
use super::family::Family;

/// Bytes of headers one batch may need: the worst super-packet (1365 segments of the smallest
/// size with the longest headers) fits several times.
const SLAB: usize = 512 * 1024;
/// Datagrams in one batch.
const DATAGRAMS: usize = 4096;
/// Most segments the kernel takes in one UDP_SEGMENT send (`UDP_MAX_UDP_SEGMENTS` before Linux 6.9).
const MAX_UDP_SEGMENTS: u16 = 64;
/// Most bytes of UDP payload in one send: 65535 less IPv4 and UDP header.
const MAX_UDP: u32 = 65507;

/// Which socket a message leaves through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Channel {
    /// The IPv4 UDP socket bound to source port number `.0` of this worker's own.
    Udp(u16),
    /// The same over IPv6.
    Udp6(u16),
    /// The raw socket that takes whole IPv4 packets: IP-in-IP and direct.
    Raw,
    /// The raw socket that takes whole IPv6 packets: IP-in-IPv6.
    Raw6,
    /// The packet socket on the uplink, which takes frames with a vnet header: the same traffic.
    Packet,
    /// The TAP, which takes VXLAN and IP-in-IP super-packets as frames with a tunnel vnet header.
    Tap,
    /// The UDP socket over this family whose outer packets the kernel fragments.
    FragmentingUdp(Family),
    /// The raw socket for IPv6 in this family whose outer packets the kernel fragments.
    FragmentingRaw(Family),
}

impl Channel {
    /// Whether this is a UDP socket that takes several datagrams in one message.
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::Udp(_) | Self::Udp6(_))
    }

    /// The family of the outer IP header where the kernel makes it.
    pub const fn kernel_header(self) -> Option<Family> {
        match self {
            Self::Udp(_) => Some(Family::V4),
            Self::Udp6(_) => Some(Family::V6),
            Self::FragmentingUdp(family) | Self::FragmentingRaw(family) => Some(family),
            Self::Raw | Self::Raw6 | Self::Packet | Self::Tap => None,
        }
    }
}

/// The optional ways out of one worker, as they are now: each may be absent, or given up at run
/// time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Paths {
    /// The TAP takes VXLAN and, where its table says so, IP-in-IP super-packets.
    pub tap: bool,
    /// The packet socket takes IP-in-IP and direct packets.
    pub packet: bool,
}

/// One write to a socket: header bytes in the slab, then bytes in the arena.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// Headers, in the slab.
    pub head: Piece,
    /// Payload, in the arena.
    pub body: Piece,
    /// Outer packets on the wire: more than one where the kernel segments. None of what is the tunnel's
    /// own: it is neither counted nor shown to captures.
    pub packets: u16,
    /// Bytes of them on the wire, outer IP headers included.
    pub wire_bytes: u32,
}

impl Datagram {
    /// Bytes of the write.
    pub fn bytes(&self) -> u32 {
        self.head.len + self.body.len
    }
}

/// Datagrams that share channel, destination and outer TOS.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The socket.
    pub channel: Channel,
    /// The next hop: the peer's underlay address, and the UDP port there; 0 where there is no UDP.
    pub to: SocketAddr,
    /// The outer TOS byte (UDP only; raw packets carry theirs).
    pub tos: u8,
    /// Index of the first datagram.
    pub first: u32,
    /// Number of datagrams.
    pub count: u16,
    /// Bytes of each datagram but the last, which may be shorter. Of a message that is not for UDP, and so
    /// has a single datagram, the lower 16 bits of its length: nothing reads them.
    pub segment: u16,
    /// Bytes of all datagrams.
    pub bytes: u32,
}

/// The batch has no room for the packet: send it off and try again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

/// A batch of outer packets.
#[derive(Debug)]
pub struct Outbox {
    slab: Box<[u8]>,
    used: usize,
    datagrams: Vec<Datagram>,
    messages: Vec<Message>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            slab: vec![0; SLAB].into_boxed_slice(),
            used: 0,
            datagrams: Vec::with_capacity(DATAGRAMS),
            messages: Vec::with_capacity(DATAGRAMS),
        }
    }
}

impl Outbox {
    /// One without any room, to stand in for another while that is in use. Allocates nothing.
    pub fn hollow() -> Self {
        Self { slab: Box::default(), used: 0, datagrams: Vec::new(), messages: Vec::new() }
    }

    /// Whether `datagrams` with `head` bytes of headers each still fit.
    ///
    /// # Errors
    /// `Full` when not.
    #[inline]
    pub fn reserve(&self, datagrams: usize, head: usize) -> Result<(), Full> {
        let fits = self.datagrams.len() + datagrams <= DATAGRAMS && self.used + datagrams * head <= SLAB;
        if fits { Ok(()) } else { Err(Full) }
    }

    /// `len` fresh header bytes; their content is whatever an earlier batch left. Call
    /// [`Self::reserve`] first.
    #[inline]
    pub fn head(&mut self, len: usize) -> (Piece, &mut [u8]) {
        let at = self.used;
        self.used += len;
        (Piece::slab(at, len), &mut self.slab[at..at + len])
    }

    /// Adds a datagram, to the last message where it fits there.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "one batch")]
    pub fn push(&mut self, channel: Channel, to: SocketAddr, tos: u8, datagram: Datagram) {
        let len = datagram.bytes();
        let first = self.datagrams.len() as u32;
        self.datagrams.push(datagram);
        if let Some(last) = self.messages.last_mut().filter(|last| last.takes(channel, to, tos, len)) {
            last.count += 1;
            last.bytes += len;
            return;
        }
        let segment = u16::try_from(len).unwrap_or(u16::MAX);
        self.messages.push(Message { channel, to, tos, first, count: 1, segment, bytes: len });
    }

    /// The messages, in order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The datagrams of `message`.
    pub fn datagrams(&self, message: &Message) -> &[Datagram] {
        let first = message.first as usize;
        &self.datagrams[first..first + usize::from(message.count)]
    }

    /// The header slab.
    pub fn slab(&self) -> &[u8] {
        &self.slab
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Forgets everything, for the next batch.
    pub fn clear(&mut self) {
        self.used = 0;
        self.datagrams.clear();
        self.messages.clear();
    }
}

/// An outbox, and the arena that the payload of its datagrams lies in.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Messages and headers.
    pub outbox: &'a Outbox,
    /// Payload.
    pub arena: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The datagrams of `message`.
    pub fn datagrams(self, message: &Message) -> &'a [Datagram] {
        self.outbox.datagrams(message)
    }

    /// The bytes of a piece.
    pub fn bytes(self, piece: Piece) -> &'a [u8] {
        piece.resolve(self.outbox.slab(), self.arena)
    }
}

impl Message {
    /// Whether one more datagram of `len` bytes may ride along: same way, no larger than the
    /// others, none of which was shorter.
    fn takes(&self, channel: Channel, to: SocketAddr, tos: u8, len: u32) -> bool {
        channel.is_udp()
            && self.channel == channel
            && self.to == to
            && self.tos == tos
            && self.bytes == u32::from(self.segment) * u32::from(self.count)
            && len <= u32::from(self.segment)
            && self.count < MAX_UDP_SEGMENTS
            && self.bytes + len <= MAX_UDP
    }
}
