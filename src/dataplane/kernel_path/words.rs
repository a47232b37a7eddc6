//! The words of a slot, which programs and this process share.
//!
//! ```text
//! state │ interface │ MTU │ length │ TOS keep, set │ flags │ outer source │ checksum │ format     what is repeated
//! packets │ bytes │ largest │ lost                                                                what was
//! header (88)                                                                                     what is put in front
//! key (40) │ generation                                                                           for reviews
//! passed │ sent │ refused                                                                         to the pump
//! to │ whole                                                                                      how they come in
//! ```

use super::key;
use crate::dataplane::packet::Family;
use crate::net::Mode;
use crate::wire::{ethernet, ipv4, ipv6, udp, vxlan};

/// Words of a slot.
pub(super) const WORDS: usize = 40;

// Places of words; the programs use eight times that.
pub(super) const STATE: usize = 0;
pub(super) const INTERFACE: usize = 1;
pub(super) const MTU: usize = 2;
pub(super) const LENGTH: usize = 3;
pub(super) const KEEP: usize = 4;
pub(super) const SET: usize = 5;
pub(super) const FLAGS: usize = 6;
/// Two words.
pub(super) const OUTER_SOURCE: usize = 7;
pub(super) const CHECKSUM: usize = 9;
pub(super) const FORMAT: usize = 10;
pub(super) const PACKETS: usize = 11;
pub(super) const BYTES: usize = 12;
pub(super) const LARGEST: usize = 13;
pub(super) const LOST: usize = 14;
/// The interface that packets on their way in arrive at.
pub(super) const ARRIVES: usize = 15;
pub(super) const HEADER: usize = 16;
pub(super) const KEY: usize = HEADER + HEADER_WORDS;
pub(super) const GENERATION: usize = KEY + key::LEN / 8;
/// Packets that have passed to the pump since the hand-over began.
pub(super) const PASSED: usize = GENERATION + 1;
/// How many of them the pump has sent on. Programs carry the flow once that is all.
pub(super) const SENT: usize = PASSED + 1;
/// Packets whose headers the kernel would not exchange, so that they passed to the pump.
pub(super) const REFUSED: usize = SENT + 1;
/// Where packets are redirected to: the interface, and how above it ([`by`]).
pub(super) const TO: usize = REFUSED + 1;
/// Not 0 if a super-packet came since this was last asked.
pub(super) const WHOLE: usize = TO + 1;
const _: () = assert!(WHOLE < WORDS);

/// Where the flags of `bpf_redirect` are in [`TO`].
pub(super) const REDIRECT_FLAGS: i32 = 32;

/// The value of [`TO`] for what comes in by the interface with index `device`, and for what is sent by it.
pub(super) const fn by(device: u32, ingress: bool) -> u64 {
    (ingress as u64) << REDIRECT_FLAGS | device as u64
}

/// Words of the longest header.
pub(super) const HEADER_WORDS: usize = VXLAN6_HEADER.div_ceil(8);

// States.
/// Nobody uses it.
pub(super) const FREE: u64 = 0;
/// Programs repeat what it says.
pub(super) const LIVE: u64 = 1;
/// The flow is the pump's again.
pub(super) const VOID: u64 = 2;

/// Bytes in front of an inner packet, Ethernet header included, by format: VXLAN and IP-in-IP over IPv4 and over IPv6,
/// and bare. Each is another number, by which programs tell them apart.
pub(super) const VXLAN_HEADER: usize = IPIP_HEADER + VXLAN_BEHIND_IP;
pub(super) const VXLAN6_HEADER: usize = IPIP6_HEADER + VXLAN_BEHIND_IP;
pub(super) const IPIP_HEADER: usize = ethernet::LEN + ipv4::LEN;
pub(super) const IPIP6_HEADER: usize = ethernet::LEN + ipv6::LEN;
pub(super) const BARE_HEADER: usize = ethernet::LEN;
/// Bytes between the outer IP header and the inner packet.
pub(super) const VXLAN_BEHIND_IP: usize = udp::LEN + vxlan::LEN + ethernet::LEN;

/// What is added to the number of a format over IPv6.
const OVER_IPV6: u64 = 4;

/// A format as programs know it.
pub(super) const fn format(mode: Mode, outer: Family) -> u64 {
    let mode = match mode {
        Mode::Vxlan => 1,
        Mode::Ipip => 2,
        Mode::Direct => 3,
    };
    match outer {
        Family::V4 => mode,
        Family::V6 => mode + OVER_IPV6,
    }
}

/// From [`format()`].
pub(super) const fn of_format(format: u64) -> (Mode, Family) {
    let outer = if format & OVER_IPV6 == 0 { Family::V4 } else { Family::V6 };
    let mode = match format % OVER_IPV6 {
        1 => Mode::Vxlan,
        2 => Mode::Ipip,
        _ => Mode::Direct,
    };
    (mode, outer)
}
