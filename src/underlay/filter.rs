//! Classic BPF programs for sockets (Documentation/networking/filter.rst).

use std::io;

use socket2::{SockFilter, Socket};

use super::packet::Mark;

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

fn op(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}
