//! The chain of headers between an IP header and what it carries (RFC 8200 §4, RFC 4302, RFC 7045).

use super::{be16, protocol};

/// Most headers that are looked behind; honest packets have two.
const MOST: usize = 8;

/// Bytes of the upper-layer header that a first fragment must have (RFC 7112).
const fn least(number: u8) -> usize {
    match number {
        protocol::TCP => super::tcp::LEN,
        protocol::UDP | protocol::ICMPV6 => super::udp::LEN,
        protocol::NO_NEXT_HEADER => 0,
        _ => 1,
    }
}

/// Where a chain ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// At a header that is none of the chain.
    Upper {
        /// Its number.
        number: u8,
        /// Its offset in the packet.
        at: usize,
        /// Whether a fragment header came before.
        fragment: bool,
    },
    /// At a fragment header whose fragment is not the first: the rest is elsewhere.
    Later {
        /// The number of the header that the fragmented part begins with.
        number: u8,
    },
    /// At the end of the packet, before the upper-layer header or, in a first fragment, inside of it.
    Cut,
    /// Nowhere within bounds.
    Long,
}

/// Follows the chain of `packet` from the header with this number at offset `at` on.
#[cold]
pub fn follow(packet: &[u8], mut number: u8, mut at: usize) -> End {
    let mut fragment = false;
    for _ in 0..=MOST {
        let rest = packet.get(at..).unwrap_or_default();
        let counted = |unit: usize, more: usize| rest.get(1).map(|len| unit * (usize::from(*len) + more));
        let len = match number {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => counted(8, 1),
            AUTHENTICATION => counted(4, 2),
            protocol::IPV6_FRAGMENT if rest.len() < 8 => None,
            protocol::IPV6_FRAGMENT if be16(rest, 2) & 0xfff8 != 0 => return End::Later { number: rest[0] },
            protocol::IPV6_FRAGMENT => {
                fragment = true;
                Some(8)
            }
            number if fragment && rest.len() < least(number) => return End::Cut,
            number => return End::Upper { number, at, fragment },
        };
        match len.filter(|len| *len <= rest.len()) {
            Some(len) => (number, at) = (rest[0], at + len),
            None => return End::Cut,
        }
    }
    End::Long
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// The authentication header, the only one of these that IPv4 has, too.
pub const AUTHENTICATION: u8 = 51;
/// IPv6 destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

#[cfg(test)]
mod tests {
    use super::{End, follow};

    const OPTIONS: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

    /// Headers, each with the number of the next.
    fn chain(headers: &[&[u8]], numbers: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        for (header, number) in headers.iter().zip(numbers) {
            let at = packet.len();
            packet.extend_from_slice(header);
            packet[at] = *number;
        }
        packet
    }

    #[test]
    fn every_header_of_a_chain_is_passed() {
        let ah = [0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let first = [0, 0, 0, 1, 0, 0, 0, 7];
        for (number, len) in [(0, 8), (43, 8), (60, 8), (135, 8), (139, 8), (140, 8), (51, 16), (44, 8)] {
            let header: &[u8] = if number == 51 {
                &ah
            } else if number == 44 {
                &first
            } else {
                &OPTIONS
            };
            let mut packet = chain(&[header], &[17]);
            packet.extend([0; 8]);
            let end = End::Upper { number: 17, at: 40 + len, fragment: number == 44 };
            assert_eq!(follow(&packet, number, 40), end, "{number}");
            packet.truncate(40 + len - 1);
            assert_eq!(follow(&packet, number, 40), End::Cut, "{number}");
        }
    }

    #[test]
    fn a_first_fragment_has_the_whole_upper_header() {
        let first = [0, 0, 0, 1, 0, 0, 0, 7];
        for (number, least) in [(17, 8), (6, 20), (58, 8), (50, 1), (132, 1), (59, 0)] {
            let mut packet = chain(&[&first], &[number]);
            packet.extend(vec![0; least]);
            let end = End::Upper { number, at: 48, fragment: true };
            assert_eq!(follow(&packet, 44, 40), end, "{number}");
            if least > 0 {
                packet.pop();
                assert_eq!(follow(&packet, 44, 40), End::Cut, "{number}");
            }
        }
        let later = [0, 0, 0, 0x81, 0, 0, 0, 7];
        assert_eq!(follow(&chain(&[&later], &[17]), 44, 40), End::Later { number: 17 });
        assert_eq!(follow(&chain(&[&later[..7]], &[17]), 44, 40), End::Cut);
    }

    #[test]
    fn long_and_lying_chains_end() {
        let mut eight = chain(&[&OPTIONS[..]; 8], &[60, 60, 60, 60, 60, 60, 60, 6]);
        assert_eq!(follow(&eight, 60, 40), End::Upper { number: 6, at: 104, fragment: false });
        eight[96] = 60;
        eight.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(follow(&eight, 60, 40), End::Long);
        assert_eq!(follow(&chain(&[&[0, 200, 0, 0, 0, 0, 0, 0]], &[17]), 60, 40), End::Cut);
    }
}
