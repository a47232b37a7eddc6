//! Which queue of the TUN a packet comes out of: an eBPF program that the kernel asks
//! (TUNSETSTEERINGEBPF, Linux 4.16), so that a flow has one queue for good.
//!
//! Without it the kernel remembers for each flow the queue through which its last answer was
//! written, and moves the flow there: two workers then hold packets of one flow, and the later may
//! overtake the earlier. It also has to hash every packet that is written.
//!
//! The kernel reduces the result modulo the number of queues. `share` says the same of a packet that is not the first
//! thing in its buffer.

use std::io;
use std::os::fd::OwnedFd;

use super::hash::FACTOR;
use crate::dataplane::ebpf::{
    self, EXIT, FRAME, Instruction, R0, R1, R2, R3, R4, R6, R7, R8, R9, SKB_LOAD_BYTES, add, add_register,
    and, big_endian, call, copy, jump, jump_if_equal, jump_unless_equal, load8, load16, load32, modulo, mov,
    multiply32, or_return, shift_left, shift_right, slot, xor_register,
};
use crate::wire::{icmp, ipv4, ipv6, protocol};

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
/// Where the packet that is hashed begins, then its transport header.
const START: u8 = R8;
const TRANSPORT: u8 = START;
/// Where the header of an ICMP error begins, while a quote is looked for.
const ERROR_AT: u8 = R9;
/// Protocol, 0 for fragments; the ports' exclusive or after it was asked.
const PROTOCOL: u8 = R9;

/// Where an ICMP header and the IP header that it quotes are kept on the stack.
const ERROR: i16 = -88;
/// Where the quoted IP header is.
const QUOTE: i16 = ERROR + icmp::LEN as i16;
/// Where the addresses, and what is before them in an IPv4 header, are kept on the stack.
const HEADER: i16 = -40;
/// Where the ports are kept on the stack.
const PORTS: i16 = -8;

/// What tells fragments in an IPv4 header, as it is loaded.
pub const FRAGMENT: i32 = ipv4::FRAGMENT.to_be() as i32;

/// The program.
pub fn program() -> Vec<Instruction> {
    let mut code = vec![copy(CONTEXT, R1), mov(START, 0)];
    code.extend(hash());
    code.extend([copy(R0, HASH), EXIT]);
    code
}

/// The end of a program: one more than the worker, of `workers`, that the packet at the offset in register 8 is for;
/// 0 where there is no whole IP header. The context is in register 6.
pub(crate) fn share(workers: u16) -> Vec<Instruction> {
    let mut code = hash();
    code.extend([copy(R0, HASH), modulo(R0, i32::from(workers)), add(R0, 1), EXIT]);
    code
}

/// HASH of the packet at START; ends the program with 0 where there is none.
fn hash() -> Vec<Instruction> {
    let mut code = load_bytes(START, HEADER, ipv4::LEN);
    code.extend(or_return(0));
    code.extend(by_version(skip_to_quote_ipv4(), skip_to_quote_ipv6()));
    code.extend(by_version(read_ipv4(), read_ipv6()));
    code.extend(read_ports());
    code.extend(finish());
    code
}

/// `four` where the header on the stack is of IPv4, else `six`, which finds the version in R1; goes on behind both.
fn by_version(four: Vec<Instruction>, six: Vec<Instruction>) -> Vec<Instruction> {
    let mut code = vec![load8(R1, FRAME, HEADER), shift_right(R1, 4)];
    code.push(jump_unless_equal(R1, 4, four.len() + 1));
    code.extend(four);
    code.push(jump(six.len()));
    code.extend(six);
    code
}

/// Loads `len` bytes of the packet from offset `from` to the stack.
fn load_bytes(from: u8, to: i16, len: usize) -> Vec<Instruction> {
    let [base, offset] = slot(R3, to);
    vec![copy(R1, CONTEXT), copy(R2, from), base, offset, mov(R4, len as i32), call(SKB_LOAD_BYTES)]
}

/// An instruction, or what has to be so for the rest to be done.
enum Step {
    Do(Instruction),
    /// The register holds the value.
    Require(u8, i32),
}
use Step::{Do, Require};

/// The instructions of `steps`: what is required and is not so leads behind the last one.
fn until_refused(steps: Vec<Step>) -> Vec<Instruction> {
    let last = steps.len() - 1;
    let one = |(place, step)| match step {
        Do(instruction) => instruction,
        Require(register, value) => jump_unless_equal(register, value, last - place),
    };
    steps.into_iter().enumerate().map(one).collect()
}

/// Where the IPv4 header on the stack is that of an unfragmented ICMP error which quotes a whole IPv4 header: START
/// and HEADER become those of the quoted packet.
fn skip_to_quote_ipv4() -> Vec<Instruction> {
    let mut steps = vec![
        Do(load8(R1, FRAME, HEADER + 9)),
        Require(R1, i32::from(protocol::ICMP)),
        Do(load16(R1, FRAME, HEADER + 6)),
        Do(and(R1, FRAGMENT)),
        Require(R1, 0),
        Do(load8(ERROR_AT, FRAME, HEADER)),
        Do(and(ERROR_AT, 0x0f)),
        Do(shift_left(ERROR_AT, 2)),
    ];
    let [others @ .., last] = &icmp::ERRORS;
    let mut is_error: Vec<Step> = (0..)
        .zip(others)
        .map(|(place, kind)| Do(jump_if_equal(R1, i32::from(*kind), others.len() - place)))
        .collect();
    is_error.push(Require(R1, i32::from(*last)));
    steps.extend(skip_to_quote(4, ipv4::LEN, is_error));
    until_refused(steps)
}

/// The same of an IPv6 header, with its version in R1, that no extension header follows.
fn skip_to_quote_ipv6() -> Vec<Instruction> {
    let mut steps = vec![
        Require(R1, 6),
        Do(load8(R1, FRAME, HEADER + 6)),
        Require(R1, i32::from(protocol::ICMPV6)),
        Do(mov(ERROR_AT, ipv6::LEN as i32)),
    ];
    // Types from 128 on, which have the highest bit, are none.
    let is_error = vec![Do(and(R1, i32::from(icmp::FIRST_INFORMATION6))), Require(R1, 0)];
    steps.extend(skip_to_quote(6, ipv6::LEN, is_error));
    until_refused(steps)
}

/// START and HEADER become those of the packet of this version that is quoted behind the ICMP header at ERROR_AT, where
/// `len` bytes of it are there and the type in R1 passes `is_error`.
fn skip_to_quote(version: i32, len: usize, is_error: Vec<Step>) -> Vec<Step> {
    let mut steps: Vec<Step> = load_bytes(ERROR_AT, ERROR, icmp::LEN + len).into_iter().map(Do).collect();
    steps.extend([Require(R0, 0), Do(load8(R1, FRAME, ERROR))]);
    steps.extend(is_error);
    steps.extend([Do(load8(R1, FRAME, QUOTE)), Do(shift_right(R1, 4)), Require(R1, version)]);
    steps.extend([Do(copy(START, ERROR_AT)), Do(add(START, icmp::LEN as i32))]);
    steps.extend(load_bytes(START, HEADER, ipv4::LEN).into_iter().map(Do));
    steps
}

/// HASH, TRANSPORT and PROTOCOL of the IPv4 header on the stack.
fn read_ipv4() -> Vec<Instruction> {
    vec![
        load32(HASH, FRAME, HEADER + 12),
        load32(R1, FRAME, HEADER + 16),
        xor_register(HASH, R1),
        load8(R1, FRAME, HEADER),
        and(R1, 0x0f),
        shift_left(R1, 2),
        add_register(TRANSPORT, R1),
        load8(PROTOCOL, FRAME, HEADER + 9),
        load16(R1, FRAME, HEADER + 6),
        and(R1, FRAGMENT),
        jump_if_equal(R1, 0, 1),
        mov(PROTOCOL, 0),
    ]
}

/// The same of an IPv6 header, whose first bytes are on the stack and whose version is in R1; ends the program where it
/// is none.
fn read_ipv6() -> Vec<Instruction> {
    let mut code = vec![jump_if_equal(R1, 6, 2), mov(R0, 0), EXIT];
    code.extend([load8(PROTOCOL, FRAME, HEADER + 6), add(START, 8)]);
    code.extend(load_bytes(START, HEADER, 32));
    code.extend(or_return(0));
    code.push(add(TRANSPORT, 32));
    code.push(load32(HASH, FRAME, HEADER));
    for word in 1..8 {
        code.extend([load32(R1, FRAME, HEADER + 4 * word), xor_register(HASH, R1)]);
    }
    code
}

/// PROTOCOL becomes the exclusive or of the ports, 0 where there are none.
fn read_ports() -> Vec<Instruction> {
    let mut read = load_bytes(TRANSPORT, PORTS, 4);
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
    ]
}
