//! eBPF programs written as instructions (Documentation/bpf/standardization/instruction-set.rst):
//! what the programs of this crate need, and no more.
//!
//! ```text
//! | opcode (8) | source, destination (4 + 4) | offset (16) | immediate (32) |
//! ```
#![expect(clippy::cast_possible_truncation, reason = "lengths of programs and sizes of maps")]

mod assembly;
mod gate;
mod instruction;
#[cfg(test)]
pub mod machine;
mod map;
mod sys;
mod verifier_log;

pub(crate) use assembly::Assembly;
pub use gate::Gate;
pub(crate) use instruction::Instruction;
use instruction::instruction;
pub(crate) use map::{HashMap, SharedArray, grace_period};
pub use sys::Hook;
pub(crate) use sys::{Kind, attach_tcx, load};

// Registers. Calls keep 6 to 9 and clobber 0 to 5; the result is in 0.
pub(crate) const R0: u8 = 0;
pub(crate) const R1: u8 = 1;
pub(crate) const R2: u8 = 2;
pub(crate) const R3: u8 = 3;
pub(crate) const R4: u8 = 4;
pub(crate) const R5: u8 = 5;
pub(crate) const R6: u8 = 6;
pub(crate) const R7: u8 = 7;
pub(crate) const R8: u8 = 8;
pub(crate) const R9: u8 = 9;
pub(crate) const FRAME: u8 = 10;

// Helpers (include/uapi/linux/bpf.h).
pub(crate) const MAP_LOOKUP: i32 = 1;
pub(crate) const PROCESSOR: i32 = 8;
pub(crate) const SKB_STORE_BYTES: i32 = 9;
pub(crate) const TAIL_CALL: i32 = 12;
pub(crate) const REDIRECT: i32 = 23;
pub(crate) const SKB_LOAD_BYTES: i32 = 26;
pub(crate) const CSUM_DIFF: i32 = 28;
pub(crate) const SKB_CHANGE_TYPE: i32 = 32;
pub(crate) const SKB_CHANGE_HEAD: i32 = 43;
pub(crate) const SKB_ADJUST_ROOM: i32 = 50;

/// `dst` = `value`.
pub(crate) const fn mov(dst: u8, value: i32) -> Instruction {
    instruction(0xb7, dst, 0, 0, value)
}

/// `dst` = `src`.
pub(crate) const fn copy(dst: u8, src: u8) -> Instruction {
    instruction(0xbf, dst, src, 0, 0)
}

/// `dst` += `value`.
pub(crate) const fn add(dst: u8, value: i32) -> Instruction {
    instruction(0x07, dst, 0, 0, value)
}

/// `dst` += `src`.
pub(crate) const fn add_register(dst: u8, src: u8) -> Instruction {
    instruction(0x0f, dst, src, 0, 0)
}

/// `dst` -= `src`.
pub(crate) const fn subtract_register(dst: u8, src: u8) -> Instruction {
    instruction(0x1f, dst, src, 0, 0)
}

/// `dst` *= `src`.
pub(crate) const fn multiply_register(dst: u8, src: u8) -> Instruction {
    instruction(0x2f, dst, src, 0, 0)
}

/// `dst` /= `src`, without signs; 0 where `src` is 0.
pub(crate) const fn divide_register(dst: u8, src: u8) -> Instruction {
    instruction(0x3f, dst, src, 0, 0)
}

/// `dst` = what is left of it over a multiple of `value`, without signs.
pub(crate) const fn modulo(dst: u8, value: i32) -> Instruction {
    instruction(0x97, dst, 0, 0, value)
}

/// `dst` |= `src`.
pub(crate) const fn or_register(dst: u8, src: u8) -> Instruction {
    instruction(0x4f, dst, src, 0, 0)
}

/// `dst` &= `src`.
pub(crate) const fn and_register(dst: u8, src: u8) -> Instruction {
    instruction(0x5f, dst, src, 0, 0)
}

/// `dst` &= `mask`.
pub(crate) const fn and(dst: u8, mask: i32) -> Instruction {
    instruction(0x57, dst, 0, 0, mask)
}

/// `dst` ^= `value`.
pub(crate) const fn xor(dst: u8, value: i32) -> Instruction {
    instruction(0xa7, dst, 0, 0, value)
}

/// `dst` ^= `src`.
pub(crate) const fn xor_register(dst: u8, src: u8) -> Instruction {
    instruction(0xaf, dst, src, 0, 0)
}

/// `dst` <<= `bits`.
pub(crate) const fn shift_left(dst: u8, bits: i32) -> Instruction {
    instruction(0x67, dst, 0, 0, bits)
}

/// `dst` >>= `bits`.
pub(crate) const fn shift_right(dst: u8, bits: i32) -> Instruction {
    instruction(0x77, dst, 0, 0, bits)
}

/// The lower half of `dst` times `factor`, modulo 2^32.
pub(crate) const fn multiply32(dst: u8, factor: u32) -> Instruction {
    instruction(0x24, dst, 0, 0, factor as i32)
}

/// The lower `bits` (16 or 32) of `dst` to big endian, or back.
pub(crate) const fn big_endian(dst: u8, bits: i32) -> Instruction {
    instruction(0xdc, dst, 0, 0, bits)
}

/// `dst` = the byte at `src` + `at`.
pub(crate) const fn load8(dst: u8, src: u8, at: i16) -> Instruction {
    instruction(0x71, dst, src, at, 0)
}

/// `dst` = the 16 bits at `src` + `at`, in the order of this machine.
pub(crate) const fn load16(dst: u8, src: u8, at: i16) -> Instruction {
    instruction(0x69, dst, src, at, 0)
}

/// `dst` = the 32 bits at `src` + `at`, in the order of this machine.
pub(crate) const fn load32(dst: u8, src: u8, at: i16) -> Instruction {
    instruction(0x61, dst, src, at, 0)
}

/// `dst` = the 64 bits at `src` + `at`, in the order of this machine.
pub(crate) const fn load64(dst: u8, src: u8, at: i16) -> Instruction {
    instruction(0x79, dst, src, at, 0)
}

/// The 32 bits at `dst` + `at` = `src`.
pub(crate) const fn put32(dst: u8, at: i16, src: u8) -> Instruction {
    instruction(0x63, dst, src, at, 0)
}

/// The 64 bits at `dst` + `at` = `src`.
pub(crate) const fn store64(dst: u8, at: i16, src: u8) -> Instruction {
    instruction(0x7b, dst, src, at, 0)
}

/// The 64 bits at `dst` + `at` += `src`, atomically.
pub(crate) const fn atomic_add64(dst: u8, at: i16, src: u8) -> Instruction {
    instruction(0xdb, dst, src, at, 0)
}

/// `dst` = the map with this descriptor.
pub(crate) const fn map(dst: u8, fd: i32) -> [Instruction; 2] {
    [instruction(0x18, dst, 1, 0, fd), instruction(0, 0, 0, 0, 0)]
}

/// The stack's byte `at` = `value`.
pub(crate) const fn store8(at: i16, value: u8) -> Instruction {
    instruction(0x72, FRAME, 0, at, value as i32)
}

/// The stack's 16 bits `at` = `value`.
pub(crate) const fn store16(at: i16, value: u16) -> Instruction {
    instruction(0x6a, FRAME, 0, at, value as i32)
}

/// The stack's 32 bits `at` = `value`.
pub(crate) const fn store32(at: i16, value: i32) -> Instruction {
    instruction(0x62, FRAME, 0, at, value)
}

/// The stack's byte `at` = `src`.
pub(crate) const fn store_register8(at: i16, src: u8) -> Instruction {
    instruction(0x73, FRAME, src, at, 0)
}

/// The stack's 16 bits `at` = `src`.
pub(crate) const fn store_register16(at: i16, src: u8) -> Instruction {
    instruction(0x6b, FRAME, src, at, 0)
}

/// The stack's 32 bits `at` = `src`.
pub(crate) const fn store_register32(at: i16, src: u8) -> Instruction {
    put32(FRAME, at, src)
}

/// The stack's 64 bits `at` = `src`.
pub(crate) const fn store_register64(at: i16, src: u8) -> Instruction {
    store64(FRAME, at, src)
}

/// Over the next `count` instructions.
pub(crate) const fn jump(count: usize) -> Instruction {
    always().over(count as i16)
}

/// Over the next `count` instructions where `dst` == `value`.
pub(crate) const fn jump_if_equal(dst: u8, value: i32, count: usize) -> Instruction {
    equal(dst, value).over(count as i16)
}

/// Over the next `count` instructions where `dst` != `value`.
pub(crate) const fn jump_unless_equal(dst: u8, value: i32, count: usize) -> Instruction {
    unequal(dst, value).over(count as i16)
}

// Conditions of jumps whose goal is a block (`Assembly::jump`); those with 32 compare the lower halves.
pub(crate) const fn always() -> Instruction {
    instruction(0x05, 0, 0, 0, 0)
}
pub(crate) const fn unequal32(dst: u8, value: i32) -> Instruction {
    instruction(0x56, dst, 0, 0, value)
}
pub(crate) const fn equal(dst: u8, value: i32) -> Instruction {
    instruction(0x15, dst, 0, 0, value)
}
pub(crate) const fn unequal(dst: u8, value: i32) -> Instruction {
    instruction(0x55, dst, 0, 0, value)
}
pub(crate) const fn unequal_register(dst: u8, src: u8) -> Instruction {
    instruction(0x5d, dst, src, 0, 0)
}
pub(crate) const fn equal_register(dst: u8, src: u8) -> Instruction {
    instruction(0x1d, dst, src, 0, 0)
}
pub(crate) const fn above_register(dst: u8, src: u8) -> Instruction {
    instruction(0x2d, dst, src, 0, 0)
}
pub(crate) const fn below(dst: u8, value: i32) -> Instruction {
    instruction(0xa5, dst, 0, 0, value)
}
pub(crate) const fn has_bits(dst: u8, mask: i32) -> Instruction {
    instruction(0x45, dst, 0, 0, mask)
}

/// Calls `helper` with registers 1 to 5.
pub(crate) const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

/// Ends the program with the result in register 0.
pub(crate) const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// `dst` = address of the stack slot `at`.
pub(crate) const fn slot(dst: u8, at: i16) -> [Instruction; 2] {
    [copy(dst, FRAME), add(dst, at as i32)]
}

/// Ends the program with `result` unless the helper that was just called succeeded.
pub(crate) const fn or_return(result: i32) -> [Instruction; 3] {
    [jump_if_equal(R0, 0, 2), mov(R0, result), EXIT]
}
