//! What both programs do first: find the slot of a packet, and whether the packet is a usual one.
//!
//! To the pump go: IPv4 options, fragments, a TTL of 0, everything but TCP and UDP, flows without a slot, trailing
//! bytes, datagrams that the kernel has joined, super-packets of UDP. SYN, FIN and RST give their flow back to the pump.

use super::{
    AddTo, BASE, BYTES, CONTEXT, FLAGS, FRAGMENT, INDEX, INNER, KEY, LENGTH, Maps, PACKETS, SKB_CB,
    SKB_GSO_SIZE, SKB_LEN, SKB_QUEUE, SLOT, TCP, TOS, at, load,
};
use crate::dataplane::ebpf::{
    Assembly, FRAME, MAP_LOOKUP, PROCESSOR, R0, R1, R2, R3, R4, R8, R9, above_register, add, add_register,
    always, and, below, big_endian, call, copy, divide_register, equal, equal_register, has_bits, load8,
    load16, load32, load64, map, mov, multiply_register, put32, shift_left, shift_right, slot,
    store_register8, store_register32, store8, store64, subtract_register, unequal, unequal_register,
    unequal32,
};
use crate::dataplane::kernel_path::key;
use crate::dataplane::kernel_path::words;
use crate::dataplane::packet::Direction;
use crate::wire::{ethernet, ipv4, ipv6, protocol, tcp, udp};

/// Bytes of the inner IP and transport header.
pub(super) const HEADERS: u8 = R8;
/// Bytes of the inner packet.
pub(super) const TOTAL: u8 = R9;

/// Flags behind which a flow is another one.
const TELLING: i32 = tcp::TELLING as i32;

/// From the offset of the inner packet in BASE to its slot in SLOT, with HEADERS, TOTAL and the places on the stack
/// filled.
pub(super) fn find(assembly: &mut Assembly, maps: Maps, direction: Direction) {
    assembly.add([store8(FLAGS, 0)]);
    by_version(assembly);
    ipv4(assembly);
    ipv6(assembly);
    transport(assembly, direction);
    look_up(assembly, maps);
}

fn by_version(assembly: &mut Assembly) {
    load(assembly, (BASE, 0), INNER, ipv4::LEN as i32 + udp::LEN as i32);
    assembly.add([mov(R3, 0)]);
    for word in 0..4 {
        assembly.add([store64(FRAME, KEY + 8 * word, R3)]);
    }
    assembly.add([load8(R1, FRAME, INNER), copy(R2, R1), shift_right(R2, 4)]);
    assembly.jump(equal(R2, 6), "ipv6");
}

fn ipv4(assembly: &mut Assembly) {
    assembly.jump(unequal(R1, 0x45), "pump");
    assembly.add([load16(R1, FRAME, INNER + 6), and(R1, FRAGMENT)]).jump(unequal(R1, 0), "pump");
    assembly.add([load8(R1, FRAME, INNER + 8)]).jump(equal(R1, 0), "pump");
    assembly.add([load8(R1, FRAME, INNER + 1), store_register8(TOS, R1)]);
    assembly.add([load16(TOTAL, FRAME, INNER + 2), big_endian(TOTAL, 16), mov(HEADERS, ipv4::LEN as i32)]);
    for (from, to) in [(12, key::SOURCE + 12), (16, key::DESTINATION + 12), (20, key::PORTS)] {
        assembly.add([load32(R1, FRAME, INNER + from), store_register32(KEY + to, R1)]);
    }
    assembly.add([mov(R2, 4), load8(R1, FRAME, INNER + 9)]).jump(always(), "transport");
}

fn ipv6(assembly: &mut Assembly) {
    assembly.block("ipv6");
    load(assembly, (BASE, 0), INNER, ipv6::LEN as i32 + udp::LEN as i32);
    assembly.add([load8(R1, FRAME, INNER + 7)]).jump(equal(R1, 0), "pump");
    // The traffic class lies across two bytes.
    assembly.add([
        load16(R1, FRAME, INNER),
        big_endian(R1, 16),
        shift_right(R1, 4),
        store_register8(TOS, R1),
    ]);
    assembly.add([load16(TOTAL, FRAME, INNER + 4), big_endian(TOTAL, 16), add(TOTAL, ipv6::LEN as i32)]);
    assembly.add([mov(HEADERS, ipv6::LEN as i32)]);
    for word in 0..4 {
        assembly.add([load64(R1, FRAME, INNER + 8 + 8 * word), store64(FRAME, KEY + 8 * word, R1)]);
    }
    assembly.add([load32(R1, FRAME, INNER + 40), store_register32(KEY + key::PORTS, R1)]);
    assembly.add([mov(R2, 6), load8(R1, FRAME, INNER + 6)]);
}

/// The protocol is in R1, the version in R2.
fn transport(assembly: &mut Assembly, direction: Direction) {
    assembly.block("transport");
    assembly.add([
        store_register8(KEY + key::PROTOCOL, R1),
        store8(KEY + key::DIRECTION, direction as u8),
        store_register8(KEY + key::VERSION, R2),
        store8(KEY + key::VERSION + 1, 0),
    ]);
    assembly.jump(equal(R1, i32::from(protocol::UDP)), "udp");
    assembly.jump(unequal(R1, i32::from(protocol::TCP)), "pump");
    // Data offset and flags.
    assembly.add([copy(R4, BASE), add_register(R4, HEADERS)]);
    load(assembly, (R4, tcp::FIELD_FLAGS as i32 - 1), TCP, 2);
    assembly.add([load8(R1, FRAME, TCP), shift_right(R1, 4), shift_left(R1, 2)]);
    assembly.jump(below(R1, tcp::LEN as i32), "pump").add([add_register(HEADERS, R1)]);
    assembly.add([load8(R1, FRAME, TCP + 1), store_register8(FLAGS, R1)]).jump(always(), "length");
    assembly.block("udp").add([add(HEADERS, udp::LEN as i32)]).block("length");
    // The slot takes the place of where the packet begins.
    assembly.add([load32(R1, CONTEXT, SKB_LEN), subtract_register(R1, BASE), store_register32(LENGTH, R1)]);
}

fn look_up(assembly: &mut Assembly, maps: Maps) {
    assembly.add(map(R1, maps.flows)).add(slot(R2, KEY)).add([call(MAP_LOOKUP)]).jump(equal(R0, 0), "pump");
    assembly.add([load32(R1, R0, 0), store_register32(INDEX, R1)]);
    slot_of_index(assembly, maps);
}

/// From INDEX to SLOT.
fn slot_of_index(assembly: &mut Assembly, maps: Maps) {
    assembly.add(map(R1, maps.slots)).add(slot(R2, INDEX)).add([call(MAP_LOOKUP)]).jump(equal(R0, 0), "pump");
    assembly.add([copy(SLOT, R0), load64(R1, SLOT, at(words::STATE))]);
    assembly.jump(unequal(R1, words::LIVE as i32), "pump");
}

/// For [`find_again`]: the packet has been found to be a usual one.
pub(super) fn found(assembly: &mut Assembly, maps: Maps) {
    for (place, word) in maps.secret.into_iter().enumerate() {
        assembly.add([mov(R1, word), put32(CONTEXT, cb(place), R1)]);
    }
    assembly.add([load32(R1, FRAME, INDEX), put32(CONTEXT, cb(2), R1), put32(CONTEXT, cb(3), HEADERS)]);
}

/// To [`usual`]'s end, as [`find`] would come there, where another program has [`found`] the packet to be a usual one; a
/// tunnel packet, behind its link header. Else on to the block `unknown`.
pub(super) fn find_again(assembly: &mut Assembly, maps: Maps) {
    for (place, word) in maps.secret.into_iter().enumerate() {
        assembly.add([load32(R1, CONTEXT, cb(place))]).jump(unequal32(R1, word), "unknown");
    }
    assembly.add([load32(R1, CONTEXT, cb(2)), store_register32(INDEX, R1), load32(HEADERS, CONTEXT, cb(3))]);
    slot_of_index(assembly, maps);
    assembly.add([load64(R1, SLOT, at(words::LENGTH)), load32(TOTAL, CONTEXT, SKB_LEN)]);
    assembly.add([subtract_register(TOTAL, R1), add(TOTAL, -(ethernet::LEN as i32))]);
    in_order(assembly);
    assembly.add([load32(R2, CONTEXT, SKB_GSO_SIZE)]).jump(always(), "usual").block("unknown");
}

/// Where a word is that a program leaves for those that see the packet after it.
const fn cb(place: usize) -> i16 {
    SKB_CB + 4 * place as i16
}

/// To the pump while it has packets of this flow that came before, which this one would overtake.
fn in_order(assembly: &mut Assembly) {
    assembly.add([load64(R1, SLOT, at(words::PASSED)), load64(R2, SLOT, at(words::SENT))]);
    assembly.jump(unequal_register(R1, R2), "behind");
}

/// Whether the packet is a usual one of its flow; its segment size to R2.
pub(super) fn usual(assembly: &mut Assembly) {
    // Neither more nor less than its length says, and at least its headers. Several that the kernel has joined are more.
    assembly.add([load32(R1, FRAME, LENGTH)]).jump(unequal_register(R1, TOTAL), "behind");
    assembly.jump(above_register(HEADERS, TOTAL), "behind");
    assembly.add([load8(R1, FRAME, FLAGS)]).jump(has_bits(R1, TELLING), "end of flow");
    in_order(assembly);
    assembly.add([load32(R2, CONTEXT, SKB_GSO_SIZE)]).jump(equal(R2, 0), "usual");
    assembly.add([load8(R1, FRAME, KEY + key::PROTOCOL)]);
    assembly.jump(unequal(R1, i32::from(protocol::TCP)), "behind");
    // One without data is none of segments.
    assembly.jump(equal_register(HEADERS, TOTAL), "behind").block("usual");
}

/// What the packet stands for, to the stack; the largest inner packet that it is cut into, to R3.
pub(super) fn weigh(assembly: &mut Assembly) {
    usual(assembly);
    assembly.add([mov(R1, 1), copy(R3, TOTAL)]).jump(equal(R2, 0), "weighed");
    // Segments: payload by segment size, rounded up.
    assembly.add([copy(R1, TOTAL), subtract_register(R1, HEADERS), add_register(R1, R2), add(R1, -1)]);
    assembly.add([divide_register(R1, R2), copy(R3, HEADERS), add_register(R3, R2)]);
    assembly.block("weighed");
    assembly.add([store64(FRAME, PACKETS, R1), add(R1, -1), multiply_register(R1, HEADERS)]);
    assembly.add([add_register(R1, TOTAL), store64(FRAME, BYTES, R1)]);
}

/// Notes a super-packet. One of a flow on a detour, where packets are to be joined, gives the flow back to the pump: where
/// some come whole, a detour costs more than it saves. The segment size is in R2.
pub(super) fn on_its_way(assembly: &mut Assembly) {
    assembly.jump(equal(R2, 0), "on its way");
    assembly.add([
        store64(SLOT, at(words::WHOLE), R2),
        load64(R1, SLOT, at(words::TO)),
        shift_right(R1, words::REDIRECT_FLAGS),
    ]);
    assembly.jump(equal(R1, 0), "end of flow").block("on its way");
}

/// Has a packet on a detour take the queue of this processor, which also takes it off there: it keeps up with what fills
/// it, and packets of a flow stay in order.
pub(super) fn by_own_queue(assembly: &mut Assembly) {
    assembly.add([load64(R1, SLOT, at(words::TO)), shift_right(R1, words::REDIRECT_FLAGS)]);
    assembly.jump(unequal(R1, 0), "queued").add([call(PROCESSOR), add(R0, 1), put32(CONTEXT, SKB_QUEUE, R0)]);
    assembly.block("queued");
}

/// What becomes of packets of the flow that are the pump's: the flow is given back where this is its end, and those
/// behind this one are the pump's, too, until it has sent this one on. Without `add_to` nothing becomes of them.
pub(super) fn left(assembly: &mut Assembly, add_to: Option<AddTo>) {
    assembly.block("end of flow");
    if add_to.is_some() {
        assembly.add([mov(R1, words::VOID as i32), store64(SLOT, at(words::STATE), R1)]);
    }
    assembly.block("behind");
    if let Some(add_to) = add_to {
        assembly.add([mov(R1, 1)]).add(add_to(SLOT, at(words::PASSED), R1));
    }
}

/// What becomes of a packet whose headers the kernel does not exchange, which is as it was.
pub(super) fn refused(assembly: &mut Assembly, add_to: AddTo) {
    assembly.block("refused").add([mov(R1, 1)]).add(add_to(SLOT, at(words::REFUSED), R1));
    assembly.jump(always(), "behind");
}

/// Notes the largest packet, which is in R3. Two processors may do so at once, and the smaller one win.
pub(super) fn note_largest(assembly: &mut Assembly) {
    assembly.add([load64(R1, SLOT, at(words::LARGEST))]).jump(above_register(R1, R3), "noted");
    assembly.add([store64(SLOT, at(words::LARGEST), R3)]).block("noted");
}
