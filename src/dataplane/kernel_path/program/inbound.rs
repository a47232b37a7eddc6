//! The ingress of an uplink: a tunnel packet loses its headers and comes in by the TUN, as if the pump had written it.

use super::classify;
use super::{
    AddTo, Addresses, BASE, CONTEXT, EXPECTED, FORMAT, FRAGMENT, KEY, Maps, NEXT, OUTER, OUTER_SOURCE,
    OUTER_TOS, ROOM_MAC, SKB_PACKET_TYPE, SKB_PROTOCOL, SKB_VLAN_PRESENT, SLOT, TOS, VXLAN, at, count, end,
    failed, load, redirect,
};
use crate::dataplane::ebpf::{
    Assembly, FRAME, Instruction, R1, R2, R3, R4, SKB_ADJUST_ROOM, add, always, and, big_endian, call, copy,
    equal, equal_register, load8, load16, load32, load64, mov, shift_right, store_register8,
    store_register64, store8, subtract_register, unequal, unequal_register, unequal32,
};
use crate::dataplane::encap::ecn;
use crate::dataplane::kernel_path::key;
use crate::dataplane::kernel_path::words;
use crate::dataplane::packet::{Direction, Family};
use crate::net::Mode;
use crate::wire::{ethernet, ipv4, ipv6, protocol, udp, vxlan};

/// Where the outer IP header is kept, and 8 bytes behind it.
const IP: i16 = OUTER;

/// The program at the ingress of an uplink.
pub(super) fn program(maps: Maps, addresses: &Addresses, add_to: AddTo) -> Vec<Instruction> {
    let mut assembly = Assembly::default();
    assembly.add([copy(CONTEXT, R1)]);
    classify::find_again(&mut assembly, maps);
    find(&mut assembly, maps, addresses, ethernet::LEN, "pump");
    classify::weigh(&mut assembly);
    classify::on_its_way(&mut assembly);
    strip(&mut assembly);
    count(&mut assembly, add_to);
    classify::by_own_queue(&mut assembly);
    redirect(&mut assembly);
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
    vxlan(assembly, addresses);
    assembly.block("inner");
    classify::find(assembly, maps, Direction::Inbound);
    same_tunnel(assembly);
}

/// Whether it is a tunnel packet for this node; its format and where the inner packet begins.
fn outer(assembly: &mut Assembly, addresses: &Addresses, link: i32, others: &'static str) {
    assembly.add([load32(R1, CONTEXT, SKB_PROTOCOL), mov(BASE, link)]);
    assembly.jump(equal(R1, i32::from(ethernet::IPV6.to_be())), "over IPv6");
    assembly.jump(unequal(R1, i32::from(ethernet::IPV4.to_be())), "pump");
    over_ipv4(assembly, addresses, link, others);
    assembly.block("over IPv6");
    over_ipv6(assembly, addresses, link);
}

fn over_ipv4(assembly: &mut Assembly, addresses: &Addresses, link: i32, others: &'static str) {
    let Some(own) = addresses.own else {
        assembly.jump(always(), others);
        return;
    };
    load(assembly, (BASE, 0), IP, ipv4::LEN as i32 + udp::LEN as i32);
    assembly.add([load32(R1, FRAME, IP + 16)]);
    assembly.jump(unequal32(R1, i32::from_ne_bytes(own.octets())), others);
    for_this_host(assembly);
    assembly.add([load8(R1, FRAME, IP)]).jump(unequal(R1, 0x45), "pump");
    assembly.add([load16(R1, FRAME, IP + 6), and(R1, FRAGMENT)]).jump(unequal(R1, 0), "pump");
    assembly.add([load32(R1, FRAME, IP + 12), store_register64(OUTER_SOURCE, R1)]);
    assembly.add([mov(R1, 0), store_register64(OUTER_SOURCE + 8, R1)]);
    assembly.add([load8(R1, FRAME, IP + 1), store_register8(OUTER_TOS, R1)]);
    assembly.add([mov(BASE, link + ipv4::LEN as i32), load8(R1, FRAME, IP + 9)]);
    by_protocol(assembly, Family::V4, "over IPv4 by UDP");
    assembly.block("over IPv4 by UDP");
    datagram(assembly, addresses, IP + ipv4::LEN as i16, Family::V4);
    assembly.jump(always(), "vxlan");
}

fn over_ipv6(assembly: &mut Assembly, addresses: &Addresses, link: i32) {
    let Some(own) = addresses.own6 else {
        assembly.jump(always(), "pump").block("vxlan");
        return;
    };
    load(assembly, (BASE, 0), IP, ipv6::LEN as i32 + udp::LEN as i32);
    let own = own.octets();
    let (words, _) = own.as_chunks::<4>();
    for (place, word) in (IP + ipv6::FIELD_DESTINATION as i16..).step_by(4).zip(words) {
        assembly.add([load32(R1, FRAME, place)]).jump(unequal32(R1, i32::from_ne_bytes(*word)), "pump");
    }
    for_this_host(assembly);
    assembly.add([load16(R1, FRAME, IP), big_endian(R1, 16), copy(R2, R1), shift_right(R2, 12)]);
    assembly.jump(unequal(R2, 6), "pump");
    // The traffic class lies across two bytes.
    assembly.add([shift_right(R1, 4), store_register8(OUTER_TOS, R1)]);
    for half in [0, 8] {
        assembly.add([load64(R1, FRAME, IP + ipv6::FIELD_SOURCE as i16 + half)]);
        assembly.add([store_register64(OUTER_SOURCE + half, R1)]);
    }
    assembly.add([mov(BASE, link + ipv6::LEN as i32), load8(R1, FRAME, IP + ipv6::FIELD_NEXT_HEADER as i16)]);
    by_protocol(assembly, Family::V6, "over IPv6 by UDP");
    assembly.block("over IPv6 by UDP");
    let udp = IP + ipv6::LEN as i16;
    if !addresses.zero_checksum6 {
        assembly.add([load16(R1, FRAME, udp + udp::FIELD_CHECKSUM as i16)]).jump(equal(R1, 0), "pump");
    }
    datagram(assembly, addresses, udp, Family::V6);
    assembly.block("vxlan");
}

/// For this host by its link address, and in no VLAN.
fn for_this_host(assembly: &mut Assembly) {
    for field in [SKB_PACKET_TYPE, SKB_VLAN_PRESENT] {
        assembly.add([load32(R1, CONTEXT, field)]).jump(unequal(R1, 0), "pump");
    }
}

/// By the protocol behind the outer IP header, which is in R1: to the inner packet of IP-in-IP, or to the block
/// `datagram`.
fn by_protocol(assembly: &mut Assembly, outer: Family, datagram: &'static str) {
    assembly.add([mov(R2, words::format(Mode::Ipip, outer) as i32), store_register64(FORMAT, R2)]);
    assembly.jump(equal(R1, i32::from(protocol::UDP)), datagram);
    assembly.add([store8(EXPECTED, 4)]).jump(equal(R1, i32::from(protocol::IPIP)), "inner");
    assembly.add([store8(EXPECTED, 6)]).jump(equal(R1, i32::from(protocol::IPV6)), "inner");
    assembly.jump(always(), "pump");
}

/// A datagram for our port, whose header is at `udp` on the stack.
fn datagram(assembly: &mut Assembly, addresses: &Addresses, udp: i16, outer: Family) {
    assembly.add([load16(R1, FRAME, udp + udp::FIELD_DESTINATION as i16)]);
    assembly.jump(unequal(R1, i32::from(addresses.vxlan_port.to_be())), "pump");
    assembly.add([mov(R2, words::format(Mode::Vxlan, outer) as i32), store_register64(FORMAT, R2)]);
}

/// Behind the UDP header at BASE.
fn vxlan(assembly: &mut Assembly, addresses: &Addresses) {
    load(assembly, (BASE, udp::LEN as i32), VXLAN, vxlan::LEN as i32 + ethernet::LEN as i32);
    assembly.add([load8(R1, FRAME, VXLAN), and(R1, 0x08)]).jump(equal(R1, 0), "pump");
    assembly.add([load32(R1, FRAME, VXLAN + 4), big_endian(R1, 32), shift_right(R1, 8)]);
    assembly.jump(unequal(R1, addresses.vni.get() as i32), "pump");
    assembly.add([add(BASE, words::VXLAN_BEHIND_IP as i32)]);
    assembly.add([load16(R1, FRAME, VXLAN + vxlan::LEN as i16 + 12)]);
    assembly.add([store8(EXPECTED, 4)]).jump(equal(R1, i32::from(ethernet::IPV4.to_be())), "inner");
    assembly.add([store8(EXPECTED, 6)]).jump(unequal(R1, i32::from(ethernet::IPV6.to_be())), "pump");
}

/// Whether everything around the inner packet is as it was when the pump let the flow in.
fn same_tunnel(assembly: &mut Assembly) {
    assembly.add([load8(R1, FRAME, EXPECTED), load8(R2, FRAME, KEY + key::VERSION)]);
    assembly.jump(unequal_register(R1, R2), "pump");
    let source = [0, 1].map(|half| (OUTER_SOURCE + 8 * half, words::OUTER_SOURCE + half as usize));
    for (kept, word) in source.into_iter().chain([(FORMAT, words::FORMAT)]) {
        assembly.add([load64(R1, FRAME, kept), load64(R2, SLOT, at(word))]);
        assembly.jump(unequal_register(R1, R2), "pump");
    }
    // RFC 6040: an outer field that is the inner one, or Not-ECT, changes nothing.
    assembly.add([load8(R1, FRAME, OUTER_TOS), and(R1, i32::from(ecn::MASK))]).jump(equal(R1, 0), "same");
    assembly.add([load8(R2, FRAME, TOS), and(R2, i32::from(ecn::MASK))]).jump(equal_register(R1, R2), "same");
    assembly.jump(always(), "behind").block("same");
}

/// Takes the outer headers away; where that fails, the packet is as it was.
fn strip(assembly: &mut Assembly) {
    assembly.add([load64(R3, SLOT, at(words::LENGTH)), mov(R2, 0), subtract_register(R2, R3)]);
    assembly.add([copy(R1, CONTEXT), mov(R3, ROOM_MAC), load64(R4, SLOT, at(words::FLAGS))]);
    assembly.add([call(SKB_ADJUST_ROOM)]).jump(failed(), "refused");
}
