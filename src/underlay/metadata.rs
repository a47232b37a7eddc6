//! Packet sockets that learn what received super-packets are made of (packet(7), PACKET_VNET_HDR).
//!
//! They see the headers of tunnel packets that the raw and UDP sockets receive whole, and the kernel's word on each:
//! whether its checksum is unfinished, and its segment size. Nothing is delivered from here. The kernel shows a packet
//! here before it gives it to any other socket, so what is asked about a packet in hand has come already. The sockets
//! listen where the IP layer does, behind receive offload and VLANs, on all interfaces at once.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::metadata_filter::{self, Wanted, inner_at, link_header};
use super::{OpenError, RECEIVE_BUFFER, Setup, sys};
use crate::offload::flow::fold_multiply;
use crate::offload::{Metadata, MetadataSource};
use crate::wire::{VnetHdr, ipv4, ipv6, protocol, tcp, udp, vnet_hdr};

/// Bytes kept of each packet: vnet, link and all outer and inner headers.
const HEADERS: usize = 320;
/// Packets in one receive.
const BATCH: usize = 64;
/// Most receives in a row from one socket.
const ROUNDS: usize = 64;

/// The metadata sockets of one worker.
pub struct MetadataSockets {
    sockets: Vec<(Socket, Wanted)>,
    batch: sys::ReceiveBatch,
    known: Known,
    /// Makes keys that nobody can foresee.
    seed: u64,
    all: bool,
}

impl MetadataSockets {
    /// Those of worker `index`, one for each family.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub fn open(setup: &Setup, index: u16) -> Result<Self, OpenError> {
        let wanted = |address| Wanted {
            address,
            vxlan_port: setup.vxlan_port,
            workers: setup.workers,
            index,
            all_ipip: false,
        };
        let open = |address| open(&wanted(address)).map(|socket| (socket, wanted(address)));
        let addresses = setup.addresses().filter(|_| setup.segment_sizes);
        let sockets = addresses.map(open).collect::<io::Result<_>>().map_err(|error| OpenError {
            what: "the packet socket for segment sizes (CAP_NET_RAW)".to_owned(),
            error,
        })?;
        Ok(Self::of(sockets))
    }

    /// Without any socket, which knows nothing.
    fn of(sockets: Vec<(Socket, Wanted)>) -> Self {
        let seed = RandomState::new().hash_one(0);
        let batch = sys::ReceiveBatch::new(BATCH, HEADERS);
        Self { sockets, batch, known: Known::default(), seed, all: false }
    }

    /// Takes whatever waits.
    #[cold]
    fn drain(&mut self) {
        for (socket, _) in &self.sockets {
            for _ in 0..ROUNDS {
                // Another error is about one packet, of a kind that no vnet header can describe.
                let received = match self.batch.receive(socket.as_raw_fd()) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => continue,
                };
                for index in 0..received {
                    let Some((bytes, device_type)) = self.batch.frame(index) else { continue };
                    if let Some((key, metadata)) = read(bytes, device_type, self.seed) {
                        self.known.push(key, metadata);
                    }
                }
                if received < BATCH {
                    break;
                }
            }
        }
    }
}

impl MetadataSource for MetadataSockets {
    #[inline]
    fn of(&mut self, inner: &[u8]) -> Option<Metadata> {
        if self.sockets.is_empty() {
            return None;
        }
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
    fn want_all(&mut self) {
        if self.all || self.sockets.is_empty() {
            return;
        }
        self.all = true;
        for (socket, wanted) in &mut self.sockets {
            wanted.all_ipip = true;
            // Where the kernel refuses, the filter of before stays, and less is known.
            self.all &= metadata_filter::attach(socket, wanted).is_ok();
        }
    }
}

fn open(wanted: &Wanted) -> io::Result<Socket> {
    // Protocol 0: the socket listens to nothing until its filter stands and it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    metadata_filter::attach(&socket, wanted)?;
    sys::set_packet_vnet_header(&socket)?;
    // A header counts as much as its packet there, and must not be lost before its packet is.
    sys::set_receive_buffer(&socket, 2 * RECEIVE_BUFFER)?;
    let protocol = match wanted.address {
        IpAddr::V4(_) => libc::ETH_P_IP,
        IpAddr::V6(_) => libc::ETH_P_IPV6,
    };
    sys::bind_to_protocol(&socket, protocol as u16)?;
    Ok(socket)
}

/// Whether this kernel lets us have such a socket.
pub fn is_supported() -> bool {
    let (address, vxlan_port) = (std::net::Ipv4Addr::LOCALHOST.into(), 0);
    open(&Wanted { address, vxlan_port, workers: 1, index: 0, all_ipip: false }).is_ok()
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
/// sequence numbers and checksum, but not of what changes on the way here (ECN and the header checksum with it). The
/// same for a whole packet and its beginning.
fn key(inner: &[u8], seed: u64) -> Option<u64> {
    let (fixed, l4, number) = match inner.first()? >> 4 {
        4 => (2..10, usize::from(inner[0] & 0xf) * 4, *inner.get(9)?),
        6 => (4..8, ipv6::LEN, *inner.get(6)?),
        _ => return None,
    };
    let addresses = if fixed.end == 10 { 12..ipv4::LEN } else { 8..ipv6::LEN };
    let transport = match number {
        protocol::TCP => tcp::LEN,
        _ => udp::LEN,
    };
    let parts = [fixed, addresses, l4..l4 + transport];
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

/// An odd number with well-spread bits (from the digits of pi).
const FACTOR: u64 = 0x1319_8a2e_0370_7345;

/// What is known of packets that are yet to be asked about, oldest first.
struct Known {
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
    fn push(&mut self, key: u64, metadata: Metadata) {
        if self.end.wrapping_sub(self.begin) as usize == Self::ROOM {
            self.begin = self.begin.wrapping_add(1);
        }
        let place = Self::place(self.end);
        (self.keys[place], self.metadata[place]) = (key, metadata);
        self.end = self.end.wrapping_add(1);
    }

    /// Takes the oldest of this key.
    fn take(&mut self, key: u64) -> Option<Metadata> {
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
