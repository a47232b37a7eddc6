//! Reading ICMP messages, and whether what they quote is like a packet of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Mode;
use crate::wire::icmp::{
    ECHO_REPLY, ECHO_REPLY6, FRAGMENTATION_NEEDED, LEN, PACKET_TOO_BIG, TIME_EXCEEDED, TIME_EXCEEDED6,
    UNREACHABLE, UNREACHABLE6,
};
use crate::wire::{Ipv4, be16, be32, checksum, ipv4, ipv6, protocol, udp};

/// The smallest MTU that IPv4 allows (RFC 791); less, or 0 from routers older than RFC 1191, says
/// nothing. That of IPv6 is [`ipv6::MIN_MTU`] (RFC 8201 §4).
const LEAST_MTU: u16 = 68;
/// Bytes behind the quoted IP header that a router quotes at least (RFC 792).
pub(super) const TRANSPORT: usize = 8;
/// The code of "source route failed", which is no matter of the destination's.
const SOURCE_ROUTE_FAILED: u8 = 5;

/// What our outer packets look like.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    /// Their source.
    pub address: IpAddr,
    /// UDP source ports of VXLAN.
    pub source_ports: Vec<u16>,
}

/// A whole ICMP message.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Message<'a> {
    /// An answer to an echo request.
    Echo {
        /// Bytes of the IP packet that it came in.
        size: u16,
        /// What follows type, code and checksum.
        body: &'a [u8],
    },
    /// An error about a packet from our address.
    Error {
        /// What is wrong.
        what: What,
        /// The packet.
        quote: Quote<'a>,
    },
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// It is larger than this MTU.
    TooBig(u16),
    /// It does not get to its destination.
    Unreachable,
}

/// The beginning of a packet from our address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Quote<'a> {
    /// Where it was for.
    pub to: IpAddr,
    /// Protocol number of what follows its IP header.
    pub protocol: u8,
    /// Bytes that it had.
    pub len: u16,
    /// What follows its IP header, [`TRANSPORT`] bytes at least.
    pub rest: &'a [u8],
}

/// Reads what [`listen`](crate::dataplane::underlay::icmp::listen) received on our address `own`.
pub(super) fn read(packet: &[u8], own: IpAddr) -> Option<Message<'_>> {
    match own {
        IpAddr::V4(own) => read_v4(packet, own),
        IpAddr::V6(own) => read_v6(packet, own),
    }
}

/// Reads an ICMP packet, IP header included.
fn read_v4(packet: &[u8], own: Ipv4Addr) -> Option<Message<'_>> {
    let ip = Ipv4::parse(packet).ok()?;
    let message = ip.payload();
    let whole = ip.protocol() == protocol::ICMP
        && message.len() >= LEN
        && checksum::fold(checksum::sum(message)) == 0xffff;
    if !whole {
        return None;
    }
    let what = match (message[0], message[1]) {
        (ECHO_REPLY, 0) => {
            let size = u16::try_from(ip.total_len()).ok()?;
            return Some(Message::Echo { size, body: &message[4..] });
        }
        (UNREACHABLE, FRAGMENTATION_NEEDED) => What::TooBig(be16(message, 6)),
        (UNREACHABLE, SOURCE_ROUTE_FAILED) => return None,
        (UNREACHABLE, _) | (TIME_EXCEEDED, 0) => What::Unreachable,
        _ => return None,
    };
    // Our outer headers have no options.
    let (header, rest) = message[LEN..].split_first_chunk::<{ ipv4::LEN }>()?;
    if header[0] != 0x45 || header[12..16] != own.octets() || rest.len() < TRANSPORT {
        return None;
    }
    let len = be16(header, 2);
    if let What::TooBig(mtu) = what {
        // The quoted packet was larger than that and must not have been cut.
        let consistent = mtu >= LEAST_MTU && len > mtu && be16(header, 6) & ipv4::DF != 0;
        consistent.then_some(())?;
    }
    let to = Ipv4Addr::from(be32(header, 16)).into();
    Some(Message::Error { what, quote: Quote { to, protocol: header[9], len, rest } })
}

/// Reads an `ICMPv6` message; the kernel has checked its checksum and keeps the IP header.
fn read_v6(message: &[u8], own: Ipv6Addr) -> Option<Message<'_>> {
    if message.len() < LEN {
        return None;
    }
    let mtu = be32(message, 4);
    let what = match (message[0], message[1]) {
        (ECHO_REPLY6, 0) => {
            let size = u16::try_from(ipv6::LEN + message.len()).ok()?;
            return Some(Message::Echo { size, body: &message[4..] });
        }
        (PACKET_TOO_BIG, 0) => What::TooBig(u16::try_from(mtu).ok().filter(|mtu| *mtu >= ipv6::MIN_MTU)?),
        (UNREACHABLE6, _) | (TIME_EXCEEDED6, 0) => What::Unreachable,
        _ => return None,
    };
    let (header, rest) = message[LEN..].split_first_chunk::<{ ipv6::LEN }>()?;
    if header[0] >> 4 != 6 || header[8..24] != own.octets() || rest.len() < TRANSPORT {
        return None;
    }
    let len = u16::try_from(ipv6::LEN).ok()?.checked_add(be16(header, 4))?;
    if matches!(what, What::TooBig(mtu) if mtu >= len) {
        return None;
    }
    let to: [u8; 16] = header[24..].try_into().ok()?;
    Some(Message::Error { what, quote: Quote { to: IpAddr::from(to), protocol: header[6], len, rest } })
}

impl Ours {
    /// The mode and UDP port of a quoted packet of ours; `None` when it is none, or contradicts itself.
    pub(crate) fn mode(&self, quote: &Quote<'_>) -> Option<(Mode, Option<u16>)> {
        let outer = if quote.to.is_ipv4() { ipv4::LEN } else { ipv6::LEN };
        let (rest, payload) = (quote.rest, usize::from(quote.len).checked_sub(outer)?);
        match quote.protocol {
            protocol::IPIP if rest[0] >> 4 == 4 && usize::from(be16(rest, 2)) == payload => {
                Some((Mode::Ipip, None))
            }
            protocol::IPV6 if rest[0] >> 4 == 6 && usize::from(be16(rest, 4)) + ipv6::LEN == payload => {
                Some((Mode::Ipip, None))
            }
            protocol::UDP if usize::from(be16(rest, 4)) == payload && payload >= udp::LEN => {
                let (source, destination) = (be16(rest, 0), be16(rest, 2));
                self.source_ports.contains(&source).then_some((Mode::Vxlan, Some(destination)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub mod samples {
    //! Outer packets of ours as etherparse makes them, and reports about them.

    use std::net::IpAddr;

    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

    use super::Ours;

    pub const US: [u8; 4] = [192, 0, 2, 1];
    pub const PEER: [u8; 4] = [198, 51, 100, 3];
    pub const US6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    pub const PEER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

    pub fn ours() -> Ours {
        Ours { address: US.into(), source_ports: vec![49152, 49160] }
    }

    pub fn ours6() -> Ours {
        Ours { address: IpAddr::from(US6), ..ours() }
    }

    /// An outer packet of 1468 bytes: UDP from these ports, or IPv4 in protocol 4.
    pub fn outer(ports: Option<(u16, u16)>) -> Vec<u8> {
        let (from, to) = ports.unwrap_or((9, 9));
        let mut packet = Vec::new();
        PacketBuilder::ipv4(US, PEER, 60).udp(from, to).write(&mut packet, &[0; 1440]).unwrap();
        if ports.is_none() {
            packet[9] = 4;
            packet[20..24].copy_from_slice(&[0x45, 0, 5, 0xa8]);
        }
        packet[6] = 0x40;
        packet
    }

    /// An outer packet of 1488 bytes over IPv6: UDP from these ports, or IPv6 in protocol 41.
    pub fn outer6(ports: Option<(u16, u16)>) -> Vec<u8> {
        let (from, to) = ports.unwrap_or((9, 9));
        let mut packet = Vec::new();
        PacketBuilder::ipv6(US6, PEER6, 60).udp(from, to).write(&mut packet, &[0; 1440]).unwrap();
        if ports.is_none() {
            packet[6] = 41;
            packet[40..48].copy_from_slice(&[0x60, 0, 0, 0, 5, 0x80, 6, 64]);
        }
        packet
    }

    pub fn report_of(kind: Icmpv4Type, quote: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([203, 0, 113, 1], US, 60).icmpv4(kind).write(&mut packet, quote).unwrap();
        packet
    }

    pub fn too_big(mtu: u16, quote: &[u8]) -> Vec<u8> {
        let what = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        report_of(Icmpv4Type::DestinationUnreachable(what), quote)
    }

    /// Without the IP header, as a raw socket gets it.
    pub fn too_big6(mtu: u32, quote: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6([0xfd; 16], US6, 60).icmpv6(Icmpv6Type::PacketTooBig { mtu });
        builder.write(&mut packet, quote).unwrap();
        packet.split_off(crate::wire::ipv6::LEN)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::Icmpv4Type;
    use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};

    use super::samples::{PEER, PEER6, ours, ours6, outer, outer6, report_of, too_big, too_big6};
    use super::{Message, Ours, What, read as read_message};
    use crate::net::Mode;
    use crate::wire::{checksum, put16};

    /// What is said of the size of a packet of ours.
    fn size(packet: &[u8], ours: &Ours) -> Option<(IpAddr, Mode, u16)> {
        match read_message(packet, ours.address)? {
            Message::Error { what: What::TooBig(mtu), quote } => Some((quote.to, ours.mode(&quote)?.0, mtu)),
            _ => None,
        }
    }

    fn read(packet: &[u8]) -> Option<(IpAddr, Mode, u16)> {
        size(packet, &ours())
    }

    fn read6(packet: &[u8]) -> Option<(IpAddr, Mode, u16)> {
        size(packet, &ours6())
    }

    #[test]
    fn what_does_not_get_there_is_told_from_what_is_too_big() {
        let about = outer(Some((49160, 4789)));
        let said = |kind| {
            let packet = report_of(kind, &about[..100]);
            match read_message(&packet, ours().address) {
                Some(Message::Error { what, quote }) => Some((what, quote.to, ours().mode(&quote).unwrap())),
                _ => None,
            }
        };
        let unreachable = Some((What::Unreachable, PEER.into(), (Mode::Vxlan, Some(4789))));
        use DestUnreachableHeader::{Host, Network, Port, Protocol, SourceRouteFailed};
        for header in [Host, Network, Port, Protocol] {
            assert_eq!(said(Icmpv4Type::DestinationUnreachable(header)), unreachable);
        }
        assert_eq!(said(Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit)), unreachable);
        assert_eq!(said(Icmpv4Type::DestinationUnreachable(SourceRouteFailed)), None);
        let reassembly = TimeExceededCode::FragmentReassemblyTimeExceeded;
        assert_eq!(said(Icmpv4Type::TimeExceeded(reassembly)), None);
    }

    fn changed(packet: &[u8], at: usize, value: u8) -> Vec<u8> {
        let mut packet = packet.to_vec();
        packet[at] = value;
        packet
    }

    #[test]
    fn reports_about_our_own_packets_are_read() {
        for quoted in [28, 548, 1400] {
            let vxlan = too_big(1300, &outer(Some((49160, 4789)))[..quoted]);
            assert_eq!(read(&vxlan), Some((PEER.into(), Mode::Vxlan, 1300)), "{quoted}");
            let ipip = too_big(68, &outer(None)[..quoted]);
            assert_eq!(read(&ipip), Some((PEER.into(), Mode::Ipip, 68)), "{quoted}");
        }
        for quoted in [48, 1232] {
            let vxlan = too_big6(1400, &outer6(Some((49160, 4789)))[..quoted]);
            assert_eq!(read6(&vxlan), Some((PEER6.into(), Mode::Vxlan, 1400)), "{quoted}");
            let ipip = too_big6(1280, &outer6(None)[..quoted]);
            assert_eq!(read6(&ipip), Some((PEER6.into(), Mode::Ipip, 1280)), "{quoted}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        let vxlan = outer(Some((49160, 4789)));
        for (what, packet) in [
            ("an unknown source port", too_big(1300, &outer(Some((49161, 4789)))[..100])),
            ("another source", too_big(1300, &changed(&vxlan, 15, 2)[..100])),
            ("another protocol", too_big(1300, &changed(&vxlan, 9, 6)[..100])),
            ("options", too_big(1300, &changed(&vxlan, 0, 0x46)[..100])),
            ("DF clear", too_big(1300, &changed(&vxlan, 6, 0)[..100])),
            ("not larger than that", too_big(1468, &vxlan[..100])),
            ("no MTU", too_big(0, &vxlan[..100])),
            ("an impossible MTU", too_big(67, &vxlan[..100])),
            ("too short a quote", too_big(1300, &vxlan[..27])),
            ("another UDP length", too_big(1300, &changed(&vxlan, 25, 0xff)[..100])),
            ("another inner length", too_big(1300, &changed(&outer(None), 23, 0xff)[..100])),
            ("another inner version", too_big(1300, &changed(&outer(None), 20, 0x65)[..100])),
            (
                "another error",
                report_of(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host), &vxlan[..100]),
            ),
        ] {
            assert_eq!(read(&packet), None, "{what}");
        }
        let packet = changed(&too_big(1300, &vxlan[..100]), 27, 0xff);
        assert_eq!(read(&packet), None, "a wrong checksum");
    }

    #[test]
    fn nor_over_ipv6() {
        let vxlan = outer6(Some((49160, 4789)));
        let good = too_big6(1400, &vxlan[..100]);
        assert!(read6(&good).is_some());
        for (what, packet) in [
            ("an unknown source port", too_big6(1400, &outer6(Some((49161, 4789)))[..100])),
            ("another source", too_big6(1400, &changed(&vxlan, 23, 2)[..100])),
            ("another next header", too_big6(1400, &changed(&vxlan, 6, 58)[..100])),
            ("IPv4", too_big6(1400, &changed(&vxlan, 0, 0x45)[..100])),
            ("not larger than that", too_big6(1488, &vxlan[..100])),
            ("less than any link has", too_big6(1279, &vxlan[..100])),
            ("beyond 16 bits", too_big6(0x0001_0500, &vxlan[..100])),
            ("too short a quote", too_big6(1400, &vxlan[..47])),
            ("another type", changed(&good, 0, 1)),
            ("another code", changed(&good, 1, 1)),
        ] {
            assert_eq!(read6(&packet), None, "{what}");
        }
    }

    #[test]
    fn every_truncation_is_refused_or_read_alike() {
        let whole = too_big(1300, &outer(None)[..60]);
        for len in 0..whole.len() {
            let mut packet = whole[..len].to_vec();
            assert_eq!(read(&packet), None, "{len}");
            if len >= 28 {
                // As if it had been sent like this.
                put16(&mut packet, 2, len as u16);
                put16(&mut packet, 22, 0);
                let sum = checksum::finish(checksum::sum(&packet[20..]));
                put16(&mut packet, 22, sum);
                assert_eq!(read(&packet).is_some(), len >= 56, "{len}");
            }
        }
        let whole = too_big6(1300, &outer6(None)[..60]);
        for len in 0..whole.len() {
            assert_eq!(read6(&whole[..len]).is_some(), len >= 56, "{len}");
        }
    }
}
