//! Classic BPF programs for sockets (Documentation/networking/filter.rst).
#![expect(clippy::cast_possible_truncation, reason = "offsets of headers")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::Socket;

use crate::dataplane::steering::cbpf::{ALL, jump, load, op};
use crate::wire::icmp;

/// Lets through ICMP "fragmentation needed" that quotes a packet sent by `source`.
pub fn fragmentation_needed(socket: &Socket, source: Ipv4Addr) -> io::Result<()> {
    let (kind, quoted_source) = (0, icmp::LEN as u32 + 12);
    let kind_and_code = u32::from(u16::from_be_bytes([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED]));
    socket.attach_filter(&[
        // X = outer header length; a load beyond the end drops the packet.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        load(libc::BPF_H, kind),
        jump(libc::BPF_JEQ, kind_and_code, 0, 3),
        load(libc::BPF_W, quoted_source),
        jump(libc::BPF_JEQ, u32::from(source), 0, 1),
        op(libc::BPF_RET | libc::BPF_K, ALL),
        op(libc::BPF_RET | libc::BPF_K, 0),
    ])
}

/// Lets through `ICMPv6` "packet too big" that quotes a packet sent by `source`; the socket sees packets
/// from their ICMP header on.
pub fn packet_too_big(socket: &Socket, source: Ipv6Addr) -> io::Result<()> {
    let kind_and_code = u32::from(icmp::PACKET_TOO_BIG) << 8;
    let octets = source.octets();
    let (words, _) = octets.as_chunks::<4>();
    let quoted_source = icmp::LEN as u32 + 8;
    let fields = [(libc::BPF_H, 0, kind_and_code)].into_iter().chain(
        (0..)
            .zip(words)
            .map(|(place, word)| (libc::BPF_W, quoted_source + 4 * place, u32::from_be_bytes(*word))),
    );
    all_equal(socket, &fields.collect::<Vec<_>>())
}

/// Lets through packets whose fields, of a size at an offset, all have their value.
pub fn all_equal(socket: &Socket, fields: &[(u32, u32, u32)]) -> io::Result<()> {
    let mut program = Vec::new();
    for (left, (size, offset, value)) in fields.iter().enumerate() {
        let to_end = 2 * (fields.len() - left) - 1;
        program.push(op(libc::BPF_LD | *size | libc::BPF_ABS, *offset));
        program.push(jump(libc::BPF_JEQ, *value, 0, to_end));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, ALL));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0));
    socket.attach_filter(&program)
}
