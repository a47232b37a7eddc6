//! Probes: tunnel packets without content, by which a node tests its own way to the wire.
//!
//! A probe looks to every firewall like the traffic it stands for, and ends at the receiver without
//! an answer: here it is recognised and ignored, and the kernel's own tunnel devices take it for a
//! damaged packet.

use std::net::Ipv4Addr;

use super::ipip;
use crate::wire::{Ipv4, ipv4};

/// The UDP payload of a VXLAN probe. Its first byte has the I flag clear.
pub const VXLAN: &[u8; 16] = b"underpass probe ";
/// Inner protocol of an IP-in-IP probe: nothing follows (59, RFC 8200 §4.7).
pub const NO_NEXT_HEADER: u8 = 59;
/// Bytes of an IP-in-IP probe with its outer header.
pub const IPIP_LEN: usize = ipip::OVERHEAD + ipv4::LEN;

/// The inner packet of an IP-in-IP probe: an IPv4 header with the addresses of the outer one.
pub fn ipip(source: Ipv4Addr, destination: Ipv4Addr, id: u16) -> [u8; ipv4::LEN] {
    ipv4::Repr {
        tos: 0,
        total_len: ipv4::LEN as u16,
        id,
        flags: ipv4::DF,
        ttl: 1,
        protocol: NO_NEXT_HEADER,
        source,
        destination,
    }
    .emit()
}

/// Whether a UDP payload is a probe.
#[inline]
pub fn is_vxlan(datagram: &[u8]) -> bool {
    datagram == VXLAN
}

/// Whether an IP-in-IP packet is a probe.
#[inline]
pub fn is_ipip(packet: &[u8]) -> bool {
    packet.len() == IPIP_LEN && has_probe_inside(packet)
}

fn has_probe_inside(packet: &[u8]) -> bool {
    let (Ok(outer), Ok(inner)) = (Ipv4::parse(packet), Ipv4::parse(&packet[ipip::OVERHEAD..])) else {
        return false;
    };
    inner.protocol() == NO_NEXT_HEADER
        && inner.source() == outer.source()
        && inner.destination() == outer.destination()
}

#[cfg(test)]
mod tests {
    use super::{ipip, is_ipip, is_vxlan};

    #[test]
    fn only_probes_are_probes() {
        let (a, b) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut outer = ipip::template(a, b, 4).to_vec();
        ipip::patch(&mut outer, 0, 20);
        let probe = [&outer[..], &ipip(a, b, 7)].concat();
        assert!(is_ipip(&probe));
        assert!(!is_ipip(&[&outer[..], &ipip(b, a, 7)].concat()));
        assert!(!is_ipip(&probe[..39]));
        assert!(is_vxlan(b"underpass probe "));
        assert!(!is_vxlan(b"underpass probe"));
    }
}
