//! What the group of our packet sockets asks, which the kernel shows packets before programs take them: whose a packet
//! is. One answer for all workers, because each costs as much as the program that takes the packet. That one does not
//! look again: the kernel runs both on the same packet, one right after the other (`__netif_receive_skb_core`,
//! net/core/dev.c), and this one leaves what it has found in words of the packet that are theirs (`__sk_buff::cb`).

use super::{Addresses, CONTEXT, Maps, OUTER, SKB_INTERFACE, SLOT, at, classify, inbound, load_or};
use crate::dataplane::ebpf::{
    Assembly, EXIT, FRAME, Instruction, R0, R1, R2, R8, add, add_register, always, and, copy, equal, load8,
    load16, load32, load64, mov, shift_left, shift_right, unequal, unequal_register,
};
use crate::dataplane::kernel_path::words;
use crate::dataplane::steering::queue_ebpf;
use crate::wire::chain::DESTINATION_OPTIONS;
use crate::wire::{ethernet, ipv4, ipv6, protocol, udp, vxlan};

/// Offset of the header that is looked at, in the end of the inner packet.
const START: u8 = R8;

/// 0 for packets that the program at the ingress will take, and for those that are no tunnel packets for this node; else
/// one more than the worker, of `workers`. It begins at the outer IP header, and sees the packets of all interfaces.
pub(super) fn program(maps: Maps, addresses: &Addresses, workers: u16) -> Vec<Instruction> {
    let mut assembly = Assembly::default();
    assembly.add([copy(CONTEXT, R1)]);
    inbound::find(&mut assembly, maps, addresses, 0, "nobody");
    assembly.add([load32(R1, CONTEXT, SKB_INTERFACE), load64(R2, SLOT, at(words::ARRIVES))]);
    assembly.jump(unequal_register(R1, R2), "pump");
    classify::usual(&mut assembly);
    classify::on_its_way(&mut assembly);
    classify::found(&mut assembly, maps);
    assembly.jump(always(), "nobody");
    classify::left(&mut assembly, None);
    assembly.block("pump");
    inner(&mut assembly, addresses);
    assembly.add(queue_ebpf::share(workers));
    assembly.block("nobody").add([mov(R0, 0), EXIT]);
    assembly.finish()
}

/// Goes on with the offset of the inner packet of a tunnel packet in START.
fn inner(assembly: &mut Assembly, addresses: &Addresses) {
    assembly.add([mov(START, 0)]);
    load_or(assembly, (START, 0), OUTER, ipv4::LEN as i32, "nobody");
    assembly.add([load8(START, FRAME, OUTER), copy(R1, START), shift_right(R1, 4)]);
    assembly.jump(equal(R1, 6), "outer IPv6");
    assembly.add([load8(R1, FRAME, OUTER + 9), and(START, 0x0f), shift_left(START, 2)]);
    assembly.jump(always(), "format");
    assembly.block("outer IPv6").add([load8(R1, FRAME, OUTER + 6), mov(START, ipv6::LEN as i32)]);
    assembly.jump(unequal(R1, i32::from(DESTINATION_OPTIONS)), "format");
    load_or(assembly, (START, 0), OUTER, 2, "nobody");
    assembly.add([load8(R1, FRAME, OUTER), load8(R2, FRAME, OUTER + 1), shift_left(R2, 3), add(R2, 8)]);
    assembly.add([add_register(START, R2)]);
    assembly.block("format");
    for number in [protocol::IPIP, protocol::IPV6] {
        assembly.jump(equal(R1, i32::from(number)), "inner packet");
    }
    assembly.jump(unequal(R1, i32::from(protocol::UDP)), "nobody");
    load_or(assembly, (START, udp::FIELD_DESTINATION as i32), OUTER, 2, "nobody");
    assembly.add([load16(R1, FRAME, OUTER)]);
    assembly.jump(unequal(R1, i32::from(addresses.vxlan_port.to_be())), "nobody");
    assembly.add([add(START, (udp::LEN + vxlan::LEN + ethernet::LEN) as i32)]);
    assembly.block("inner packet");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use crate::dataplane::ebpf::machine::{Map, Skb, run_with};
    use crate::dataplane::steering::hash::reference;
    use crate::net::Vni;
    use crate::wire::testing::{Random, Spec};

    const WORKERS: u16 = 5;
    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const ADDRESSES: Addresses = Addresses {
        own: Some(OWN),
        own6: Some(Ipv6Addr::LOCALHOST),
        vxlan_port: 4789,
        vni: Vni::CALICO,
        zero_checksum6: false,
    };

    /// One more than the worker that a packet, an outer one, is for at `own`; 0 for none.
    pub(in super::super) fn worker_of(packet: &[u8], own: Ipv4Addr, workers: u16) -> i64 {
        let inner = |packet: &[u8]| {
            packet.get(..ipv4::LEN)?;
            let (number, len) = match (packet[0] >> 4, packet[6]) {
                (6, 60) => (*packet.get(40)?, 48 + 8 * usize::from(*packet.get(41)?)),
                (6, number) => (number, 40),
                _ if packet[16..20] != own.octets() => return None,
                _ => (packet[9], usize::from(packet[0] & 0xf) * 4),
            };
            let at = match number {
                4 | 41 => len,
                17 if packet.get(len + 2..len + 4)? == [0x12, 0xb5] => len + 8 + 8 + 14,
                _ => return None,
            };
            reference(packet.get(at..)?)
        };
        inner(packet).map_or(0, |hash| 1 + i64::from(hash) % i64::from(workers))
    }

    /// Where no flow is carried.
    fn share(packet: &[u8]) -> i64 {
        let program = program(Maps { flows: 0, slots: 1, secret: [1, 2] }, &ADDRESSES, WORKERS);
        let protocol = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
        let skb = Skb { protocol, ..Skb::of(packet) };
        run_with(&program, &skb, &[Map::Hash(&[]), Map::Array(&[], 1)]).0.result
    }

    /// Headers in front of inner packets, with what says so in the last of them.
    fn outers() -> Vec<Vec<u8>> {
        let v4 = |words: u8, number: u8| {
            let mut header = vec![0; usize::from(words) * 4];
            (header[0], header[9]) = (0x40 | words, number);
            header[16..20].copy_from_slice(&OWN.octets());
            header
        };
        let v6 = |number: u8, options: &[u8]| {
            let mut header = vec![0; 40];
            (header[0], header[6]) = (0x60, number);
            [&header, options].concat()
        };
        let udp = |port: u16| [&[0; 2], &port.to_be_bytes()[..], &[0; 26]].concat();
        let mut outers =
            vec![v4(5, 4), v4(7, 41), v6(4, &[]), v6(41, &[]), v6(60, &[4, 0, 0, 0, 0, 0, 0, 0])];
        let mut elsewhere = v4(5, 4);
        elsewhere[16] += 1;
        outers.extend([elsewhere, v4(5, 6), v6(58, &[]), [&v6(60, &[17, 1])[..], &[0; 14]].concat()]);
        for ip in [v4(5, 17), v4(6, 17), v6(17, &[]), [&v6(60, &[17, 1])[..], &[0; 14]].concat()] {
            outers.extend([4789, 4790].map(|port| [&ip[..], &udp(port)].concat()));
        }
        outers
    }

    #[test]
    fn each_tunnel_packet_is_for_the_worker_of_its_flow() {
        let mut random = Random::new(3);
        let specs = [Spec::tcp4(b"data"), Spec::tcp6(b"data"), Spec::udp4(b"data"), Spec::udp4(b"data").v6()];
        let mut seen = [0; WORKERS as usize + 1];
        for outer in outers() {
            for spec in &specs {
                for _ in 0..20 {
                    let mut packet = [&outer[..], &spec.build()].concat();
                    let ports = outer.len() + if spec.build()[0] >> 4 == 6 { 40 } else { 20 };
                    packet[ports..ports + 2].copy_from_slice(&random.bytes(2));
                    assert_eq!(share(&packet), worker_of(&packet, OWN, WORKERS), "{packet:02x?}");
                    seen[share(&packet) as usize] += 1;
                    packet.truncate(random.below(packet.len() as u64) as usize);
                    assert_eq!(share(&packet), worker_of(&packet, OWN, WORKERS), "{packet:02x?}");
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}
