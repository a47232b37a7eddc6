//! The fast backend: `/dev/net/tun` opened by ourselves, with multiple queues and a virtio-net
//! header in front of every packet, so that 64 KiB super-packets cross in one system call.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::origin::Origin;
use super::ownership::Ownership;
use super::sys;
use crate::dataplane::packet::{Delivery, Device};
use crate::dataplane::steering::queue_ebpf;
use crate::wire::VnetHdr;

/// What the kernel may hand us in one piece.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offloads {
    /// TCP super-packets, IPv4 and IPv6.
    pub tso: bool,
    /// UDP super-packets (Linux 6.2 or newer).
    pub uso: bool,
}

/// Takes the steering program off a device.
const NO_PROGRAM: RawFd = -1;

/// One queue of a multi-queue TUN.
pub struct VnetTun {
    fd: OwnedFd,
    iovecs: sys::Iovecs,
}

impl VnetTun {
    /// Makes the TUN `name` or attaches to it, becomes its owner before anything else, opens `queues`
    /// queues and asks for `offloads`. Returns the queues, the ownership and what the kernel granted:
    /// it may refuse `uso`, then `tso` stands alone.
    ///
    /// # Errors
    /// The kernel's: EPERM without the right, EINVAL when it exists without multi-queue, EBUSY when it
    /// was to be new and is not. Another process that holds queues of it is no error to the kernel:
    /// count them before and after.
    pub fn open(
        name: &str,
        origin: Origin,
        queues: usize,
        offloads: Offloads,
    ) -> io::Result<(Vec<Self>, Ownership, Offloads)> {
        let first = Self::queue(name, origin)?;
        let ownership = Ownership::take(first.fd.as_raw_fd())?;
        let mut opened = vec![first];
        for _ in 1..queues {
            opened.push(Self::queue(name, Origin::Prepared)?);
        }
        // The mask is the device's, not the queue's: set it even to nothing, because a persistent
        // device keeps what a former owner asked for.
        let granted = grant(opened[0].fd.as_raw_fd(), offloads)?;
        Ok((opened, ownership, granted))
    }

    fn queue(name: &str, origin: Origin) -> io::Result<Self> {
        Ok(Self { fd: sys::open_queue(name, sys::Kind::Tun, origin)?, iovecs: sys::Iovecs::default() })
    }

    /// Gives every flow that comes out of the device one queue for good: see [`queue_ebpf`].
    ///
    /// # Errors
    /// Without CAP_BPF. The kernel then moves a flow to the queue of its answers, which may reorder.
    pub fn steer(&self) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        // The program is the device's, too, and a persistent one keeps it.
        let set = queue_ebpf::load().and_then(|program| sys::set_steering(fd, program.as_raw_fd()));
        set.inspect_err(|_| drop(sys::set_steering(fd, NO_PROGRAM)))
    }
}

fn grant(fd: RawFd, wanted: Offloads) -> io::Result<Offloads> {
    match sys::set_offload(fd, mask(wanted)) {
        Ok(()) => Ok(wanted),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && wanted.uso => {
            grant(fd, Offloads { uso: false, ..wanted })
        }
        Err(error) => Err(error),
    }
}

fn mask(offloads: Offloads) -> u32 {
    let mut mask = libc::TUN_F_CSUM;
    if offloads.tso {
        mask |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    }
    if offloads.uso {
        mask |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
    }
    mask
}

impl Device for VnetTun {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        sys::read_packet(&self.fd, buffer)
    }

    fn write(&mut self, delivery: &Delivery<'_>) -> io::Result<()> {
        self.iovecs.write(&self.fd, delivery)
    }

    fn takes_offloads(&self) -> bool {
        true
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }
}
