//! Following the routes with the kernel's: a task that takes its time beside the API.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::control::engine::kernel_cover::Steps;
use crate::control::engine::state::Daemon;
use crate::control::host::{self, Host, HostError, TunRoute};
use crate::net::Prefix;

/// Refused prefixes that are remembered, so that each is logged once.
const REMEMBERED: usize = 10_000;

/// What leads into the TUN.
pub struct KernelRoutes {
    host: Host,
    /// Index of the TUN.
    device: u32,
    /// Addresses on the TUN, one for each family there is.
    sources: Vec<IpAddr>,
    reported: HashSet<Prefix>,
}

impl KernelRoutes {
    /// Routes into `device` through `host`; traffic of the host itself comes from `sources`.
    pub fn new(host: Host, device: u32, sources: Vec<IpAddr>) -> Self {
        Self { host, device, sources, reported: HashSet::new() }
    }

    /// Makes the changes that arrive, for as long as any do.
    pub async fn follow(mut self, mut steps: UnboundedReceiver<(u64, Steps)>, daemon: Arc<Daemon>) {
        while let Some((generation, steps)) = steps.recv().await {
            self.apply(&steps).await;
            if self.host.was_denied() {
                daemon.chores.look_again();
            }
            daemon.set_led(generation);
        }
    }

    async fn apply(&mut self, steps: &Steps) {
        if !steps.add.is_empty() {
            let routes: Vec<TunRoute> =
                steps.add.iter().map(|prefix| route(*prefix, &self.sources)).collect();
            for (prefix, error) in self.host.add_many(self.device, routes).await {
                self.report(prefix, &error);
            }
        }
        for prefix in &steps.remove {
            self.reported.remove(prefix);
        }
        let gone = steps.remove.iter().map(|prefix| (*prefix, host::default_metric(*prefix))).collect();
        if let Err(error) = self.host.remove_many(self.device, gone).await {
            tracing::warn!("{error}");
        }
    }

    fn report(&mut self, prefix: Prefix, error: &HostError) {
        if self.reported.len() < REMEMBERED && self.reported.insert(prefix) {
            tracing::warn!("packets for {prefix} do not reach the tunnel: {error}");
        }
    }
}

/// The route that leads `prefix` into the TUN, when `sources` are the addresses there.
pub fn route(prefix: Prefix, sources: &[IpAddr]) -> TunRoute {
    let source = sources.iter().copied().find(|source| source.is_ipv4() == prefix.is_ipv4());
    TunRoute { prefix, source, mtu: None }
}
