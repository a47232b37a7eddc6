//! What can go wrong between the daemon and the kernel, each with culprit, reason and next step.

use std::net::IpAddr;

use crate::net::Prefix;

/// A failed request to the kernel, or an answer the daemon cannot work with.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostError {
    /// No netlink socket.
    #[error(
        "cannot open an rtnetlink socket: {0}; allow AF_NETLINK (systemd: RestrictAddressFamilies, container: seccomp profile)"
    )]
    Connect(String),
    /// The kernel refused a request.
    #[error("cannot {action}: {reason}{}", next_step(*.errno))]
    Netlink {
        /// What was asked, as "set the MTU of up0 to 1450".
        action: String,
        /// The kernel's reason as text.
        reason: String,
        /// The kernel's errno, positive; `None` when the answer was no errno.
        errno: Option<i32>,
    },
    /// No interface owns the node address.
    #[error(
        "no interface has the node address {address}; candidates: {}; correct `address` under [node] or add it with `ip address add {address}/LEN dev NAME`",
        list(.candidates)
    )]
    NoUplink {
        /// The configured node address.
        address: IpAddr,
        /// Addresses of the same family that exist, as "eth0 192.0.2.1/24".
        candidates: Vec<String>,
    },
    /// The TUN is not there.
    #[error("no network device named \"{0}\"; it must be opened before it is configured")]
    NoDevice(String),
    /// A sysctl could not be written.
    #[error("cannot write {value} to {path}: {error}; is /proc/sys mounted read-only?")]
    Sysctl {
        /// The file under /proc/sys.
        path: String,
        /// What was to be written.
        value: u8,
        /// Why not.
        error: String,
        /// The errno.
        errno: Option<i32>,
    },
    /// A device or socket could not be opened.
    #[error("{error}")]
    Open {
        /// Why not, in words.
        error: String,
        /// The errno, if that was the cause.
        errno: Option<i32>,
    },
    /// `nft` did not do what it was asked.
    #[error("cannot {action} with nft: {reason}")]
    Nft {
        /// What was asked, as "write the table underpass-up0".
        action: String,
        /// Why not, with what to do about it.
        reason: String,
    },
    /// Somebody else's route stands where ours has to go.
    #[error(
        "cannot add the route {prefix} dev {device}: the kernel already has it {existing}, and routes of others are never replaced; \
         stop what installed it or remove it with `ip route del {prefix}`, or take {prefix} out of the pools and peers"
    )]
    RouteConflict {
        /// The prefix both want.
        prefix: Prefix,
        /// Our device.
        device: String,
        /// The route found, as "dev eth0 proto bird metric 0".
        existing: String,
    },
}

impl HostError {
    /// Whether the kernel refused it for want of a privilege.
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES | libc::EROFS))
    }

    /// The kernel's errno, if that was the cause.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { errno, .. } | Self::Sysctl { errno, .. } | Self::Open { errno, .. } => *errno,
            _ => None,
        }
    }
}

fn next_step(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM) => "; give the daemon CAP_NET_ADMIN",
        Some(libc::EACCES | libc::EOPNOTSUPP) => {
            "; if this is IPv6, see whether it is disabled (net.ipv6.conf.all.disable_ipv6)"
        }
        Some(libc::EINVAL) => "; the kernel does not accept this value for this device",
        _ => "",
    }
}

fn list(candidates: &[String]) -> String {
    if candidates.is_empty() { "none".to_owned() } else { candidates.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{HostError, list};

    #[test]
    fn texts_name_culprit_reason_and_next_step() {
        let error = HostError::NoUplink {
            address: "192.0.2.9".parse().unwrap(),
            candidates: vec!["eth0 192.0.2.1/24".to_owned(), "eth1 198.51.100.1/24".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "no interface has the node address 192.0.2.9; candidates: eth0 192.0.2.1/24, eth1 198.51.100.1/24; \
             correct `address` under [node] or add it with `ip address add 192.0.2.9/LEN dev NAME`"
        );
        let error = HostError::Netlink {
            action: "set up0 up".to_owned(),
            reason: "Operation not permitted".to_owned(),
            errno: Some(libc::EPERM),
        };
        assert!(
            error
                .to_string()
                .starts_with("cannot set up0 up: Operation not permitted; give the daemon CAP_NET_ADMIN")
        );
        assert_eq!(list(&[]), "none");
    }
}
