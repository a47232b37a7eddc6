//! What may cross the tunnel, regardless of who owns its addresses: never special addresses, and tunnel
//! packets only by permission.
//!
//! A pod that may send tunnel packets can speak for its node wherever a host is in between that
//! rewrites sources, and tunnels inside tunnels feed loops. So a packet that is itself one, of any
//! format this daemon or a kernel next to it would strip, is dropped in both directions.

use std::net::IpAddr;

use crate::dataplane::segment::Flow;
use crate::net::{DropReason, Prefix};
use crate::wire::chain::{self, End};
use crate::wire::{be16, protocol};

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
pub(super) fn is_special(address: IpAddr) -> bool {
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

/// Whether `address` is a link-local one of IPv4 (RFC 3927), which routers forward where they are told to.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_link_local())
}

/// Judges what `packet`, classified as `flow`, carries. A tunnel packet, that is protocol 4, 41 or 47, or UDP to
/// `vxlan_port`, is refused unless it is allowed; so is one whose headers do not say what it carries (RFC 7112).
/// A later fragment of a UDP datagram does not tell; its first one is refused, so that the datagram never
/// becomes whole.
#[inline]
pub(super) fn judge(
    flow: &Flow,
    packet: &[u8],
    vxlan_port: u16,
    allow_nested: bool,
) -> Result<(), DropReason> {
    // What lies behind a packet is none of it, and whoever sent it chose it.
    let packet = &packet[..flow.total_len];
    let tunnel = match flow.protocol {
        protocol::TCP | protocol::ICMP | protocol::ICMPV6 => return Ok(()),
        protocol::UDP => !is_later_fragment(packet) && is_port(&packet[flow.l4..], vxlan_port),
        _ => return judge_rare(flow, packet, vxlan_port, allow_nested),
    };
    refuse_if(tunnel && !allow_nested)
}

/// The same where the protocol is neither TCP nor UDP nor ICMP.
#[cold]
fn judge_rare(flow: &Flow, packet: &[u8], vxlan_port: u16, allow_nested: bool) -> Result<(), DropReason> {
    let has_chain =
        flow.source.is_ipv6() || flow.protocol == chain::AUTHENTICATION && !is_later_fragment(packet);
    let end = match flow.protocol {
        number if has_chain => chain::follow(packet, number, flow.l4),
        number => End::Upper { number, at: flow.l4, fragment: flow.fragment },
    };
    let tunnel = match end {
        // An IPv4 fragment that ends before the ports; the chain of an IPv6 one has been held to more.
        End::Upper { number: protocol::UDP, at, .. } if flow.fragment && packet.len() < at + PORTS => {
            return Err(DropReason::Malformed);
        }
        End::Upper { number: protocol::UDP, at, .. } => is_port(&packet[at..], vxlan_port),
        End::Upper { number, .. } | End::Later { number } => is_ip_tunnel(number),
        // To find out has no bounded cost.
        End::Long => true,
        End::Cut => return Err(DropReason::Malformed),
    };
    refuse_if(tunnel && !allow_nested)
}

fn refuse_if(nested: bool) -> Result<(), DropReason> {
    if nested { Err(DropReason::Nested) } else { Ok(()) }
}

fn is_ip_tunnel(number: u8) -> bool {
    matches!(number, protocol::IPIP | protocol::IPV6 | protocol::GRE)
}

/// Of an IPv4 packet; IPv6 says so in an extension header.
fn is_later_fragment(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && be16(packet, 6) & 0x1fff != 0
}

/// Bytes of the two ports.
const PORTS: usize = 4;

fn is_port(transport: &[u8], port: u16) -> bool {
    transport.len() >= PORTS && be16(transport, 2) == port
}

#[cfg(test)]
mod tests {
    use super::{Scope, is_special, judge};
    use crate::dataplane::segment::Flow;
    use crate::net::DropReason;
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
        verdict(packet) == Err(DropReason::Nested)
    }

    /// The verdict on `packet`, whatever lies behind it.
    fn verdict(packet: &[u8]) -> Result<(), DropReason> {
        let judged = |packet: &[u8]| judge(&Flow::of(packet).unwrap(), packet, 4789, false);
        let alone = judged(packet);
        for tail in [&TO_VXLAN[..], &FROM_VXLAN, &[4; 24], &[6, 0, 1, 4, 0, 0, 0, 0]] {
            assert_eq!(judged(&[packet, tail].concat()), alone, "{tail:02x?} behind {packet:02x?}");
        }
        alone
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
            v4(17, 0, b""),
            v6(17, b""),
            v6(60, &[17, 0, 1, 4, 0, 0, 0, 0]),
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
        // What gives access to another one's tunnel packets behind mobility, HIP and Shim6 headers, too.
        for number in [135, 139, 140] {
            assert!(nested(&v6(number, &[options, TO_VXLAN].concat())), "{number}");
        }
        let ah = [&[4, 2][..], &[0; 14]].concat();
        assert!(nested(&v4(51, 0, &ah)) && nested(&v6(51, &ah)), "IP behind AH");
        assert!(!nested(&v4(51, 0, &[&[6, 2][..], &[0; 14]].concat())));
    }

    #[test]
    fn a_first_fragment_with_an_authentication_header_is_judged() {
        let behind = |number: u8, rest: &[u8]| [&[number, 4][..], &[0; 22], rest].concat();
        for (number, rest, expected) in [
            (4, &[0x45, 0, 0, 0, 0, 0, 0, 0][..], Err(DropReason::Nested)),
            (17, &TO_VXLAN, Err(DropReason::Nested)),
            (17, &FROM_VXLAN, Ok(())),
            (17, &[], Err(DropReason::Malformed)),
            (6, &[], Ok(())),
        ] {
            let fragment = v4(51, ipv4::MF, &behind(number, rest));
            assert_eq!(verdict(&fragment), expected, "{number} {rest:02x?}");
        }
        assert_eq!(verdict(&v4(51, ipv4::MF, &behind(4, &[])[..8])), Err(DropReason::Malformed));
        assert_eq!(verdict(&v4(51, ipv4::MF | 4, &behind(4, &[]))), Ok(()), "the first one was refused");
    }

    #[test]
    fn headers_that_do_not_say_what_a_packet_carries_are_malformed() {
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let first = [60, 0, 0, 1, 0, 0, 0, 7];
        for packet in [
            v6(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(3)),
            v6(60, &[17, 200, 1]),
            v6(44, &[60, 0, 0, 1]),
            // RFC 7112: the chain of a first fragment ends in the next one.
            v6(44, &[&first[..], &[17, 1, 1, 12], &[0; 4]].concat()),
            v6(44, &[first, options].concat()),
            v6(44, &[&first[..], &options, &TO_VXLAN[..7]].concat()),
            v4(51, 0, &[17]),
        ] {
            assert_eq!(verdict(&packet), Err(DropReason::Malformed), "{packet:02x?}");
            let allowed = judge(&Flow::of(&packet).unwrap(), &packet, 4789, true);
            assert_eq!(allowed, Err(DropReason::Malformed), "whatever is allowed");
        }
        assert_eq!(verdict(&v6(44, &[&first[..], &options, &FROM_VXLAN].concat())), Ok(()));
        assert_eq!(verdict(&v6(44, &[&first[..], &options, &TO_VXLAN].concat())), Err(DropReason::Nested));
    }
}
