//! The network edge: the sockets of one worker.
//!
//! Outbound there is one UDP socket for each VXLAN source port and one raw socket that takes whole
//! packets (IP-in-IP and direct). Inbound there is one UDP socket for VXLAN and a raw socket
//! each for protocols 4 and 41, and a packet socket that learns the segment sizes of what these receive. All of these exist for each family in which this node has an address.
//! A worker owns all of its sockets.

mod capture_tap;
mod filter;
pub mod icmp;
mod metadata;
mod metadata_filter;
#[cfg(test)]
mod metadata_tests;
pub mod observe;
mod packet;
mod probe;
mod raw;
mod receive;
mod send;
mod sys;
pub mod tap;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

pub use metadata::MetadataSocket;
pub use probe::Supported;
pub use receive::Receiver;
use send::{Sender, Ways};

use crate::dataplane::observe::WorkerCounters;
use crate::dataplane::observe::capture::Point;
use crate::dataplane::packet::{Format, Outbox, Paths};
use crate::dataplane::underlay::tap::Tap;

/// UDP source ports, and so sockets, of each worker: enough entropy for the peers' receive queues
/// and for equal-cost paths between the nodes.
pub const SOURCE_PORTS: u16 = 256;

/// Bytes of kernel buffer that each receiving socket asks for: 64 super-packets and their bookkeeping.
pub const RECEIVE_BUFFER: usize = 8 << 20;

/// What the sockets are opened for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// This node's IPv4 underlay address.
    pub address: Option<Ipv4Addr>,
    /// This node's IPv6 underlay address.
    pub address6: Option<Ipv6Addr>,
    /// Whether VXLAN over IPv6 without a UDP checksum is received (RFC 6935).
    pub zero_checksum6: bool,
    /// UDP port of VXLAN here.
    pub vxlan_port: u16,
    /// Number of workers that share the inbound traffic.
    pub workers: u16,
    /// Whether raw sockets are opened (IP-in-IP and direct; needs CAP_NET_RAW).
    pub raw: bool,
    /// Whether to send with UDP_SEGMENT.
    pub udp_gso: bool,
    /// Whether to receive with UDP_GRO.
    pub udp_gro: bool,
    /// Whether packet sockets learn the segment sizes of received super-packets (needs CAP_NET_RAW).
    pub segment_sizes: bool,
    /// Index of the uplink, where IP-in-IP and direct traffic may leave as frames.
    pub packet: Option<u32>,
}

impl Setup {
    /// This node's underlay addresses.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address.map(IpAddr::V4).into_iter().chain(self.address6.map(IpAddr::V6))
    }
}

/// A socket that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {what}: {error}")]
pub struct OpenError {
    /// Which socket, in words.
    pub what: String,
    /// The kernel's reason; part of the text already, so not its source.
    pub error: io::Error,
}

/// All sockets of one worker.
pub struct Sockets {
    sender: Sender,
    receivers: Vec<Receiver>,
    metadata: MetadataSocket,
}

impl Sockets {
    /// Opens the sockets of worker `index`, which may have a queue of the TAP. Worker 0 goes first.
    ///
    /// # Errors
    /// When the VXLAN port is taken, a right is missing or descriptors run out.
    pub fn open(setup: &Setup, index: u16, tap: Option<Tap>) -> Result<Self, OpenError> {
        if index == 0 {
            udp::ensure_free(setup)?;
        }
        // Before any socket whose packets it knows about.
        let metadata = MetadataSocket::open(setup, index)?;
        let mut receivers = Vec::new();
        let mut ways = Ways { packet: setup.packet.map(packet::send).transpose()?, tap, ..Ways::default() };
        for address in setup.addresses() {
            receivers.push(Receiver::new(udp::receive(setup, address)?, Format::Vxlan));
            *ways.udp_of(address) = udp::send_all(setup, address)?;
            if setup.raw {
                for protocol in raw::PROTOCOLS {
                    let socket = raw::receive(setup, address, protocol, index)?;
                    receivers.push(Receiver::new(socket, raw::format(address, protocol)));
                }
                *ways.raw_of(address) = Some(raw::send(address)?);
            }
        }
        Ok(Self { sender: Sender::new(setup, ways), receivers, metadata })
    }

    /// Sends every message of `outbox`, whose payload lies in `arena`, and empties it. Counts what
    /// left and what was dropped.
    pub fn send(&mut self, outbox: &mut Outbox, arena: &[u8], counters: &WorkerCounters) {
        if counters.capture.wants(Point::Underlay) {
            self.sender.framing().show_all(&counters.capture, outbox, arena);
        }
        self.sender.send(outbox, arena, counters);
        outbox.clear();
    }

    /// Follows the uplink to the interface with index `uplink`.
    #[inline]
    pub fn follow(&mut self, uplink: u32) {
        self.sender.follow(uplink);
    }

    /// Receiving socket `index`, and what the kernel knows of its packets besides their bytes.
    pub fn receiver(&mut self, index: usize) -> (&mut Receiver, &mut MetadataSocket) {
        (&mut self.receivers[index], &mut self.metadata)
    }

    /// Bytes of the smallest receive buffer, as asked of the kernel.
    pub fn receive_buffer(&self) -> usize {
        self.receivers.iter().map(Receiver::buffer).min().unwrap_or(0)
    }

    /// Descriptors to poll for reading, in the order of their numbers.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.receivers.iter().map(Receiver::fd)
    }

    /// UDP source ports, by number of the sending socket.
    pub fn source_ports(&self) -> &[u16] {
        self.sender.ports()
    }

    /// The optional ways out that are still open: the kernel may have refused one.
    pub fn paths(&self) -> Paths {
        self.sender.paths()
    }
}
