//! The host kernel's side of the daemon, and the only door to it: links, addresses, routes, neighbours,
//! sysctls, masquerading, devices and sockets.
//!
//! ```text
//! engine ──HostRequest──▶ execute ──▶ kernel
//!        ◀──observation── observe ◀── kernel
//!        ◀────notice───── notices ◀── kernel
//! ```
//!
//! Nothing here decides: what is asked is done, what is seen is said. Nothing of others is ever replaced or
//! removed.

mod clsact;
mod device;
mod direct_route;
mod execute;
mod facts;
mod features;
mod gro_pair;
mod guard;
mod interfaces;
mod ip_tunnel;
mod link;
mod nat;
mod neighbour;
mod neighbour_table;
mod netfilter;
mod netlink;
mod nft;
mod notices;
mod observe;
mod open;
mod pod_rules;
mod policies;
mod raw_netlink;
mod reverse_path;
mod route;
mod route_feed;
mod rule;
mod sys;
mod sysctl;
mod way;

pub use clsact::Filter;
pub use execute::Answer;
pub use facts::{gather, udp_bind_error};
pub use features::FeatureReader;
pub use gro_pair::GroPair;
pub use guard::{Guarded, INTERVAL as GUARD_INTERVAL, look as look_for_strangers, take as guard_too};
pub use link::name_beside;
pub use neighbour::Neighbour;
pub use neighbour_table::NeighbourTable;
pub use notices::Notices;
pub use open::{Tap as OpenTap, Tun as OpenTun};
pub use policies::{Policies, Policy};
pub use route_feed::{RouteFeed, RouteFilter, RouteNews, read_routes};
pub use way::Interfaces;

use std::sync::{Arc, Mutex};

use rtnetlink::Handle;

use crate::control::engine::port::HostError;
use netfilter::Netfilter;

/// A connection to the kernel's rtnetlink in the network namespace of the thread that made it.
#[derive(Clone, Debug)]
pub struct Host {
    handle: Handle,
    netfilter: Arc<Mutex<Netfilter>>,
}

impl Host {
    /// Chains of the firewall that drop every forwarded packet.
    fn dropping_chains(&self) -> Vec<String> {
        let found = self.netfilter.lock().map(|mut netfilter| netfilter.dropping()).unwrap_or_default();
        found.into_iter().map(|one| format!("{} {} {}", one.family, one.table, one.chain)).collect()
    }

    /// Opens a netlink socket and serves it by a task on the current tokio runtime. The task ends
    /// when the last clone of the `Host` is dropped.
    ///
    /// # Errors
    /// [`HostError::Connect`] outside a tokio runtime or when the kernel refuses the socket.
    pub fn connect() -> Result<Self, HostError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| HostError::Connect(e.to_string()))?;
        let (connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(|e| HostError::Connect(e.to_string()))?;
        runtime.spawn(connection);
        Ok(Self { handle, netfilter: Arc::default() })
    }
}
