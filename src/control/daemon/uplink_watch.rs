//! Watching the ways that depend on the host: which interface the uplink is, its MTU, first hops for
//! the packet socket, and the TAP.
//!
//! Once a second the uplink and the neighbour table are read and what changed is published. Where there is a
//! TAP, so are the features of the interfaces that lead to the peers, and once more when one of them changed.
//! The TAP is tested at start, and every few seconds once it has carried traffic; the packet path uses it
//! only while the last test succeeded. What the workers gave up is logged for them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::tap_test::TapTest;
use super::tap_watch::TapWatch;
use crate::config;
use crate::control::engine::state::Daemon;
use crate::control::host::{FirstHop, Host, LinkNews, Neighbour, Uplink};
use crate::dataplane::encap::frame::Hop;

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
pub struct Watch {
    host: Host,
    daemon: Arc<Daemon>,
    /// Our underlay address that says which interface the uplink is.
    own: IpAddr,
    uplink: Uplink,
    tap: Option<TapWatch>,
    /// Where there is a TAP.
    links: Option<LinkNews>,
    /// The way to each address of a peer, as of the last slow tick.
    hops: Vec<(IpAddr, FirstHop)>,
    /// What the TUN was given last.
    tun_mtu: u16,
}

impl Watch {
    /// Watches for `daemon` through `host`, on which `uplink` has the address `own`; `tap` tests the TAP,
    /// where there is one.
    pub fn new(host: Host, daemon: Arc<Daemon>, own: IpAddr, uplink: Uplink, tap: Option<TapTest>) -> Self {
        let tun_mtu = daemon.tun_mtu();
        let forced = daemon.wanted_uplink() == config::Uplink::Tap;
        let tap = tap.map(|test| TapWatch::new(Arc::clone(&daemon), test, forced));
        // Without notifications there is still the look once a second.
        let links = tap.as_ref().and_then(|_| LinkNews::connect().ok());
        Self { host, daemon, own, uplink, tap, links, hops: Vec::new(), tun_mtu }
    }

    /// Watches for ever.
    pub async fn run(mut self) {
        let mut start = Instant::now();
        let mut next_slow = start;
        loop {
            self.daemon.reclaim();
            self.daemon.tell_fallbacks();
            let moved = self.follow_address().await;
            self.follow_mtu().await;
            let slow = moved || Instant::now() >= next_slow;
            let neighbours = self.host.neighbours().await.unwrap_or_default();
            if slow {
                self.find_hops(&neighbours).await;
                next_slow = Instant::now() + SLOW;
            }
            let resolved = self.publish_hops(&neighbours);
            if let Some(tap) = &mut self.tap {
                // One that never carried anything has nothing to lose, and the wire stays quiet.
                let all = slow && (moved || self.daemon.tap_frames() > 0);
                tap.look(&self.host, &self.hops, &resolved, all).await;
            }
            let pause = sleep(if start.elapsed() < EAGER_FOR { EAGER_TICK } else { TICK });
            tokio::select! {
                () = pause => {}
                () = self.daemon.writer.peers_changed() => (start, next_slow) = (Instant::now(), Instant::now()),
                () = news(&mut self.links, &self.hops) => {
                    next_slow = Instant::now();
                    sleep(NEWS_PAUSE).await;
                }
            }
        }
    }

    /// Makes the interface that has our address now the uplink; returns whether that is another than
    /// before. While none has it, the old one stays.
    async fn follow_address(&mut self) -> bool {
        if self.host.has_address(self.uplink.index, self.own).await {
            return false;
        }
        let Ok(uplink) = self.host.uplink_of(self.own).await else { return false };
        tracing::info!("node address {} is on {} now, it was on {}", self.own, uplink.name, self.uplink.name);
        self.daemon.move_to(uplink.index);
        self.uplink = uplink;
        true
    }

    /// Publishes the uplink's MTU and gives the TUN the one that follows from it and the peers. The table
    /// goes first: it never promises more than the uplink carries.
    async fn follow_mtu(&mut self) {
        let Some(mtu) = self.host.mtu_of(self.uplink.index).await else { return };
        let mtu = mtu.min(u32::from(u16::MAX)) as u16;
        self.daemon.set_uplink_mtu(mtu);
        let tun = self.daemon.tun_mtu();
        if tun == self.tun_mtu {
            return;
        }
        self.tun_mtu = tun;
        let device = self.daemon.device();
        tracing::info!("mtu {tun}: uplink {} has {mtu}, less the largest overhead in use", self.uplink.name);
        if let Err(error) = self.host.set_mtu_of(&device, tun.into()).await {
            tracing::warn!("{error}");
        }
    }

    /// Looks up the gateway of every peer and asks the kernel to keep it resolved. The packet socket
    /// only reaches those behind the uplink, the TAP all.
    async fn find_hops(&mut self, neighbours: &Neighbours) {
        let peers = self.daemon.peer_addresses();
        self.hops.clear();
        for peer in peers {
            let ours = |hop: &FirstHop| self.tap.is_some() || hop.index == self.uplink.index;
            let fixed = |hop: &FirstHop| {
                neighbours.get(&(hop.index, hop.via)).is_some_and(|neighbour| neighbour.fixed)
            };
            let Some(hop) = self.host.first_hop(peer).await.filter(ours) else { continue };
            if !fixed(&hop) {
                self.host.use_neighbour(hop.index, hop.via).await;
            }
            self.hops.push((peer, hop));
        }
    }

    /// Publishes the link addresses of the first hops behind the uplink; returns the addresses of peers
    /// whose first hop has one, whatever it is behind.
    fn publish_hops(&self, neighbours: &Neighbours) -> HashSet<IpAddr> {
        let (mut frames, mut resolved) = (HashMap::new(), HashSet::new());
        for (peer, hop) in &self.hops {
            let Some(neighbour) = neighbours.get(&(hop.index, hop.via)) else { continue };
            resolved.insert(*peer);
            if let Some(source) = self.uplink.mac.filter(|_| hop.index == self.uplink.index) {
                frames.insert(*peer, Hop { destination: neighbour.mac, source });
            }
        }
        self.daemon.set_hops(&frames);
        resolved
    }
}

/// Completes when an interface that leads to a peer changed.
async fn news(links: &mut Option<LinkNews>, hops: &[(IpAddr, FirstHop)]) {
    match links {
        Some(links) => links.about(|index| hops.iter().any(|(_, hop)| hop.index == index)).await,
        None => std::future::pending().await,
    }
}
