//! Watching the uplink and the ways to the peers: which interface has our address, what MTU each way has, first
//! hops for the packet socket, and who may be reached through the TAP.
//!
//! Once a second the uplink and the neighbour table are read and what they say goes to the engine. The ways are
//! looked up every few seconds, when the kernel tells of a change that may concern them, and when it has refused a
//! packet as too large. Where there is a TAP, so are the features of the interfaces that they lead by. The TAP is
//! tested at start, and every few seconds once it has carried traffic.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};

use super::policy_watch::PolicyWatch;
use super::runner::Inbox;
use super::tap_watch::TapWatch;
use crate::control::engine::port::{HostRequest, Notice, Uplink};
use crate::control::engine::{Event, Snapshot};
use crate::control::host::{Host, Interfaces, Neighbour, PeerWay};
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::observe::Counters;

/// How often neighbours are read.
const TICK: Duration = Duration::from_secs(1);
/// How often in the first moments, while the kernel resolves the neighbours it was just asked for.
const EAGER_TICK: Duration = Duration::from_millis(50);
const EAGER_FOR: Duration = Duration::from_secs(2);
/// How often ways are looked up, neighbours kept in use and the TAP is tested.
const SLOW: Duration = Duration::from_secs(5);
/// From a notification to the look that it causes: one change comes in several.
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// Looks that notifications cause take at most one part in so many of the time.
const IDLE: u32 = 10;

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
    /// What the kernel tells of.
    pub news: broadcast::Receiver<Notice>,
    /// Sends that were refused as too large, as of the last look.
    pub refused: u64,
    /// The way to each address of a peer, as of the last slow tick.
    pub ways: Ways,
    /// The kernel's IPsec policies, where it has such.
    pub policies: PolicyWatch,
}

/// Ways to addresses of peers.
pub type Ways = Vec<(IpAddr, PeerWay)>;

impl UplinkWatch {
    /// Watches for ever.
    pub async fn run(mut self) {
        let mut start = Instant::now();
        let mut next_slow = start;
        loop {
            let before = Arc::clone(&self.snapshots.borrow_and_update());
            let due = self.is_refused() || Instant::now() >= next_slow;
            let moved = self.follow(due).await;
            let slow = moved || due;
            let neighbours = self.host.neighbours().await.unwrap_or_default();
            let begun = Instant::now();
            if slow {
                self.find_ways(&before, &neighbours).await;
                next_slow = Instant::now() + SLOW;
            }
            // First hops and the TAP come after: nothing leaves past a policy.
            if let Some(event) = self.policies.look(&before) {
                self.inbox.send(event);
            }
            let resolved = self.tell_hops(&neighbours);
            if let Some(tap) = &mut self.tap {
                // One that never carried anything has nothing to lose, and the wire stays quiet.
                let all = slow && (moved || self.counters.tap_frames() > 0);
                let said = tap.look(&before, &self.host, &self.ways, &resolved, all).await;
                self.inbox.send(Event::Tap(said));
            }
            let took = begun.elapsed();
            let pause = sleep(if start.elapsed() < EAGER_FOR { EAGER_TICK } else { TICK });
            tokio::select! {
                () = pause => {}
                () = other_peers(&mut self.snapshots, &before) => (start, next_slow) = (Instant::now(), Instant::now()),
                () = news(&mut self.news, &self.ways) => {
                    next_slow = Instant::now();
                    // Many peers and many changes must not keep this busy.
                    sleep(NEWS_PAUSE.max(took * IDLE)).await;
                }
            }
        }
    }

    /// Whether the kernel has refused packets as too large since the last time: what is known of MTUs is old.
    fn is_refused(&mut self) -> bool {
        let refused = self.counters.too_large_sends();
        std::mem::replace(&mut self.refused, refused) != refused
    }

    /// Tells of the interface that has our address now, and its MTU; returns whether it is another than
    /// before. While none has it, the old one stays. Where it is none that packets leave by, that is only looked
    /// for when it is `due`.
    async fn follow(&mut self, due: bool) -> bool {
        let (own, index) = (self.own, self.uplink.index);
        if self.uplink.dead_end {
            return due && self.move_to(None).await;
        }
        if !self.host.has_address(index, own).await {
            return self.move_to(Some(index)).await;
        }
        if let Some(link) = self.host.link_by_index(index).await
            && (link.mtu != self.uplink.mtu || link.name != self.uplink.name)
        {
            (self.uplink.mtu, self.uplink.name) = (link.mtu, link.name);
            self.inbox.send(Event::Uplink(self.uplink.clone()));
        }
        false
    }

    /// Moves to the uplink as it is now, unless that is the one we know.
    async fn move_to(&mut self, lost: Option<u32>) -> bool {
        let Ok(owner) = self.host.uplink_of(self.own).await else { return false };
        let uplink = stand_in(&self.host, owner, &self.ways, self.uplink.index).await;
        if uplink == self.uplink && lost.is_none() {
            return false;
        }
        let moved = uplink.index != self.uplink.index;
        if moved {
            let (own, now, before) = (self.own, &uplink.name, &self.uplink.name);
            tracing::info!("node address {own} is on {now} now, it was on {before}");
        }
        self.uplink = uplink;
        self.inbox.send(Event::Uplink(self.uplink.clone()));
        moved
    }

    /// Looks up the way to every peer and asks the kernel to keep its first hop resolved. The packet socket
    /// only reaches those behind the uplink, the TAP all.
    async fn find_ways(&mut self, snapshot: &Snapshot, neighbours: &Neighbours) {
        let (mut ways, mut interfaces) = (Ways::new(), Interfaces::default());
        for peer in snapshot.addresses() {
            let source = snapshot.underlay.facing(peer);
            let Some(way) = self.host.way(peer, source, &mut interfaces).await else { continue };
            let hop = way.hop;
            let used = self.tap.is_some() || hop.index == self.uplink.index;
            let fixed = || neighbours.get(&(hop.index, hop.via)).is_some_and(|neighbour| neighbour.fixed);
            if used && !fixed() {
                let request = HostRequest::UseNeighbour { index: hop.index, address: hop.via };
                // Not being allowed to only means that the entry ages as ever.
                let _ = self.host.execute(request).await;
            }
            ways.push((peer, way));
        }
        if ways != self.ways {
            self.inbox.send(Event::LinkMtus(mtus_of(&ways)));
            self.ways = ways;
        }
    }

    /// Tells of the link addresses of the first hops behind the uplink; returns the addresses of peers
    /// whose first hop has one, whatever it is behind.
    fn tell_hops(&self, neighbours: &Neighbours) -> HashSet<IpAddr> {
        let (mut frames, mut resolved) = (HashMap::new(), HashSet::new());
        for (peer, PeerWay { hop, .. }) in &self.ways {
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

/// The MTU of each way.
pub fn mtus_of(ways: &Ways) -> HashMap<IpAddr, u16> {
    ways.iter().map(|(peer, way)| (*peer, way.mtu)).collect()
}

/// The uplink of a node whose address `owner` has. Where packets cannot leave by that one, an interface that leads
/// to a peer: `before` for as long as it does.
pub async fn stand_in(host: &Host, owner: Uplink, ways: &Ways, before: u32) -> Uplink {
    if !owner.dead_end {
        return owner;
    }
    let indices = || ways.iter().map(|(_, way)| way.hop.index);
    let index = indices().find(|index| *index == before).or(indices().next());
    let found = match index {
        Some(index) => host.stand_in(&owner, index).await,
        None => None,
    };
    found.unwrap_or(owner)
}

/// Completes when other peers are known than `before`.
async fn other_peers(snapshots: &mut watch::Receiver<Arc<Snapshot>>, before: &Snapshot) {
    if snapshots.wait_for(|now| !now.has_peers_of(before)).await.is_err() {
        // The engine is gone, and soon so are we.
        std::future::pending::<()>().await;
    }
}

/// Completes when the way to a peer changed, or may have.
async fn news(news: &mut broadcast::Receiver<Notice>, ways: &Ways) {
    loop {
        match news.recv().await {
            Ok(notice) if !concerns(notice, ways) => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Whether what the kernel tells of may be about one of these ways. Where there are none, one may come.
fn concerns(notice: Notice, ways: &Ways) -> bool {
    match notice {
        Notice::Link(index) => ways.iter().any(|(_, way)| way.hop.index == index),
        Notice::Route { prefix, .. } => {
            ways.is_empty() || ways.iter().any(|(peer, _)| prefix.contains(*peer))
        }
        Notice::Policy | Notice::Overrun => true,
        Notice::Address(_) => false,
    }
}
