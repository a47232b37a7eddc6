//! The TAP that takes VXLAN and IP-in-IP super-packets for the kernel to route to the uplink and segment.
//!
//! It is only written to. What the kernel sends into it (nothing, but for a stray broadcast) waits
//! in its queue and is lost there.
//!
//! Its queues are there before the device and outlive it: a queue whose device is gone becomes one of the
//! next device of that name by being attached again, while the worker that writes to it keeps it.

mod push_header;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

pub use push_header::PushHeader;

use crate::dataplane::device::{Origin, Ownership, sys};
use crate::net::Mac;

/// One queue of a multi-queue TAP with a 24-byte vnet header. A clone is the same queue.
#[derive(Clone, Debug)]
pub struct Tap(Arc<OwnedFd>);

impl Tap {
    /// So many queues of no device.
    ///
    /// # Errors
    /// The kernel's, when /dev/net/tun cannot be opened.
    pub fn unattached(queues: usize) -> io::Result<Vec<Self>> {
        (0..queues).map(|_| Ok(Self(Arc::new(sys::open_unattached()?)))).collect()
    }

    /// Makes the TAP `name`, becomes its owner and makes `queues`, which have no device, its queues. Returns
    /// the ownership and the link address.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN, EBUSY when there is a device of this name.
    pub fn attach(queues: &[Self], name: &str) -> io::Result<(Ownership, Mac)> {
        let (first, others) = queues.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let fd = first.0.as_raw_fd();
        sys::attach(fd, name, sys::Kind::Tap, Origin::New)?;
        let ownership = Ownership::take(fd)?;
        let mac = sys::hardware_address(fd)?;
        for other in others {
            sys::attach(other.0.as_raw_fd(), name, sys::Kind::Tap, Origin::Prepared)?;
        }
        Ok((ownership, mac))
    }

    /// Name of the device that this is a queue of; `None` before it has one and once that is gone.
    pub fn device(&self) -> Option<String> {
        sys::device_name(self.0.as_raw_fd())
    }

    /// Writes one frame: `head` is vnet and outer headers, `body` the inner packet.
    ///
    /// # Errors
    /// EINVAL when the kernel does not know tunnel super-packets (before Linux 6.17), EIO when the
    /// TAP is down, EBADFD when it is gone.
    pub fn write(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        sys::write_frame(self.0.as_raw_fd(), head, body)
    }
}
