//! The compatibility backend: the tun-tap crate, one queue, one packet at a time, no offloads.
//!
//! It also attaches to a persistent TUN that an administrator made without multi-queue.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use tun_tap::{Iface, Mode};

use super::ownership::Ownership;
use super::sys;
use crate::dataplane::packet::{Delivery, Device, MAX_PACKET};
use crate::wire::VnetHdr;

/// A single-queue TUN.
pub struct PlainTun {
    iface: Iface,
    /// Where a packet in pieces is put together: this device takes one buffer.
    scratch: Box<[u8]>,
}

impl PlainTun {
    /// Makes the TUN `name`, or attaches to it where it exists and is free, and becomes its owner.
    /// While we are attached no other process can be, as it has one queue; the owner matters once we are gone.
    ///
    /// # Errors
    /// The kernel's: EPERM without the right, EBUSY when another process holds it, EINVAL when it
    /// was made with multiple queues.
    pub fn open(name: &str) -> io::Result<(Self, Ownership)> {
        let iface = Iface::without_packet_info(name, Mode::Tun)?;
        let ownership = Ownership::take(iface.as_raw_fd())?;
        sys::set_nonblocking(iface.as_raw_fd())?;
        // A persistent device keeps the offload mask of a former owner, which would hand this
        // backend super-packets that it cannot tell from plain ones.
        sys::set_offload(iface.as_raw_fd(), 0)?;
        Ok((Self { iface, scratch: vec![0; MAX_PACKET].into_boxed_slice() }, ownership))
    }
}

impl Device for PlainTun {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        Ok((VnetHdr::default(), self.iface.recv(buffer)?))
    }

    fn write(&mut self, delivery: &Delivery<'_>) -> io::Result<()> {
        if delivery.pieces.is_empty() {
            self.iface.send(delivery.head)?;
            return Ok(());
        }
        let len = delivery.gather(&mut self.scratch).ok_or(io::ErrorKind::InvalidInput)?;
        self.iface.send(&self.scratch[..len])?;
        Ok(())
    }

    fn takes_offloads(&self) -> bool {
        false
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.iface.as_raw_fd())
    }
}
