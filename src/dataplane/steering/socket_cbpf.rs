//! Which worker receives a flow: a hash of the inner packet, in classic BPF
//! (Documentation/networking/filter.rst), which needs no capability.
//!
//! For VXLAN the program picks one of the sockets that share the port
//! (SO_ATTACH_REUSEPORT_CBPF, Linux 4.5); a raw socket gets a copy of every packet, and refuses all
//! but its share.

use socket2::SockFilter;

use super::cbpf::{ALL, jump, load, op};
use super::hash::FACTOR;
use crate::wire::{ethernet, icmp, ipv4, ipv6, protocol, vxlan};

/// Where the inner packet begins in the payload of a VXLAN datagram.
const INNER: u32 = (vxlan::LEN + ethernet::LEN) as u32;

// Scratch memory: exclusive or of the addresses; where the packet that is hashed begins; the ports.
const ADDRESSES: u32 = 0;
const START: u32 = 1;
const PORTS: u32 = 2;

/// A place that no packet reaches: there are no ports to look at.
const NOWHERE: u32 = 0x8000_0000;

/// Spreads the datagrams for one port over the `shares` sockets that share it: the result of the hash
/// is the index of a socket in the order in which they were bound. Datagrams without a whole inner
/// header go to the first.
pub fn pick(shares: u16) -> Vec<SockFilter> {
    let mut program = vec![op(libc::BPF_LDX | libc::BPF_IMM, INNER)];
    program.extend(hash(0));
    program.push(op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, u32::from(shares)));
    program.push(op(libc::BPF_RET | libc::BPF_A, 0));
    program
}

/// Lets through one of `shares` shares of the flows that reach a raw socket, which shows the outer
/// header, an IPv4 one, or not. Packets without a whole inner header go to the first share, to be
/// counted there as malformed.
pub fn share(outer: bool, share: u16, shares: u16) -> Vec<SockFilter> {
    // X = 4 * (first byte & 0xf), or 0
    let begin = if outer { libc::BPF_B | libc::BPF_MSH } else { libc::BPF_IMM };
    let mut program = vec![op(libc::BPF_LDX | begin, 0)];
    program.extend(one_share(share, shares));
    program
}

/// The end of a program: takes the packet when the inner one at X is of share `share`. It uses the first three words
/// of scratch memory.
pub fn one_share(share: u16, shares: u16) -> Vec<SockFilter> {
    let mut program = hash(if share == 0 { ALL } else { 0 });
    program.push(op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, u32::from(shares)));
    program.push(jump(libc::BPF_JEQ, u32::from(share), 0, 1));
    program.push(op(libc::BPF_RET | libc::BPF_K, ALL));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0));
    program
}

/// A = the hash of the inner packet at X. Ends the program with `none` where there is none; every
/// load is checked before, because one beyond the end would end it with 0.
fn hash(none: u32) -> Vec<SockFilter> {
    let mut program = vec![op(libc::BPF_STX, START)];
    program.extend(at_least(ipv4::LEN, none));
    program.extend(by_version(skip_to_quote_ipv4(), skip_to_quote_ipv6()));
    program.push(op(libc::BPF_LDX | libc::BPF_MEM, START));
    program.extend(by_version(read_ipv4(), read_ipv6(none)));
    program.extend(read_ports());
    program.extend(mix());
    program
}

/// `four` where the packet at X is of IPv4, else `six`, which finds the version in A; goes on behind both.
fn by_version(four: Vec<SockFilter>, six: Vec<SockFilter>) -> Vec<SockFilter> {
    let mut program = Vec::from(version(0));
    program.push(jump(libc::BPF_JEQ, 4, 0, four.len() + 1));
    program.extend(four);
    program.push(op(libc::BPF_JMP | libc::BPF_JA, six.len() as u32));
    program.extend(six);
    program
}

/// A = the version of the IP header at X + `at`.
fn version(at: usize) -> [SockFilter; 2] {
    [load(libc::BPF_B, at as u32), op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4)]
}

/// Goes on when `len` bytes follow X.
fn at_least(len: usize, none: u32) -> [SockFilter; 4] {
    [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0),
        jump(libc::BPF_JGE, len as u32, 1, 0),
        op(libc::BPF_RET | libc::BPF_K, none),
    ]
}

/// An instruction, or what has to be so for the rest to be done.
enum Step {
    Do(SockFilter),
    /// The condition holds of A and the value.
    Require(u32, u32),
    /// It does not.
    Refuse(u32, u32),
    /// A is no less than X.
    RequireX,
}
use Step::{Do, Refuse, Require, RequireX};

/// The instructions of `steps`: what is required and is not so leads behind the last one.
fn until_refused(steps: Vec<Step>) -> Vec<SockFilter> {
    let last = steps.len() - 1;
    let one = |(place, step)| match step {
        Do(instruction) => instruction,
        Require(condition, value) => jump(condition, value, 0, last - place),
        Refuse(condition, value) => jump(condition, value, last - place, 0),
        RequireX => {
            let jump = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_X;
            SockFilter::new(jump as u16, 0, (last - place) as u8, 0)
        }
    };
    steps.into_iter().enumerate().map(one).collect()
}

/// START = where the quoted packet begins, when the IPv4 packet at X is an unfragmented ICMP error that quotes a whole
/// IPv4 header.
fn skip_to_quote_ipv4() -> Vec<SockFilter> {
    const QUOTED: u32 = (icmp::LEN + ipv4::LEN) as u32;
    let mut steps = vec![
        Do(load(libc::BPF_B, 9)),
        Require(libc::BPF_JEQ, u32::from(protocol::ICMP)),
        Do(load(libc::BPF_H, 6)),
        Refuse(libc::BPF_JSET, ipv4::FRAGMENT.into()),
    ];
    // X = behind the quoted header, which the packet reaches; then the ICMP header.
    steps.extend(behind_ipv4().map(Do));
    steps.extend([
        Do(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, QUOTED)),
        Do(op(libc::BPF_MISC | libc::BPF_TAX, 0)),
        Do(op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0)),
        RequireX,
        Do(op(libc::BPF_MISC | libc::BPF_TXA, 0)),
        Do(op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K, QUOTED)),
        Do(op(libc::BPF_MISC | libc::BPF_TAX, 0)),
        Do(load(libc::BPF_B, 0)),
    ]);
    let [others @ .., last] = &icmp::ERRORS;
    for (place, kind) in others.iter().enumerate() {
        steps.push(Do(jump(libc::BPF_JEQ, u32::from(*kind), others.len() - place, 0)));
    }
    steps.push(Require(libc::BPF_JEQ, u32::from(*last)));
    steps.extend(skip_to(icmp::LEN, 4));
    until_refused(steps)
}

/// The same of the IPv6 packet at X, with its version in A, where no extension header follows.
fn skip_to_quote_ipv6() -> Vec<SockFilter> {
    const QUOTE: usize = ipv6::LEN + icmp::LEN;
    let mut steps = vec![
        Require(libc::BPF_JEQ, 6),
        Do(load(libc::BPF_B, 6)),
        Require(libc::BPF_JEQ, u32::from(protocol::ICMPV6)),
        Do(op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0)),
        Do(op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0)),
        Require(libc::BPF_JGE, (QUOTE + ipv6::LEN) as u32),
        Do(load(libc::BPF_B, ipv6::LEN as u32)),
        Refuse(libc::BPF_JGE, u32::from(icmp::FIRST_INFORMATION6)),
    ];
    steps.extend(skip_to(QUOTE, 6));
    until_refused(steps)
}

/// START = X + `quote`, where a header of this version begins.
fn skip_to(quote: usize, number: u32) -> Vec<Step> {
    let mut steps: Vec<Step> = version(quote).map(Do).into();
    steps.extend([
        Require(libc::BPF_JEQ, number),
        Do(op(libc::BPF_MISC | libc::BPF_TXA, 0)),
        Do(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, quote as u32)),
        Do(op(libc::BPF_ST, START)),
    ]);
    steps
}

/// ADDRESSES of the IPv4 header at X; then X is the transport header, or NOWHERE.
fn read_ipv4() -> Vec<SockFilter> {
    let mut program = exclusive_or(&[12, 16]);
    program.extend([load(libc::BPF_H, 6), jump(libc::BPF_JSET, ipv4::FRAGMENT.into(), 3, 0)]);
    program.extend(transport(9, behind_ipv4().into()));
    program
}

/// A = where the IPv4 header at X ends.
fn behind_ipv4() -> [SockFilter; 4] {
    [
        load(libc::BPF_B, 0),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf),
        op(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 2),
        op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
    ]
}

/// The same of the IPv6 header; A is the version. Ends the program where it is another.
fn read_ipv6(none: u32) -> Vec<SockFilter> {
    let mut program = vec![jump(libc::BPF_JEQ, 6, 1, 0), op(libc::BPF_RET | libc::BPF_K, none)];
    program.extend(at_least(ipv6::LEN, none));
    program.extend(exclusive_or(&[8, 12, 16, 20, 24, 28, 32, 36]));
    let header_len = [
        op(libc::BPF_LD | libc::BPF_IMM, ipv6::LEN as u32),
        op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
    ];
    program.extend(transport(6, header_len.into()));
    program
}

/// ADDRESSES = exclusive or of the words at these offsets from X; keeps X.
fn exclusive_or(words: &[u32]) -> Vec<SockFilter> {
    let mut program = vec![op(libc::BPF_LD | libc::BPF_IMM, 0), op(libc::BPF_ST, ADDRESSES)];
    for word in words {
        program.extend([load(libc::BPF_W, *word), op(libc::BPF_LDX | libc::BPF_MEM, ADDRESSES)]);
        program.extend([op(XOR_X, 0), op(libc::BPF_ST, ADDRESSES), op(libc::BPF_LDX | libc::BPF_MEM, START)]);
    }
    program
}

/// X = what `header_len` leaves in A where the byte at `protocol_at` is TCP or UDP, else NOWHERE. The
/// fourth instruction is where it begins for a packet known to have no ports.
fn transport(protocol_at: u32, header_len: Vec<SockFilter>) -> Vec<SockFilter> {
    let mut program = vec![
        load(libc::BPF_B, protocol_at),
        jump(libc::BPF_JEQ, u32::from(protocol::TCP), 3, 0),
        jump(libc::BPF_JEQ, u32::from(protocol::UDP), 2, 0),
        op(libc::BPF_LD | libc::BPF_IMM, NOWHERE),
        op(libc::BPF_JMP | libc::BPF_JA, header_len.len() as u32),
    ];
    program.extend(header_len);
    program.push(op(libc::BPF_MISC | libc::BPF_TAX, 0));
    program
}

/// PORTS = exclusive or of the ports at X, 0 where the packet ends before.
fn read_ports() -> Vec<SockFilter> {
    let read = [
        op(libc::BPF_MISC | libc::BPF_TXA, 0),
        op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K, 4),
        op(libc::BPF_MISC | libc::BPF_TAX, 0),
        load(libc::BPF_H, 0),
        op(libc::BPF_ST, PORTS),
        load(libc::BPF_H, 2),
        op(libc::BPF_LDX | libc::BPF_MEM, PORTS),
        op(XOR_X, 0),
        op(libc::BPF_JMP | libc::BPF_JA, 1),
    ];
    let mut program = vec![
        op(libc::BPF_MISC | libc::BPF_TXA, 0),
        op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, 4),
        op(libc::BPF_MISC | libc::BPF_TAX, 0),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        SockFilter::new((libc::BPF_JMP | libc::BPF_JGE | libc::BPF_X) as u16, 0, read.len() as u8, 0),
    ];
    program.extend(read);
    program.extend([op(libc::BPF_LD | libc::BPF_IMM, 0), op(libc::BPF_ST, PORTS)]);
    program
}

/// A = the hash of ADDRESSES and PORTS.
fn mix() -> [SockFilter; 9] {
    let multiply = || op(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, FACTOR);
    let upper_half = || op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 16);
    [
        op(libc::BPF_LD | libc::BPF_MEM, ADDRESSES),
        multiply(),
        op(libc::BPF_MISC | libc::BPF_TAX, 0),
        upper_half(),
        op(XOR_X, 0),
        op(libc::BPF_LDX | libc::BPF_MEM, PORTS),
        op(XOR_X, 0),
        multiply(),
        upper_half(),
    ]
}

const XOR_X: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X;
