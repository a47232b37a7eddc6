//! Classic BPF programs for sockets (Documentation/networking/filter.rst).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::{SockFilter, Socket};

use super::packet::Mark;
use crate::wire::icmp;

/// Accept the whole packet.
pub(in crate::dataplane) const ALL: u32 = u32::MAX;

/// Lets through packets with `mark`; the socket sees packets from their IP header on.
pub fn one_packet(socket: &Socket, mark: &Mark) -> io::Result<()> {
    let fields = [
        (libc::BPF_B, 9, u32::from(mark.protocol)),
        (libc::BPF_W, 12, u32::from(mark.source)),
        (libc::BPF_H, mark.id_at, u32::from(mark.id)),
    ];
    all_equal(socket, &fields)
}

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
fn all_equal(socket: &Socket, fields: &[(u32, u32, u32)]) -> io::Result<()> {
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

/// A = what is at X + `offset`.
pub(in crate::dataplane) fn load(size: u32, offset: u32) -> SockFilter {
    op(libc::BPF_LD | size | libc::BPF_IND, offset)
}

/// Over `yes` or `no` instructions.
pub(in crate::dataplane) fn jump(condition: u32, value: u32, yes: usize, no: usize) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | condition | libc::BPF_K) as u16, yes as u8, no as u8, value)
}

pub(in crate::dataplane) fn op(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}
