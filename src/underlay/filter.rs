//! Classic BPF programs for sockets (Documentation/networking/filter.rst).

use std::io;
use std::net::Ipv4Addr;

use socket2::{SockFilter, Socket};

use super::packet::Mark;
use crate::wire::icmp;

/// Accept the whole packet.
const ALL: u32 = u32::MAX;

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

fn op(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}
