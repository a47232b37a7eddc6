//! Reading and writing `/proc/sys/net`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::str::FromStr;

use crate::control::engine::port::{HostError, Sysctl};

/// Octets that are read of a file: the values that matter are a single number.
const LONGEST: usize = 16;

/// The value at `key`, a path below `net`; `None` when it cannot be read.
pub(super) fn read<T: FromStr>(key: &str) -> Option<T> {
    // All of them in one call: this is done every second. What is longer is none of the values that matter.
    let mut text = [0; LONGEST];
    let length = File::open(path(key)).ok()?.read(&mut text).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
}

/// The value that takes effect: of some the kernel takes the larger of that of all and that of one interface.
pub(super) fn effective(sysctl: Sysctl, name: &str) -> Option<u8> {
    let own = read(&sysctl.key(name));
    match sysctl {
        Sysctl::AcceptLocal | Sysctl::ReversePath => own.max(read(&sysctl.key("all"))),
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
