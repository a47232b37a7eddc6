//! Segmentation of a super-packet from the TUN (what the kernel's TSO and USO would do).
//!
//! Each segment gets a copy of the IP and transport headers, patched: lengths, IPv4 identification
//! counting up, TCP sequence number, FIN and PSH on the last segment only, CWR on the first only,
//! and a finished transport checksum. The payload is read once, for the checksum, and not copied.

use std::ops::Range;

use super::unfinished::{field, is_behind_extensions};
use crate::dataplane::packet::MAX_PACKET;
use crate::wire::{
    Ipv4, Ipv6, Malformed, Tcp, VnetHdr, be16, be32, checksum, ipv6, protocol, put16, put32, tcp, udp,
    vnet_hdr,
};

/// Most segments one super-packet may have: 64 KiB of the smallest payload Linux sends
/// (`TCP_MIN_SND_MSS`, 48 bytes). More is an attack on our time.
pub const MAX_SEGMENTS: usize = MAX_PACKET / 48;

/// Most bytes of IP and transport headers that are copied: IPv4 and TCP with full options, or
/// IPv6 with as much again of extension headers.
pub const MAX_HEADER: usize = 160;

/// A super-packet being cut.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    l4: usize,
    header: usize,
    segment: usize,
    tcp: bool,
    v6: bool,
    ecn: bool,
    /// IP header sum without total length, identification and checksum.
    ip_sum: u32,
    /// Pseudo-header (without length) and transport header sum, without the fields that change.
    l4_sum: u32,
    next: usize,
}

impl<'a> Split<'a> {
    /// Prepares to cut `packet`, which fills the slice, as its vnet header says.
    ///
    /// # Errors
    /// `Malformed` when the vnet header contradicts the packet.
    pub fn new(packet: &'a [u8], vnet: &VnetHdr) -> Result<Self, Malformed> {
        let (l4, v6) = (usize::from(vnet.csum_start), packet.first().is_some_and(|byte| byte >> 4 == 6));
        let tcp = match (vnet.gso_type & !vnet_hdr::GSO_ECN, v6) {
            (vnet_hdr::GSO_TCPV4, false) | (vnet_hdr::GSO_TCPV6, true) => true,
            (vnet_hdr::GSO_UDP_L4, _) => false,
            _ => return Err(Malformed),
        };
        let number = if tcp { protocol::TCP } else { protocol::UDP };
        let (total, agrees) = if v6 {
            let ip = Ipv6::parse(packet)?;
            let plain = l4 == ipv6::LEN && ip.next_header() == number;
            let behind = || {
                is_behind_extensions(packet, ip.next_header(), (ipv6::LEN, l4), usize::from(vnet.csum_offset))
            };
            (ip.total_len(), plain || l4 > ipv6::LEN && behind())
        } else {
            let ip = Ipv4::parse(packet)?;
            (ip.total_len(), l4 == ip.header_len() && ip.protocol() == number && !ip.is_fragment())
        };
        // A channel that segments itself writes where the vnet header says.
        let agrees = agrees && vnet.needs_csum() && field(number) == Some(usize::from(vnet.csum_offset));
        if total != packet.len() || !agrees || packet.len() < l4 {
            return Err(Malformed);
        }
        let l4_header = if tcp { Tcp::parse(&packet[l4..])?.header_len() } else { udp::LEN };
        let (header, segment) = (l4 + l4_header, usize::from(vnet.gso_size));
        if header > MAX_HEADER || header > packet.len() || segment == 0 {
            return Err(Malformed);
        }
        let mut split = Self {
            packet,
            l4,
            header,
            segment,
            tcp,
            v6,
            ecn: vnet.gso_type & vnet_hdr::GSO_ECN != 0,
            ip_sum: 0,
            l4_sum: 0,
            next: header,
        };
        if split.segments() > MAX_SEGMENTS {
            return Err(Malformed);
        }
        (split.ip_sum, split.l4_sum) = split.fixed_sums();
        Ok(split)
    }

    /// Number of segments, at least one.
    pub fn segments(&self) -> usize {
        (self.packet.len() - self.header).div_ceil(self.segment).max(1)
    }

    /// The whole of it.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Bytes of the IP header, extension headers among them.
    pub fn ip_header_len(&self) -> usize {
        self.l4
    }

    /// Bytes of payload in each segment but the last.
    pub fn segment(&self) -> usize {
        self.segment
    }

    /// Bytes of payload of all segments.
    pub fn payload(&self) -> usize {
        self.packet.len() - self.header
    }

    /// Bytes of the headers in front of each segment's payload.
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// Bytes of the largest segment, headers included.
    pub fn largest(&self) -> usize {
        self.header + self.segment.min(self.packet.len() - self.header)
    }

    /// Bytes of the next segment, headers included; `None` when all are done.
    pub fn next_len(&self) -> Option<usize> {
        let rest = self.packet.len().checked_sub(self.next)?;
        (rest > 0 || self.next == self.header).then(|| self.header + rest.min(self.segment))
    }

    /// Writes the headers of the next segment to `out` (exactly [`Self::header_len`] bytes) and
    /// returns where its payload lies in the packet; `None` when all are done.
    #[inline]
    pub fn next_segment(&mut self, out: &mut [u8]) -> Option<Range<usize>> {
        self.next_len()?;
        let from = self.next;
        let to = (from + self.segment).min(self.packet.len());
        // A packet without payload is one segment; the step below ends the loop after it.
        self.next = to.max(from + 1);
        out.copy_from_slice(&self.packet[..self.header]);
        self.patch_ip(out, from, to);
        let payload = checksum::sum(&self.packet[from..to]);
        if self.tcp {
            self.patch_tcp(&mut out[self.l4..], from, to, payload);
        } else {
            self.patch_udp(&mut out[self.l4..], to - from, payload);
        }
        Some(from..to)
    }

    fn patch_ip(&self, out: &mut [u8], from: usize, to: usize) {
        let total = self.header + (to - from);
        if self.v6 {
            ipv6::patch_payload_len(out, (total - ipv6::LEN) as u16);
            return;
        }
        let index = (from - self.header) / self.segment;
        let id = be16(out, 4).wrapping_add(index as u16);
        put16(out, 2, total as u16);
        put16(out, 4, id);
        put16(out, 10, checksum::finish(self.ip_sum + total as u32 + u32::from(id)));
    }

    fn patch_tcp(&self, header: &mut [u8], from: usize, to: usize, payload: u32) {
        let sequence = be32(header, tcp::FIELD_SEQUENCE).wrapping_add((from - self.header) as u32);
        if to < self.packet.len() {
            header[tcp::FIELD_FLAGS] &= !(tcp::FIN | tcp::PSH);
        }
        if self.ecn && from > self.header {
            header[tcp::FIELD_FLAGS] &= !tcp::CWR;
        }
        put32(header, tcp::FIELD_SEQUENCE, sequence);
        let changed =
            (sequence >> 16) + (sequence & 0xffff) + u32::from(be16(header, tcp::FIELD_DATA_OFFSET));
        let len = (header.len() + (to - from)) as u32;
        put16(header, tcp::FIELD_CHECKSUM, checksum::finish(self.l4_sum + changed + len + payload));
    }

    fn patch_udp(&self, header: &mut [u8], payload_len: usize, payload: u32) {
        let len = (udp::LEN + payload_len) as u16;
        put16(header, udp::FIELD_LENGTH, len);
        // The length counts twice: in the header and in the pseudo-header.
        let sum = self.l4_sum + 2 * u32::from(len) + payload;
        put16(header, udp::FIELD_CHECKSUM, checksum::finish_udp(sum));
    }

    /// Sums over everything that is the same in each segment.
    fn fixed_sums(&self) -> (u32, u32) {
        let l4 = &self.packet[self.l4..self.header];
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        let number = if self.tcp { protocol::TCP } else { protocol::UDP };
        let mut l4_sum = checksum::sum(&self.packet[addresses]) + u32::from(number);
        let mut ip_sum = 0;
        if self.tcp {
            l4_sum += checksum::sum(&l4[..4]) + checksum::sum(&l4[8..12]);
            l4_sum += checksum::sum(&l4[14..16]) + checksum::sum(&l4[18..]);
        } else {
            l4_sum += checksum::sum(&l4[..4]);
        }
        if !self.v6 {
            let ip = &self.packet[..self.l4.min(usize::from(self.packet[0] & 0x0f) * 4)];
            ip_sum = checksum::sum(&ip[..2]) + checksum::sum(&ip[6..10]) + checksum::sum(&ip[12..]);
        }
        (ip_sum, l4_sum)
    }
}

/// Finishes the transport checksum of a single packet whose vnet header says `NEEDS_CSUM`.
///
/// # Errors
/// `Malformed` when the vnet header points outside the packet.
pub fn finish_checksum(packet: &mut [u8], vnet: &VnetHdr) -> Result<(), Malformed> {
    let (start, field) =
        (usize::from(vnet.csum_start), usize::from(vnet.csum_start) + usize::from(vnet.csum_offset));
    if start > packet.len() || packet.len() < field + 2 {
        return Err(Malformed);
    }
    // The field holds the pseudo-header sum already, so it takes part in the sum as it is.
    let sum = checksum::sum(&packet[start..]);
    let udp = usize::from(vnet.csum_offset) == udp::FIELD_CHECKSUM;
    put16(packet, field, if udp { checksum::finish_udp(sum) } else { checksum::finish(sum) });
    Ok(())
}
