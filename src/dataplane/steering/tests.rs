//! Both programs against the reference: the queue's in an interpreter, the sockets' in the kernel.

mod queue;
mod quotes;
mod sockets;

use crate::wire::testing::Random;
use crate::wire::{icmp, ipv4, ipv6, protocol};

/// Packets of every kind that the programs tell apart, and of every length: of either family or of none,
/// with ports or without, fragments, IPv4 options, ICMP errors and what looks like one, cut off anywhere.
fn packets(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(7);
    let one = |_| if random.below(2) == 0 { packet(&mut random) } else { error(&mut random) };
    (0..count).map(one).collect()
}

/// Mostly an ICMP error about such a packet, or about an error about one.
fn error(random: &mut Random) -> Vec<u8> {
    let about = if random.below(8) == 0 { error(random) } else { packet(random) };
    let outer = random.bytes(72);
    let kind = match random.below(4) {
        0 => outer[2],
        _ => icmp::ERRORS[random.below(5) as usize],
    };
    let mostly = |random: &mut Random, usual: u8, other: u8| if random.below(8) == 0 { other } else { usual };
    let six = about.first().is_some_and(|first| first >> 4 == 6) != (random.below(8) == 0);
    let mut packet = outer;
    let header_len = if six {
        packet[0] = 0x60 | packet[0] & 0xf;
        packet[6] = mostly(random, protocol::ICMPV6, protocol::ICMP);
        ipv6::LEN
    } else {
        let words = if random.below(2) == 0 { 5 } else { random.below(16) };
        packet[0] = 0x40 | words as u8;
        packet[6] = mostly(random, 0x40, 0x20);
        packet[7] = mostly(random, 0, 1);
        packet[9] = mostly(random, protocol::ICMP, protocol::ICMPV6);
        words as usize * 4
    };
    packet.truncate(header_len + icmp::LEN);
    // A header of fewer than five words has the error inside it.
    packet[header_len] = if header_len == 0 { packet[0] } else { kind };
    packet.extend(about);
    packet.truncate(190);
    if random.below(4) == 0 {
        packet.truncate(random.below(packet.len() as u64 + 1) as usize);
    }
    packet
}

fn packet(random: &mut Random) -> Vec<u8> {
    let len = random.below(80) as usize;
    let mut packet = random.bytes(100);
    let number =
        [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::IPV6_FRAGMENT][random.below(4) as usize];
    let mut header_len = ipv6::LEN;
    match random.below(8) {
        0 => {}
        1..4 => {
            packet[0] = 0x60 | packet[0] & 0xf;
            packet[6] = number;
        }
        _ => {
            let words = if random.below(2) == 0 { 5 } else { random.below(16) };
            packet[0] = 0x40 | words as u8;
            packet[6..8].copy_from_slice(&[[0x40, 0], [0, 0], [0x20, 0], [0, 9]][random.below(4) as usize]);
            packet[9] = number;
            header_len = ipv4::LEN;
        }
    }
    packet.truncate(if random.below(3) == 0 { len } else { header_len + len / 2 });
    packet
}

/// The same packet on its way back: addresses and ports exchanged.
fn back(packet: &[u8]) -> Vec<u8> {
    let mut back = packet.to_vec();
    let (addresses, half, l4) = match packet[0] >> 4 {
        4 => (12, 4, usize::from(packet[0] & 0xf) * 4),
        _ => (8, 16, ipv6::LEN),
    };
    back[addresses..addresses + half].copy_from_slice(&packet[addresses + half..addresses + 2 * half]);
    back[addresses + half..addresses + 2 * half].copy_from_slice(&packet[addresses..addresses + half]);
    back[l4..l4 + 2].copy_from_slice(&packet[l4 + 2..l4 + 4]);
    back[l4 + 2..l4 + 4].copy_from_slice(&packet[l4..l4 + 2]);
    back
}
