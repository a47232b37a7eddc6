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
#![expect(clippy::cast_possible_truncation, reason = "offsets of headers")]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::dataplane::ebpf::{
    self, CSUM_DIFF, EXIT, FRAME, Instruction, R0, R1, R2, R3, R4, R5, R6, SKB_ADJUST_ROOM, SKB_LOAD_BYTES,
    SKB_STORE_BYTES, add, add_register, and, big_endian, call, copy, jump_if_equal, load8, load32, mov,
    or_return, shift_right, slot, store_register8, store_register16, store_register32, store8, store16,
    store32, xor,
};
use crate::dataplane::encap::OUTER_TTL;
use crate::dataplane::encap::ipip_gso::MARK;
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
        let program = ebpf::load(ebpf::Kind::Classifier, "underpass_outer", &program(source))?;
        ebpf::attach_tcx(&program, ebpf::Hook::Ingress, index).map(Self)
    }
}

/// Keeps the context over calls.
const CONTEXT: u8 = R6;

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

/// Bytes of an IPv4 header at these offsets from [`HEADER`], all constant but for the length,
/// checksum, TOS and destination.
fn program(source: Ipv4Addr) -> Vec<Instruction> {
    let mut code = vec![copy(CONTEXT, R1)];
    // The frame's source address to the stack.
    code.push(mov(R2, 6));
    code.extend(slot(R3, FIELD));
    code.extend([mov(R4, 6), call(SKB_LOAD_BYTES)]);
    code.extend(or_return(DROP));
    // Not marked: not for us.
    code.push(load8(R1, FRAME, FIELD + 5));
    code.extend([jump_if_equal(R1, i32::from(MARK), 2), mov(R0, NEXT), EXIT]);
    // Make room for the outer header.
    code.extend([copy(R1, CONTEXT), mov(R2, ipv4::LEN as i32), mov(R3, ROOM_MAC)]);
    code.extend([mov(R4, FIXED_GSO_ENCAP_IPV4), call(SKB_ADJUST_ROOM)]);
    code.extend(or_return(DROP));
    code.extend(outer_header(source));
    code.extend(header_checksum());
    // Write it behind the link header.
    code.extend([copy(R1, CONTEXT), mov(R2, ethernet::LEN as i32)]);
    code.extend(slot(R3, HEADER));
    code.extend([mov(R4, ipv4::LEN as i32), mov(R5, 0), call(SKB_STORE_BYTES)]);
    code.extend(or_return(DROP));
    code.extend([mov(R0, NEXT), EXIT]);
    code
}

/// Builds the header on the stack, checksum zero.
fn outer_header(source: Ipv4Addr) -> Vec<Instruction> {
    vec![
        store8(HEADER, 0x45),
        // TOS: from the frame.
        load8(R1, FRAME, FIELD + 4),
        store_register8(HEADER + 1, R1),
        // Total length: the frame's (`__sk_buff.len`, offset 0) without the link header, to big endian.
        load32(R1, CONTEXT, 0),
        add(R1, -(ethernet::LEN as i32)),
        big_endian(R1, 16),
        store_register16(HEADER + 2, R1),
        store16(HEADER + 4, 0),
        store16(HEADER + 6, ipv4::DF.to_be()),
        // The kernel forwards the packet and takes one.
        store8(HEADER + 8, OUTER_TTL + 1),
        store8(HEADER + 9, protocol::IPIP),
        store16(HEADER + 10, 0),
        store32(HEADER + 12, i32::from_ne_bytes(source.octets())),
        load32(R1, FRAME, FIELD),
        store_register32(HEADER + 16, R1),
    ]
}

/// Sums the header on the stack, folds twice and stores the complement.
fn header_checksum() -> Vec<Instruction> {
    let mut code = vec![mov(R1, 0), mov(R2, 0)];
    code.extend(slot(R3, HEADER));
    code.extend([mov(R4, ipv4::LEN as i32), mov(R5, 0), call(CSUM_DIFF)]);
    for _ in 0..2 {
        // r1 = r0 >> 16; r0 = (r0 & 0xffff) + r1
        code.extend([copy(R1, R0), shift_right(R1, 16)]);
        code.extend([and(R0, 0xffff), add_register(R0, R1)]);
    }
    code.push(xor(R0, 0xffff));
    code.push(store_register16(HEADER + 10, R0));
    code
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{DROP, NEXT, program};
    use crate::dataplane::ebpf::machine::{Outcome, run};
    use crate::dataplane::encap::{OUTER_TTL, ipip, ipip_gso};
    use crate::net::Mac;
    use crate::wire::testing::Spec;
    use crate::wire::{Ipv4, VnetHdr, ethernet, ipv4, protocol, vnet_hdr};

    const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
    const TAP: Mac = Mac([2, 0, 0, 0, 0, 9]);

    /// The frame that the outbound flow makes of an inner packet, as the kernel has it behind the TAP.
    fn frame(tos: u8, inner: &[u8]) -> Vec<u8> {
        let mut head = ipip_gso::template(TAP, DESTINATION);
        ipip_gso::patch(&mut head, &VnetHdr::default(), 40, tos);
        [&head[vnet_hdr::TUNNEL_LEN..], inner].concat()
    }

    #[test]
    fn a_marked_frame_gets_the_outer_header() {
        for (tos, len) in [(0, 0), (3, 100), (0xb9, 1400), (1, 65_000)] {
            let inner = Spec::tcp4(&vec![7; len]).build();
            let sent = frame(tos, &inner);
            let Outcome { result, packet, .. } = run(&program(SOURCE), &sent, true);
            assert_eq!(result, i64::from(NEXT));
            let (link, rest) = packet.split_at(ethernet::LEN);
            assert_eq!(link, &sent[..ethernet::LEN]);
            assert_eq!(rest[ipv4::LEN..], inner);
            let outer = Ipv4::parse(rest).unwrap();
            assert!(outer.checksum_ok());
            // That of the raw socket, but for the hop that the kernel's forwarding takes.
            let mut wanted = ipip::template(SOURCE, DESTINATION, protocol::IPIP);
            ipip::patch(&mut wanted, tos, inner.len());
            assert_eq!(outer.ttl(), OUTER_TTL + 1);
            assert_eq!((&rest[..8], &rest[12..20]), (&wanted[..8], &wanted[12..20]));
            assert_eq!(rest[9], wanted[9]);
        }
    }

    #[test]
    fn other_frames_pass_as_they_are() {
        let mut other = frame(0, &Spec::tcp4(b"data").build());
        other[6..12].copy_from_slice(&ipip_gso::UNMARKED.0);
        let wanted =
            Outcome { result: i64::from(NEXT), packet: other.clone(), packet_type: 0, queue: 0, cb: [0; 5] };
        assert_eq!(run(&program(SOURCE), &other, true), wanted);
    }

    #[test]
    fn what_cannot_get_a_header_is_dropped() {
        let marked = frame(0, &Spec::tcp4(b"data").build());
        assert_eq!(run(&program(SOURCE), &marked, false).result, i64::from(DROP));
        assert_eq!(run(&program(SOURCE), &marked[..11], true).result, i64::from(DROP));
    }
}
