//! The kernel's helpers (net/core/filter.c), for one packet of this thread.
//!
//! The interpreter hands helpers bare addresses, as the kernel does, and checks none of them: the stack
//! and the context of the program that runs, and of the length that the program says.
#![expect(unsafe_code, reason = "helpers get addresses")]

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use crate::wire::ethernet;

/// Bytes of `struct __sk_buff`, which begins with the packet's length.
const CONTEXT: usize = 192;
/// Where the type of the packet is.
pub const PACKET_TYPE: usize = 4;
/// Where its queue is.
pub const QUEUE: usize = 12;
/// Where the five words of `cb` are.
const CB: usize = 48;
/// The processor that programs run on.
pub const PROCESSOR_HERE: u32 = 3;
/// What helpers return where they fail.
const EFAULT: u64 = -14_i64 as u64;
const ENOTSUPP: u64 = -524_i64 as u64;

/// A packet as the kernel has it.
#[derive(Clone, Debug)]
pub struct Skb {
    /// From the link header on, where it has one.
    pub bytes: Vec<u8>,
    /// Whether the kernel would make room in it.
    pub room: bool,
    /// Bytes of payload of each segment; 0 where it is none of several.
    pub gso_size: u32,
    /// Ethertype.
    pub protocol: u16,
    /// PACKET_HOST and others.
    pub packet_type: u32,
    /// One more than the queue that it came by; 0 for none.
    pub queue: u32,
    /// Whether it has a VLAN tag.
    pub vlan: bool,
    /// Index of the interface.
    pub interface: u32,
    /// What programs leave for those that see it after them.
    pub cb: [u32; 5],
}

impl Skb {
    /// A packet for this host.
    pub fn of(packet: &[u8]) -> Self {
        Self {
            bytes: packet.to_vec(),
            room: true,
            gso_size: 0,
            protocol: ethernet::IPV4,
            packet_type: 0,
            queue: 0,
            vlan: false,
            interface: 0,
            cb: [0; 5],
        }
    }
}

/// A map.
#[derive(Clone, Copy, Debug)]
pub enum Map<'a> {
    /// Keys of some length, and their values.
    Hash(&'a [(Vec<u8>, u32)]),
    /// Records of so many words.
    Array(&'a [AtomicU64], usize),
}

impl Map<'_> {
    /// The memory that programs may use.
    pub fn memory(&self) -> Vec<Range<u64>> {
        let range = |from: u64, len: usize| from..from + len as u64;
        match self {
            Self::Hash(entries) => {
                entries.iter().map(|(_, value)| range(std::ptr::from_ref(value) as u64, 4)).collect()
            }
            Self::Array(words, _) => vec![range(words.as_ptr() as u64, words.len() * 8)],
        }
    }
}

/// What the program sees.
#[derive(Default)]
struct Packet {
    bytes: Vec<u8>,
    room: bool,
    redirected: Option<(u32, u64)>,
    maps: Vec<Lookup>,
}

/// A map as addresses.
enum Lookup {
    Hash(Vec<(Vec<u8>, u64)>),
    Array { first: u64, records: usize, bytes: usize },
}

thread_local! {
    static PACKET: RefCell<Packet> = RefCell::default();
}

/// Makes `skb` the packet of this thread and returns its context.
pub fn begin(skb: &Skb, maps: &[Map<'_>]) -> [u8; CONTEXT] {
    let lookup = |map: &Map<'_>| match map {
        Map::Hash(entries) => Lookup::Hash(
            entries.iter().map(|(key, value)| (key.clone(), std::ptr::from_ref(value) as u64)).collect(),
        ),
        Map::Array(words, record) => {
            Lookup::Array { first: words.as_ptr() as u64, records: words.len() / record, bytes: record * 8 }
        }
    };
    let maps = maps.iter().map(lookup).collect();
    PACKET.replace(Packet { bytes: skb.bytes.clone(), room: skb.room, redirected: None, maps });
    let mut context = [0; CONTEXT];
    let protocol = u32::from(skb.protocol.to_be());
    let fields = [
        (0, skb.bytes.len() as u32),
        (PACKET_TYPE, skb.packet_type),
        (QUEUE, skb.queue),
        (16, protocol),
        (20, u32::from(skb.vlan)),
        (40, skb.interface),
        (176, skb.gso_size),
    ];
    let cb = (CB..).step_by(4).zip(skb.cb);
    for (at, value) in fields.into_iter().chain(cb) {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

/// The words that a program has left in its context.
pub fn cb(context: &[u8; CONTEXT]) -> [u32; 5] {
    let (words, _) = context[CB..].as_chunks();
    std::array::from_fn(|place| u32::from_ne_bytes(words[place]))
}

/// A word that a program has left in its context.
pub fn word(context: &[u8; CONTEXT], at: usize) -> u32 {
    let (words, _) = context[at..].as_chunks();
    u32::from_ne_bytes(words[0])
}

/// The packet as it is now, and where it was redirected to.
pub fn end() -> (Vec<u8>, Option<(u32, u64)>) {
    let packet = PACKET.take();
    (packet.bytes, packet.redirected)
}

/// `bpf_map_lookup_elem`; maps are known by their places.
pub fn map_lookup(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
    PACKET.with_borrow(|packet| match &packet.maps[map as usize] {
        Lookup::Hash(entries) => {
            let wanted = |(key_of, _): &&(Vec<u8>, u64)| {
                // SAFETY: the program passes the address of a key of this map, which have all the same length.
                unsafe { std::slice::from_raw_parts(key as *const u8, key_of.len()) == key_of }
            };
            entries.iter().find(wanted).map_or(0, |(_, value)| *value)
        }
        Lookup::Array { first, records, bytes } => {
            // SAFETY: the program passes the address of an index.
            let index = unsafe { (key as *const u32).read_unaligned() } as usize;
            if index < *records { first + (index * bytes) as u64 } else { 0 }
        }
    })
}

/// `bpf_get_smp_processor_id`.
pub fn processor(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    PROCESSOR_HERE.into()
}

/// `bpf_redirect`.
pub fn redirect(interface: u64, flags: u64, _: u64, _: u64, _: u64) -> u64 {
    const TC_ACT_REDIRECT: u64 = 7;
    PACKET.with_borrow_mut(|packet| packet.redirected = Some((interface as u32, flags)));
    TC_ACT_REDIRECT
}

/// `bpf_skb_change_type`.
pub fn skb_change_type(context: u64, kind: u64, _: u64, _: u64, _: u64) -> u64 {
    let kind = (kind as u32).to_ne_bytes();
    // SAFETY: the program passes the context it was given, which `begin` made longer than this.
    unsafe {
        std::ptr::copy_nonoverlapping(kind.as_ptr(), (context as *mut u8).add(PACKET_TYPE), kind.len());
    };
    0
}

/// `bpf_skb_change_head`.
pub fn skb_change_head(context: u64, len: u64, flags: u64, _: u64, _: u64) -> u64 {
    assert_eq!(flags, 0);
    PACKET.with_borrow_mut(|packet| {
        packet.bytes.splice(..0, std::iter::repeat_n(0, len as usize));
        tell_length(context, packet.bytes.len());
        0
    })
}

fn tell_length(context: u64, len: usize) {
    let now = (len as u32).to_ne_bytes();
    // SAFETY: the program passes the context it was given, which `begin` made longer than this.
    unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), context as *mut u8, now.len()) };
}

/// `bpf_skb_load_bytes`.
pub fn skb_load_bytes(_context: u64, from: u64, to: u64, len: u64, _: u64) -> u64 {
    PACKET.with_borrow(|packet| {
        let (from, len) = (from as usize, len as usize);
        let Some(bytes) = packet.bytes.get(from..from + len) else { return EFAULT };
        // SAFETY: the program passes an address on its stack with `len` bytes behind it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, len) };
        0
    })
}

/// `bpf_skb_store_bytes`, without flags.
pub fn skb_store_bytes(_context: u64, at: u64, from: u64, len: u64, flags: u64) -> u64 {
    assert_eq!(flags, 0);
    PACKET.with_borrow_mut(|packet| {
        let (at, len) = (at as usize, len as usize);
        let Some(bytes) = packet.bytes.get_mut(at..at + len) else { return EFAULT };
        // SAFETY: the program passes an address on its stack with `len` bytes behind it.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), len) };
        0
    })
}

/// `bpf_csum_diff`: adds the words at `to`; there is nothing to take off here.
pub fn csum_diff(from: u64, from_len: u64, to: u64, len: u64, seed: u64) -> u64 {
    assert_eq!((from, from_len, len % 4), (0, 0, 0));
    let mut bytes = vec![0; len as usize];
    // SAFETY: the program passes an address on its stack with `len` bytes behind it.
    unsafe { std::ptr::copy_nonoverlapping(to as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    let (words, _) = bytes.as_chunks::<4>();
    let mut sum = seed + words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
    while sum >> 32 != 0 {
        sum = (sum & u64::from(u32::MAX)) + (sum >> 32);
    }
    sum
}

/// `bpf_skb_adjust_room` between link and network header: what is not there is behind no link header.
pub fn skb_adjust_room(context: u64, len: u64, mode: u64, _flags: u64, _: u64) -> u64 {
    // BPF_ADJ_ROOM_MAC
    assert_eq!(mode, 1);
    PACKET.with_borrow_mut(|packet| {
        if !packet.room {
            return ENOTSUPP;
        }
        let len = len as i32;
        // A packet of a device without link headers begins with its version.
        let link = if matches!(packet.bytes[0] >> 4, 4 | 6) { 0 } else { ethernet::LEN };
        match usize::try_from(len) {
            Ok(more) => drop(packet.bytes.splice(link..link, std::iter::repeat_n(0xa5, more))),
            Err(_) => drop(packet.bytes.drain(link..link + len.unsigned_abs() as usize)),
        }
        tell_length(context, packet.bytes.len());
        0
    })
}
