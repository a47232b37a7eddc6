//! ARP for IPv4 over Ethernet (RFC 826), as far as answering a request needs it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Hardware 1            |        Protocol 0x0800        |
//! +---------------+---------------+-------------------------------+
//! |   Lengths 6   |       4       |   Operation: 1 asks, 2 tells  |
//! +---------------+---------------+-------------------------------+
//! |                  Sender's Ethernet address                    |
//! +                               +-------------------------------+
//! |                               |     Sender's IPv4 address …   |
//! +-------------------------------+-------------------------------+
//! |             …                 |  Target's Ethernet address    |
//! +-------------------------------+                               +
//! |                                                               |
//! +---------------------------------------------------------------+
//! |                     Target's IPv4 address                     |
//! +---------------------------------------------------------------+
//! ```

use std::net::Ipv4Addr;

use super::{Malformed, be16, be32};
use crate::net::Mac;

/// Bytes of a packet.
pub const LEN: usize = 28;

/// Ethernet, IPv4, and their address lengths.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Who asks for whose Ethernet address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// The asker's Ethernet address.
    pub mac: Mac,
    /// The asker's IPv4 address.
    pub sender: Ipv4Addr,
    /// Whose address is asked for.
    pub target: Ipv4Addr,
}

/// Reads a request; `None` for every other ARP packet.
///
/// # Errors
/// `Malformed` when `packet` is shorter than one.
pub fn request(packet: &[u8]) -> Result<Option<Request>, Malformed> {
    let packet = packet.first_chunk::<LEN>().ok_or(Malformed)?;
    if packet[..6] != KIND || be16(packet, 6) != REQUEST {
        return Ok(None);
    }
    let mut mac = [0; 6];
    mac.copy_from_slice(&packet[8..14]);
    let (sender, target) = (be32(packet, 14).into(), be32(packet, 24).into());
    Ok(Some(Request { mac: Mac(mac), sender, target }))
}

/// The reply: the target is at `mac`.
pub fn reply(to: &Request, mac: Mac) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[..6].copy_from_slice(&KIND);
    packet[6..8].copy_from_slice(&REPLY.to_be_bytes());
    packet[8..14].copy_from_slice(&mac.0);
    packet[14..18].copy_from_slice(&to.target.octets());
    packet[18..24].copy_from_slice(&to.mac.0);
    packet[24..].copy_from_slice(&to.sender.octets());
    packet
}

#[cfg(test)]
mod tests {
    use super::{LEN, Request, reply, request};
    use crate::net::Mac;

    const ASKER: Mac = Mac([2, 1, 1, 1, 1, 1]);
    const US: Mac = Mac([0x66, 2, 2, 2, 2, 2]);

    #[test]
    fn golden() {
        let asked =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 1, 1, 1, 1, 1, 10, 244, 2, 0, 0, 0, 0, 0, 0, 0, 10, 244, 1, 0];
        let read = request(&asked).unwrap().unwrap();
        let [sender, target] = [[10, 244, 2, 0], [10, 244, 1, 0]].map(Into::into);
        assert_eq!(read, Request { mac: ASKER, sender, target });
        let told = reply(&read, US);
        assert_eq!(told[..14], [0, 1, 8, 0, 6, 4, 0, 2, 0x66, 2, 2, 2, 2, 2]);
        assert_eq!(told[14..], [10, 244, 1, 0, 2, 1, 1, 1, 1, 1, 10, 244, 2, 0]);
        assert_eq!(request(&told), Ok(None), "a reply asks nothing");
        for at in 0..8 {
            let mut other = asked;
            other[at] ^= 0x40;
            assert_eq!(request(&other), Ok(None), "{at}");
        }
        for len in 0..LEN {
            assert!(request(&asked[..len]).is_err());
        }
    }
}
