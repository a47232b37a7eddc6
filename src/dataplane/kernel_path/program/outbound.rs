//! The egress of the TUN: an inner packet gets its headers and goes to the uplink.
//!
//! Outer UDP checksums are 0 (RFC 7348 §4.1, RFC 6935): the kernel has no way to say that they are to be made of
//! segments.

use super::classify::{self, TOTAL};
use super::{
    AddTo, BASE, CONTEXT, DROP, Maps, NEXT, OUTER, ROOM_MAC, SLOT, TOS, at, count, end, failed, redirect,
};
use crate::dataplane::ebpf::{
    Assembly, EXIT, FRAME, Instruction, R0, R1, R2, R3, R4, R5, SKB_ADJUST_ROOM, SKB_CHANGE_HEAD,
    SKB_STORE_BYTES, above_register, add, add_register, always, and, and_register, big_endian, call, copy,
    equal, load8, load16, load64, mov, or_register, shift_left, shift_right, slot, store_register8,
    store_register16, store64, xor,
};
use crate::dataplane::kernel_path::words;
use crate::dataplane::packet::{Direction, MAX_PACKET};
use crate::wire::{ethernet, ipv4, ipv6, udp};

/// Where the outer IP header is.
const IP: i16 = OUTER + ethernet::LEN as i16;
/// Where the outer UDP header is behind one of IPv4, and of IPv6.
const UDP: i16 = IP + ipv4::LEN as i16;
const UDP6: i16 = IP + ipv6::LEN as i16;

pub(super) fn program(maps: Maps, add_to: AddTo) -> Vec<Instruction> {
    let mut assembly = Assembly::default();
    assembly.add([copy(CONTEXT, R1), mov(BASE, 0)]);
    classify::find(&mut assembly, maps, Direction::Outbound);
    classify::weigh(&mut assembly);
    assembly.add([load64(R1, SLOT, at(words::MTU))]).jump(above_register(R3, R1), "behind");
    classify::note_largest(&mut assembly);
    headers(&mut assembly);
    make_room(&mut assembly);
    write(&mut assembly);
    count(&mut assembly, add_to);
    redirect(&mut assembly);
    // Without memory for a header behind which the packet is another already.
    assembly
        .block("lost")
        .add([mov(R1, 1)])
        .add(add_to(SLOT, at(words::LOST), R1))
        .add([mov(R0, DROP), EXIT]);
    classify::refused(&mut assembly, add_to);
    classify::left(&mut assembly, Some(add_to));
    end(&mut assembly, NEXT);
    assembly.finish()
}

/// The headers of the flow to the stack, completed for this packet.
fn headers(assembly: &mut Assembly) {
    for word in 0..words::HEADER_WORDS {
        assembly.add([load64(R1, SLOT, at(words::HEADER + word)), store64(FRAME, OUTER + at(word), R1)]);
    }
    assembly.add([load64(R2, SLOT, at(words::LENGTH))]);
    assembly.jump(equal(R2, words::BARE_HEADER as i32), "bare");
    // TOS.
    assembly.add([load8(R1, FRAME, TOS), load64(R3, SLOT, at(words::KEEP)), and_register(R1, R3)]);
    assembly.add([load64(R3, SLOT, at(words::SET)), or_register(R1, R3)]);
    // Length.
    assembly.add([copy(R3, TOTAL), add_register(R3, R2), add(R3, -(ethernet::LEN as i32))]);
    assembly.add([mov(R4, MAX_PACKET as i32)]).jump(above_register(R3, R4), "behind");
    for len in [words::IPIP6_HEADER, words::VXLAN6_HEADER] {
        assembly.jump(equal(R2, len as i32), "over IPv6");
    }
    over_ipv4(assembly);
    over_ipv6(assembly);
}

/// TOS is in R1, the length of all but the link header in R3, and of the headers in R2.
fn over_ipv4(assembly: &mut Assembly) {
    assembly.add([
        store_register8(IP + 1, R1),
        copy(R4, R3),
        big_endian(R4, 16),
        store_register16(IP + ipv4::FIELD_TOTAL_LEN as i16, R4),
    ]);
    // Checksum of both and the rest.
    assembly.add([load64(R4, SLOT, at(words::CHECKSUM)), add_register(R1, R4), add_register(R1, R3)]);
    for _ in 0..2 {
        assembly.add([copy(R4, R1), shift_right(R4, 16), and(R1, 0xffff), add_register(R1, R4)]);
    }
    assembly.add([
        xor(R1, 0xffff),
        big_endian(R1, 16),
        store_register16(IP + ipv4::FIELD_CHECKSUM as i16, R1),
    ]);
    assembly.jump(equal(R2, words::IPIP_HEADER as i32), "room");
    assembly.add([add(R3, -(ipv4::LEN as i32)), big_endian(R3, 16)]);
    assembly.add([store_register16(UDP + udp::FIELD_LENGTH as i16, R3)]).jump(always(), "room");
}

/// The same.
fn over_ipv6(assembly: &mut Assembly) {
    // The traffic class lies across two bytes, behind the version and before the flow label.
    assembly.block("over IPv6").add([shift_left(R1, 4), load16(R4, FRAME, IP), big_endian(R4, 16)]);
    assembly.add([or_register(R4, R1), big_endian(R4, 16), store_register16(IP, R4)]);
    assembly.add([add(R3, -(ipv6::LEN as i32)), big_endian(R3, 16)]);
    assembly.add([store_register16(IP + ipv6::FIELD_PAYLOAD_LEN as i16, R3)]);
    assembly.jump(equal(R2, words::IPIP6_HEADER as i32), "room");
    assembly.add([store_register16(UDP6 + udp::FIELD_LENGTH as i16, R3)]);
}

/// Room behind and for a link header. What fails first leaves the packet as it was.
fn make_room(assembly: &mut Assembly) {
    assembly.block("room").add([copy(R1, CONTEXT), add(R2, -(ethernet::LEN as i32)), mov(R3, ROOM_MAC)]);
    assembly.add([load64(R4, SLOT, at(words::FLAGS)), call(SKB_ADJUST_ROOM)]).jump(failed(), "refused");
    assembly.add(link_header()).jump(failed(), "lost").jump(always(), "write");
    assembly.block("bare").add(link_header()).jump(failed(), "behind");
}

fn link_header() -> [Instruction; 4] {
    [copy(R1, CONTEXT), mov(R2, ethernet::LEN as i32), mov(R3, 0), call(SKB_CHANGE_HEAD)]
}

/// Writes the headers, whose length the verifier wants to know.
fn write(assembly: &mut Assembly) {
    assembly.block("write").add([load64(R1, SLOT, at(words::LENGTH))]);
    let lengths = [
        ("bare header", words::BARE_HEADER),
        ("IP-in-IP header", words::IPIP_HEADER),
        ("VXLAN header", words::VXLAN_HEADER),
        ("IP-in-IP header of IPv6", words::IPIP6_HEADER),
        ("VXLAN header of IPv6", words::VXLAN6_HEADER),
    ];
    for (name, len) in lengths {
        assembly.jump(equal(R1, len as i32), name);
    }
    assembly.jump(always(), "lost");
    for (name, len) in lengths {
        assembly.block(name).add([mov(R4, len as i32)]).jump(always(), "store");
    }
    assembly.block("store").add([copy(R1, CONTEXT), mov(R2, 0)]).add(slot(R3, OUTER));
    assembly.add([mov(R5, 0), call(SKB_STORE_BYTES)]).jump(failed(), "lost");
}
