//! Neighbour discovery for IPv6 (RFC 4861 §4.3, §4.4), as far as answering a solicitation needs it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Type 135, 136 |    Code 0     |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|S|O|                     Reserved                            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                       Target address                          +
//! |                            (16 bytes)                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Option: type  | 1: 8 bytes    |     Ethernet address …
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-
//! ```

use std::net::Ipv6Addr;

use super::{Malformed, checksum, ipv6, protocol, put16};
use crate::net::Mac;

/// Bytes of an advertisement with its IPv6 header.
pub const ADVERTISEMENT: usize = ipv6::LEN + TARGET_END + 8;

const SOLICITATION: u8 = 135;
const ADVERT: u8 = 136;
/// Where the target address ends, behind the IPv6 header.
const TARGET_END: usize = 24;
/// What no router has forwarded has this hop limit (RFC 4861 §7.1.1).
const HOP_LIMIT: u8 = 255;
/// Flags: the answer to a solicitation, which replaces what was known.
const SOLICITED_OVERRIDE: u8 = 0x60;
/// Option: the target's link-layer address.
const TARGET_LINK_ADDRESS: u8 = 2;

/// Who asks for whose Ethernet address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Solicitation {
    /// The asker's IPv6 address.
    pub sender: Ipv6Addr,
    /// Whose address is asked for.
    pub target: Ipv6Addr,
}

/// Reads a valid solicitation of a host that has an address already (RFC 4861 §7.1.1); `None` for
/// every other packet.
///
/// # Errors
/// `Malformed` when `packet` is no IPv6 packet.
pub fn solicitation(packet: &[u8]) -> Result<Option<Solicitation>, Malformed> {
    let ip = ipv6::Ipv6::parse(packet)?;
    let message = ip.payload();
    let whole = ip.next_header() == protocol::ICMPV6
        && ip.hop_limit() == HOP_LIMIT
        && message.len() >= TARGET_END
        && message[..2] == [SOLICITATION, 0]
        && options_are_whole(&message[TARGET_END..]);
    if !whole {
        return Ok(None);
    }
    let pseudo = checksum::pseudo_v6(ip.source(), ip.destination(), protocol::ICMPV6, message.len() as u32);
    let mut target = [0; 16];
    target.copy_from_slice(&message[8..TARGET_END]);
    let (sender, target) = (ip.source(), Ipv6Addr::from(target));
    let right = checksum::fold(checksum::sum(message) + pseudo) == 0xffff;
    let to_one = !sender.is_unspecified() && !sender.is_multicast() && !target.is_multicast();
    Ok((right && to_one).then_some(Solicitation { sender, target }))
}

/// Whether each option says how long it is, and is there.
fn options_are_whole(mut options: &[u8]) -> bool {
    while let [_, units, ..] = options {
        match options.get(8 * usize::from(*units)..) {
            Some(rest) if *units > 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

/// The advertisement, with its IPv6 header: the target is at `mac`.
pub fn advertisement(to: &Solicitation, mac: Mac) -> [u8; ADVERTISEMENT] {
    let mut packet = [0; ADVERTISEMENT];
    let (header, message) = packet.split_at_mut(ipv6::LEN);
    header.copy_from_slice(&ipv6::emit(protocol::ICMPV6, HOP_LIMIT, to.target, to.sender));
    ipv6::patch_payload_len(header, message.len() as u16);
    message[0] = ADVERT;
    message[4] = SOLICITED_OVERRIDE;
    message[8..TARGET_END].copy_from_slice(&to.target.octets());
    message[TARGET_END..TARGET_END + 2].copy_from_slice(&[TARGET_LINK_ADDRESS, 1]);
    message[TARGET_END + 2..].copy_from_slice(&mac.0);
    let pseudo = checksum::pseudo_v6(to.target, to.sender, protocol::ICMPV6, message.len() as u32);
    let sum = checksum::finish(checksum::sum(message) + pseudo);
    put16(message, 2, sum);
    packet
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use etherparse::{Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::{Solicitation, advertisement, solicitation};
    use crate::net::Mac;

    const MAC: Mac = Mac([0x66, 2, 3, 4, 5, 6]);

    fn asked() -> (Vec<u8>, Solicitation) {
        let [sender, target]: [Ipv6Addr; 2] = ["fe80::1", "fd00:244:1::"].map(|text| text.parse().unwrap());
        let group: Ipv6Addr = "ff02::1:ff00:0".parse().unwrap();
        let mut message = target.octets().to_vec();
        message.extend([1, 1, 2, 2, 2, 2, 2, 2]);
        let mut packet = Vec::new();
        let kind = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
        PacketBuilder::ipv6(sender.octets(), group.octets(), 255)
            .icmpv6(kind)
            .write(&mut packet, &message)
            .unwrap();
        (packet, Solicitation { sender, target })
    }

    #[test]
    fn a_solicitation_is_read_and_answered() {
        let (packet, expected) = asked();
        assert_eq!(solicitation(&packet), Ok(Some(expected)));
        let told = advertisement(&expected, MAC);
        let sliced = SlicedPacket::from_ip(&told).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("{sliced:?}") };
        let header = ip.header();
        assert_eq!(header.source_addr(), expected.target);
        assert_eq!((header.destination_addr(), header.hop_limit()), (expected.sender, 255));
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (136, 0, [0x60, 0, 0, 0]));
        assert_eq!(icmp.payload()[..16], expected.target.octets());
        assert_eq!(icmp.payload()[16..], [2, 1, 0x66, 2, 3, 4, 5, 6]);
        assert_eq!(solicitation(&told), Ok(None), "an advertisement asks nothing");
    }

    #[test]
    fn whatever_is_wrong_is_not_read() {
        let (packet, _) = asked();
        for (at, what) in [(7, "hop limit"), (40, "type"), (41, "code"), (42, "checksum"), (65, "option")] {
            let mut other = packet.clone();
            other[at] ^= 1;
            assert_eq!(solicitation(&other), Ok(None), "{what}");
        }
        for len in 0..packet.len() {
            assert!(solicitation(&packet[..len]).is_err(), "{len}");
        }
        let mut endless = packet;
        endless[65] = 0;
        assert_eq!(solicitation(&endless), Ok(None), "an option of no length");
    }
}
