//! Reading and writing `/proc/sys/net`.

use std::fs;
use std::io;

use crate::control::engine::port::{HostError, Sysctl};

/// The value at `key`, a path below `net`; `None` when it cannot be read.
pub(super) fn read(key: &str) -> Option<u8> {
    fs::read_to_string(path(key)).ok()?.trim().parse().ok()
}

/// The value that takes effect: the kernel takes the larger of `accept_local` of all and of one interface.
pub(super) fn effective(sysctl: Sysctl, name: &str) -> Option<u8> {
    let own = read(&sysctl.key(name));
    match sysctl {
        Sysctl::AcceptLocal => own.max(read(&sysctl.key("all"))),
        _ => own,
    }
}

/// Sets a sysctl of the interface `name`.
///
/// # Errors
/// [`HostError::Sysctl`].
pub(super) fn write(name: &str, sysctl: Sysctl, value: u8) -> Result<(), HostError> {
    let path = path(&sysctl.key(name));
    let failed = |error: io::Error| HostError::Sysctl {
        path: path.clone(),
        value,
        errno: error.raw_os_error(),
        error: error.to_string(),
    };
    fs::write(&path, value.to_string()).map_err(failed)
}

fn path(key: &str) -> String {
    format!("/proc/sys/net/{key}")
}
