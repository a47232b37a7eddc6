//! The ingress of an uplink: a tunnel packet loses its headers and comes in by the TUN, as if the pump had written it.

use super::classify;
use super::{
    AddTo, Addresses, BASE, CONTEXT, EXPECTED, FORMAT, FRAGMENT, INGRESS, KEY, Maps, NEXT, OUTER,
    OUTER_SOURCE, ROOM_MAC, SKB_PACKET_TYPE, SKB_PROTOCOL, SKB_VLAN_PRESENT, SLOT, TOS, VXLAN, at, count,
    end, failed, load,
};
use crate::dataplane::ebpf::{
    Assembly, EXIT, FRAME, Instruction, R1, R2, R3, R4, REDIRECT, SKB_ADJUST_ROOM, always, and, big_endian,
    call, copy, equal, equal_register, load8, load16, load32, load64, mov, shift_right, store_register64,
    store8, subtract_register, unequal, unequal_register, unequal32,
};
use crate::dataplane::encap::ecn;
use crate::dataplane::kernel_path::key;
use crate::dataplane::kernel_path::slot as words;
use crate::dataplane::packet::Direction;
use crate::net::Mode;
use crate::wire::{ethernet, ipv4, protocol, udp, vxlan};

/// Where the outer IPv4 header is kept, and what is behind it.
const IP: i16 = OUTER;
const UDP: i16 = IP + ipv4::LEN as i16;

/// The program at the ingress of an uplink.
pub(super) fn program(maps: Maps, addresses: &Addresses, add_to: AddTo) -> Vec<Instruction> {
    let mut assembly = Assembly::default();
    assembly.add([copy(CONTEXT, R1)]);
    classify::find_again(&mut assembly, maps);
    find(&mut assembly, maps, addresses, ethernet::LEN, "pump");
    classify::weigh(&mut assembly);
    strip(&mut assembly);
    count(&mut assembly, add_to);
    assembly.add([load64(R1, SLOT, at(words::INTERFACE)), mov(R2, INGRESS), call(REDIRECT), EXIT]);
    classify::refused(&mut assembly, add_to);
    classify::left(&mut assembly, Some(add_to));
    end(&mut assembly, NEXT);
    assembly.finish()
}

/// The slot of the flow that a tunnel packet behind `link` bytes is of; on to the block `others` with what is over IPv4
/// and not for this node.
pub(super) fn find(
    assembly: &mut Assembly,
    maps: Maps,
    addresses: &Addresses,
    link: usize,
    others: &'static str,
) {
    outer(assembly, addresses, link as i32, others);
    vxlan(assembly, addresses, link as i32);
    assembly.block("inner");
    classify::find(assembly, maps, Direction::Inbound);
    same_tunnel(assembly);
}

/// Whether it is a tunnel packet for this node; its format and where the inner packet begins.
fn outer(assembly: &mut Assembly, addresses: &Addresses, link: i32, others: &'static str) {
    assembly.add([load32(R1, CONTEXT, SKB_PROTOCOL)]);
    assembly.jump(unequal(R1, i32::from(ethernet::IPV4.to_be())), "pump");
    assembly.add([mov(BASE, link)]);
    load(assembly, (BASE, 0), IP, ipv4::LEN as i32 + udp::LEN as i32);
    assembly.add([load32(R1, FRAME, IP + 16)]);
    assembly.jump(unequal32(R1, i32::from_ne_bytes(addresses.own.octets())), others);
    // For this host by its link address, and in no VLAN.
    for field in [SKB_PACKET_TYPE, SKB_VLAN_PRESENT] {
        assembly.add([load32(R1, CONTEXT, field)]).jump(unequal(R1, 0), "pump");
    }
    assembly.add([load8(R1, FRAME, IP)]).jump(unequal(R1, 0x45), "pump");
    assembly.add([load16(R1, FRAME, IP + 6), and(R1, FRAGMENT)]).jump(unequal(R1, 0), "pump");
    assembly.add([load32(R1, FRAME, IP + 12), store_register64(OUTER_SOURCE, R1)]);
    assembly.add([mov(R2, words::format(Mode::Ipip) as i32), store_register64(FORMAT, R2)]);
    assembly.add([mov(BASE, link + ipv4::LEN as i32), load8(R1, FRAME, IP + 9)]);
    assembly.jump(equal(R1, i32::from(protocol::UDP)), "vxlan");
    assembly.add([store8(EXPECTED, 4)]).jump(equal(R1, i32::from(protocol::IPIP)), "inner");
    assembly.add([store8(EXPECTED, 6)]).jump(equal(R1, i32::from(protocol::IPV6)), "inner");
    assembly.jump(always(), "pump");
}

fn vxlan(assembly: &mut Assembly, addresses: &Addresses, link: i32) {
    assembly.block("vxlan").add([load16(R1, FRAME, UDP + 2)]);
    assembly.jump(unequal(R1, i32::from(addresses.vxlan_port.to_be())), "pump");
    load(assembly, (BASE, udp::LEN as i32), VXLAN, vxlan::LEN as i32 + ethernet::LEN as i32);
    assembly.add([load8(R1, FRAME, VXLAN), and(R1, 0x08)]).jump(equal(R1, 0), "pump");
    assembly.add([load32(R1, FRAME, VXLAN + 4), big_endian(R1, 32), shift_right(R1, 8)]);
    assembly.jump(unequal(R1, addresses.vni.get() as i32), "pump");
    assembly.add([mov(R2, words::format(Mode::Vxlan) as i32), store_register64(FORMAT, R2)]);
    assembly.add([mov(BASE, link + (words::VXLAN_HEADER - ethernet::LEN) as i32)]);
    assembly.add([load16(R1, FRAME, VXLAN + vxlan::LEN as i16 + 12)]);
    assembly.add([store8(EXPECTED, 4)]).jump(equal(R1, i32::from(ethernet::IPV4.to_be())), "inner");
    assembly.add([store8(EXPECTED, 6)]).jump(unequal(R1, i32::from(ethernet::IPV6.to_be())), "pump");
}

/// Whether everything around the inner packet is as it was when the pump let the flow in.
fn same_tunnel(assembly: &mut Assembly) {
    assembly.add([load8(R1, FRAME, EXPECTED), load8(R2, FRAME, KEY + key::VERSION)]);
    assembly.jump(unequal_register(R1, R2), "pump");
    for (kept, word) in [(OUTER_SOURCE, words::OUTER_SOURCE), (FORMAT, words::FORMAT)] {
        assembly.add([load64(R1, FRAME, kept), load64(R2, SLOT, at(word))]);
        assembly.jump(unequal_register(R1, R2), "pump");
    }
    // RFC 6040: an outer field that is the inner one, or Not-ECT, changes nothing.
    assembly.add([load8(R1, FRAME, IP + 1), and(R1, i32::from(ecn::MASK))]).jump(equal(R1, 0), "same");
    assembly.add([load8(R2, FRAME, TOS), and(R2, i32::from(ecn::MASK))]).jump(equal_register(R1, R2), "same");
    assembly.jump(always(), "behind").block("same");
}

/// Takes the outer headers away; where that fails, the packet is as it was.
fn strip(assembly: &mut Assembly) {
    assembly.add([load64(R3, SLOT, at(words::LENGTH)), mov(R2, 0), subtract_register(R2, R3)]);
    assembly.add([copy(R1, CONTEXT), mov(R3, ROOM_MAC), load64(R4, SLOT, at(words::FLAGS))]);
    assembly.add([call(SKB_ADJUST_ROOM)]).jump(failed(), "refused");
}
