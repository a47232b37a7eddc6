//! A device in memory, for unit tests and the fuzz targets: packets in, packets out, no kernel. The daemon has
//! no use for it; it is public because the fuzz targets are a crate of their own.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use crate::dataplane::packet::{Delivery, Device};
use crate::wire::VnetHdr;

/// A queue of packets to read and a list of packets written.
#[derive(Debug, Default)]
pub struct Memory {
    /// What `read` returns, in order.
    pub input: VecDeque<(VnetHdr, Vec<u8>)>,
    /// What `write` was given, in order.
    pub output: Vec<(VnetHdr, Vec<u8>)>,
    /// Whether to behave like a device without offloads.
    pub plain: bool,
}

impl Device for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        let (vnet, packet) = self.input.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok((vnet, packet.len()))
    }

    fn write(&mut self, delivery: &Delivery<'_>) -> io::Result<()> {
        if self.plain && delivery.vnet != VnetHdr::default() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut packet = vec![0; delivery.len()];
        delivery.gather(&mut packet);
        self.output.push((delivery.vnet, packet));
        Ok(())
    }

    fn takes_offloads(&self) -> bool {
        !self.plain
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}
