//! The host kernel's side of the daemon: links, addresses, routes and what must hold before start.
//!
//! The daemon changes four things in the kernel, all through rtnetlink: the TUN's MTU and queue
//! length, its address, its up flag, and the routes that lead pools and peer subnets into it.
//! [`Host`] makes these changes, remembers which of them were its own and takes back exactly those.
//! Nothing of others is ever replaced or removed.
//!
//! What the kernel does not let it do is no error: an administrator may have done it. [`Host::look`]
//! says what is still missing then.

mod error;
mod facts;
mod features;
mod link;
mod link_news;
mod mtu;
mod neighbour;
mod preflight;
mod requirements;
mod route;
mod route_batch;
mod table;
mod tap;
mod tun;

pub use error::HostError;
pub use facts::{gather, udp_bind_error};
pub use features::{FeatureReader, Features, IP_IN_IPV4, TCP, UDP_TUNNEL};
pub use link::{Link, TunDetails, Uplink};
pub use link_news::LinkNews;
pub use neighbour::{FirstHop, Neighbour};
pub use preflight::{Facts, Needs, PreflightError, TunNode, Verdict, Warning, judge, user};
pub use requirements::{Chore, Look, Plan};
pub use route::{ROUTE_PROTOCOL, TunRoute, default_metric};
pub use table::Table;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rtnetlink::Handle;
use tun::TunState;

/// A connection to the kernel's rtnetlink in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Host {
    handle: Handle,
    tun: Option<TunState>,
    /// Whether the kernel refused something for want of CAP_NET_ADMIN.
    denied: AtomicBool,
}

impl Host {
    /// Opens a netlink socket and serves it by a task on the current tokio runtime. The task ends
    /// when the `Host` is dropped.
    ///
    /// # Errors
    /// [`HostError::Connect`] outside a tokio runtime or when the kernel refuses the socket.
    pub fn connect() -> Result<Self, HostError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| HostError::Connect(e.to_string()))?;
        let (connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(|e| HostError::Connect(e.to_string()))?;
        runtime.spawn(connection);
        Ok(Self { handle, tun: None, denied: AtomicBool::new(false) })
    }

    /// Whether something was left undone for want of CAP_NET_ADMIN.
    pub fn was_denied(&self) -> bool {
        self.denied.load(Relaxed)
    }

    /// Says beforehand that this process has no CAP_NET_ADMIN.
    pub fn expect_denials(&self) {
        self.denied.store(true, Relaxed);
    }

    /// Passes success, and what we may not do: that is left to an administrator.
    fn unless_denied(&self, result: Result<(), HostError>) -> Result<(), HostError> {
        match result {
            Err(error) if error.errno() == Some(libc::EPERM) => {
                self.denied.store(true, Relaxed);
                Ok(())
            }
            result => result,
        }
    }
}
