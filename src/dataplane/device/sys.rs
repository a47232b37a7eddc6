//! The system calls of the TUN edge (Documentation/networking/tuntap.rst,
//! include/uapi/linux/if_tun.h).
#![expect(
    clippy::cast_possible_truncation,
    reason = "at most MAX_IOVECS pieces, and flags as the kernel has them"
)]
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::{c_char, c_int, c_short, c_uint, c_void};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::origin::Origin;
use crate::dataplane::packet::{Delivery, MAX_PIECES};
use crate::net::Mac;
use crate::wire::{VnetHdr, vnet_hdr};

/// Pieces in one write: the vnet header, the head and the segments.
const MAX_IOVECS: usize = 2 + MAX_PIECES;

/// What kind of device a queue belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// IP packets, ten-byte vnet header.
    Tun,
    /// Ethernet frames, vnet header with tunnel fields (Linux 6.17).
    Tap,
}

/// Opens one queue of the device `name`, non-blocking, with a little-endian vnet header. With
/// [`Origin::New`] the device is made, and EBUSY where there is one of this name.
pub(crate) fn open_queue(name: &str, kind: Kind, origin: Origin) -> io::Result<OwnedFd> {
    let queue = open_unattached()?;
    attach(queue.as_raw_fd(), name, kind, origin)?;
    Ok(queue)
}

/// A queue of no device yet, non-blocking: reads and writes fail with EBADFD until it is attached.
pub(crate) fn open_unattached() -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    Ok(file.into())
}

/// Makes `fd`, a queue of no device or of one that is gone, a queue of the device `name`; see [`open_queue`].
pub(crate) fn attach(fd: RawFd, name: &str, kind: Kind, origin: Origin) -> io::Result<()> {
    // SAFETY: `ifreq` is plain old data for which all-zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    let (mode, header) = match kind {
        Kind::Tun => (libc::IFF_TUN, vnet_hdr::LEN),
        Kind::Tap => (libc::IFF_TAP, vnet_hdr::TUNNEL_LEN),
    };
    let exclusive = if origin == Origin::New { libc::IFF_TUN_EXCL } else { 0 };
    let flags = mode | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | exclusive;
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is and outlives the call.
    check(unsafe { libc::ioctl(fd, libc::TUNSETIFF as _, &mut request) })?;
    set_int(fd, libc::TUNSETVNETHDRSZ as _, header as c_int)?;
    set_int(fd, libc::TUNSETVNETLE as _, 1)
}

/// Makes `user`, as this process's user namespace numbers him, the one who may attach to the device
/// without CAP_NET_ADMIN. Applies to the whole device; any process that is attached may do it.
pub(crate) fn set_owner(fd: RawFd, user: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(fd, libc::TUNSETOWNER as _, libc::c_ulong::from(user)) }).map(drop)
}

/// One more descriptor of the same queue.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Says which super-packets we accept (`TUN_F_*`). Applies to the whole device.
pub(crate) fn set_offload(fd: RawFd, mask: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD as _, libc::c_ulong::from(mask)) }).map(drop)
}

/// Lets an eBPF program choose the queue of each packet that comes out of the device; -1 for the
/// kernel's own choice. Applies to the whole device.
pub(crate) fn set_steering(fd: RawFd, program: RawFd) -> io::Result<()> {
    set_int(fd, libc::TUNSETSTEERINGEBPF as _, program)
}

/// Name of the device that `fd` is a queue of; `None` when it is of none.
pub(crate) fn device_name(fd: RawFd) -> Option<String> {
    // SAFETY: `ifreq` is plain old data for which all-zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which `request` is and outlives the call.
    check(unsafe { libc::ioctl(fd, libc::TUNGETIFF as _, &mut request) }).ok()?;
    let bytes: Vec<u8> = request.ifr_name.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8(bytes).ok()
}

/// The link address of the TAP behind `fd`.
pub(crate) fn hardware_address(fd: RawFd) -> io::Result<Mac> {
    // SAFETY: `ifreq` is plain old data for which all-zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: on a tun descriptor SIOCGIFHWADDR writes one `ifreq`, which `request` is.
    check(unsafe { libc::ioctl(fd, libc::SIOCGIFHWADDR as _, &mut request) })?;
    // SAFETY: the call above filled this member of the union.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut octets = [0; 6];
    for (to, from) in octets.iter_mut().zip(data) {
        *to = from as u8;
    }
    Ok(Mac(octets))
}

/// Writes `head` and `body` as one frame.
pub(crate) fn write_frame(fd: RawFd, head: &[u8], body: &[u8]) -> io::Result<()> {
    let iovecs = [iovec(head), iovec(body)];
    // SAFETY: both iovecs were just made from slices that outlive the call; writev only reads.
    let written = unsafe { libc::writev(fd, iovecs.as_ptr(), iovecs.len() as c_int) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes reads and writes return instead of waiting.
pub(crate) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL touch no memory.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

fn set_int(fd: RawFd, request: libc::Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: every request this is called with reads one `int` at the pointer.
    check(unsafe { libc::ioctl(fd, request, &raw const value) }).map(drop)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Reads one packet with its vnet header; the packet goes to the start of `buffer`.
pub(crate) fn read_packet(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
    let mut header = [0u8; vnet_hdr::LEN];
    let iovecs = [iovec_mut(&mut header), iovec_mut(buffer)];
    // SAFETY: both iovecs describe live, exclusively borrowed memory of the given lengths.
    let read = unsafe { libc::readv(fd.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as c_int) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let len = read.checked_sub(header.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((VnetHdr::parse(&header), len))
}

fn iovec_mut(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast::<c_void>(), iov_len: bytes.len() }
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() }
}

/// A reusable array for gathered writes.
pub(crate) struct Iovecs([libc::iovec; MAX_IOVECS]);

// SAFETY: the pointers inside are only meaningful during one `write`, which takes `&mut self`.
unsafe impl Send for Iovecs {}

impl Default for Iovecs {
    fn default() -> Self {
        Self([libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_IOVECS])
    }
}

impl Iovecs {
    /// Writes `delivery` with its vnet header in one call.
    pub(crate) fn write(&mut self, fd: &OwnedFd, delivery: &Delivery<'_>) -> io::Result<()> {
        let header = delivery.vnet.emit();
        let count = 2 + delivery.pieces.len();
        if count > MAX_IOVECS {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        self.0[0] = iovec(&header);
        self.0[1] = iovec(delivery.head);
        for (slot, piece) in self.0[2..].iter_mut().zip(delivery.pieces) {
            *slot = iovec(piece.resolve(&[], delivery.arena));
        }
        // SAFETY: the first `count` iovecs were just filled from slices that outlive the call, and
        // writev only reads from them.
        let written = unsafe { libc::writev(fd.as_raw_fd(), self.0.as_ptr(), count as c_int) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
