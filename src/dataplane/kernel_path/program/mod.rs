//! The two programs, in blocks. Whatever is unusual jumps to the block `pump`, which leaves the packet as it is.

mod classify;
mod inbound;
mod outbound;
mod share;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use crate::dataplane::ebpf::{
    Assembly, EXIT, FRAME, Instruction, R0, R1, R2, R3, R4, R6, R7, REDIRECT, SKB_CHANGE_TYPE,
    SKB_LOAD_BYTES, add, atomic_add64, call, copy, load64, mov, put32, shift_right, slot, unequal,
};
use crate::dataplane::steering::queue_ebpf::FRAGMENT;
use crate::net::Vni;

/// What every tunnel packet for this node has.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Our IPv4 underlay address.
    pub own: Option<Ipv4Addr>,
    /// Our IPv6 underlay address.
    pub own6: Option<Ipv6Addr>,
    /// Our UDP port of VXLAN.
    pub vxlan_port: u16,
    /// The VXLAN network.
    pub vni: Vni,
    /// Whether VXLAN over IPv6 without a UDP checksum is received.
    pub zero_checksum6: bool,
}

/// The maps that programs look into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maps {
    /// From keys to numbers of slots.
    pub flows: RawFd,
    /// The slots.
    pub slots: RawFd,
    /// What says that the packet sockets' program has found the flow of a packet; nobody else knows it.
    pub secret: [i32; 2],
}

/// How a counter of a slot is added to; another way for the interpreter of the tests, which knows no atomics.
pub(super) type AddTo = fn(u8, i16, u8) -> Vec<Instruction>;

fn atomically(base: u8, at: i16, from: u8) -> Vec<Instruction> {
    vec![atomic_add64(base, at, from)]
}

/// The program at the egress of the TUN.
pub(super) fn outbound(maps: Maps) -> Vec<Instruction> {
    outbound::program(maps, atomically)
}

/// The program at the ingress of an uplink.
pub(super) fn inbound(maps: Maps, addresses: &Addresses) -> Vec<Instruction> {
    inbound::program(maps, addresses, atomically)
}

/// The program where packets arrive that the kernel has joined on a detour: they come in by the TUN.
pub(super) fn joined(device: u32) -> Vec<Instruction> {
    // They were sent to an interface that has not their link address, and whose queues are not those of the TUN.
    let for_this_host = [mov(R2, 0), put32(R1, SKB_QUEUE, R2), mov(R2, PACKET_HOST), call(SKB_CHANGE_TYPE)];
    let redirect = [mov(R1, device.cast_signed()), mov(R2, INGRESS), call(REDIRECT), EXIT];
    for_this_host.into_iter().chain(redirect).collect()
}

/// The program that says to which worker's packet socket a packet goes that [`inbound()`] will not take.
pub(super) fn share(maps: Maps, addresses: &Addresses, workers: u16) -> Vec<Instruction> {
    share::program(maps, addresses, workers)
}

/// Keeps the context over calls.
const CONTEXT: u8 = R6;
/// Offset of the inner packet, until the slot is found.
const BASE: u8 = R7;
/// The slot from then on.
const SLOT: u8 = R7;

// Fields of `struct __sk_buff` (include/uapi/linux/bpf.h).
const SKB_LEN: i16 = 0;
const SKB_PACKET_TYPE: i16 = 4;
/// One more than the queue that a packet came by; 0 for none.
const SKB_QUEUE: i16 = 12;
const SKB_PROTOCOL: i16 = 16;
const SKB_VLAN_PRESENT: i16 = 20;
const SKB_INTERFACE: i16 = 40;
/// Five words for programs that see a packet after each other.
const SKB_CB: i16 = 48;
const SKB_GSO_SIZE: i16 = 176;

// Places on the stack.
/// Number of the slot.
const INDEX: i16 = -8;
/// TCP data offset and flags.
const TCP: i16 = -16;
/// Flags of TCP that end a flow, 0 for others.
const FLAGS: i16 = -17;
/// Inner TOS.
const TOS: i16 = -18;
/// Version that the inner packet must have by its outer headers.
const EXPECTED: i16 = -19;
/// Outer TOS.
const OUTER_TOS: i16 = -20;
/// Bytes of the packet from the inner one on.
const LENGTH: i16 = -24;
const PACKETS: i16 = -32;
const BYTES: i16 = -40;
const OUTER_SOURCE: i16 = -56;
const FORMAT: i16 = -64;
const KEY: i16 = -104;
/// The inner headers as far as they are needed.
const INNER: i16 = -152;
/// The headers to be put in front, or those that were.
const OUTER: i16 = -240;
const VXLAN: i16 = -264;

/// `bpf_redirect`'s flag for the ingress of an interface.
const INGRESS: i32 = 1;
/// The type of a packet whose link address is this host's (include/uapi/linux/if_packet.h).
const PACKET_HOST: i32 = 0;
/// BPF_ADJ_ROOM_MAC: room between link and network header.
const ROOM_MAC: i32 = 1;

// Verdicts of TCX.
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// Where a word of a slot is.
const fn at(word: usize) -> i16 {
    word as i16 * 8
}

/// `len` bytes from offset `base + from` of the packet to the stack; to the pump where there are not that many.
fn load(assembly: &mut Assembly, place: (u8, i32), to: i16, len: i32) {
    load_or(assembly, place, to, len, "pump");
}

/// The same; on to the block `short` where there are not that many.
fn load_or(assembly: &mut Assembly, (base, from): (u8, i32), to: i16, len: i32, short: &'static str) {
    assembly.add([copy(R1, CONTEXT), copy(R2, base), add(R2, from)]);
    assembly.add(slot(R3, to)).add([mov(R4, len), call(SKB_LOAD_BYTES)]);
    assembly.jump(failed(), short);
}

/// The helper that was just called did not succeed.
const fn failed() -> Instruction {
    unequal(R0, 0)
}

/// Adds what the packet stands for to the slot's counters.
fn count(assembly: &mut Assembly, add_to: AddTo) {
    for (word, kept) in [(super::words::PACKETS, PACKETS), (super::words::BYTES, BYTES)] {
        assembly.add([load64(R1, FRAME, kept)]).add(add_to(SLOT, at(word), R1));
    }
}

/// Sends the packet to where its flow goes, and ends the program.
fn redirect(assembly: &mut Assembly) {
    assembly.add([load64(R1, SLOT, at(super::words::TO)), copy(R2, R1)]);
    assembly.add([shift_right(R2, super::words::REDIRECT_FLAGS), call(REDIRECT), EXIT]);
}

/// Ends the program with what says that the packet is the pump's.
fn end(assembly: &mut Assembly, result: i32) {
    assembly.block("pump").add([mov(R0, result), EXIT]);
}
