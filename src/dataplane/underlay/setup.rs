//! What the sockets are opened for, and how much memory they ask for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// UDP source ports, and so sockets, of each worker: enough entropy for the peers' receive queues
/// and for equal-cost paths between the nodes.
pub const SOURCE_PORTS: u16 = 256;

/// Bytes of kernel buffer that each receiving socket asks for: 64 super-packets and their bookkeeping.
pub const RECEIVE_BUFFER: usize = 8 << 20;

/// Bytes of kernel buffer that each sending socket asks for: a burst of super-packets waits here, not in us.
pub(super) const SEND_BUFFER: usize = 4 << 20;

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
    /// What the choice of UDP source ports follows from: the same for all workers, and known to nobody else.
    pub port_seed: u64,
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
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
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
