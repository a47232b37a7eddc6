//! The kernel's helpers (net/core/filter.c), for one packet of this thread.
//!
//! The interpreter hands helpers bare addresses, as the kernel does, and checks none of them: the stack
//! and the context of the program that runs, and of the length that the program says.
#![expect(unsafe_code, reason = "helpers get addresses")]

use std::cell::RefCell;

use crate::wire::ethernet;

/// Bytes of `struct __sk_buff`, which begins with the packet's length.
const CONTEXT: usize = 192;
/// What helpers return where they fail.
const EFAULT: u64 = -14_i64 as u64;
const ENOTSUPP: u64 = -524_i64 as u64;

/// The packet that the program sees.
#[derive(Default)]
struct Packet {
    bytes: Vec<u8>,
    room: bool,
}

thread_local! {
    static PACKET: RefCell<Packet> = RefCell::default();
}

/// Makes `packet` that of this thread and returns its context.
pub fn begin(packet: &[u8], room: bool) -> [u8; CONTEXT] {
    PACKET.replace(Packet { bytes: packet.to_vec(), room });
    let mut context = [0; CONTEXT];
    context[..4].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
    context
}

/// The packet as it is now.
pub fn end() -> Vec<u8> {
    PACKET.take().bytes
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

/// `bpf_skb_adjust_room` between link and network header, for an outer IPv4 header.
pub fn skb_adjust_room(context: u64, len: u64, mode: u64, flags: u64, _: u64) -> u64 {
    // BPF_ADJ_ROOM_MAC; BPF_F_ADJ_ROOM_FIXED_GSO and BPF_F_ADJ_ROOM_ENCAP_L3_IPV4.
    assert_eq!((mode, flags), (1, 3));
    PACKET.with_borrow_mut(|packet| {
        if !packet.room {
            return ENOTSUPP;
        }
        let new = std::iter::repeat_n(0xa5, len as usize);
        packet.bytes.splice(ethernet::LEN..ethernet::LEN, new);
        let now = (packet.bytes.len() as u32).to_ne_bytes();
        // SAFETY: the program passes the context it was given, which `begin` made longer than this.
        unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), context as *mut u8, now.len()) };
        0
    })
}
