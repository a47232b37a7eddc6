//! Switching offloads of an interface (ethtool), for which the crates have no message, and how many processors there
//! are.

#![expect(unsafe_code, reason = "system calls without a safe form")]

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// An offload, as the ioctl of ethtool(8) knows it (include/uapi/linux/ethtool.h).
#[derive(Clone, Copy, Debug)]
pub(super) enum Offload {
    /// ETHTOOL_STSO
    TcpSegmentation = 0x1f,
    /// ETHTOOL_SGRO
    Gro = 0x2c,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Processors that this host may have, whichever of them this process may use.
pub(super) fn processors() -> u32 {
    // SAFETY: it takes a number and returns one.
    let found = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    u32::try_from(found).unwrap_or(1).max(1)
}

/// Switches an offload of the interface called `name`.
///
/// # Errors
/// The kernel's: ENODEV, EOPNOTSUPP where the interface cannot, EPERM without CAP_NET_ADMIN.
pub(super) fn switch_offload(name: &str, offload: Offload, on: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = Value { command: offload as u32, data: on.into() };
    // SAFETY: `ifreq` is plain old data for which all-zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads one `ifreq`, and one `ethtool_value` behind its pointer; both outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
