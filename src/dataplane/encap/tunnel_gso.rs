//! VXLAN super-packets for the kernel to segment (UDP-tunnel GSO, Linux 6.17): everything in front
//! of the inner packet, from the virtio-net header on, as it is written to a TAP.
//!
//! ```text
//! | vnet (24) | Ethernet (14) | IPv4 (20) | UDP (8) | VXLAN (8) | Ethernet (14) | inner packet … |
//!             `-- offsets in the vnet header count from here
//! ```
//!
//! The kernel routes the frame from the TAP to the uplink and cuts it there, or, on a virtual link,
//! never. It makes all lengths and checksums of the segments; here they describe the whole.

use std::net::Ipv4Addr;

use super::ipip_gso::UNMARKED;
use super::{OUTER_TTL, outer, vxlan};
use crate::dataplane::packet::MAX_PACKET;
use crate::net::Mac;
use crate::wire::vnet_hdr::{GSO_UDP_TUNNEL_IPV4, NEEDS_CSUM, TUNNEL_LEN, UDP_TUNNEL_CSUM};
use crate::wire::{VnetHdr, checksum, ethernet, ipv4, protocol, put16, udp};

/// Offset of the outer IPv4 header in the template.
pub const OUTER_IP: usize = TUNNEL_LEN + ethernet::LEN;
/// Offset of the outer UDP header in the template.
pub const OUTER_UDP: usize = OUTER_IP + ipv4::LEN;
/// Bytes of the template: the inner packet starts here.
pub const TEMPLATE: usize = OUTER_UDP + udp::LEN + vxlan::TEMPLATE;

/// Offset of the inner packet as the vnet header counts, without itself.
const INNER: usize = TEMPLATE - TUNNEL_LEN;
/// Bytes of the largest inner packet whose outer total length still fits its field.
pub const MAX_INNER: usize = MAX_PACKET - outer::VXLAN;

/// The template from `source` to `destination` port `port`, through the TAP with address `tap`.
/// The outer TTL is one higher than the others', because the kernel forwards the packet.
pub fn template(
    tap: Mac,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    port: u16,
    inner: &[u8; vxlan::TEMPLATE],
) -> [u8; TEMPLATE] {
    let mut bytes = [0; TEMPLATE];
    let frame = ethernet::header(tap, UNMARKED, ethernet::IPV4);
    bytes[TUNNEL_LEN..OUTER_IP].copy_from_slice(&frame);
    let outer = outer::vxlan(OUTER_TTL + 1, (source, 0), (destination, port), inner);
    bytes[OUTER_IP..].copy_from_slice(&outer);
    bytes
}

/// What the template is completed with.
#[derive(Clone, Copy, Debug)]
pub struct Super {
    /// The inner super-packet's own vnet header.
    pub vnet: VnetHdr,
    /// Bytes of inner IP and transport header.
    pub header_len: usize,
    /// Bytes of the inner super-packet, at most [`MAX_INNER`].
    pub inner_len: usize,
    /// Outer TOS.
    pub tos: u8,
    /// Outer UDP source port.
    pub source_port: u16,
}

/// Completes a copy of the template.
pub fn patch(header: &mut [u8], packet: &Super) {
    let vnet = VnetHdr {
        flags: NEEDS_CSUM | UDP_TUNNEL_CSUM,
        gso_type: packet.vnet.gso_type | GSO_UDP_TUNNEL_IPV4,
        hdr_len: (INNER + packet.header_len) as u16,
        gso_size: packet.vnet.gso_size,
        csum_start: INNER as u16 + packet.vnet.csum_start,
        csum_offset: packet.vnet.csum_offset,
    };
    let (outer_udp, inner_ip) = ((OUTER_UDP - TUNNEL_LEN) as u16, INNER as u16);
    header[..TUNNEL_LEN].copy_from_slice(&vnet.emit_tunnel(outer_udp, inner_ip));
    let ip = &mut header[OUTER_IP..OUTER_UDP];
    ipv4::patch_tos(ip, packet.tos);
    ipv4::patch_len_id(ip, (outer::VXLAN + packet.inner_len) as u16, 0);
    let udp_len = udp::LEN + vxlan::TEMPLATE + packet.inner_len;
    // The kernel completes the checksum from the pseudo-header sum, as for its own tunnels.
    let seed = checksum::sum(&ip[12..20]) + u32::from(protocol::UDP) + udp_len as u32;
    let udp = &mut header[OUTER_UDP..];
    put16(udp, 0, packet.source_port);
    put16(udp, udp::FIELD_LENGTH, udp_len as u16);
    put16(udp, udp::FIELD_CHECKSUM, checksum::fold(seed));
}

#[cfg(test)]
mod tests {
    use super::{OUTER_IP, OUTER_UDP, Super, TEMPLATE, patch, template};
    use crate::dataplane::encap::vxlan;
    use crate::net::{Mac, Vni};
    use crate::wire::{Ipv4, VnetHdr, vnet_hdr};

    #[test]
    fn golden() {
        let tap = Mac([2, 0, 0, 0, 0, 9]);
        let inner = vxlan::template(Vni::CALICO, Mac([0x66; 6]), Mac([0x64; 6]), 0x0800);
        let mut bytes = template(tap, [192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 4789, &inner).to_vec();
        let vnet = VnetHdr {
            flags: 1,
            gso_type: vnet_hdr::GSO_TCPV4,
            hdr_len: 52,
            gso_size: 1398,
            csum_start: 20,
            csum_offset: 16,
        };
        patch(&mut bytes, &Super { vnet, header_len: 52, inner_len: 2848, tos: 2, source_port: 49153 });
        assert_eq!(bytes[..12], [9, 0x21, 116, 0, 0x76, 0x05, 84, 0, 16, 0, 0, 0]);
        assert_eq!(bytes[12..24], [0, 0, 0, 0, 0, 0, 0, 0, 34, 0, 64, 0]);
        assert_eq!(bytes[24..38], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!(bytes[OUTER_UDP..OUTER_UDP + 6], [0xc0, 0x01, 0x12, 0xb5, 0x0b, 0x3e]);
        assert_eq!(bytes[OUTER_UDP + 8..TEMPLATE], inner);
        bytes.resize(TEMPLATE + 2848, 0);
        let outer = Ipv4::parse(&bytes[OUTER_IP..]).unwrap();
        assert!(outer.checksum_ok());
        assert_eq!((outer.ttl(), outer.tos(), outer.total_len()), (65, 2, 2898));
    }
}
