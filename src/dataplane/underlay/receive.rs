//! Receiving a batch: one `recvmmsg` into one arena.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use super::sys;
use crate::dataplane::packet::{Format, Received};

/// Bytes of the largest datagram there is, and one more.
const MAX_DATAGRAM: usize = 65536;

/// A receiving socket and what its packets look like.
pub struct Receiver {
    socket: Socket,
    format: Format,
    batch: sys::ReceiveBatch,
}

impl Receiver {
    pub(super) fn new(socket: Socket, format: Format) -> Self {
        // UDP_GRO hands over 64 KiB at once, raw sockets one packet each.
        let count = if format == Format::Vxlan { 16 } else { 64 };
        Self { socket, format, batch: sys::ReceiveBatch::new(count, MAX_DATAGRAM) }
    }

    /// How this socket's packets are wrapped.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of its receive buffer; the kernel says twice as much, to account for its bookkeeping.
    pub fn buffer(&self) -> usize {
        self.socket.recv_buffer_size().map_or(0, |doubled| doubled / 2)
    }

    /// The descriptor to poll.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Receives whatever waits, up to a batch; [`Self::packet`] then describes each.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits.
    pub fn receive(&mut self) -> io::Result<usize> {
        self.batch.receive(self.fd())
    }

    /// Packet `index` of the last batch; `None` when its sender's address is no IP one.
    pub fn packet(&self, index: usize) -> Option<Received> {
        self.batch.packet(index)
    }

    /// UDP source port of packet `index` of the last batch.
    pub fn port(&self, index: usize) -> u16 {
        self.batch.port(index)
    }

    /// Whether a whole batch came back, so that more probably waits.
    pub fn was_full(&self, received: usize) -> bool {
        received == self.batch.capacity()
    }

    /// The bytes of the last batch.
    pub fn arena(&mut self) -> &mut [u8] {
        self.batch.arena()
    }
}
