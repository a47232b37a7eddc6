//! The eBPF programs in user space: the interpreter of the `rbpf` crate, with the kernel's helpers as
//! functions over one packet in memory. For tests; the kernel's verifier is no part of it.

mod sys;

use super::{
    CSUM_DIFF, Instruction, MAP_LOOKUP, PROCESSOR, REDIRECT, SKB_ADJUST_ROOM, SKB_CHANGE_HEAD,
    SKB_CHANGE_TYPE, SKB_LOAD_BYTES, SKB_STORE_BYTES,
};
pub use sys::{Map, PROCESSOR_HERE, Skb};

/// A run of a program.
#[derive(Debug, Eq, PartialEq)]
pub struct Outcome {
    /// What it returned.
    pub result: i64,
    /// The packet after it.
    pub packet: Vec<u8>,
    /// Its type after it.
    pub packet_type: u32,
    /// One more than its queue after it.
    pub queue: u32,
    /// What it has left for the next one.
    pub cb: [u32; 5],
}

/// Runs `program` on `packet`. `room` is whether the kernel would make room in it.
pub fn run(program: &[Instruction], packet: &[u8], room: bool) -> Outcome {
    let (outcome, _) = run_with(program, &Skb { room, ..Skb::of(packet) }, &[]);
    outcome
}

/// Runs `program` on `skb` with these maps, which it knows by their places; also returns the interface and the flags
/// of the last redirection.
pub fn run_with(program: &[Instruction], skb: &Skb, maps: &[Map<'_>]) -> (Outcome, Option<(u32, u64)>) {
    let code: Vec<u8> = program.iter().flat_map(|instruction| instruction.bytes()).collect();
    let mut context = sys::begin(skb, maps);
    let mut machine = rbpf::EbpfVmRaw::new(Some(&code)).unwrap();
    let helpers: [(i32, rbpf::Helper); 9] = [
        (MAP_LOOKUP, sys::map_lookup),
        (PROCESSOR, sys::processor),
        (REDIRECT, sys::redirect),
        (SKB_LOAD_BYTES, sys::skb_load_bytes),
        (SKB_STORE_BYTES, sys::skb_store_bytes),
        (SKB_CHANGE_HEAD, sys::skb_change_head),
        (SKB_CHANGE_TYPE, sys::skb_change_type),
        (CSUM_DIFF, sys::csum_diff),
        (SKB_ADJUST_ROOM, sys::skb_adjust_room),
    ];
    for (number, helper) in helpers {
        machine.register_helper(number as u32, helper).unwrap();
    }
    for range in maps.iter().flat_map(Map::memory) {
        machine.register_allowed_memory(range);
    }
    let result = machine.execute_program(&mut context).unwrap() as i64;
    let (packet, redirected) = sys::end();
    let [packet_type, queue] = [sys::PACKET_TYPE, sys::QUEUE].map(|at| sys::word(&context, at));
    (Outcome { result, packet, packet_type, queue, cb: sys::cb(&context) }, redirected)
}
