//! Who may attach to a device of ours.
//!
//! The kernel lets every user who can open /dev/net/tun, on most systems all of them, attach to a TUN or
//! TAP without an owner (drivers/net/tun.c, `tun_not_capable`). One more queue then gets a part of the
//! packets and may forge others. With an owner only that user can, and processes with CAP_NET_ADMIN.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::sys;

/// The right to say whose a device is: one more descriptor of a queue, which is no further queue.
#[derive(Debug)]
pub struct Ownership {
    fd: OwnedFd,
    user: u32,
}

impl Ownership {
    /// Makes the user of this process the owner of the device behind `fd`. It lasts as long as the device.
    ///
    /// # Errors
    /// The kernel's, in words that name the next step: EINVAL where the user has no number in its user namespace.
    pub(in crate::dataplane) fn take(fd: RawFd) -> io::Result<Self> {
        let user = rustix::process::geteuid().as_raw();
        let ownership = Self { fd: sys::duplicate(fd)?, user };
        ownership.renew().map_err(|error| in_words(user, &error))?;
        Ok(ownership)
    }

    /// Takes a device back that another process has given to somebody else.
    ///
    /// # Errors
    /// The kernel's: EBADFD when the device is gone.
    pub fn renew(&self) -> io::Result<()> {
        sys::set_owner(self.fd.as_raw_fd(), self.user)
    }

    /// The owner, as this process's user namespace numbers him.
    pub fn user(&self) -> u32 {
        self.user
    }
}

/// Without an errno: EINVAL of TUNSETIFF means that the device is of another kind, and this does not.
fn in_words(user: u32, error: &io::Error) -> io::Error {
    io::Error::other(match error.raw_os_error() {
        Some(libc::EINVAL) => format!(
            "this process cannot become its owner, as user {user} has no number in this user namespace; \
             map him when it is made, as by `unshare --map-root-user`"
        ),
        _ => format!("this process cannot become its owner: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::in_words;

    #[test]
    fn a_user_without_a_number_is_told_from_a_device_of_another_kind() {
        let error = in_words(65534, &io::Error::from_raw_os_error(libc::EINVAL));
        assert_eq!(error.raw_os_error(), None);
        assert!(error.to_string().contains("user 65534 has no number"), "{error}");
    }
}
