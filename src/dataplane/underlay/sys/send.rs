//! A batch of messages for one `sendmmsg`, over arrays that are used again.
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::c_int;
use std::io;
use std::mem::zeroed;
use std::ops::Range;
use std::os::fd::RawFd;

use super::address::Address;
use super::control::{CONTROL, Control, control_message};
use crate::dataplane::packet::{Batch, Channel, Datagram, Family, Message};

/// Messages in one `sendmmsg`.
const MESSAGES: usize = 256;
/// Pieces in one `sendmmsg`.
const PIECES: usize = 4096;

/// What a message counts as, kept for after the send.
#[derive(Clone, Copy, Default)]
pub(crate) struct Load {
    /// Outer packets on the wire.
    pub packets: u32,
    /// Bytes of them on the wire.
    pub bytes: u32,
    segmented: bool,
}

/// A reusable `sendmmsg` argument. The arrays never grow, so pointers between them stay valid.
pub(crate) struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[Address]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    loads: [Load; MESSAGES],
    len: usize,
    used: usize,
    /// The slab and the arena that `pieces` point into.
    buffers: [*const [u8]; 2],
}

// SAFETY: the pointers inside lead into the batch's own boxes or are refilled before each send;
// every method that follows them takes `&mut self`.
unsafe impl Send for SendBatch {}

impl Default for SendBatch {
    fn default() -> Self {
        // SAFETY: `mmsghdr`, `Address` and `iovec` are plain old data for which all-zero
        // bytes are a valid value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            headers: vec![header; MESSAGES].into_boxed_slice(),
            addresses: vec![address; MESSAGES].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); MESSAGES].into_boxed_slice(),
            pieces: vec![piece; PIECES].into_boxed_slice(),
            loads: [Load::default(); MESSAGES],
            len: 0,
            used: 0,
            buffers: [std::ptr::slice_from_raw_parts(std::ptr::null(), 0); 2],
        }
    }
}

impl SendBatch {
    /// Messages in the batch.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Fills the batch with as many of `messages` as it holds, one kernel message each (several
    /// datagrams by UDP_SEGMENT), and returns how many it took.
    pub(crate) fn fill(&mut self, batch: Batch<'_>, messages: &[Message]) -> usize {
        self.start(batch);
        for message in messages {
            if !self.add(batch, message, batch.datagrams(message)) {
                break;
            }
        }
        self.len
    }

    /// Fills the batch with the datagrams of `message`, a kernel message each.
    pub(crate) fn fill_unsegmented(&mut self, batch: Batch<'_>, message: &Message) {
        self.start(batch);
        for datagram in batch.datagrams(message) {
            self.add(batch, message, std::slice::from_ref(datagram));
        }
    }

    fn start(&mut self, batch: Batch<'_>) {
        (self.len, self.used) = (0, 0);
        self.buffers = [batch.outbox.slab(), batch.arena];
    }

    fn add(&mut self, batch: Batch<'_>, message: &Message, datagrams: &[Datagram]) -> bool {
        let (index, from) = (self.len, self.used);
        if index == MESSAGES || from + 2 * datagrams.len() > PIECES {
            return false;
        }
        let segmented = datagrams.len() > 1;
        let mut load = Load { segmented, ..Load::default() };
        for datagram in datagrams {
            for piece in [datagram.head, datagram.body] {
                self.pieces[self.used] = iovec(batch.bytes(piece));
                self.used += 1;
            }
            load.packets += u32::from(datagram.packets);
            load.bytes += datagram.wire_bytes;
        }
        self.loads[index] = load;
        let (address, address_len) = Address::of(message.to);
        self.addresses[index] = address;
        let control = self.control(index, message, segmented);
        let header = &mut self.headers[index].msg_hdr;
        // A packet socket is bound to its interface and wants no address.
        let named = message.channel != Channel::Packet;
        header.msg_name = if named { (&raw mut self.addresses[index]).cast() } else { std::ptr::null_mut() };
        header.msg_namelen = if named { address_len } else { 0 };
        header.msg_iov = &raw mut self.pieces[from];
        header.msg_iovlen = self.used - from;
        header.msg_control =
            if control == 0 { std::ptr::null_mut() } else { self.controls[index].0.as_mut_ptr().cast() };
        header.msg_controllen = control;
        self.len += 1;
        true
    }

    /// Writes the control data of message `index` and returns its length, 0 for none.
    fn control(&mut self, index: usize, message: &Message, segmented: bool) -> usize {
        let buffer = &mut self.controls[index].0;
        let mut used = 0;
        if segmented {
            used += control_message(
                &mut buffer[used..],
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                &message.segment.to_ne_bytes(),
            );
        }
        // A zero TOS is the socket's default; naming it would cost a route lookup each time.
        if message.tos != 0
            && let Some(family) = message.channel.kernel_header()
        {
            let tos = c_int::from(message.tos).to_ne_bytes();
            let (level, kind) = match family {
                Family::V4 => (libc::IPPROTO_IP, libc::IP_TOS),
                Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            };
            used += control_message(&mut buffer[used..], level, kind, &tos);
        }
        used
    }

    /// Sends from message `from` on; returns how many the kernel took, at least one. `batch` is what this
    /// was filled from.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for another batch.
    pub(crate) fn send(&mut self, fd: RawFd, from: usize, batch: Batch<'_>) -> io::Result<usize> {
        let buffers: [*const [u8]; 2] = [batch.outbox.slab(), batch.arena];
        if !std::iter::zip(buffers, self.buffers).all(|(now, then)| std::ptr::eq(now, then)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let headers = &mut self.headers[from..self.len];
        // SAFETY: the headers were filled by `add`: names, iovecs and control data point into this
        // batch's boxes, and the iovecs into the slab and arena, which are still borrowed, as the
        // comparison above shows.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Whether message `index` relies on UDP_SEGMENT.
    pub(crate) fn is_segmented(&self, index: usize) -> bool {
        self.loads[index].segmented
    }

    /// What the messages of `range` count as.
    pub(crate) fn loads(&self, range: Range<usize>) -> &[Load] {
        &self.loads[range]
    }

    /// What kernel message `index` of this batch, filled from `messages`, stands for.
    pub(crate) fn what<'a>(
        &self,
        index: usize,
        batch: Batch<'a>,
        messages: &'a [Message],
    ) -> (&'a Message, &'a [Datagram]) {
        // There are either whole messages or the datagrams of a single one.
        if self.len > messages.len() {
            let datagrams = batch.datagrams(&messages[0]);
            return (&messages[0], datagrams.get(index..=index).unwrap_or_default());
        }
        (&messages[index], batch.datagrams(&messages[index]))
    }
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
