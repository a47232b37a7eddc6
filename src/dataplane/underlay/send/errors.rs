//! What the kernel's errors say about a packet and its way.

use std::io;

use crate::net::DropReason;

/// Whether an error is about the form of a send and not about the path: EIO where the device has
/// no checksum offload, EINVAL where a kernel or driver has it wrong.
pub(super) fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Whether the interface a packet socket is bound to no longer exists.
pub(super) fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}

/// Whether a queue or the memory behind it is full just now.
pub(super) fn full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

/// Why the packets of a refused send are dropped.
pub(super) fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => DropReason::TooBig,
        _ if full(error) => DropReason::UnderlayFull,
        _ => DropReason::UnderlayDown,
    }
}
