//! The hash, as both programs make it.

/// The odd number next to 2^32 over the golden ratio, for multiplicative hashing.
pub(super) const FACTOR: u32 = 0x9e37_79b1;

/// The hash of the IP packet at the start of `packet`, before it is reduced to the number of workers;
/// `None` where there is no whole IP header. It is what the programs are compared with.
#[cfg(test)]
pub fn reference(packet: &[u8]) -> Option<u32> {
    use crate::wire::{be16, be32, ipv4, ipv6, protocol};
    let packet = quoted(packet).unwrap_or(packet);
    let header = packet.get(..ipv4::LEN)?;
    let (addresses, number, transport) = match header[0] >> 4 {
        4 => {
            let fragment = be16(header, 6) & 0x3fff != 0;
            let number = if fragment { 0 } else { header[9] };
            (&header[12..], number, usize::from(header[0] & 0xf) * 4)
        }
        6 => (packet.get(8..ipv6::LEN)?, packet[6], ipv6::LEN),
        _ => return None,
    };
    let addresses = addresses.chunks(4).fold(0, |sum, word| sum ^ be32(word, 0));
    let ports = match (number, packet.get(transport..transport + 4)) {
        (protocol::TCP | protocol::UDP, Some(ports)) => u32::from(be16(ports, 0) ^ be16(ports, 2)),
        _ => 0,
    };
    let mixed = addresses.wrapping_mul(FACTOR);
    Some((mixed ^ mixed >> 16 ^ ports).wrapping_mul(FACTOR) >> 16)
}

/// The packet that an ICMP error is about, where its IP header is quoted whole.
#[cfg(test)]
fn quoted(packet: &[u8]) -> Option<&[u8]> {
    use crate::wire::{be16, icmp, ipv4, ipv6, protocol};
    let header = packet.get(..ipv4::LEN)?;
    let version = header[0] >> 4;
    let (at, len) = match version {
        4 if header[9] == protocol::ICMP && be16(header, 6) & 0x3fff == 0 => {
            (usize::from(header[0] & 0xf) * 4, ipv4::LEN)
        }
        6 if header[6] == protocol::ICMPV6 => (ipv6::LEN, ipv6::LEN),
        _ => return None,
    };
    let quote = packet.get(at + icmp::LEN..)?;
    let error =
        if version == 4 { icmp::ERRORS.contains(&packet[at]) } else { packet[at] < icmp::FIRST_INFORMATION6 };
    (error && quote.len() >= len && quote[0] >> 4 == version).then_some(quote)
}
