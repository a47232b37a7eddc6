//! Which worker a flow belongs to: one hash of the inner packet, and its two programs in the kernel,
//! so that one worker has both ways of a flow.
//!
//! - [`queue_ebpf`]: the queue of the TUN that an outbound packet comes out of
//! - [`socket_cbpf`]: the socket that an inbound packet comes to
//!
//! The hash is of the inner addresses and, for unfragmented TCP and UDP, the ports. Both ways of a flow
//! have the same one. An ICMP error has that of the packet that it quotes, so it comes to the worker that
//! knows the connection.
//!
//! ```text
//! packet = the quoted one, where an unfragmented ICMP error (IPv4 types 3, 4, 5, 11, 12; IPv6 types below
//!          128, without extension headers) quotes a whole IP header of its own version; no quote in a quote
//! a = exclusive or of the 32-bit words of both addresses, big endian
//! p = exclusive or of both ports, or 0
//! h = a * 0x9e3779b1            modulo 2^32
//! h = (h ^ h >> 16 ^ p) * 0x9e3779b1
//! worker = (h >> 16) modulo the number of workers; the first for what is no IP packet
//! ```
//!
//! The programs are only written here. Whose device or socket they are set on is the business of the
//! edges.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of these programs and offsets of headers, which the tests run in the kernel"
)]

pub(in crate::dataplane) mod cbpf;
pub(in crate::dataplane) mod hash;
pub mod queue_ebpf;
pub mod socket_cbpf;

#[cfg(test)]
mod tests;
