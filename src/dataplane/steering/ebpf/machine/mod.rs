//! The eBPF programs in user space: the interpreter of the `rbpf` crate, with the kernel's helpers as
//! functions over one packet in memory. For tests; the kernel's verifier is no part of it.

mod sys;

use super::{CSUM_DIFF, Instruction, SKB_ADJUST_ROOM, SKB_LOAD_BYTES, SKB_STORE_BYTES};

/// A run of a program.
#[derive(Debug, Eq, PartialEq)]
pub struct Outcome {
    /// What it returned.
    pub result: i64,
    /// The packet after it.
    pub packet: Vec<u8>,
}

/// Runs `program` on `packet`. `room` is whether the kernel would make room in it.
pub fn run(program: &[Instruction], packet: &[u8], room: bool) -> Outcome {
    let code: Vec<u8> = program.iter().flat_map(|instruction| instruction.bytes()).collect();
    let mut context = sys::begin(packet, room);
    let mut machine = rbpf::EbpfVmRaw::new(Some(&code)).unwrap();
    let helpers: [(i32, rbpf::Helper); 4] = [
        (SKB_LOAD_BYTES, sys::skb_load_bytes),
        (SKB_STORE_BYTES, sys::skb_store_bytes),
        (CSUM_DIFF, sys::csum_diff),
        (SKB_ADJUST_ROOM, sys::skb_adjust_room),
    ];
    for (number, helper) in helpers {
        machine.register_helper(number as u32, helper).unwrap();
    }
    let result = machine.execute_program(&mut context).unwrap() as i64;
    Outcome { result, packet: sys::end() }
}
