//! Classic BPF programs for sockets (Documentation/networking/filter.rst).
#![expect(clippy::cast_possible_truncation, reason = "offsets of headers")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::{SockFilter, Socket};

use crate::dataplane::steering::cbpf::{ALL, jump, load, op};
use crate::wire::icmp;

/// Lets nothing through.
pub(super) fn refuse_all(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&[op(libc::BPF_RET | libc::BPF_K, 0)])
}

/// Lets through ICMP errors that quote a packet sent by `source`, and answers to echo requests with this identifier.
pub(super) fn icmp_for(socket: &Socket, source: Ipv4Addr, echo_id: u16) -> io::Result<()> {
    let (kind, id, quoted_source) = (0, 4, icmp::LEN as u32 + 12);
    socket.attach_filter(&[
        // X = outer header length; a load beyond the end drops the packet.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        load(libc::BPF_B, kind),
        jump(libc::BPF_JEQ, icmp::UNREACHABLE.into(), 2, 0),
        jump(libc::BPF_JEQ, icmp::TIME_EXCEEDED.into(), 1, 0),
        jump(libc::BPF_JEQ, icmp::ECHO_REPLY.into(), 2, 5),
        load(libc::BPF_W, quoted_source),
        jump(libc::BPF_JEQ, u32::from(source), 2, 3),
        load(libc::BPF_H, id),
        jump(libc::BPF_JEQ, echo_id.into(), 0, 1),
        op(libc::BPF_RET | libc::BPF_K, ALL),
        op(libc::BPF_RET | libc::BPF_K, 0),
    ])
}

/// The same for `ICMPv6`; the socket sees packets from their ICMP header on.
pub(super) fn icmp6_for(socket: &Socket, source: Ipv6Addr, echo_id: u16) -> io::Result<()> {
    let octets = source.octets();
    let (words, _) = octets.as_chunks::<4>();
    let word = |(place, word): (u32, &[u8; 4])| {
        (libc::BPF_W, icmp::LEN as u32 + 8 + 4 * place, u32::from_be_bytes(*word))
    };
    let errors = equal(&(0..).zip(words).map(word).collect::<Vec<_>>());
    // The last instruction refuses.
    let refuse = errors.len() - 1;
    let mut program = vec![
        at(libc::BPF_B, 0),
        jump(libc::BPF_JEQ, icmp::ECHO_REPLY6.into(), 0, 3),
        at(libc::BPF_H, 4),
        jump(libc::BPF_JEQ, echo_id.into(), 0, 2 + refuse),
        op(libc::BPF_RET | libc::BPF_K, ALL),
        // Errors have types below 128 (RFC 4443 §2.1).
        jump(libc::BPF_JGE, 128, refuse, 0),
    ];
    program.extend(errors);
    socket.attach_filter(&program)
}

/// Lets through packets with this byte at an offset in the IP header, however much of the packet the socket is shown.
pub(super) fn network_byte(socket: &Socket, offset: u32, value: u8) -> io::Result<()> {
    let from_ip_header = libc::SKF_NET_OFF as u32 + offset;
    all_equal(socket, &[(libc::BPF_B, from_ip_header, value.into())])
}

/// Lets through packets whose fields, of a size at an offset, all have their value.
pub(super) fn all_equal(socket: &Socket, fields: &[(u32, u32, u32)]) -> io::Result<()> {
    socket.attach_filter(&equal(fields))
}

/// The program that lets through packets whose fields all have their value; its last instruction refuses.
fn equal(fields: &[(u32, u32, u32)]) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for (left, (size, offset, value)) in fields.iter().enumerate() {
        let to_end = 2 * (fields.len() - left) - 1;
        program.push(at(*size, *offset));
        program.push(jump(libc::BPF_JEQ, *value, 0, to_end));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, ALL));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0));
    program
}

/// A = what is at `offset`.
fn at(size: u32, offset: u32) -> SockFilter {
    op(libc::BPF_LD | size | libc::BPF_ABS, offset)
}
