//! What the packet path asks of a TUN.

use std::io;
use std::os::fd::RawFd;

use super::delivery::Delivery;
use crate::wire::VnetHdr;

/// Bytes of the largest packet there is: what an IPv4 total length can say.
pub const MAX_PACKET: usize = 65535;

/// One queue of a TUN device.
pub trait Device: Send {
    /// Reads one packet or super-packet to the start of `buffer`, which holds at least
    /// [`MAX_PACKET`] bytes. Returns what is left to do to it and its length.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)>;

    /// Writes one packet or super-packet.
    ///
    /// # Errors
    /// The kernel's; EINVAL for a super-packet means that it does not take this kind, EIO that the
    /// device is down.
    fn write(&mut self, delivery: &Delivery<'_>) -> io::Result<()>;

    /// Whether packets with work left (`NEEDS_CSUM`, super-packets) may be written.
    fn takes_offloads(&self) -> bool;

    /// The descriptor to poll for reading; `None` for a device in memory.
    fn fd(&self) -> Option<RawFd>;
}
