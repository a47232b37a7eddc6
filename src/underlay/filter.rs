//! Classic BPF programs for sockets (Documentation/networking/filter.rst).

use std::io;

use socket2::{SockFilter, Socket};

use crate::wire::protocol;

/// Accept the whole packet.
const ALL: u32 = u32::MAX;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
const XOR_X: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X;

/// Drops everything sent to `socket`.
pub fn drop_all(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&[op(libc::BPF_RET | libc::BPF_K, 0)])
}

/// Lets through UDP packets from `source` with IPv4 identification `id`; the socket sees packets
/// from their IP header on.
pub fn one_packet(socket: &Socket, source: std::net::Ipv4Addr, id: u16) -> io::Result<()> {
    let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let fields = [
        (libc::BPF_B, 9, u32::from(protocol::UDP)),
        (libc::BPF_H, 4, u32::from(id)),
        (libc::BPF_W, 12, u32::from(source)),
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

/// Lets through one of `shares` equal shares of the flows that reach a raw socket of outer
/// protocol `number`. All packets with one inner address pair take the same share: they are told
/// apart by addresses alone, so that fragments stay with their flow.
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
