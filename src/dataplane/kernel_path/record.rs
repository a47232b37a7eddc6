//! What programs repeat for one direction of a flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::key::FlowKey;
use super::words::{
    ARRIVES, BARE_HEADER, CHECKSUM, FLAGS, FORMAT, HEADER, HEADER_WORDS, INTERFACE, IPIP_HEADER,
    IPIP6_HEADER, KEEP, KEY, LENGTH, LIVE, MTU, OUTER_SOURCE, SET, STATE, VXLAN_HEADER, VXLAN6_HEADER,
    format,
};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::packet::Family;
use crate::net::Mode;
use crate::wire::{be16, ethernet, ipv4};

/// BPF_F_ADJ_ROOM_FIXED_GSO: segments already fit the path.
const FIXED_GSO: u64 = 1;
/// BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
const ENCAP_IPV4: u64 = 1 << 1;
/// BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
const ENCAP_IPV6: u64 = 1 << 2;
/// BPF_F_ADJ_ROOM_ENCAP_L4_UDP
const ENCAP_UDP: u64 = 1 << 4;
/// BPF_F_ADJ_ROOM_ENCAP_L2_ETH and BPF_F_ADJ_ROOM_ENCAP_L2(14)
const ENCAP_ETHERNET: u64 = 1 << 6 | (ethernet::LEN as u64) << 56;
/// What says that another family is inside than outside: BPF_F_ADJ_ROOM_DECAP_L3_IPV4 and BPF_F_ADJ_ROOM_DECAP_L3_IPV6
/// (Linux 6.3).
const fn decap(outer: Family, inner: Family) -> u64 {
    match (outer, inner) {
        (Family::V4, Family::V4) | (Family::V6, Family::V6) => 0,
        (Family::V6, Family::V4) => 1 << 7,
        (Family::V4, Family::V6) => 1 << 8,
    }
}

/// What programs repeat for one direction of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// The flow.
    pub key: FlowKey,
    /// The mode, which is also the format that packets have on the wire.
    pub mode: Mode,
    /// The family of the outer headers; IPv4 where there are none.
    pub outer: Family,
    /// The number of the rules that it was allowed by; 0 without rules.
    pub generation: u32,
    pub(super) words: [u64; KEY],
}

/// What stands in front of the inner packet on the wire, but for what differs from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct Encapsulation<'a> {
    /// Ethernet header of the first hop.
    pub link: &'a [u8],
    /// Outer headers behind it; empty for bare packets.
    pub outer: &'a [u8],
}

/// What is repeated for packets on their way out.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// The mode.
    pub mode: Mode,
    /// The index of the interface by which they leave.
    pub interface: u32,
    /// Bytes of the largest inner packet.
    pub mtu: u16,
    /// How outer TOS bytes are made.
    pub marking: Marking,
    /// What stands in front.
    pub encapsulation: Encapsulation<'a>,
}

/// What is repeated for packets on their way in.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// The format.
    pub mode: Mode,
    /// Who sends them.
    pub outer_source: IpAddr,
    /// The index of the interface that they arrive at.
    pub uplink: u32,
}

impl Record {
    /// Packets of `key` leave so; `None` where no program can do that.
    pub fn outbound(key: FlowKey, generation: u32, how: &Outbound<'_>) -> Option<Self> {
        let mut header = [0; HEADER_WORDS * 8];
        let Encapsulation { link, outer } = how.encapsulation;
        let len = link.len() + outer.len();
        let (family, flags) = match (how.mode, len) {
            (Mode::Vxlan, VXLAN_HEADER) => (Family::V4, FIXED_GSO | ENCAP_IPV4 | ENCAP_UDP | ENCAP_ETHERNET),
            (Mode::Vxlan, VXLAN6_HEADER) => (Family::V6, FIXED_GSO | ENCAP_IPV6 | ENCAP_UDP | ENCAP_ETHERNET),
            (Mode::Ipip, IPIP_HEADER) => (Family::V4, FIXED_GSO | ENCAP_IPV4),
            (Mode::Ipip, IPIP6_HEADER) => (Family::V6, FIXED_GSO | ENCAP_IPV6),
            (Mode::Direct, BARE_HEADER) => (Family::V4, 0),
            _ => return None,
        };
        header[..link.len()].copy_from_slice(link);
        header[link.len()..len].copy_from_slice(outer);
        let mut words = [0; KEY];
        words[STATE] = LIVE;
        words[INTERFACE] = how.interface.into();
        words[MTU] = how.mtu.into();
        words[LENGTH] = len as u64;
        (words[KEEP], words[SET]) = how.marking.parts();
        words[FLAGS] = flags;
        if !outer.is_empty() && family == Family::V4 {
            words[CHECKSUM] = constant_sum(&outer[..ipv4::LEN]);
        }
        words[FORMAT] = format(how.mode, family);
        let (chunks, _) = header.as_chunks::<8>();
        for (word, bytes) in words[HEADER..].iter_mut().zip(chunks) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Some(Self { key, mode: how.mode, outer: family, generation, words })
    }

    /// Packets of `key` come in so, for the interface with index `device`; `None` where no program can do that.
    pub fn inbound(key: FlowKey, generation: u32, device: u32, how: &Inbound) -> Option<Self> {
        let family = Family::of(how.outer_source);
        let strip = overhead(how.mode, family);
        if strip == 0 {
            return None;
        }
        let mut words = [0; KEY];
        words[STATE] = LIVE;
        words[INTERFACE] = device.into();
        words[LENGTH] = strip;
        words[FLAGS] = FIXED_GSO | decap(family, Family::of(key.source));
        words[ARRIVES] = how.uplink.into();
        match how.outer_source {
            IpAddr::V4(source) => words[OUTER_SOURCE] = u32::from_ne_bytes(source.octets()).into(),
            IpAddr::V6(source) => {
                let source = source.octets();
                let (halves, _) = source.as_chunks::<8>();
                for (word, half) in words[OUTER_SOURCE..].iter_mut().zip(halves) {
                    *word = u64::from_ne_bytes(*half);
                }
            }
        }
        words[FORMAT] = format(how.mode, family);
        Some(Self { key, mode: how.mode, outer: family, generation, words })
    }

    /// Who sends packets on their way in.
    pub fn outer_source(&self) -> IpAddr {
        let [first, second] = [0, 1].map(|half| self.words[OUTER_SOURCE + half]);
        match self.outer {
            Family::V4 => Ipv4Addr::from((first as u32).to_ne_bytes()).into(),
            Family::V6 => {
                Ipv6Addr::from(u128::from(u64::from_be(first)) << 64 | u128::from(u64::from_be(second)))
                    .into()
            }
        }
    }

    /// Bytes of outer headers of each packet, without the link's.
    pub(super) fn overhead(&self) -> u64 {
        overhead(self.mode, self.outer)
    }
}

/// Bytes of outer headers, without the link's.
const fn overhead(mode: Mode, outer: Family) -> u64 {
    let len = match (mode, outer) {
        (Mode::Vxlan, Family::V4) => VXLAN_HEADER,
        (Mode::Vxlan, Family::V6) => VXLAN6_HEADER,
        (Mode::Ipip, Family::V4) => IPIP_HEADER,
        (Mode::Ipip, Family::V6) => IPIP6_HEADER,
        (Mode::Direct, _) => BARE_HEADER,
    };
    (len - ethernet::LEN) as u64
}

/// The sum of an IPv4 header's words without TOS, length and checksum, which differ from packet to packet.
fn constant_sum(header: &[u8]) -> u64 {
    let words = (0..ipv4::LEN).step_by(2).filter(|at| !matches!(at, 2 | 10));
    let sum = words.map(|at| u64::from(be16(header, at))).sum::<u64>();
    // TOS is the second byte of the first word.
    sum - u64::from(header[1])
}
