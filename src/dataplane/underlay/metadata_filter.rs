//! Which packets the metadata sockets take: received tunnel packets of one worker whose inner checksum looks
//! unfinished, in classic BPF (Documentation/networking/filter.rst). All others are refused in the kernel, nearly
//! all of them by their protocol number or address.
//!
//! X holds the offset that the next header is at; every load beyond the end of the packet ends the program with 0,
//! which refuses it.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of this program and offsets of headers, which the tests run in the kernel"
)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::{SockFilter, Socket};

use crate::dataplane::steering::cbpf::{ALL, jump, load, op};
use crate::dataplane::steering::socket_cbpf;
use crate::wire::chain::DESTINATION_OPTIONS;
use crate::wire::{ethernet, ipv4, ipv6, protocol, tcp, udp, vxlan};

/// What a metadata socket is for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// This node's IPv4 underlay address, an outer destination.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 underlay address.
    pub address6: Option<Ipv6Addr>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Number of workers.
    pub workers: u16,
    /// Which of them this is.
    pub index: u16,
    /// Whether every TCP and UDP packet in IP-in-IP is wanted.
    pub all_ipip: bool,
}

// Scratch memory, behind what the hash of `spread` uses.
/// Offset of the inner packet.
const INNER: u32 = 4;
/// Number of the outer protocol.
const PROTOCOL: u32 = 5;
/// Bytes that the outer UDP header counts.
const UDP_LEN: u32 = 6;
/// The inner pseudo-header sum.
const SUM: u32 = 7;
/// Offset of the inner transport header.
const L4: u32 = 8;
/// A value on its way to X.
const HELD: u32 = 9;

/// Linux device types (include/uapi/linux/if_arp.h) whose packets begin with an Ethernet header.
const WITH_ETHERNET: [u16; 2] = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];
/// And those whose packets begin with the IP header.
const BARE: [u16; 5] =
    [libc::ARPHRD_NONE, libc::ARPHRD_PPP, libc::ARPHRD_TUNNEL, libc::ARPHRD_TUNNEL6, libc::ARPHRD_IPGRE];

/// Bytes of link header in front of what a packet socket shows of a device of this type; `None` where it is unknown.
pub(super) fn link_header(device_type: u16) -> Option<usize> {
    if WITH_ETHERNET.contains(&device_type) {
        Some(ethernet::LEN)
    } else {
        BARE.contains(&device_type).then_some(0)
    }
}

/// Bytes between the beginning of a UDP header and that of the packet inside its VXLAN frame.
const VXLAN_INNER: usize = udp::LEN + vxlan::LEN + ethernet::LEN;

/// Where the inner packet of the tunnel packet `packet`, an outer IP packet, begins; also where its end is missing.
pub(super) fn inner_at(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let (number, at) = if first >> 4 == 4 {
        (*packet.get(9)?, usize::from(first & 0xf) * 4)
    } else {
        match *packet.get(6)? {
            // The kernel's `ip6tnl` puts its tunnel encapsulation limit there (RFC 2473 §4.1.1).
            DESTINATION_OPTIONS => {
                (*packet.get(ipv6::LEN)?, ipv6::LEN + 8 + 8 * usize::from(*packet.get(ipv6::LEN + 1)?))
            }
            number => (number, ipv6::LEN),
        }
    };
    match number {
        protocol::IPIP | protocol::IPV6 => Some(at),
        protocol::UDP => Some(at + VXLAN_INNER),
        _ => None,
    }
}

/// Lets `socket`, a packet socket, take what is wanted.
pub(super) fn attach(socket: &Socket, wanted: &Wanted) -> io::Result<()> {
    socket.attach_filter(&program(wanted))
}

/// One that takes nothing.
pub(super) fn nothing() -> [SockFilter; 1] {
    [op(libc::BPF_RET | libc::BPF_K, 0)]
}

fn program(wanted: &Wanted) -> Vec<SockFilter> {
    let refuse = || vec![op(libc::BPF_RET | libc::BPF_K, 0)];
    let v4 = wanted.address.map_or_else(refuse, |address| outer_v4(address.into()));
    let v6 = wanted.address6.map_or_else(refuse, |address| outer_v6(address.octets()));
    let mut program = vec![load_extra(libc::SKF_AD_PROTOCOL)];
    program.extend(require_any(&[ethernet::IPV4, ethernet::IPV6].map(u32::from)));
    program.extend(begin());
    // The kernel wants every word of scratch memory written before it is read, also behind a family that is refused.
    program.extend([load_extra(libc::SKF_AD_PROTOCOL), op(libc::BPF_ST, PROTOCOL)]);
    program.extend(choose(&[u32::from(ethernet::IPV4)], v4, v6));
    let mut udp = vxlan(wanted.vxlan_port);
    udp.extend(unfinished());
    let mut ipip = vec![op(libc::BPF_STX, INNER)];
    ipip.extend(if wanted.all_ipip { tcp_or_udp() } else { unfinished() });
    program.push(op(libc::BPF_LD | libc::BPF_MEM, PROTOCOL));
    program.extend(choose(&[u32::from(protocol::UDP)], udp, ipip));
    if wanted.workers > 1 {
        program.push(op(libc::BPF_LDX | libc::BPF_MEM, INNER));
        program.extend(socket_cbpf::one_share(wanted.index, wanted.workers));
    } else {
        program.push(op(libc::BPF_RET | libc::BPF_K, ALL));
    }
    program
}

/// X = where the outer IP header is.
fn begin() -> Vec<SockFilter> {
    let ethernet = vec![op(libc::BPF_LDX | libc::BPF_IMM, ethernet::LEN as u32)];
    let mut bare = vec![op(libc::BPF_LDX | libc::BPF_IMM, 0)];
    bare.extend(require_any(&BARE.map(u32::from)));
    // What is still tagged comes again from the VLAN's own device; priority tags (VLAN 0) have none.
    let mut program = vec![
        load_extra(libc::SKF_AD_VLAN_TAG),
        jump(libc::BPF_JSET, 0xfff, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, 0),
        load_extra(libc::SKF_AD_HATYPE),
    ];
    program.extend(choose(&WITH_ETHERNET.map(u32::from), ethernet, bare));
    program
}

/// PROTOCOL and X = of and behind the outer IPv4 header, which is to `address`, for a tunnel and no fragment.
fn outer_v4(address: u32) -> Vec<SockFilter> {
    let mut program = vec![load(libc::BPF_B, 9), op(libc::BPF_ST, PROTOCOL)];
    program.extend(require_any(&[protocol::UDP, protocol::IPIP, protocol::IPV6].map(u32::from)));
    program.push(load(libc::BPF_W, 16));
    program.extend(require_any(&[address]));
    program.extend(not_a_fragment());
    program.extend(header_len());
    program
        .extend([op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0), op(libc::BPF_MISC | libc::BPF_TAX, 0)]);
    program
}

/// The same of IPv6, with destination options or without.
fn outer_v6(address: [u8; 16]) -> Vec<SockFilter> {
    let numbers = [protocol::UDP, protocol::IPIP, protocol::IPV6].map(u32::from);
    let mut program = vec![load(libc::BPF_B, 6)];
    program.extend(require_any(&[&numbers[..], &[u32::from(DESTINATION_OPTIONS)]].concat()));
    let (words, _) = address.as_chunks::<4>();
    for (place, word) in (0..).zip(words) {
        program.push(load(libc::BPF_W, 24 + 4 * place));
        program.extend(require_any(&[u32::from_be_bytes(*word)]));
    }
    program.extend([load(libc::BPF_B, 6), op(libc::BPF_ST, PROTOCOL), op(libc::BPF_MISC | libc::BPF_TXA, 0)]);
    program.push(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, ipv6::LEN as u32));
    program.extend([op(libc::BPF_MISC | libc::BPF_TAX, 0), op(libc::BPF_LD | libc::BPF_MEM, PROTOCOL)]);
    // Behind options: their next header, and eight bytes and eight more for each that they count.
    let mut options = vec![load(libc::BPF_B, 0), op(libc::BPF_ST, PROTOCOL)];
    options.extend(require_any(&numbers[1..]));
    options.extend([load(libc::BPF_B, 1), op(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 3)]);
    options.push(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0));
    options.push(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, 8));
    options.push(op(libc::BPF_MISC | libc::BPF_TAX, 0));
    program.extend(choose(&[u32::from(DESTINATION_OPTIONS)], options, vec![]));
    program
}

/// X and INNER = where the packet in the VXLAN datagram at X begins, which fills it. In datagrams that the kernel has
/// joined it does not, and the socket tells their size.
fn vxlan(port: u16) -> Vec<SockFilter> {
    let mut program = vec![load(libc::BPF_H, 2)];
    program.extend(require_any(&[u32::from(port)]));
    program.extend([load(libc::BPF_H, 4), op(libc::BPF_ST, UDP_LEN), op(libc::BPF_MISC | libc::BPF_TXA, 0)]);
    program.push(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, VXLAN_INNER as u32));
    program.extend([op(libc::BPF_MISC | libc::BPF_TAX, 0), op(libc::BPF_STX, INNER)]);
    program.extend([load(libc::BPF_B, 0), op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4)]);
    let six = vec![load(libc::BPF_H, 4), op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, ipv6::LEN as u32)];
    program.extend(choose(&[4], vec![load(libc::BPF_H, 2)], six));
    program.push(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, VXLAN_INNER as u32));
    program.push(op(libc::BPF_LDX | libc::BPF_MEM, UDP_LEN));
    program.extend(require_x());
    program.push(op(libc::BPF_LDX | libc::BPF_MEM, INNER));
    program
}

/// Goes on with any TCP or UDP packet at X, and with IPv6 extension headers.
fn tcp_or_udp() -> Vec<SockFilter> {
    by_version(vec![], vec![])
}

/// Goes on with those whose checksum field holds the pseudo-header sum, and with IPv6 extension headers.
fn unfinished() -> Vec<SockFilter> {
    by_version(sum_v4(), sum_v6())
}

/// `four` and `six` go on with a TCP or UDP packet at X whose transport header is at L4, and whose protocol number is
/// in A.
fn by_version(four: Vec<SockFilter>, six: Vec<SockFilter>) -> Vec<SockFilter> {
    let mut v4 = not_a_fragment();
    v4.extend(header_len());
    v4.extend([op(libc::BPF_ST, HELD), op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0)]);
    v4.extend([op(libc::BPF_ST, L4), load(libc::BPF_B, 9)]);
    v4.extend(require_any(&[protocol::TCP, protocol::UDP].map(u32::from)));
    v4.extend(four);
    let mut plain = vec![op(libc::BPF_ST, SUM), op(libc::BPF_MISC | libc::BPF_TXA, 0)];
    plain.push(op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, ipv6::LEN as u32));
    plain.extend([op(libc::BPF_ST, L4), op(libc::BPF_LD | libc::BPF_MEM, SUM)]);
    plain.extend(six);
    let mut v6 = require_any(&[6]);
    v6.push(load(libc::BPF_B, 6));
    v6.extend(refuse_any(&[protocol::ICMPV6, protocol::IPV6_FRAGMENT].map(u32::from)));
    v6.extend(choose(&[protocol::TCP, protocol::UDP].map(u32::from), plain, vec![]));
    let mut program = vec![load(libc::BPF_B, 0), op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4)];
    program.extend(choose(&[4], v4, v6));
    program
}

/// HELD is the length of the IPv4 header at X, A the protocol number.
fn sum_v4() -> Vec<SockFilter> {
    let mut program = vec![op(libc::BPF_ST, SUM), op(libc::BPF_ST, PROTOCOL), load(libc::BPF_H, 2)];
    program.extend([
        op(libc::BPF_LDX | libc::BPF_MEM, HELD),
        op(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0),
    ]);
    program.extend(add_to_sum());
    program.extend(add_halves(12, 4));
    program.extend(compare());
    program
}

/// The same for IPv6, which has no length to take off.
fn sum_v6() -> Vec<SockFilter> {
    let mut program = vec![op(libc::BPF_ST, SUM), op(libc::BPF_ST, PROTOCOL), load(libc::BPF_H, 4)];
    program.extend(add_to_sum());
    program.extend(add_halves(8, 16));
    program.extend(compare());
    program
}

/// SUM += the `count` halfwords from X + `from` on.
fn add_halves(from: u32, count: u32) -> Vec<SockFilter> {
    (0..count)
        .flat_map(|index| {
            let mut one = vec![load(libc::BPF_H, from + 2 * index)];
            one.extend(add_to_sum());
            one
        })
        .collect()
}

/// SUM += A; X = INNER.
fn add_to_sum() -> [SockFilter; 4] {
    [
        op(libc::BPF_LDX | libc::BPF_MEM, SUM),
        op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
        op(libc::BPF_ST, SUM),
        op(libc::BPF_LDX | libc::BPF_MEM, INNER),
    ]
}

/// Goes on when SUM, folded, is what the checksum field says; PROTOCOL is the inner one.
fn compare() -> Vec<SockFilter> {
    let mut program = Vec::new();
    for _ in 0..2 {
        program.extend([
            op(libc::BPF_LD | libc::BPF_MEM, SUM),
            op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 16),
            op(libc::BPF_MISC | libc::BPF_TAX, 0),
            op(libc::BPF_LD | libc::BPF_MEM, SUM),
            op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xffff),
            op(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
            op(libc::BPF_ST, SUM),
        ]);
    }
    program.extend([op(libc::BPF_LDX | libc::BPF_MEM, L4), op(libc::BPF_LD | libc::BPF_MEM, PROTOCOL)]);
    let field = |at: usize| vec![load(libc::BPF_H, at as u32)];
    program.extend(choose(
        &[u32::from(protocol::TCP)],
        field(tcp::FIELD_CHECKSUM),
        field(udp::FIELD_CHECKSUM),
    ));
    program.push(op(libc::BPF_LDX | libc::BPF_MEM, SUM));
    program.extend(require_x());
    program
}

/// Goes on with an IPv4 packet at X that is no fragment.
fn not_a_fragment() -> Vec<SockFilter> {
    let fragment = jump(libc::BPF_JSET, ipv4::FRAGMENT.into(), 0, 1);
    vec![load(libc::BPF_H, 6), fragment, op(libc::BPF_RET | libc::BPF_K, 0)]
}

/// A = bytes of the IPv4 header at X.
fn header_len() -> [SockFilter; 3] {
    [
        load(libc::BPF_B, 0),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf),
        op(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 2),
    ]
}

/// A = what the kernel knows of the packet beside its bytes.
fn load_extra(what: libc::c_int) -> SockFilter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (libc::SKF_AD_OFF + what) as u32)
}

/// Goes on when A is one of `values`.
fn require_any(values: &[u32]) -> Vec<SockFilter> {
    let one = |(index, value): (usize, &u32)| jump(libc::BPF_JEQ, *value, values.len() - index, 0);
    let mut program: Vec<SockFilter> = values.iter().enumerate().map(one).collect();
    program.push(op(libc::BPF_RET | libc::BPF_K, 0));
    program
}

/// Goes on when A is none of `values`.
fn refuse_any(values: &[u32]) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for value in values {
        program.extend([jump(libc::BPF_JEQ, *value, 0, 1), op(libc::BPF_RET | libc::BPF_K, 0)]);
    }
    program
}

/// Goes on when A is X.
fn require_x() -> [SockFilter; 2] {
    let equal = SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X) as u16, 1, 0, 0);
    [equal, op(libc::BPF_RET | libc::BPF_K, 0)]
}

/// `yes` where A is one of `values`, else `no`; goes on behind both.
fn choose(values: &[u32], yes: Vec<SockFilter>, no: Vec<SockFilter>) -> Vec<SockFilter> {
    let over = |len: usize| op(libc::BPF_JMP | libc::BPF_JA, len as u32);
    let one = |(index, value): (usize, &u32)| jump(libc::BPF_JEQ, *value, values.len() - index, 0);
    let mut program: Vec<SockFilter> = values.iter().enumerate().map(one).collect();
    program.push(over(yes.len() + 1));
    program.extend(yes);
    program.push(over(no.len()));
    program.extend(no);
    program
}
