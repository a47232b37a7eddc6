//! Control messages of sends and receives (cmsg(3)), laid out by hand: length, level, type, data.

use std::ffi::c_int;
use std::mem::size_of;

/// Bytes of control data of one message: UDP_SEGMENT and IP_TOS or IPV6_TCLASS, or UDP_GRO and one of
/// these, each aligned.
pub(super) const CONTROL: usize = 64;

/// Control data, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub [u8; CONTROL]);

/// Writes one control message to `buffer` and returns the bytes it takes, padding included.
pub(super) fn control_message(buffer: &mut [u8], level: c_int, kind: c_int, data: &[u8]) -> usize {
    let header = size_of::<libc::cmsghdr>();
    let len = header + data.len();
    buffer[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    buffer[size_of::<usize>()..size_of::<usize>() + 4].copy_from_slice(&level.to_ne_bytes());
    buffer[size_of::<usize>() + 4..header].copy_from_slice(&kind.to_ne_bytes());
    buffer[header..len].copy_from_slice(data);
    len.next_multiple_of(size_of::<usize>())
}

/// The TOS or traffic class byte and the UDP_GRO segment size among the control messages; 0 where absent.
pub(super) fn read_control(mut control: &[u8]) -> (u8, usize) {
    let header = size_of::<libc::cmsghdr>();
    let (mut tos, mut segment) = (0, 0);
    while let Some(head) = control.get(..header) {
        let word = |at: usize| c_int::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut len_bytes = [0; size_of::<usize>()];
        len_bytes.copy_from_slice(&head[..size_of::<usize>()]);
        let len = usize::from_ne_bytes(len_bytes);
        let Some(data) = control.get(header..len) else { break };
        match (word(size_of::<usize>()), word(size_of::<usize>() + 4), data) {
            (libc::IPPROTO_IP, libc::IP_TOS, [byte, ..]) => tos = *byte,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, [a, b, c, d, ..]) => {
                tos = c_int::from_ne_bytes([*a, *b, *c, *d]) as u8;
            }
            (libc::SOL_UDP, libc::UDP_GRO, [a, b, c, d, ..]) => {
                segment = usize::try_from(c_int::from_ne_bytes([*a, *b, *c, *d])).unwrap_or(0);
            }
            _ => {}
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or(&[]);
    }
    (tos, segment)
}

#[cfg(test)]
mod tests {
    use super::{CONTROL, control_message, read_control};

    #[test]
    fn control_messages_round_trip() {
        let mut buffer = [0xa5; CONTROL];
        let mut used = control_message(&mut buffer, libc::IPPROTO_IP, libc::IP_TOS, &[0x03]);
        used += control_message(&mut buffer[used..], libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes());
        assert_eq!(used % 8, 0);
        assert_eq!(read_control(&buffer[..used]), (3, 1472));
        let used =
            control_message(&mut buffer, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0xb9i32.to_ne_bytes());
        assert_eq!(read_control(&buffer[..used]), (0xb9, 0));
    }

    #[test]
    fn hostile_control_lengths_end_the_walk() {
        for len in [0usize, 1, 15, usize::MAX] {
            let mut buffer = [0; CONTROL];
            buffer[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(read_control(&buffer), (0, 0));
        }
    }
}
