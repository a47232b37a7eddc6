//! The host kernel's side of the daemon: links, addresses, routes and what must hold before start.
//!
//! The daemon changes four things in the kernel, all through rtnetlink: the TUN's MTU and queue
//! length, its address, its up flag, and the routes that lead pools and peer subnets into it.
//! [`Host`] makes these changes, remembers which of them were its own and takes back exactly those.
//! Nothing of others is ever replaced or removed.

mod error;
mod facts;
mod link;
mod mtu;
mod neighbour;
mod preflight;
mod route;
mod route_batch;
mod tap;
mod tun;

pub use error::HostError;
pub use facts::{gather, udp_bind_error};
pub use link::{Link, TunDetails, Uplink};
pub use neighbour::{FirstHop, Neighbour};
pub use preflight::{Facts, Needs, PreflightError, TunNode, Verdict, Warning, judge};
pub use route::{ROUTE_PROTOCOL, TunRoute, default_metric};

use rtnetlink::Handle;
use tun::TunState;

/// A connection to the kernel's rtnetlink in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Host {
    handle: Handle,
    tun: Option<TunState>,
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
        Ok(Self { handle, tun: None })
    }
}
