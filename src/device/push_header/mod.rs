//! The one thing the kernel does for IP-in-IP super-packets: push the outer header.
//!
//! A virtio-net header can say "TCP inside a UDP tunnel" but not "TCP inside IPv4", so an IP-in-IP
//! super-packet cannot be written to the TAP as it is. Instead the inner super-packet is written,
//! and a small eBPF program on the TAP's ingress (TCX, Linux 6.6) puts the outer IPv4 header in
//! front of it with `bpf_skb_adjust_room`, which tells the segmentation code of the encapsulation.
//! Everything the program needs is in the frame: the source address field of its Ethernet header
//! carries the outer destination, the outer TOS and a mark. All decisions stay in user space.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 outer destination address                     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   outer TOS   |     mark      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

mod sys;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::encap::OUTER_TTL;
use crate::encap::ipip_gso::MARK;
use crate::wire::{ethernet, ipv4, protocol};

/// The program, attached for as long as this lives.
#[derive(Debug)]
pub struct PushHeader(#[expect(dead_code, reason = "held open: closing it detaches")] OwnedFd);

impl PushHeader {
    /// Loads the program for outer headers from `source` and attaches it to the ingress of the
    /// interface `index`.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_BPF and CAP_NET_ADMIN, EINVAL before Linux 6.6.
    pub fn attach(index: u32, source: Ipv4Addr) -> io::Result<Self> {
        let program = sys::load(&program(source))?;
        sys::attach(&program, index).map(Self)
    }
}

// Registers (Documentation/bpf/standardization/instruction-set.rst).
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
/// Keeps the context over calls.
const CONTEXT: u8 = 6;
const FRAME: u8 = 10;

// Helpers (include/uapi/linux/bpf.h).
const SKB_STORE_BYTES: i32 = 9;
const SKB_LOAD_BYTES: i32 = 26;
const CSUM_DIFF: i32 = 28;
const SKB_ADJUST_ROOM: i32 = 50;
/// BPF_ADJ_ROOM_MAC: room between link and network header.
const ROOM_MAC: i32 = 1;
/// BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4.
const FIXED_GSO_ENCAP_IPV4: i32 = 1 | 2;

// Verdicts of TCX.
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// Where the source address field is kept on the stack: destination, TOS, mark.
const FIELD: i16 = -8;
/// Where the outer header is built on the stack.
const HEADER: i16 = -32;

/// One instruction: opcode, registers, offset, immediate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

const fn mov(dst: u8, value: i32) -> Instruction {
    instruction(0xb7, dst, 0, 0, value)
}

const fn copy(dst: u8, src: u8) -> Instruction {
    instruction(0xbf, dst, src, 0, 0)
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

const fn store8(at: i16, value: u8) -> Instruction {
    instruction(0x72, FRAME, 0, at, value as i32)
}

const fn store16(at: i16, value: u16) -> Instruction {
    instruction(0x6a, FRAME, 0, at, value as i32)
}

const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// `dst` = address of the stack slot `at`.
const fn slot(dst: u8, at: i16) -> [Instruction; 2] {
    [copy(dst, FRAME), instruction(0x07, dst, 0, 0, at as i32)]
}

/// Leaves with DROP unless the helper that was just called succeeded; jumps over nothing else.
const fn or_drop() -> [Instruction; 3] {
    [instruction(0x15, R0, 0, 2, 0), mov(R0, DROP), EXIT]
}

/// Bytes of an IPv4 header at these offsets from [`HEADER`], all constant but for the length,
/// checksum, TOS and destination.
fn program(source: Ipv4Addr) -> Vec<Instruction> {
    let mut code = vec![copy(CONTEXT, R1)];
    // The frame's source address to the stack.
    code.push(mov(R2, 6));
    code.extend(slot(R3, FIELD));
    code.extend([mov(R4, 6), call(SKB_LOAD_BYTES)]);
    code.extend(or_drop());
    // Not marked: not for us.
    code.push(instruction(0x71, R1, FRAME, FIELD + 5, 0));
    code.extend([instruction(0x15, R1, 0, 2, i32::from(MARK)), mov(R0, NEXT), EXIT]);
    // Make room for the outer header.
    code.extend([copy(R1, CONTEXT), mov(R2, ipv4::LEN as i32), mov(R3, ROOM_MAC)]);
    code.extend([mov(R4, FIXED_GSO_ENCAP_IPV4), call(SKB_ADJUST_ROOM)]);
    code.extend(or_drop());
    code.extend(outer_header(source));
    code.extend(header_checksum());
    // Write it behind the link header.
    code.extend([copy(R1, CONTEXT), mov(R2, ethernet::LEN as i32)]);
    code.extend(slot(R3, HEADER));
    code.extend([mov(R4, ipv4::LEN as i32), mov(R5, 0), call(SKB_STORE_BYTES)]);
    code.extend(or_drop());
    code.extend([mov(R0, NEXT), EXIT]);
    code
}

/// Builds the header on the stack, checksum zero.
fn outer_header(source: Ipv4Addr) -> Vec<Instruction> {
    vec![
        store8(HEADER, 0x45),
        // TOS: from the frame.
        instruction(0x71, R1, FRAME, FIELD + 4, 0),
        instruction(0x73, FRAME, R1, HEADER + 1, 0),
        // Total length: the frame's (`__sk_buff.len`, offset 0) without the link header, to big endian.
        instruction(0x61, R1, CONTEXT, 0, 0),
        instruction(0x07, R1, 0, 0, -(ethernet::LEN as i32)),
        instruction(0xdc, R1, 0, 0, 16),
        instruction(0x6b, FRAME, R1, HEADER + 2, 0),
        store16(HEADER + 4, 0),
        store16(HEADER + 6, ipv4::DF.to_be()),
        // The kernel forwards the packet and takes one.
        store8(HEADER + 8, OUTER_TTL + 1),
        store8(HEADER + 9, protocol::IPIP),
        store16(HEADER + 10, 0),
        instruction(0x62, FRAME, 0, HEADER + 12, i32::from_ne_bytes(source.octets())),
        instruction(0x61, R1, FRAME, FIELD, 0),
        instruction(0x63, FRAME, R1, HEADER + 16, 0),
    ]
}

/// Sums the header on the stack, folds twice and stores the complement.
fn header_checksum() -> Vec<Instruction> {
    let mut code = vec![mov(R1, 0), mov(R2, 0)];
    code.extend(slot(R3, HEADER));
    code.extend([mov(R4, ipv4::LEN as i32), mov(R5, 0), call(CSUM_DIFF)]);
    for _ in 0..2 {
        // r1 = r0 >> 16; r0 = (r0 & 0xffff) + r1
        code.extend([copy(R1, R0), instruction(0x77, R1, 0, 0, 16)]);
        code.extend([instruction(0x57, R0, 0, 0, 0xffff), instruction(0x0f, R0, R1, 0, 0)]);
    }
    code.push(instruction(0xa7, R0, 0, 0, 0xffff));
    code.push(instruction(0x6b, FRAME, R0, HEADER + 10, 0));
    code
}
