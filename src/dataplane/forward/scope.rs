//! What may cross the tunnel, regardless of who owns its addresses: never special addresses, and tunnel
//! packets only by permission.
//!
//! A pod that may send tunnel packets can speak for its node wherever a host is in between that
//! rewrites sources, and tunnels inside tunnels feed loops. So a packet that is itself one, of any
//! format this daemon or a kernel next to it would strip, is dropped in both directions.

use std::net::IpAddr;

use crate::dataplane::segment::Flow;
use crate::net::Prefix;
use crate::wire::{be16, ipv6, protocol};

/// Exceptions that the configuration makes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scope {
    /// Whether tunnel packets may be inside tunnel packets.
    pub allow_nested: bool,
    /// Outer sources that are no peers and may send all the same.
    pub external_nodes: Vec<Prefix>,
    /// Inner sources that this node may use beside its subnets and underlay addresses.
    pub sends_for: Vec<Prefix>,
}

impl Scope {
    /// Whether `source` is one of the external nodes.
    pub fn is_external(&self, source: IpAddr) -> bool {
        self.external_nodes.iter().any(|prefix| prefix.contains(source))
    }
}

/// Whether an inner packet may have `address` neither as source nor as destination: "this network",
/// loopback, link-local, multicast, broadcast, IPv4-mapped (RFC 6890).
#[inline]
pub fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => match a.octets() {
            [0 | 127 | 224..=239, ..] | [169, 254, ..] => true,
            [255, ..] => a.is_broadcast(),
            _ => false,
        },
        IpAddr::V6(a) => match a.segments() {
            [0xff00..=0xffff, ..] | [0xfe80..=0xfebf, ..] => true,
            [0, 0, 0, 0, 0, 0xffff, ..] => true,
            [0, ..] => a.is_unspecified() || a.is_loopback(),
            _ => false,
        },
    }
}

/// Whether `packet`, classified as `flow`, is a tunnel packet: protocol 4, 41 or 47, or UDP to
/// `vxlan_port`. A later fragment of a UDP datagram does not tell; its first one is refused, so
/// that the datagram never becomes whole.
#[inline]
pub fn is_tunnel(flow: &Flow, packet: &[u8], vxlan_port: u16) -> bool {
    match flow.protocol {
        protocol::UDP => !is_later_fragment(packet) && is_port(&packet[flow.l4..], vxlan_port),
        protocol::TCP | protocol::ICMP | protocol::ICMPV6 => false,
        number => is_ip_tunnel(number) || flow.source.is_ipv6() && hides_tunnel(number, packet, vxlan_port),
    }
}

fn is_ip_tunnel(number: u8) -> bool {
    matches!(number, protocol::IPIP | protocol::IPV6 | protocol::GRE)
}

/// Of an IPv4 packet; IPv6 says so in an extension header.
fn is_later_fragment(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && be16(packet, 6) & 0x1fff != 0
}

fn is_port(transport: &[u8], port: u16) -> bool {
    transport.len() >= 4 && be16(transport, 2) == port
}

/// Most IPv6 extension headers that are looked behind; honest packets have two.
const MAX_EXTENSIONS: usize = 8;

/// Whether a tunnel packet is behind the extension headers of an IPv6 packet (RFC 8200 §4), or so
/// many that finding out has no bounded cost.
#[cold]
fn hides_tunnel(first: u8, packet: &[u8], vxlan_port: u16) -> bool {
    let (mut number, mut rest) = (first, &packet[ipv6::LEN..]);
    for _ in 0..MAX_EXTENSIONS {
        let (Some(next), Some(len)) = (rest.first(), rest.get(1)) else { return false };
        let len = match number {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 * (usize::from(*len) + 1),
            protocol::IPV6_FRAGMENT if rest.len() >= 4 && be16(rest, 2) & 0xfff8 != 0 => {
                return is_ip_tunnel(*next);
            }
            protocol::IPV6_FRAGMENT => 8,
            AUTHENTICATION => 4 * (usize::from(*len) + 2),
            protocol::UDP => return is_port(rest, vxlan_port),
            number => return is_ip_tunnel(number),
        };
        number = *next;
        rest = rest.get(len..).unwrap_or_default();
        if is_ip_tunnel(number) {
            return true;
        }
    }
    true
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[cfg(test)]
mod tests {
    use super::{Scope, is_special, is_tunnel};
    use crate::dataplane::segment::Flow;
    use crate::wire::ipv4;

    #[test]
    fn special_addresses() {
        let special = "0.0.0.0 0.1.2.3 127.0.0.1 127.255.255.255 169.254.0.1 224.0.0.1 239.255.255.255 \
                       255.255.255.255 :: ::1 fe80::1 febf::1 ff02::1 ff00:: ::ffff:10.0.0.1";
        let ordinary = "1.0.0.0 10.244.1.2 126.255.255.255 128.0.0.1 169.253.1.1 169.255.1.1 223.255.255.255 \
                        240.0.0.1 255.255.255.254 fd00::1 2001:db8::1 fec0::1 ::2 ::fffe:10.0.0.1";
        for text in special.split_whitespace() {
            assert!(is_special(text.parse().unwrap()), "{text}");
        }
        for text in ordinary.split_whitespace() {
            assert!(!is_special(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn external_nodes_are_those_listed() {
        let scope = Scope {
            external_nodes: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:7::/48".parse().unwrap()],
            ..Scope::default()
        };
        for (address, expected) in [
            ("198.51.100.7", true),
            ("198.51.101.7", false),
            ("2001:db8:7::1", true),
            ("2001:db8:8::1", false),
        ] {
            assert_eq!(scope.is_external(address.parse().unwrap()), expected, "{address}");
        }
        assert!(!Scope::default().is_external("198.51.100.7".parse().unwrap()));
    }

    fn nested(packet: &[u8]) -> bool {
        is_tunnel(&Flow::of(packet).unwrap(), packet, 4789)
    }

    fn v4(protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
        let repr = ipv4::Repr {
            tos: 0,
            total_len: 20 + payload.len() as u16,
            id: 7,
            flags,
            ttl: 9,
            protocol,
            source: [10, 244, 1, 2].into(),
            destination: [10, 244, 2, 2].into(),
        };
        [&repr.emit()[..], payload].concat()
    }

    /// `headers` behind the fixed IPv6 header, of which `first` is the first.
    fn v6(first: u8, headers: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[5] = headers.len() as u8;
        packet[6] = first;
        packet.extend_from_slice(headers);
        packet
    }

    const TO_VXLAN: [u8; 8] = [0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0];
    const FROM_VXLAN: [u8; 8] = [0x12, 0xb5, 0xc0, 0, 0, 8, 0, 0];

    #[test]
    fn tunnel_packets_of_every_format() {
        for protocol in [4, 41, 47] {
            assert!(nested(&v4(protocol, 0, b"")), "{protocol}");
            // Every fragment of an IP tunnel packet says what it is.
            assert!(nested(&v4(protocol, 100, b"later")));
            assert!(nested(&v6(protocol, b"")));
        }
        assert!(nested(&v4(17, 0, &TO_VXLAN)));
        assert!(nested(&v4(17, ipv4::MF, &TO_VXLAN)), "the first fragment");
        assert!(nested(&v6(17, &TO_VXLAN)));
    }

    #[test]
    fn others_pass() {
        for packet in [
            v4(17, 0, &FROM_VXLAN),
            v4(17, 100, &TO_VXLAN),
            v4(17, 0, b"abc"),
            v4(6, 0, &TO_VXLAN),
            v4(1, 0, &TO_VXLAN),
            v4(50, 0, &TO_VXLAN),
            v4(60, 0, &[4, 0, 0, 0, 0, 0, 0, 0]),
            v6(17, &FROM_VXLAN),
            v6(6, &TO_VXLAN),
            v6(58, &TO_VXLAN),
            v6(59, b""),
        ] {
            assert!(!nested(&packet), "{packet:02x?}");
        }
    }

    #[test]
    fn extension_headers_hide_nothing() {
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
        let fragment = [17, 0, 0, 1, 0, 0, 0, 7];
        assert!(nested(&v6(60, &[options, TO_VXLAN].concat())));
        assert!(!nested(&v6(60, &[options, FROM_VXLAN].concat())));
        assert!(nested(&v6(0, &[hop_by_hop, options, TO_VXLAN].concat())));
        assert!(nested(&v6(44, &[fragment, TO_VXLAN].concat())));
        let later = [17, 0, 0, 0x81, 0, 0, 0, 7];
        assert!(!nested(&v6(44, &[later, TO_VXLAN].concat())), "the first one was refused");
        assert!(nested(&v6(44, &[4, 0, 0, 0x81, 0, 0, 0, 7])), "a later fragment of protocol 4");
        assert!(nested(&v6(60, &[4, 0, 1, 4, 0, 0, 0, 0])));
        // AH counts in words of four bytes, less two.
        assert!(nested(&v6(51, &[&[17, 2][..], &[0; 14], &TO_VXLAN].concat())));
        assert!(nested(&v6(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(20))), "no end in sight");
        assert!(!nested(&v6(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(3))), "cut off");
        assert!(!nested(&v6(60, &[17, 200, 1])), "longer than the packet");
    }
}
