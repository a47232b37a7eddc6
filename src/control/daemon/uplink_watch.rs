//! Watching the uplink: which interface has our address, its MTU, first hops for the packet socket, and who
//! may be reached through the TAP.
//!
//! Once a second the uplink and the neighbour table are read and what they say goes to the engine. Where there
//! is a TAP, so are the features of the interfaces that lead to the peers, and once more when one of them
//! changed. The TAP is tested at start, and every few seconds once it has carried traffic.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};

use super::runner::Inbox;
use super::tap_watch::TapWatch;
use crate::control::engine::port::{HostRequest, Uplink};
use crate::control::engine::{Event, Snapshot};
use crate::control::host::{FirstHop, Host, Neighbour};
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::observe::Counters;

/// How often neighbours are read.
const TICK: Duration = Duration::from_secs(1);
/// How often in the first moments, while the kernel resolves the neighbours it was just asked for.
const EAGER_TICK: Duration = Duration::from_millis(50);
const EAGER_FOR: Duration = Duration::from_secs(2);
/// How often gateways are looked up, neighbours kept in use and the TAP is tested.
const SLOW: Duration = Duration::from_secs(5);
/// From a notification to the look that it causes: one change comes in several.
const NEWS_PAUSE: Duration = Duration::from_millis(50);

/// The neighbour table, by interface and address.
type Neighbours = HashMap<(u32, IpAddr), Neighbour>;

/// What is watched.
pub struct UplinkWatch {
    /// The kernel's side.
    pub host: Host,
    /// Where what was seen goes.
    pub inbox: Inbox,
    /// Who is known.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The workers' counters.
    pub counters: Counters,
    /// Our underlay address that says which interface the uplink is.
    pub own: IpAddr,
    /// That interface.
    pub uplink: Uplink,
    /// Who may be reached through the TAP, where there is one.
    pub tap: Option<TapWatch>,
    /// Indices of interfaces that changed, 0 when it may be any.
    pub links: broadcast::Receiver<u32>,
}

/// The way to each address of a peer, as of the last slow tick.
type Hops = Vec<(IpAddr, FirstHop)>;

impl UplinkWatch {
    /// Watches for ever.
    pub async fn run(mut self) {
        let mut hops = Hops::new();
        let mut start = Instant::now();
        let mut next_slow = start;
        loop {
            let before = Arc::clone(&self.snapshots.borrow_and_update());
            let moved = self.follow().await;
            let slow = moved || Instant::now() >= next_slow;
            let neighbours = self.host.neighbours().await.unwrap_or_default();
            if slow {
                hops = self.find_hops(&before, &neighbours).await;
                next_slow = Instant::now() + SLOW;
            }
            let resolved = self.tell_hops(&hops, &neighbours);
            if let Some(tap) = &mut self.tap {
                // One that never carried anything has nothing to lose, and the wire stays quiet.
                let all = slow && (moved || self.counters.tap_frames() > 0);
                let said = tap.look(&before, &self.host, &hops, &resolved, all).await;
                self.inbox.send(Event::Tap(said));
            }
            let pause = sleep(if start.elapsed() < EAGER_FOR { EAGER_TICK } else { TICK });
            tokio::select! {
                () = pause => {}
                () = other_peers(&mut self.snapshots, &before) => (start, next_slow) = (Instant::now(), Instant::now()),
                () = news(&mut self.links, &hops), if self.tap.is_some() => {
                    next_slow = Instant::now();
                    sleep(NEWS_PAUSE).await;
                }
            }
        }
    }

    /// Tells of the interface that has our address now, and its MTU; returns whether it is another than
    /// before. While none has it, the old one stays.
    async fn follow(&mut self) -> bool {
        let (own, index) = (self.own, self.uplink.index);
        if !self.host.has_address(index, own).await {
            let Ok(uplink) = self.host.uplink_of(own).await else { return false };
            tracing::info!("node address {own} is on {} now, it was on {}", uplink.name, self.uplink.name);
            self.uplink = uplink;
            self.inbox.send(Event::Uplink(self.uplink.clone()));
            return true;
        }
        if let Some(link) = self.host.link_by_index(index).await
            && (link.mtu != self.uplink.mtu || link.name != self.uplink.name)
        {
            (self.uplink.mtu, self.uplink.name) = (link.mtu, link.name);
            self.inbox.send(Event::Uplink(self.uplink.clone()));
        }
        false
    }

    /// Looks up the gateway of every peer and asks the kernel to keep it resolved. The packet socket
    /// only reaches those behind the uplink, the TAP all.
    async fn find_hops(&self, snapshot: &Snapshot, neighbours: &Neighbours) -> Hops {
        let mut hops = Hops::new();
        for peer in snapshot.addresses() {
            let ours = |hop: &FirstHop| self.tap.is_some() || hop.index == self.uplink.index;
            let fixed = |hop: &FirstHop| {
                neighbours.get(&(hop.index, hop.via)).is_some_and(|neighbour| neighbour.fixed)
            };
            let Some(hop) = self.host.first_hop(peer).await.filter(ours) else { continue };
            if !fixed(&hop) {
                let request = HostRequest::UseNeighbour { index: hop.index, address: hop.via };
                // Not being allowed to only means that the entry ages as ever.
                let _ = self.host.execute(request).await;
            }
            hops.push((peer, hop));
        }
        hops
    }

    /// Tells of the link addresses of the first hops behind the uplink; returns the addresses of peers
    /// whose first hop has one, whatever it is behind.
    fn tell_hops(&self, hops: &Hops, neighbours: &Neighbours) -> HashSet<IpAddr> {
        let (mut frames, mut resolved) = (HashMap::new(), HashSet::new());
        for (peer, hop) in hops {
            let Some(neighbour) = neighbours.get(&(hop.index, hop.via)) else { continue };
            resolved.insert(*peer);
            if let Some(source) = self.uplink.mac.filter(|_| hop.index == self.uplink.index) {
                frames.insert(*peer, Hop { destination: neighbour.mac, source });
            }
        }
        self.inbox.send(Event::Hops(frames));
        resolved
    }
}

/// Completes when other peers are known than `before`.
async fn other_peers(snapshots: &mut watch::Receiver<Arc<Snapshot>>, before: &Snapshot) {
    if snapshots.wait_for(|now| !now.has_peers_of(before)).await.is_err() {
        // The engine is gone, and soon so are we.
        std::future::pending::<()>().await;
    }
}

/// Completes when an interface that leads to a peer changed, or may have.
async fn news(links: &mut broadcast::Receiver<u32>, hops: &Hops) {
    loop {
        match links.recv().await {
            Ok(index) if index != 0 && !hops.iter().any(|(_, hop)| hop.index == index) => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
