//! Which checksum a packet from the device leaves to be finished.
//!
//! A vnet header can name any two bytes of a packet, and whoever may send frames with one (packet(7),
//! PACKET_VNET_HDR) chooses them. They are written after the packet was judged, so they must be the checksum of
//! its transport header and nothing else: not a port, not an address, not an option.

use super::flow::Flow;
use crate::wire::chain::{self, End};
use crate::wire::{VnetHdr, icmp, protocol, tcp, udp};

/// Offset of the checksum in the header of this number; `None` for one whose checksum is never left unfinished.
pub(super) fn field(number: u8) -> Option<usize> {
    match number {
        protocol::TCP => Some(tcp::FIELD_CHECKSUM),
        protocol::UDP => Some(udp::FIELD_CHECKSUM),
        protocol::ICMP | protocol::ICMPV6 => Some(icmp::FIELD_CHECKSUM),
        _ => None,
    }
}

/// Whether `vnet`, which says that a checksum is unfinished, means the one of the transport header of `packet`,
/// classified as `flow`. That of a fragment never is: kernels finish checksums before they fragment.
#[inline]
pub fn is_of_transport(flow: &Flow, packet: &[u8], vnet: &VnetHdr) -> bool {
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    match field(flow.protocol) {
        Some(field) => !flow.fragment && start == flow.l4 && offset == field,
        None => {
            flow.source.is_ipv6() && is_behind_extensions(packet, flow.protocol, (flow.l4, start), offset)
        }
    }
}

/// Whether the IPv6 extension headers of `packet`, from `first` at `from` on, end at a transport header at `to`
/// whose checksum is `offset` bytes behind that.
#[cold]
pub(super) fn is_behind_extensions(
    packet: &[u8],
    first: u8,
    (from, to): (usize, usize),
    offset: usize,
) -> bool {
    match chain::follow(packet, first, from) {
        End::Upper { number, at, fragment: false } => at == to && field(number) == Some(offset),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_of_transport;
    use crate::dataplane::segment::Flow;
    use crate::wire::testing::Spec;
    use crate::wire::{VnetHdr, ipv4, put16, vnet_hdr};

    fn is_good(packet: &[u8], csum_start: usize, csum_offset: u16) -> bool {
        let vnet = VnetHdr {
            flags: vnet_hdr::NEEDS_CSUM,
            csum_start: csum_start as u16,
            csum_offset,
            ..VnetHdr::default()
        };
        is_of_transport(&Flow::of(packet).unwrap(), packet, &vnet)
    }

    #[test]
    fn only_the_checksum_of_the_transport_header_may_be_unfinished() {
        let options = Spec { options: vec![1; 8], ..Spec::udp4(&[7; 60]) };
        for (packet, l4, field) in [
            (Spec::udp4(&[7; 60]).build(), 20, 6),
            (Spec::tcp4(&[7; 60]).build(), 20, 16),
            (options.build(), 28, 6),
            (Spec::udp4(&[7; 60]).v6().build(), 40, 6),
            (Spec::tcp6(&[7; 60]).build(), 40, 16),
        ] {
            for start in 0..packet.len() {
                for offset in 0..40 {
                    let expected = (start, offset) == (l4, field);
                    assert_eq!(is_good(&packet, start, offset), expected, "{start} {offset}");
                }
            }
        }
        let mut fragment = Spec { df: false, ..Spec::udp4(&[7; 60]) }.build();
        put16(&mut fragment, 6, ipv4::MF);
        assert!(!is_good(&fragment, 20, 6));
    }

    #[test]
    fn behind_extension_headers_too() {
        let mut packet = Spec::udp4(&[7; 60]).v6().build();
        packet[6] = 60;
        packet[5] += 8;
        packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
        assert!(is_good(&packet, 48, 6));
        for (start, offset) in [(40, 6), (48, 2), (48, 16), (47, 7), (56, 6)] {
            assert!(!is_good(&packet, start, offset), "{start} {offset}");
        }
        packet[40] = 132;
        assert!(!is_good(&packet, 48, 6), "SCTP has no such sum");
        packet[6] = 44;
        packet.splice(40..48, [17, 0, 0, 1, 0, 0, 0, 7]);
        assert!(!is_good(&packet, 48, 6), "a fragment");
    }
}
