//! Errors of rtnetlink as errors of the host.

use crate::control::engine::port::HostError;

/// A netlink failure of the request `action`.
pub(super) fn failed(action: impl Into<String>, error: &rtnetlink::Error) -> HostError {
    let errno = errno(error);
    let reason =
        errno.map_or_else(|| error.to_string(), |code| std::io::Error::from_raw_os_error(code).to_string());
    HostError::Netlink { action: action.into(), reason, errno }
}

/// The positive errno inside a netlink error.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().saturating_abs()),
        _ => None,
    }
}

/// Passes success and the errors that mean "already gone".
pub(super) fn tolerate_gone(result: Result<(), rtnetlink::Error>, action: &str) -> Result<(), HostError> {
    match result {
        Err(error) if !matches!(errno(&error), Some(code) if GONE.contains(&code)) => {
            Err(failed(action, &error))
        }
        _ => Ok(()),
    }
}

const GONE: [i32; 4] = [libc::ENODEV, libc::ESRCH, libc::ENOENT, libc::EADDRNOTAVAIL];
