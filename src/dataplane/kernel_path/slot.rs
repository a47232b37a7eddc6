//! The memory of one flow that programs and this process share, and what is written there.
//!
//! ```text
//! state │ interface │ MTU │ length │ TOS keep, set │ flags │ outer source │ checksum │ format     what is repeated
//! packets │ bytes │ largest │ lost                                                                what was
//! header (88)                                                                                     what is put in front
//! key (40) │ generation                                                                           for reviews
//! passed │ sent │ refused                                                                         to the pump
//! to │ whole                                                                                      how they come in
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use super::key::{self, FlowKey};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::packet::{Direction, Family};
use crate::net::Mode;
use crate::wire::{be16, ethernet, ipv4, ipv6, udp, vxlan};

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
const KEY: usize = HEADER + HEADER_WORDS;
const GENERATION: usize = KEY + key::LEN / 8;
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
const FREE: u64 = 0;
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
    words: [u64; KEY],
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

/// From [`format`].
fn of_format(format: u64) -> (Mode, Family) {
    let outer = if format & OVER_IPV6 == 0 { Family::V4 } else { Family::V6 };
    let mode = match format % OVER_IPV6 {
        1 => Mode::Vxlan,
        2 => Mode::Ipip,
        _ => Mode::Direct,
    };
    (mode, outer)
}

/// The sum of an IPv4 header's words without TOS, length and checksum, which differ from packet to packet.
fn constant_sum(header: &[u8]) -> u64 {
    let words = (0..ipv4::LEN).step_by(2).filter(|at| !matches!(at, 2 | 10));
    let sum = words.map(|at| u64::from(be16(header, at))).sum::<u64>();
    // TOS is the second byte of the first word.
    sum - u64::from(header[1])
}

/// One slot.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(pub &'a [AtomicU64]);

/// What programs have done for a flow so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Inner packets, after segmentation.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were lost for want of memory, not after segmentation.
    pub lost: u64,
}

impl Counts {
    /// What has come since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(before.packets),
            bytes: self.bytes.wrapping_sub(before.bytes),
            lost: self.lost.wrapping_sub(before.lost),
        }
    }
}

impl Slot<'_> {
    fn get(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    fn put(self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    /// Writes a record into a free slot. Programs and reviews see it whole.
    pub(super) fn write(self, record: &Record) {
        for (word, value) in record.words.iter().enumerate().skip(STATE + 1) {
            self.put(word, *value);
        }
        let bytes = record.key.bytes();
        let (chunks, _) = bytes.as_chunks::<8>();
        for (place, chunk) in chunks.iter().enumerate() {
            self.put(KEY + place, u64::from_ne_bytes(*chunk));
        }
        self.put(GENERATION, record.generation.into());
        self.put(PASSED, 0);
        self.put(SENT, u64::MAX);
        self.put(REFUSED, 0);
        let interface = record.words[INTERFACE] as u32;
        self.put(TO, by(interface, record.key.direction == Direction::Inbound));
        self.put(WHOLE, 0);
        self.0[STATE].store(LIVE, Ordering::SeqCst);
    }

    /// The key that it has.
    pub(super) fn key(self) -> FlowKey {
        let mut bytes = [0; key::LEN];
        for (place, chunk) in bytes.chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&self.get(KEY + place).to_ne_bytes());
        }
        FlowKey::parse(&bytes)
    }

    /// What it repeats.
    pub(super) fn record(self) -> Record {
        let mut words = [0; KEY];
        for (place, word) in words.iter_mut().enumerate() {
            *word = self.get(place);
        }
        words[STATE] = LIVE;
        words[PACKETS..=LOST].fill(0);
        let generation = self.get(GENERATION) as u32;
        let (mode, outer) = of_format(words[FORMAT]);
        Record { key: self.key(), mode, outer, generation, words }
    }

    /// Whether programs use it.
    pub(super) fn is_live(self) -> bool {
        self.0[STATE].load(Ordering::SeqCst) == LIVE
    }

    /// Whether its flow is the pump's again, and it is not yet free.
    pub(super) fn is_void(self) -> bool {
        self.0[STATE].load(Ordering::SeqCst) == VOID
    }

    /// Gives its flow back to the pump; returns whether it was not before.
    pub(super) fn void(self) -> bool {
        self.0[STATE].compare_exchange(LIVE, VOID, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Packets that have passed to the pump, to be asked before the worker looks whether its queue is empty.
    pub(super) fn passed(self) -> u64 {
        self.0[PASSED].load(Ordering::Acquire)
    }

    /// How many of them programs would have carried, had the kernel let them.
    pub(super) fn refused(self) -> u64 {
        self.get(REFUSED)
    }

    /// The pump has sent on so many of them. Programs carry the flow from its next packet on if no other has passed.
    pub(super) fn set_sent(self, passed: u64) {
        self.0[SENT].store(passed, Ordering::Release);
    }

    /// Whether programs carry the flow, or would.
    pub(super) fn is_carried(self) -> bool {
        self.get(PASSED) == self.get(SENT)
    }

    /// What programs have done so far.
    pub(super) fn counts(self) -> Counts {
        Counts { packets: self.get(PACKETS), bytes: self.get(BYTES), lost: self.get(LOST) }
    }

    /// The largest inner packet since this was last asked.
    pub(super) fn take_largest(self) -> u64 {
        self.0[LARGEST].swap(0, Ordering::Relaxed)
    }

    /// Whether a super-packet came in since this was last asked.
    pub(super) fn take_whole(self) -> bool {
        self.0[WHOLE].swap(0, Ordering::Relaxed) != 0
    }

    /// The index of the interface that what comes in arrives at.
    pub(super) fn arrives(self) -> u32 {
        self.get(ARRIVES) as u32
    }

    /// Whether what comes in goes by another interface than the one that it is for.
    pub(super) fn is_detoured(self) -> bool {
        self.get(TO) >> REDIRECT_FLAGS == 0
    }

    /// What comes in is sent by `interface` from now on, which brings it to where it is for. What was there before is not
    /// overtaken: it takes longer.
    pub(super) fn detour(self, interface: u32) {
        self.put(TO, by(interface, false));
    }

    /// Makes it a free one, once no program uses it any more.
    pub(super) fn clear(self) {
        for word in PACKETS..=LOST {
            self.put(word, 0);
        }
        self.0[STATE].store(FREE, Ordering::SeqCst);
    }
}
