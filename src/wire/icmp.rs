//! ICMP errors: what a router tells the sender of a packet that it cannot forward (RFC 792, RFC 1191
//! §4, RFC 1812 §4.3; RFC 4443).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  IPv4 3/4: 16 bits unused, 16 bits MTU; IPv6 2: 32 bits MTU;   |
//! |  others: unused, 0                                            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  the beginning of the packet it is about …                    |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::chain::{self, End};
use super::{Malformed, checksum, ipv4, ipv6, protocol, put16};

/// Bytes in front of the quoted packet.
pub const LEN: usize = 8;
/// Offset of the checksum.
pub const FIELD_CHECKSUM: usize = 2;
/// Most bytes of an error with its IPv4 header (RFC 1812 §4.3.2.3).
pub const MAX_V4: usize = 576;
/// Most bytes of an error with its IPv6 header: the smallest MTU there is (RFC 4443 §2.4 c).
pub const MAX_V6: usize = ipv6::MIN_MTU as usize;
/// IPv4 types that are errors: destination unreachable, source quench, redirect, time exceeded, parameter problem.
pub const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
/// The first IPv6 type that is no error (RFC 4443 §2.1).
pub const FIRST_INFORMATION6: u8 = 128;
/// IPv4 type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`]: fragmentation needed and DF set.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// IPv4 type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// IPv4 types: an echo request and its answer.
pub const ECHO: u8 = 8;
/// See [`ECHO`].
pub const ECHO_REPLY: u8 = 0;
/// IPv6 types: destination unreachable, time exceeded.
pub const UNREACHABLE6: u8 = 1;
/// See [`UNREACHABLE6`].
pub const TIME_EXCEEDED6: u8 = 3;
/// IPv6 types: an echo request and its answer.
pub const ECHO6: u8 = 128;
/// See [`ECHO6`].
pub const ECHO_REPLY6: u8 = 129;
/// IPv6 type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;

/// TTL and hop limit of an error.
const TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 §4.3.2.5).
const TOS: u8 = 0xc0;
/// Bytes behind the IP header that are quoted in any case (RFC 792).
const LEAST_QUOTE: usize = 8;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// It is larger than the `mtu` bytes that its path carries.
    TooBig {
        /// Bytes of the largest packet that fits.
        mtu: u16,
    },
    /// No route leads to its destination's network.
    NoRoute,
    /// There is no such host.
    NoHost,
}

impl Problem {
    /// Type, code and second word of ICMP for IPv4.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (UNREACHABLE, 0, 0),
            Self::NoHost => (UNREACHABLE, 1, 0),
            Self::TooBig { mtu } => (UNREACHABLE, FRAGMENTATION_NEEDED, mtu as u32),
        }
    }

    /// The same for IPv6. No MTU below that of IPv6 is announced: hosts ignore it (RFC 8201 §4).
    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (UNREACHABLE6, 0, 0),
            Self::NoHost => (UNREACHABLE6, 3, 0),
            Self::TooBig { mtu } => {
                (PACKET_TOO_BIG, 0, if (mtu as usize) < MAX_V6 { MAX_V6 as u32 } else { mtu as u32 })
            }
        }
    }
}

/// Whether an error may be sent about the IP packet `packet`, of which only the beginning may be there, as another
/// error quotes it: not about an error, not about a fragment other than the first, not about what was sent to many
/// or comes from no single host (RFC 1812 §4.3.2.7, RFC 4443 §2.4 e). Whatever cannot be told may not.
pub fn may_answer(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4::Ipv4::parse_quote(packet).is_ok_and(may_answer_v4),
        Some(6) => ipv6::Ipv6::parse_quote(packet).is_ok_and(may_answer_v6),
        _ => false,
    }
}

fn may_answer_v4(ip: ipv4::Ipv4<'_>) -> bool {
    let no_error = |kind: &u8| !ERRORS.contains(kind);
    let first = ip.flags() & 0x1fff == 0;
    let host = |a: Ipv4Addr| a.octets()[0] != 0 && !a.is_loopback() && !a.is_multicast() && !a.is_broadcast();
    first
        && host(ip.source())
        && host(ip.destination())
        && (ip.protocol() != protocol::ICMP || ip.payload().first().is_some_and(no_error))
}

fn may_answer_v6(ip: ipv6::Ipv6<'_>) -> bool {
    let host = |a: Ipv6Addr| !a.is_unspecified() && !a.is_loopback() && !a.is_multicast();
    host(ip.source()) && host(ip.destination()) && no_error_v6(ip)
}

/// Whether an IPv6 packet is neither a later fragment nor an ICMPv6 error, nor one whose headers do not say.
fn no_error_v6(ip: ipv6::Ipv6<'_>) -> bool {
    match chain::follow(ip.bytes(), ip.next_header(), ipv6::LEN) {
        // A redirect has 137.
        End::Upper { number: protocol::ICMPV6, at, .. } => {
            ip.bytes().get(at).is_some_and(|kind| *kind >= FIRST_INFORMATION6 && *kind != 137)
        }
        End::Upper { .. } => true,
        End::Later { .. } | End::Cut | End::Long => false,
    }
}

/// Writes the error about `packet`, an IP packet or the beginning of one as another error quotes it, from `source`
/// to its sender. Returns the bytes written, at most [`MAX_V4`] or [`MAX_V6`].
///
/// An IPv4 error is no larger than the packet it is about, unless that has less than 28 bytes behind
/// its IP header: an error about a small packet that quoted all of it would be. IPv6 demands the
/// full quote.
///
/// # Errors
/// `Malformed` when `packet` is no IP packet, of another family than `source`, or `out` is too short.
pub fn write(out: &mut [u8], source: IpAddr, packet: &[u8], problem: Problem) -> Result<usize, Malformed> {
    match source {
        IpAddr::V4(source) => write_v4(out, source, ipv4::Ipv4::parse_quote(packet)?, problem),
        IpAddr::V6(source) => write_v6(out, source, ipv6::Ipv6::parse_quote(packet)?, problem),
    }
}

fn write_v4(
    out: &mut [u8],
    source: Ipv4Addr,
    about: ipv4::Ipv4<'_>,
    problem: Problem,
) -> Result<usize, Malformed> {
    const HEADERS: usize = ipv4::LEN + LEN;
    let least = about.header_len() + LEAST_QUOTE;
    let quote = about.total_len().saturating_sub(HEADERS).max(least).min(about.total_len());
    let quote = &about.bytes()[..quote.min(MAX_V4 - HEADERS)];
    let total = HEADERS + quote.len();
    let out = out.get_mut(..total).ok_or(Malformed)?;
    let header = ipv4::Repr {
        tos: TOS,
        total_len: total as u16,
        id: 0,
        flags: ipv4::DF,
        ttl: TTL,
        protocol: protocol::ICMP,
        source,
        destination: about.source(),
    };
    out[..ipv4::LEN].copy_from_slice(&header.emit());
    fill(&mut out[ipv4::LEN..], problem.v4(), quote, 0);
    Ok(total)
}

fn write_v6(
    out: &mut [u8],
    source: Ipv6Addr,
    about: ipv6::Ipv6<'_>,
    problem: Problem,
) -> Result<usize, Malformed> {
    const HEADERS: usize = ipv6::LEN + LEN;
    let quote = &about.bytes()[..about.total_len().min(MAX_V6 - HEADERS)];
    let total = HEADERS + quote.len();
    let out = out.get_mut(..total).ok_or(Malformed)?;
    let len = total - ipv6::LEN;
    out[..ipv6::LEN].copy_from_slice(&ipv6::emit(protocol::ICMPV6, TTL, source, about.source()));
    ipv6::patch_traffic_class(out, TOS);
    ipv6::patch_payload_len(out, len as u16);
    let pseudo = checksum::pseudo_v6(source, about.source(), protocol::ICMPV6, len as u32);
    fill(&mut out[ipv6::LEN..], problem.v6(), quote, pseudo);
    Ok(total)
}

/// Type, code, checksum over `pseudo` and all of `out`, second word, quote.
fn fill(out: &mut [u8], (kind, code, word): (u8, u8, u32), quote: &[u8], pseudo: u32) {
    out[..LEN].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    out[4..LEN].copy_from_slice(&word.to_be_bytes());
    out[LEN..].copy_from_slice(quote);
    let sum = checksum::finish(checksum::sum(out) + pseudo);
    put16(out, FIELD_CHECKSUM, sum);
}

#[cfg(test)]
mod tests;
