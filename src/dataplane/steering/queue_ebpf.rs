//! Which queue of the TUN a packet comes out of: an eBPF program that the kernel asks
//! (TUNSETSTEERINGEBPF, Linux 4.16), so that a flow has one queue for good.
//!
//! Without it the kernel remembers for each flow the queue through which its last answer was
//! written, and moves the flow there: two workers then hold packets of one flow, and the later may
//! overtake the earlier. It also has to hash every packet that is written.
//!
//! The kernel reduces the result modulo the number of queues.

use std::io;
use std::os::fd::OwnedFd;

use super::ebpf::{
    self, EXIT, FRAME, Instruction, R0, R1, R2, R3, R4, R6, R7, R8, R9, SKB_LOAD_BYTES, and, big_endian,
    call, copy, jump, jump_if_equal, jump_unless_equal, load8, load16, load32, mov, multiply32, or_return,
    shift_left, shift_right, slot, xor_register,
};
use super::hash::FACTOR;
use crate::wire::{ipv4, ipv6, protocol};

/// Loads the program; what to set it on is the caller's business.
///
/// # Errors
/// The kernel's: EPERM without CAP_BPF where unprivileged programs are not allowed.
pub fn load() -> io::Result<OwnedFd> {
    ebpf::load(ebpf::Kind::SocketFilter, "underpass_queue", &program())
}

/// Keeps the context over calls.
const CONTEXT: u8 = R6;
const HASH: u8 = R7;
/// Where the transport header begins; the version before.
const TRANSPORT: u8 = R8;
/// Protocol, 0 for fragments; the ports' exclusive or after it was asked.
const PROTOCOL: u8 = R9;

/// Where the addresses, and what is before them in an IPv4 header, are kept on the stack.
const HEADER: i16 = -40;
/// Where the ports are kept on the stack.
const PORTS: i16 = -8;

/// The program.
pub fn program() -> Vec<Instruction> {
    let mut code = vec![copy(CONTEXT, R1), mov(R2, 0)];
    code.extend(load_bytes(HEADER, ipv4::LEN));
    code.extend(or_return(0));
    code.extend([load8(TRANSPORT, FRAME, HEADER), shift_right(TRANSPORT, 4)]);
    let (four, six) = (read_ipv4(), read_ipv6());
    code.push(jump_unless_equal(TRANSPORT, 4, four.len() + 1));
    code.extend(four);
    code.push(jump(six.len()));
    code.extend(six);
    code.extend(read_ports());
    code.extend(finish());
    code
}

/// Loads `len` bytes of the packet from offset R2 to the stack.
fn load_bytes(to: i16, len: usize) -> Vec<Instruction> {
    let [base, offset] = slot(R3, to);
    vec![copy(R1, CONTEXT), base, offset, mov(R4, len as i32), call(SKB_LOAD_BYTES)]
}

/// HASH, TRANSPORT and PROTOCOL of the IPv4 header on the stack.
fn read_ipv4() -> Vec<Instruction> {
    vec![
        load32(HASH, FRAME, HEADER + 12),
        load32(R1, FRAME, HEADER + 16),
        xor_register(HASH, R1),
        load8(TRANSPORT, FRAME, HEADER),
        and(TRANSPORT, 0x0f),
        shift_left(TRANSPORT, 2),
        load8(PROTOCOL, FRAME, HEADER + 9),
        // Fragment offset and MF.
        load16(R1, FRAME, HEADER + 6),
        and(R1, i32::from(0x3fff_u16.to_be())),
        jump_if_equal(R1, 0, 1),
        mov(PROTOCOL, 0),
    ]
}

/// The same of an IPv6 header, whose first bytes are on the stack; ends the program where it is none.
fn read_ipv6() -> Vec<Instruction> {
    let mut code = vec![jump_if_equal(TRANSPORT, 6, 2), mov(R0, 0), EXIT];
    code.extend([load8(PROTOCOL, FRAME, HEADER + 6), mov(TRANSPORT, ipv6::LEN as i32), mov(R2, 8)]);
    code.extend(load_bytes(HEADER, 32));
    code.extend(or_return(0));
    code.push(load32(HASH, FRAME, HEADER));
    for word in 1..8 {
        code.extend([load32(R1, FRAME, HEADER + 4 * word), xor_register(HASH, R1)]);
    }
    code
}

/// PROTOCOL becomes the exclusive or of the ports, 0 where there are none.
fn read_ports() -> Vec<Instruction> {
    let mut read = vec![copy(R2, TRANSPORT)];
    read.extend(load_bytes(PORTS, 4));
    read.push(mov(PROTOCOL, 0));
    let ports = [
        load16(PROTOCOL, FRAME, PORTS),
        load16(R1, FRAME, PORTS + 2),
        xor_register(PROTOCOL, R1),
        big_endian(PROTOCOL, 16),
    ];
    read.push(jump_unless_equal(R0, 0, ports.len()));
    read.extend(ports);
    let mut code = vec![
        jump_if_equal(PROTOCOL, i32::from(protocol::TCP), 3),
        jump_if_equal(PROTOCOL, i32::from(protocol::UDP), 2),
        mov(PROTOCOL, 0),
        jump(read.len()),
    ];
    code.extend(read);
    code
}

fn finish() -> Vec<Instruction> {
    vec![
        big_endian(HASH, 32),
        multiply32(HASH, FACTOR),
        copy(R1, HASH),
        shift_right(R1, 16),
        xor_register(HASH, R1),
        xor_register(HASH, PROTOCOL),
        multiply32(HASH, FACTOR),
        shift_right(HASH, 16),
        copy(R0, HASH),
        EXIT,
    ]
}
