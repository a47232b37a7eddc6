//! The virtio-net header in front of every packet on an `IFF_VNET_HDR` device
//! (include/uapi/linux/virtio_net.h, little endian here by `TUNSETVNETLE`).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     flags     |    gso_type   |            hdr_len            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            gso_size           |           csum_start          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          csum_offset          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

/// Bytes of the header.
pub const LEN: usize = 10;
/// Bytes of the header with hash and tunnel fields (`virtio_net_hdr_v1_hash_tunnel`, Linux 6.17).
pub const TUNNEL_LEN: usize = 24;

/// Flag: the transport checksum field holds the pseudo-header sum; whatever sends the packet on
/// must finish it.
pub const NEEDS_CSUM: u8 = 1;

/// Flag, tunnel header only: the outer UDP checksum is to be made for every segment.
pub const UDP_TUNNEL_CSUM: u8 = 8;

/// One packet, not a super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4 super-packet.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6 super-packet.
pub const GSO_TCPV6: u8 = 4;
/// UDP super-packet of equal datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Bit on top of a type: the super-packet is inside a UDP tunnel over IPv4.
pub const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
/// Bit on top of a TCP type: CWR belongs to the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// The header's fields in host order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VnetHdr {
    /// `NEEDS_CSUM` or 0.
    pub flags: u8,
    /// One of the `GSO_` values.
    pub gso_type: u8,
    /// Bytes of IP and transport header; only a hint.
    pub hdr_len: u16,
    /// Bytes of payload in each segment of a super-packet.
    pub gso_size: u16,
    /// Offset of the transport header, where checksumming starts.
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// The fields of the ten bytes `b`.
    #[inline]
    pub fn parse(b: &[u8; LEN]) -> Self {
        Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16::from_le_bytes([b[2], b[3]]),
            gso_size: u16::from_le_bytes([b[4], b[5]]),
            csum_start: u16::from_le_bytes([b[6], b[7]]),
            csum_offset: u16::from_le_bytes([b[8], b[9]]),
        }
    }

    /// The ten bytes of the fields.
    #[inline]
    pub fn emit(self) -> [u8; LEN] {
        let mut b = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        b[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        b[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        b[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        b[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        b
    }

    /// The 24 bytes of the fields with those of a tunnel behind them (le16 each, after ten bytes of
    /// buffer count and hash, unused): offset of the outer UDP header, offset of the inner IP header.
    pub fn emit_tunnel(self, outer_transport: u16, inner_network: u16) -> [u8; TUNNEL_LEN] {
        let mut b = [0; TUNNEL_LEN];
        b[..LEN].copy_from_slice(&self.emit());
        b[20..22].copy_from_slice(&outer_transport.to_le_bytes());
        b[22..24].copy_from_slice(&inner_network.to_le_bytes());
        b
    }

    /// Whether the transport checksum is still to be finished.
    pub const fn needs_csum(self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Whether this heads a super-packet.
    pub const fn is_gso(self) -> bool {
        self.gso_type & !GSO_ECN != GSO_NONE
    }
}

#[cfg(test)]
mod tests {
    use super::{GSO_TCPV4, NEEDS_CSUM, VnetHdr};

    #[test]
    fn golden() {
        let header = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 52,
            gso_size: 1398,
            csum_start: 20,
            csum_offset: 16,
        };
        let bytes = [1, 1, 52, 0, 0x76, 0x05, 20, 0, 16, 0];
        assert_eq!(header.emit(), bytes);
        assert_eq!(VnetHdr::parse(&bytes), header);
        assert!(header.is_gso() && header.needs_csum());
    }
}
