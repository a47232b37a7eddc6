//! A packet socket that learns what received super-packets are made of (packet(7), PACKET_VNET_HDR).
//!
//! It sees the headers of tunnel packets that the raw and UDP sockets receive whole, and the kernel's word on each:
//! whether its checksum is unfinished, and its segment size. Nothing is delivered from here. The kernel shows a packet
//! here before it gives it to any other socket, so what is asked about a packet in hand has come already. That is so
//! only of sockets for all protocols (`__netif_receive_skb_core` of net/core/dev.c), which listen behind receive
//! offload, on all interfaces; on a bridge or a bond they see a packet twice.

use std::ffi::c_int;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::metadata_filter::{self, Wanted, inner_at, link_header};
use super::setup::{OpenError, RECEIVE_BUFFER, Setup};
use super::sys;
use crate::dataplane::segment::flow::fold_multiply;
use crate::dataplane::segment::{Metadata, MetadataSource};
use crate::wire::{VnetHdr, be16, ipv4, ipv6, vnet_hdr};

/// Bytes kept of each packet: vnet, link and all outer and inner headers.
const HEADERS: usize = 320;
/// Packets in one receive.
const BATCH: usize = 64;
/// Most receives in a row from one socket.
const ROUNDS: usize = 64;

/// The metadata sockets of all workers, of which a program chooses one for each packet: without it the kernel asks the
/// filter of every one. It lasts as long as one of them.
pub struct MetadataGroup {
    /// The first socket, which gets what is for no worker.
    #[expect(dead_code, reason = "held open: its place is the program's 0")]
    refusing: Socket,
    number: c_int,
}

impl MetadataGroup {
    /// One without workers yet. `program` says 1 for the first, 2 for the second, and 0 for what needs nobody: packets
    /// that other programs will take before a socket of ours gets them, and whose headers nobody would ask for.
    ///
    /// # Errors
    /// The kernel's: EINVAL before Linux 4.14.
    pub fn new(program: &OwnedFd) -> io::Result<Self> {
        // One without link headers costs the kernel least.
        let refusing = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), Some(Protocol::from(0)))?;
        refusing.attach_filter(&metadata_filter::nothing())?;
        sys::bind_to_all(&refusing)?;
        let number = sys::begin_group(&refusing)?;
        sys::choose_by(&refusing, program)?;
        Ok(Self { refusing, number })
    }
}

/// The metadata socket of one worker.
pub struct MetadataSocket {
    socket: Option<Socket>,
    /// Of which it is one, where it is of any.
    group: Option<Arc<MetadataGroup>>,
    wanted: Wanted,
    batch: sys::ReceiveBatch,
    known: Known,
    /// Makes keys that cannot be foreseen.
    seed: u64,
    all: bool,
    /// Whether a packet with an unfinished checksum was seen, and whether a single one was.
    unfinished: (bool, bool),
}

impl MetadataSocket {
    /// That of worker `index`; one that knows nothing where `setup` wants none.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub fn open(setup: &Setup, index: u16) -> Result<Self, OpenError> {
        let wanted = Wanted {
            address: setup.address,
            address6: setup.address6,
            vxlan_port: setup.vxlan_port,
            workers: setup.workers,
            index,
            all_ipip: false,
        };
        let socket = setup.segment_sizes.then(|| open(&wanted)).transpose().map_err(|error| OpenError {
            what: "the packet socket for segment sizes (CAP_NET_RAW)".to_owned(),
            error,
        })?;
        let seed = RandomState::new().hash_one(0);
        let batch = sys::ReceiveBatch::new(BATCH, HEADERS);
        Ok(Self {
            socket,
            group: None,
            wanted,
            batch,
            known: Known::default(),
            seed,
            all: false,
            unfinished: (false, false),
        })
    }

    /// Becomes the next of `group`; the first worker is the first to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&mut self, group: &Arc<MetadataGroup>) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        sys::join_group(socket, group.number)?;
        self.group = Some(Arc::clone(group));
        Ok(())
    }

    /// Takes whatever waits.
    #[cold]
    fn drain(&mut self) {
        let Some(socket) = &self.socket else { return };
        for _ in 0..ROUNDS {
            // Another error is about one packet, of a kind that no vnet header can describe; it ends a batch early.
            let received = match self.batch.receive(socket.as_raw_fd()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => continue,
            };
            for index in 0..received {
                let Some((bytes, device_type)) = self.batch.frame(index) else { continue };
                if let Some((key, metadata)) = read(bytes, device_type, self.seed) {
                    let is_unfinished = metadata.csum_start.is_some();
                    self.unfinished.0 |= is_unfinished;
                    self.unfinished.1 |= is_unfinished && metadata.gso_size == 0;
                    self.known.push(key, metadata);
                }
            }
        }
    }
}

impl MetadataSource for MetadataSocket {
    #[inline]
    fn of(&mut self, inner: &[u8]) -> Option<Metadata> {
        self.socket.as_ref()?;
        let key = key(inner, self.seed)?;
        self.known.take(key).or_else(|| {
            self.drain();
            self.known.take(key)
        })
    }

    fn knows_all(&self) -> bool {
        self.all
    }

    #[cold]
    fn believes_unfinished(&mut self, several: bool) -> bool {
        let seen = |unfinished: (bool, bool)| if several { unfinished.0 } else { unfinished.1 };
        if self.socket.is_none() || seen(self.unfinished) {
            return true;
        }
        self.drain();
        seen(self.unfinished)
    }

    #[cold]
    fn want_all(&mut self) {
        if self.all {
            return;
        }
        let Some(socket) = &self.socket else { return };
        self.wanted.all_ipip = true;
        // Where the kernel refuses, the filter of before stays, and less is known.
        self.all = metadata_filter::attach(socket, &self.wanted).is_ok();
    }
}

fn open(wanted: &Wanted) -> io::Result<Socket> {
    // Protocol 0: the socket listens to nothing until its filter stands and it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    metadata_filter::attach(&socket, wanted)?;
    sys::set_packet_vnet_header(&socket)?;
    // A header counts as much as its packet there, and must not be lost before its packet is.
    sys::set_receive_buffer(&socket, 2 * RECEIVE_BUFFER)?;
    // Without that option, before Linux 4.20, it sees what the host sends to itself twice.
    let _ = sys::ignore_outgoing(&socket);
    sys::bind_to_all(&socket)?;
    Ok(socket)
}

/// Whether this kernel lets us have such a socket.
pub(super) fn is_supported() -> bool {
    open(&Wanted::default()).is_ok()
}

/// The key of the inner packet and what is known of it, from `bytes`: a vnet header, then the packet as it came from
/// a device of this type, its end maybe missing.
fn read(bytes: &[u8], device_type: u16, seed: u64) -> Option<(u64, Metadata)> {
    let (vnet, frame) = bytes.split_first_chunk::<{ vnet_hdr::LEN }>()?;
    let link = link_header(device_type)?;
    let outer = frame.get(link..)?;
    let at = inner_at(outer)?;
    Some((key(outer.get(at..)?, seed)?, Metadata::of_inner(&VnetHdr::parse(vnet), link + at)))
}

/// A number that tells the packet that begins `inner` from others: of its addresses, ports, lengths, identification,
/// sequence numbers, checksum and first data, but not of what changes on the way here (ECN and the header checksum
/// with it). The same for a whole packet and its beginning.
pub(super) fn key(inner: &[u8], seed: u64) -> Option<u64> {
    let header = inner.get(..ipv4::LEN)?;
    let (fixed, addresses, l4, total) = if header[0] >> 4 == 4 {
        (2..10, 12..ipv4::LEN, usize::from(header[0] & 0xf) * 4, usize::from(be16(header, 2)))
    } else {
        (4..8, 8..ipv6::LEN, ipv6::LEN, ipv6::LEN + usize::from(be16(header, 4)))
    };
    let parts = [fixed, addresses, l4..total.min(l4 + TRANSPORT)];
    let mut hash = seed;
    for part in parts {
        for chunk in inner.get(part)?.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = fold_multiply(hash ^ u64::from_be_bytes(word), FACTOR);
        }
    }
    // 0 marks a place that is free.
    Some(hash.max(1))
}

/// Bytes from the transport header on that make a key: a UDP header or a TCP header with the usual options, and data.
const TRANSPORT: usize = 40;

/// An odd number with well-spread bits (from the digits of pi).
const FACTOR: u64 = 0x1319_8a2e_0370_7345;

/// What is known of packets that are yet to be asked about, oldest first.
pub(super) struct Known {
    keys: Box<[u64; Known::ROOM]>,
    metadata: Box<[Metadata; Known::ROOM]>,
    /// Counts of all that ever came in and of those that are gone, modulo 2³².
    end: u32,
    begin: u32,
}

impl Default for Known {
    fn default() -> Self {
        let (keys, metadata) = (Box::new([0; Self::ROOM]), Box::new([Metadata::default(); Self::ROOM]));
        Self { keys, metadata, end: 0, begin: 0 }
    }
}

impl Known {
    /// More than the packets that a receive buffer holds.
    const ROOM: usize = 4096;
    /// Packets of one flow come in order, those of different processors nearly so: what is this much older than a
    /// packet in hand belongs to none that is still to come.
    const LATE: u32 = 1024;

    fn place(count: u32) -> usize {
        count as usize % Self::ROOM
    }

    /// Adds one; the oldest goes where there is no room.
    pub(super) fn push(&mut self, key: u64, metadata: Metadata) {
        if self.end.wrapping_sub(self.begin) as usize == Self::ROOM {
            self.begin = self.begin.wrapping_add(1);
        }
        let place = Self::place(self.end);
        (self.keys[place], self.metadata[place]) = (key, metadata);
        self.end = self.end.wrapping_add(1);
    }

    /// Takes the oldest of this key.
    pub(super) fn take(&mut self, key: u64) -> Option<Metadata> {
        let count = self.end.wrapping_sub(self.begin);
        let age = (0..count).find(|age| self.keys[Self::place(self.begin.wrapping_add(*age))] == key)?;
        let place = Self::place(self.begin.wrapping_add(age));
        self.keys[place] = 0;
        self.begin = self.begin.wrapping_add(age.saturating_sub(Self::LATE));
        while self.begin != self.end && self.keys[Self::place(self.begin)] == 0 {
            self.begin = self.begin.wrapping_add(1);
        }
        Some(self.metadata[place])
    }
}
