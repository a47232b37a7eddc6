//! Headers as bytes: parse, read, patch, emit. No I/O, no allocation, no `unsafe`.
//!
//! Each header has a view over a byte slice (`Ipv4`, `Tcp`, …). `parse` checks every length the
//! header claims against the bytes there are, once; the accessors of a view that parsed never
//! panic. A packet comes from a hostile source until its view has parsed.
#![expect(clippy::cast_possible_truncation, reason = "fields of headers, whose width is that of the RFCs")]

pub mod arp;
pub mod bfd;
pub mod chain;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndisc;
pub mod tcp;
pub mod udp;
pub mod vnet_hdr;
pub mod vxlan;

pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use tcp::Tcp;
pub use udp::Udp;
pub use vnet_hdr::VnetHdr;

/// Protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 encapsulation (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 encapsulation (RFC 4213).
    pub const IPV6: u8 = 41;
    /// Fragment header of IPv6.
    pub const IPV6_FRAGMENT: u8 = 44;
    /// GRE (RFC 2784).
    pub const GRE: u8 = 47;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows (RFC 8200 §4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;

    /// Those that have ports, in the first four bytes of their header.
    pub const WITH_PORTS: [u8; 3] = [TCP, UDP, SCTP];

    /// Whether a protocol has ports.
    #[inline]
    pub const fn has_ports(number: u8) -> bool {
        matches!(number, TCP | UDP | SCTP)
    }

    /// Whether it is ICMP of either version of IP.
    #[inline]
    pub const fn is_icmp(number: u8) -> bool {
        matches!(number, ICMP | ICMPV6)
    }
}

/// A header that is truncated or contradicts its own lengths.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed header")]
pub struct Malformed;

/// Reads a big-endian u16. The caller has checked that `bytes` reaches to `at + 2`.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian u32. The caller has checked that `bytes` reaches to `at + 4`.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a big-endian u16.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes a big-endian u32.
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
