//! Verifies direct paths: the sessions of BFD between this node's pod address and those of its neighbours.
//!
//! ```text
//! snapshot ──paths to verify──▶ ┌───────┐ ──verdicts that changed──▶ engine
//! uplink ────control packets──▶ │ Paths │ ──control packets────────▶ next hops
//!                               └───────┘
//! ```

mod doors;
mod packet;

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::doors::{Door, Place};
use crate::control::daemon::runner::Inbox;
use crate::control::engine::bfd::{Outgoing, Paths, Verdict};
use crate::control::engine::{Event, Snapshot};
use crate::control::host::Host;
use crate::control::source::at;
use crate::route::DirectPath;
use crate::wire::bfd::Control;

/// From one look at what is to be verified to the next, at least: it takes a look at every peer.
const LOOK: Duration = Duration::from_millis(500);
/// The same without a change: sockets that could not be opened are tried again, and routes looked through.
const AGAIN: Duration = Duration::from_secs(5);
/// Bytes of the largest control packet that is taken, authentication included.
const LARGEST: usize = 256;

/// Verifies paths for as long as the daemon runs.
pub(crate) async fn watch(host: Host, inbox: Inbox, snapshots: watch::Receiver<Arc<Snapshot>>) {
    let snapshot = Arc::clone(&snapshots.borrow());
    let paths = Paths::new(RandomState::new());
    let told = BTreeMap::new();
    let watcher =
        Watcher { host, inbox, snapshots, snapshot, paths, doors: [None, None], told, failed: None };
    watcher.run().await;
}

struct Watcher {
    host: Host,
    inbox: Inbox,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    snapshot: Arc<Snapshot>,
    paths: Paths,
    /// For IPv4 and IPv6, where paths of that family are to be verified.
    doors: [Option<Door>; 2],
    told: BTreeMap<DirectPath, Verdict>,
    /// Why there are no sockets, as it was logged.
    failed: Option<String>,
}

impl Watcher {
    async fn run(mut self) {
        let [mut buffer, mut buffer6] = [[0; LARGEST]; 2];
        let mut look = Instant::now();
        loop {
            tokio::select! {
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.snapshot = Arc::clone(&self.snapshots.borrow_and_update());
                    look = look.min(Instant::now() + LOOK);
                }
                () = sleep_until(look) => {
                    self.look().await;
                    look = Instant::now() + AGAIN;
                }
                received = receive(self.doors[0].as_ref(), &mut buffer) => self.received(received, &buffer),
                received = receive(self.doors[1].as_ref(), &mut buffer6) => self.received(received, &buffer6),
                () = at(self.paths.deadline().map(Instant::from_std)) => self.send_due(),
            }
            self.tell();
        }
    }

    /// Follows what is to be verified, and where.
    async fn look(&mut self) {
        let wanted = self.snapshot.paths_to_verify();
        if wanted.is_empty() && self.paths.is_empty() {
            self.doors = [None, None];
            return;
        }
        self.paths.follow(wanted, Instant::now().into_std());
        let uplink = self.snapshot.uplink.to_string();
        let index = match self.host.link_by_name(&uplink).await {
            Ok(Some(link)) => link.index,
            Ok(None) | Err(_) => return,
        };
        let node = self.snapshot.config.node.address.map(|own| own.addr().into());
        for (door, ipv4) in self.doors.iter_mut().zip([true, false]) {
            let own = self.snapshot.verifies_from(ipv4);
            let place = own.map(|own| Place { own, node, uplink: (uplink.clone(), index) });
            if door.as_ref().map(|door| &door.place) == place.as_ref() {
                continue;
            }
            // The port is free for the next one.
            *door = None;
            let Some(place) = place else { continue };
            match Door::open(place) {
                Ok(opened) => (*door, self.failed) = (Some(opened), None),
                Err(error) => {
                    let why = error.to_string();
                    if self.failed.as_ref() != Some(&why) {
                        tracing::warn!(
                            "direct paths cannot be verified, so tunnels are used: {why}; this needs CAP_NET_RAW and \
                             UDP port 3784 on the TUN's address"
                        );
                    }
                    self.failed = Some(why);
                }
            }
        }
    }

    fn received(&mut self, received: io::Result<(usize, SocketAddr)>, buffer: &[u8]) {
        let Ok((len, from)) = received else { return };
        let Ok(control) = Control::parse(&buffer[..len]) else { return };
        // Whose packets are not those of a pod on a node beside us is nobody.
        let Some(path) = self.snapshot.path_from(from.ip()) else { return };
        if let Some(answer) = self.paths.receive(path, from.ip(), &control, Instant::now().into_std()) {
            self.send(&answer);
        }
    }

    fn send_due(&mut self) {
        while let Some(packet) = self.paths.due(Instant::now().into_std()) {
            self.send(&packet);
        }
    }

    fn send(&self, packet: &Outgoing) {
        let [door, door6] = &self.doors;
        let Some(door) = (if packet.path.ipv4 { door } else { door6 }) else { return };
        door.send(packet, |path| self.snapshot.hop_of(path));
    }

    /// Tells the engine what has changed.
    fn tell(&mut self) {
        if !self.paths.has_changed() {
            return;
        }
        let verdicts = self.paths.verdicts();
        if verdicts == self.told {
            return;
        }
        for (path, verdict) in &verdicts {
            let before = self.told.get(path).is_some_and(|before| before.used);
            match (before, verdict.used) {
                (false, true) => tracing::info!("direct path to {} works: it is used", named(path)),
                (true, false) => tracing::warn!("direct path to {} fails: the tunnel is used", named(path)),
                _ => {}
            }
        }
        self.told.clone_from(&verdicts);
        self.inbox.send(Event::DirectPaths(verdicts));
    }
}

fn named(path: &DirectPath) -> String {
    format!("{} for {} packets", path.next_hop, if path.ipv4 { "IPv4" } else { "IPv6" })
}

/// The next datagram; never one where there is no socket.
async fn receive(door: Option<&Door>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match door {
        Some(door) => door.receive(buffer).await,
        None => std::future::pending().await,
    }
}
