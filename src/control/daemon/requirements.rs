//! What is left to an administrator: looked for again and again, told once, forgotten when done.
//!
//! A daemon without CAP_NET_ADMIN works on a TUN that somebody made for its user, and with the
//! addresses and routes that somebody gives it. What is missing is no reason not to run, because it
//! may come at any time; `status` shows it with the command that does it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::bring_up::TX_QUEUE_LEN;
use super::guard::{self, Guarded};
use crate::control::engine::state::{Daemon, State};
use crate::control::host::{Chore, Host, HostError, Plan, Table};
use crate::net::Prefix;

/// From one look to the next while something is missing.
const EAGER: Duration = Duration::from_secs(1);
/// And while nothing is.
const PATIENT: Duration = Duration::from_secs(10);

/// What is to be done by whom.
#[derive(Default)]
pub struct Chores {
    /// Set where the daemon may not do it itself.
    eyes: OnceLock<Eyes>,
    again: Notify,
    open: Mutex<Vec<Chore>>,
    strangers: Mutex<Vec<Chore>>,
}

/// What is needed for a look.
struct Eyes {
    host: Host,
    /// Index of the TUN.
    device: u32,
    /// Addresses on the TUN.
    addresses: Vec<IpAddr>,
}

/// Where the kernel sends packets, for a daemon that cannot change it.
#[derive(Debug)]
pub struct Led {
    table: Table,
    /// Index of the TUN.
    device: u32,
}

impl Led {
    /// Whether packets for `prefix` come to the TUN.
    pub fn has(&self, prefix: Prefix) -> bool {
        self.table.leads(prefix, self.device)
    }
}

impl Chores {
    /// What was missing at the last look; strangers at our devices first.
    pub fn open(&self) -> Vec<Chore> {
        [&self.strangers, &self.open].into_iter().flat_map(|list| lock(list).clone()).collect()
    }

    /// Has somebody look again soon.
    pub fn look_again(&self) {
        self.again.notify_one();
    }
}

/// Remembers in `list` what is missing now, and says what is new and what is done. Returns whether
/// something is.
fn tell(list: &Mutex<Vec<Chore>>, now: Vec<Chore>) -> bool {
    let mut open = lock(list);
    for chore in now.iter().filter(|chore| !open.contains(chore)) {
        tracing::warn!("{}; an administrator can run `{}`", chore.what, chore.command);
    }
    for chore in open.iter().filter(|chore| !now.contains(chore)) {
        tracing::info!("no longer needed: `{}`", chore.command);
    }
    *open = now;
    !open.is_empty()
}

fn lock(list: &Mutex<Vec<Chore>>) -> MutexGuard<'_, Vec<Chore>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the TUN and the ways into it are meant to be: `routes` into the device with these addresses.
fn plan(state: &State, addresses: &[IpAddr], routes: BTreeSet<Prefix>) -> Plan {
    Plan {
        device: state.config.tunnel.device.clone(),
        mtu: state.wanted_mtu(),
        tx_queue_len: TX_QUEUE_LEN,
        addresses: addresses.to_vec(),
        routes,
    }
}

/// The MTU that the TUN has before the start, where the daemon could not choose it.
///
/// # Errors
/// See [`Host::look`].
pub async fn given_mtu(host: &Host, state: &State) -> Result<u16, HostError> {
    Ok(host.look(&plan(state, &[], BTreeSet::new())).await?.mtu)
}

impl Daemon {
    /// From now on somebody else has to do what concerns the TUN with index `device`, which is meant
    /// to have `addresses`.
    pub fn leave_chores(&self, host: Host, device: u32, addresses: Vec<IpAddr>) {
        let _ = self.chores.eyes.set(Eyes { host, device, addresses });
    }

    /// Looks at what is missing for as long as the daemon runs, if it may not do it itself.
    pub async fn watch_chores(self: Arc<Self>) {
        let Some(eyes) = self.chores.eyes.get() else { return };
        loop {
            let plan = plan(&self.state(), &eyes.addresses, self.leads());
            let missing = match eyes.host.look(&plan).await {
                Ok(look) => {
                    self.hold_mtu(look.mtu);
                    tell(&self.chores.open, look.chores)
                }
                // The device is gone, which ends the workers; or it is for the next look to tell.
                Err(_) => false,
            };
            tokio::select! {
                () = sleep(if missing { EAGER } else { PATIENT }) => {}
                () = self.chores.again.notified() => {}
            }
        }
    }

    /// Looks for others at `devices` for as long as the daemon runs.
    pub async fn watch_strangers(self: Arc<Self>, mut devices: Vec<Guarded>, host: Host) {
        loop {
            tell(&self.chores.strangers, guard::look(&mut devices, &host).await);
            sleep(guard::INTERVAL).await;
        }
    }

    /// Looks where the kernel sends packets, so that the next edit is judged by it.
    pub async fn observe_kernel(&self) {
        let Some(eyes) = self.chores.eyes.get() else { return };
        match eyes.host.table().await {
            Ok(table) => self.state_mut().led = Some(Led { table, device: eyes.device }),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

impl State {
    /// Whether packets for `prefix`, which is to be another node's, come to the TUN or can be made to.
    pub(in crate::control) fn reachable(&self, prefix: Prefix) -> Result<(), String> {
        let Some(led) = &self.led else { return Ok(()) };
        let in_pool = || self.policy.pools().any(|pool| pool.cidr.covers(prefix));
        if led.has(prefix) || in_pool() {
            return Ok(());
        }
        let device = &self.config.tunnel.device;
        Err(format!(
            "no kernel route leads {prefix} into {device}, and without CAP_NET_ADMIN the daemon cannot add it; \
             have an administrator run `ip route add {prefix} dev {device}`, then try again"
        ))
    }
}
