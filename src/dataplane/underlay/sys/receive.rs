//! A batch of messages from one `recvmmsg`, in one arena.
#![expect(unsafe_code, reason = "system calls")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::RawFd;

use super::address::Address;
use super::control::{CONTROL, Control, read_control};
use crate::dataplane::packet::Received;

/// Bytes between receive buffers, so that the starts of large ones do not all fall into the same cache sets.
const GAP: usize = 192;

/// A reusable `recvmmsg` argument: one arena, one fixed place for each message.
pub(crate) struct ReceiveBatch {
    /// Bytes of each place.
    room: usize,
    arena: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
}

// SAFETY: the pointers inside lead into the batch's own boxes, which move with it; every method
// that lets the kernel follow them takes `&mut self`.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// Room for `count` messages of up to `room` bytes; what is beyond that is lost.
    pub(crate) fn new(count: usize, room: usize) -> Self {
        // SAFETY: plain old data for which all-zero bytes are a valid value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            room,
            arena: vec![0; count * (room + GAP)].into_boxed_slice(),
            headers: vec![header; count].into_boxed_slice(),
            addresses: vec![address; count].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); count].into_boxed_slice(),
            pieces: vec![piece; count].into_boxed_slice(),
        }
    }

    /// Most messages in a batch.
    pub(crate) fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// The buffers.
    pub(crate) fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// Receives without waiting; returns how many messages came.
    pub(crate) fn receive(&mut self, fd: RawFd) -> io::Result<usize> {
        self.prepare();
        let count = self.headers.len() as u32;
        // SAFETY: `prepare` pointed every header at places inside this batch's boxes with their
        // true lengths.
        let received = unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// The kernel overwrites lengths with what it used, so they are set before each receive.
    fn prepare(&mut self) {
        for (index, buffer) in self.arena.chunks_exact_mut(self.room + GAP).enumerate() {
            self.pieces[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: self.room };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_namelen = size_of::<Address>() as libc::socklen_t;
            header.msg_iov = &raw mut self.pieces[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
    }

    /// UDP source port of message `index` of the last receive.
    pub(crate) fn port(&self, index: usize) -> u16 {
        self.addresses.get(index).map_or(0, Address::port)
    }

    /// Describes message `index` of the last receive.
    pub(crate) fn packet(&self, index: usize) -> Option<Received> {
        let (header, from) = (self.headers.get(index)?, self.addresses.get(index)?);
        let source = from.ip()?;
        let control = &self.controls[index].0[..header.msg_hdr.msg_controllen.min(CONTROL)];
        let (tos, segment) = read_control(control);
        Some(Received { at: self.at(index), len: self.len(header), segment, source, tos })
    }

    /// Message `index` of the last receive from a packet socket, and the type of device it came from (`ARPHRD_`).
    pub(crate) fn frame(&self, index: usize) -> Option<(&[u8], u16)> {
        let (header, from) = (self.headers.get(index)?, self.addresses.get(index)?);
        let bytes = self.arena.get(self.at(index)..self.at(index) + self.len(header))?;
        Some((bytes, from.device_type()?))
    }

    fn at(&self, index: usize) -> usize {
        index * (self.room + GAP)
    }

    fn len(&self, header: &libc::mmsghdr) -> usize {
        (header.msg_len as usize).min(self.room)
    }
}
