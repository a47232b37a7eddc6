//! Classic BPF programs for sockets (Documentation/networking/filter.rst).

use std::io;
use std::net::Ipv4Addr;

use socket2::{SockFilter, Socket};

use super::packet::Mark;
use crate::wire::{icmp, protocol};

/// Accept the whole packet.
const ALL: u32 = u32::MAX;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
const XOR_X: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X;

/// Drops everything sent to `socket`.
pub fn drop_all(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&[op(libc::BPF_RET | libc::BPF_K, 0)])
}

/// Lets through packets with `mark`; the socket sees packets from their IP header on.
pub fn one_packet(socket: &Socket, mark: &Mark) -> io::Result<()> {
    let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let fields = [
        (libc::BPF_B, 9, u32::from(mark.protocol)),
        (libc::BPF_W, 12, u32::from(mark.source)),
        (libc::BPF_H, mark.id_at, u32::from(mark.id)),
    ];
    let mut program = Vec::new();
    for (left, (size, offset, value)) in fields.iter().enumerate() {
        let to_end = 2 * (fields.len() - left) - 1;
        program.push(op(libc::BPF_LD | *size | libc::BPF_ABS, *offset));
        program.push(SockFilter::new(equals, 0, to_end as u8, *value));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, ALL));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0));
    socket.attach_filter(&program)
}

/// Lets through ICMP "fragmentation needed" that quotes a packet sent by `source`.
pub fn fragmentation_needed(socket: &Socket, source: Ipv4Addr) -> io::Result<()> {
    let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let (kind, quoted_source) = (0, icmp::LEN as u32 + 12);
    let kind_and_code = u32::from(u16::from_be_bytes([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED]));
    socket.attach_filter(&[
        // X = outer header length; a load beyond the end drops the packet.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, kind),
        SockFilter::new(equals, 0, 3, kind_and_code),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, quoted_source),
        SockFilter::new(equals, 0, 1, u32::from(source)),
        op(libc::BPF_RET | libc::BPF_K, ALL),
        op(libc::BPF_RET | libc::BPF_K, 0),
    ])
}

/// Lets through one of `shares` equal shares of the flows that reach a raw socket of outer
/// protocol `number`. All packets with one inner address pair take the same share: they are told
/// apart by addresses alone, so that fragments stay with their flow. Packets too short for inner
/// addresses go to the first share, to be counted there as malformed.
pub fn share(socket: &Socket, number: u8, share: u16, shares: u16) -> io::Result<()> {
    socket.attach_filter(&share_program(number, share, shares))
}

/// X holds the outer header length; M[0] collects the exclusive or of the inner address words;
/// their multiplicative hash, reduced modulo `shares`, must equal `share`.
fn share_program(number: u8, share: u16, shares: u16) -> Vec<SockFilter> {
    let words: &[u32] = if number == protocol::IPIP { &[12, 16] } else { &[8, 12, 16, 20, 24, 28, 32, 36] };
    // X = 4 * (first byte & 0xf)
    let mut program =
        vec![op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0), op(libc::BPF_LD | libc::BPF_IMM, 0)];
    program.push(op(libc::BPF_ST, 0));
    program.push(op(libc::BPF_STX, 1));
    // A load beyond the end would end the program and lose the packet uncounted.
    let needed = words.last().map_or(0, |word| word + 4);
    program.push(op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0));
    program.push(op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0));
    program.push(SockFilter::new((libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, 1, 0, needed));
    program.push(op(libc::BPF_RET | libc::BPF_K, if share == 0 { ALL } else { 0 }));
    for word in words {
        // A = inner word; X = M[0]; A ^= X; M[0] = A; X = M[1]
        program.push(op(LOAD_WORD, *word));
        program.push(op(libc::BPF_LDX | libc::BPF_MEM, 0));
        program.push(op(XOR_X, 0));
        program.push(op(libc::BPF_ST, 0));
        program.push(op(libc::BPF_LDX | libc::BPF_MEM, 1));
    }
    program.push(op(libc::BPF_LD | libc::BPF_MEM, 0));
    program.push(op(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, 0x9e37_79b1));
    program.push(op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 16));
    program.push(op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, u32::from(shares)));
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    program.push(SockFilter::new(equals as u16, 0, 1, u32::from(share)));
    program.push(op(libc::BPF_RET | libc::BPF_K, ALL));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0));
    program
}

fn op(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use socket2::{Domain, Socket, Type};

    use super::share;
    use crate::wire::protocol;

    const SHARES: u16 = 3;

    /// For each share, which of `packets` a socket with its filter receives. Filters judge bytes,
    /// whatever the socket's family.
    fn received(number: u8, packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
        let one = |index| {
            let (to, from) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
            share(&from, number, index, SHARES).unwrap();
            let (to, from) = (UnixDatagram::from(to), UnixDatagram::from(from));
            from.set_nonblocking(true).unwrap();
            let mut buffer = [0; 200];
            let mut all = Vec::new();
            for packet in packets {
                // The kernel tells the sender that the filter refused.
                let _ = to.send(packet);
                if let Ok(len) = from.recv(&mut buffer) {
                    all.push(buffer[..len].to_vec());
                }
            }
            all
        };
        (0..SHARES).map(one).collect()
    }

    #[test]
    fn every_packet_of_every_length_has_exactly_one_share() {
        for number in [protocol::IPIP, protocol::IPV6] {
            // The kernel hands over whole outer headers only.
            for (header, header_len) in [(0x45, 20), (0x4f, 60)] {
                let packets: Vec<Vec<u8>> = (header_len..140).map(|len| packet(header, len)).collect();
                let mut lengths: Vec<usize> =
                    received(number, &packets).concat().iter().map(Vec::len).collect();
                lengths.sort_unstable();
                let expected: Vec<usize> = (header_len..140).collect();
                assert_eq!(lengths, expected, "protocol {number}, first byte {header:x}");
            }
        }
    }

    fn packet(header: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![7; len];
        packet[0] = header;
        packet
    }

    #[test]
    fn flows_spread_by_inner_addresses() {
        let packets: Vec<Vec<u8>> = (0..90)
            .map(|pod| {
                let mut packet = vec![0x45; 40];
                packet[32..36].copy_from_slice(&[10, 244, 1, pod]);
                packet
            })
            .collect();
        for share in received(protocol::IPIP, &packets) {
            assert!((10..=60).contains(&share.len()), "{}", share.len());
        }
    }
}
