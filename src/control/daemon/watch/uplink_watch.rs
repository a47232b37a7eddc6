//! Watching the uplink and the ways to the peers: which interface has our address, what MTU each way has, first
//! hops for the packet socket, and who may be reached through the TAP.
//!
//! What the kernel tells of is looked at at once, and what it does not tell of every few seconds
//! (`watch/peer_ways.rs`). Ways with traffic are looked up and their neighbours kept in use; a peer without
//! traffic is left alone, and the kernel resolves it with its first packet. Where there is a TAP, so are the
//! features of the interfaces that the ways lead by. The TAP is tested at start, and every few seconds once it
//! has carried traffic.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::peer_ways::{PeerWays, Ways};
use super::policy_watch::PolicyWatch;
use super::tap_watch::TapWatch;
use crate::control::daemon::runner::Inbox;
use crate::control::engine::port::{HostRequest, Notice, PeerWay, Uplink};
use crate::control::engine::{Event, Snapshot};
use crate::control::host::{Host, Interfaces, NeighbourTable};
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::observe::Counters;
use crate::net::Mode;

/// From one count of traffic to the next, and from one look at the uplink.
const TICK: Duration = Duration::from_secs(1);
/// How often neighbours are kept in use, the TAP is tested, and everything is told again, where there is traffic.
const SLOW: Duration = Duration::from_secs(5);
/// How often everything is told again where there is none: that costs something for each peer.
const IDLE_SLOW: Duration = Duration::from_secs(30);
/// From a notification to the look that it causes: one change comes in several.
const NEWS_PAUSE: Duration = Duration::from_millis(20);
/// From some ways that are looked up to the next ones. With many of them this is at most one part in [`IDLE`]
/// of the time.
const DUE_PAUSE: Duration = Duration::from_millis(5);
const IDLE: u32 = 10;
/// Requests to the kernel that are under way together.
const AT_ONCE: usize = 16;
/// Neighbours that are kept in use in one tick.
const KEPT: usize = 64;

/// What is watched.
pub(crate) struct UplinkWatch {
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
    /// The way to each address of a peer.
    pub ways: PeerWays,
    /// The neighbours of this node.
    pub neighbours: NeighbourTable,
    /// When a neighbour was last said to be in use.
    pub kept: HashMap<(u32, IpAddr), Instant>,
    /// The kernel's IPsec policies, where it has such.
    pub policies: PolicyWatch,
}

impl UplinkWatch {
    /// Watches for ever; `found` are ways that were looked up before.
    pub(crate) async fn run(mut self, found: Ways) {
        let mut before = Arc::clone(&self.snapshots.borrow());
        self.follow_peers(&before, &found);
        let (mut next_slow, mut next_full) = (Instant::now(), Instant::now());
        // Whether something was told that may concern the ways or who is behind them.
        let mut news = true;
        loop {
            let begun = Instant::now();
            let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
            if !snapshot.shares_peers_of(&before) {
                self.follow_peers(&snapshot, &Vec::new());
                news = true;
            }
            if !self.neighbours.is_live() {
                self.neighbours.renew(&self.host).await;
                news = true;
            }
            let slow = begun >= next_slow;
            if slow {
                next_slow = begun + SLOW;
            }
            let full = begun >= next_full || slow && self.ways.used(begun).next().is_some();
            if full {
                next_full = begun + IDLE_SLOW;
            }
            let moved = self.follow(slow || news).await;
            if moved {
                self.ways.expire();
            }
            if self.is_refused() {
                self.ways.expire_used(begun);
            }
            self.ways.count(begun);
            news |= self.look_up(&snapshot).await | moved | full;
            self.keep_in_use(&snapshot).await;
            // First hops and the TAP come after: nothing leaves past a policy.
            if let Some(event) = self.policies.look(&snapshot) {
                self.inbox.send(event);
            }
            if news {
                self.tell_hops();
            }
            self.look_at_tap(&snapshot, news, full, moved).await;
            before = snapshot;
            news = self.wait(&before, begun.elapsed()).await;
        }
    }

    /// Waits until there is something to do; returns whether something was told.
    async fn wait(&mut self, before: &Snapshot, took: Duration) -> bool {
        let pause = if self.ways.is_due() { DUE_PAUSE.max(took * IDLE) } else { TICK };
        let end = tokio::time::Instant::now() + pause;
        loop {
            let concerns = tokio::select! {
                () = sleep_until(end) => return false,
                () = other_peers(&mut self.snapshots, before) => return true,
                notice = next(&mut self.news) => self.hear(notice),
                key = self.neighbours.changed() => key.is_none_or(|key| self.ways.leads_by(key)),
            };
            if concerns {
                break;
            }
        }
        sleep(NEWS_PAUSE.max(took * IDLE)).await;
        while let Some(notice) = next(&mut self.news).now_or_never() {
            self.hear(notice);
        }
        // The table takes them over.
        while self.neighbours.changed().now_or_never().is_some() {}
        true
    }

    /// Takes in what the kernel told of; returns whether it may matter here.
    fn hear(&mut self, notice: Notice) -> bool {
        let uplink = match notice {
            Notice::Link(index) => index == self.uplink.index,
            Notice::Address(_) => true,
            _ => false,
        };
        self.ways.hear(notice) || uplink
    }

    fn follow_peers(&mut self, snapshot: &Snapshot, found: &Ways) {
        let peers = snapshot.known();
        let addresses =
            peers.flat_map(|peer| peer.addresses().map(|address| (address, peer.counters.clone())));
        self.ways.follow(addresses, found);
    }

    /// Whether the kernel has refused packets as too large since the last time: what is known of MTUs is old.
    fn is_refused(&mut self) -> bool {
        let refused = self.counters.too_large_sends();
        std::mem::replace(&mut self.refused, refused) != refused
    }

    /// Tells of the interface that has our address now, and what it is like; returns whether it is another than
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
        let Some(link) = self.host.link_by_index(index).await else { return false };
        let now = Uplink { name: link.name, mtu: link.mtu, mac: link.mac, ..self.uplink.clone() };
        if now != self.uplink {
            // Frames have its link address as their source.
            let other_address = now.mac != self.uplink.mac;
            self.uplink = now;
            self.inbox.send(Event::Uplink(self.uplink.clone()));
            if other_address {
                self.tell_hops();
            }
        }
        false
    }

    /// Moves to the uplink as it is now, unless that is the one we know.
    async fn move_to(&mut self, lost: Option<u32>) -> bool {
        let Ok(owner) = self.host.uplink_of(self.own).await else { return false };
        let uplink = stand_in(&self.host, owner, &self.known(), self.uplink.index).await;
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

    fn known(&self) -> Ways {
        self.ways.iter().collect()
    }

    /// Looks up the ways that are due; returns whether one is another than before.
    async fn look_up(&mut self, snapshot: &Snapshot) -> bool {
        let now = Instant::now();
        let (host, interfaces) = (&self.host, &Interfaces::default());
        let due = self.ways.take_due(now).into_iter();
        let looks = due.map(|peer| async move {
            (peer, host.way(peer, snapshot.underlay.facing(peer), interfaces).await)
        });
        let found: Vec<(IpAddr, Option<PeerWay>)> =
            stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        let mut changed = false;
        for (peer, way) in found {
            changed |= self.ways.set(peer, way, now);
        }
        if changed {
            self.inbox.send(Event::Ways(self.ways.iter().collect()));
        }
        changed
    }

    /// Asks the kernel to keep those resolved that packets go to: packet sockets pass its neighbour code by.
    async fn keep_in_use(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        self.kept.retain(|_, last| now < *last + SLOW);
        let mut wanted: Vec<(u32, IpAddr)> = self.ways.used(now).map(|(_, way)| key(&way)).collect();
        if let Some(tap) = &mut self.tap {
            let tried = tap.take_unresolved();
            wanted.extend(tried.filter_map(|peer| self.ways.get(peer)).map(|way| key(&way)));
        }
        if !snapshot.peers_by(Mode::Direct).is_empty() || snapshot.verifies_from(false).is_some() {
            // No other socket than the packet socket sends bare IPv6 to a neighbour.
            let bare = self.ways.iter().filter(|(peer, _)| peer.is_ipv6()).map(|(_, way)| key(&way));
            wanted.extend(bare.filter(|key| self.neighbours.get(*key).is_none()));
        }
        let mut left = KEPT;
        for (index, via) in wanted {
            let ours = self.tap.is_some() || index == self.uplink.index;
            let fixed = self.neighbours.get((index, via)).is_some_and(|neighbour| neighbour.fixed);
            if !ours || fixed || left == 0 || self.kept.contains_key(&(index, via)) {
                continue;
            }
            left -= 1;
            self.kept.insert((index, via), now);
            // Not being allowed to only means that the entry ages as ever.
            let _ = self.host.execute(HostRequest::UseNeighbour { index, address: via }).await;
        }
    }

    /// Tells of the link addresses of the first hops behind the uplink.
    fn tell_hops(&self) {
        let mut frames = HashMap::new();
        let Some(source) = self.uplink.mac else { return };
        for (peer, way) in self.ways.iter().filter(|(_, way)| way.hop.index == self.uplink.index) {
            if let Some(neighbour) = self.neighbours.get(key(&way)) {
                frames.insert(peer, Hop { destination: neighbour.mac, source });
            }
        }
        self.inbox.send(Event::Hops(frames));
    }

    /// Has the TAP looked at where there may be something new about it.
    async fn look_at_tap(&mut self, snapshot: &Snapshot, news: bool, full: bool, moved: bool) {
        let Some(tap) = self.tap.as_mut().filter(|tap| news || tap.is_waiting()) else { return };
        let ways: Ways = self.ways.iter().collect();
        let resolved = ways.iter().filter(|(_, way)| self.neighbours.get(key(way)).is_some());
        let resolved: HashSet<IpAddr> = resolved.map(|(peer, _)| *peer).collect();
        // One that never carried anything has nothing to lose, and the wire stays quiet.
        let all = moved || full && self.counters.tap_frames() > 0;
        let said = tap.look(snapshot, &self.host, &ways, &resolved, all).await;
        self.inbox.send(Event::Tap(said));
    }
}

fn key(way: &PeerWay) -> (u32, IpAddr) {
    (way.hop.index, way.hop.via)
}

/// The uplink of a node whose address `owner` has. Where packets cannot leave by that one, an interface that leads
/// to a peer: `before` for as long as it does.
pub(crate) async fn stand_in(host: &Host, owner: Uplink, ways: &Ways, before: u32) -> Uplink {
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

/// The next thing that the kernel tells of.
async fn next(news: &mut broadcast::Receiver<Notice>) -> Notice {
    match news.recv().await {
        Ok(notice) => notice,
        Err(RecvError::Lagged(_)) => Notice::Overrun,
        // Who passes it on is gone, and soon so are we.
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

/// Completes when other peers are known than `before`.
async fn other_peers(snapshots: &mut watch::Receiver<Arc<Snapshot>>, before: &Snapshot) {
    if snapshots.wait_for(|now| !now.has_peers_of(before)).await.is_err() {
        // The engine is gone, and soon so are we.
        std::future::pending::<()>().await;
    }
}
