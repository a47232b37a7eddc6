//! The TAP that takes VXLAN and IP-in-IP super-packets for the kernel to route to the uplink and segment.
//!
//! It is only written to. What the kernel sends into it (nothing, but for a stray broadcast) waits
//! in its queue and is lost there.

mod push_header;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

pub use push_header::PushHeader;

use crate::dataplane::device::{Origin, Ownership, sys};
use crate::net::Mac;

/// One queue of a multi-queue TAP with a 24-byte vnet header.
pub struct Tap(OwnedFd);

impl Tap {
    /// Makes the TAP `name`, becomes its owner and opens `queues` queues; returns them, the ownership
    /// and the link address.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN, EBUSY when there is a device of this name.
    pub fn open(name: &str, queues: usize) -> io::Result<(Vec<Self>, Ownership, Mac)> {
        let first = Self(sys::open_queue(name, sys::Kind::Tap, Origin::New)?);
        let ownership = Ownership::take(first.0.as_raw_fd())?;
        let mac = sys::hardware_address(first.0.as_raw_fd())?;
        let mut opened = vec![first];
        for _ in 1..queues {
            opened.push(Self(sys::open_queue(name, sys::Kind::Tap, Origin::Prepared)?));
        }
        Ok((opened, ownership, mac))
    }

    /// Writes one frame: `head` is vnet and outer headers, `body` the inner packet.
    ///
    /// # Errors
    /// EINVAL when the kernel does not know tunnel super-packets (before Linux 6.17), EIO when the
    /// TAP is down.
    pub fn write(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        sys::write_frame(self.0.as_raw_fd(), head, body)
    }
}
