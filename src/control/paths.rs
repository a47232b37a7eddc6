//! Watching the ways that depend on the host: which interface the uplink is, its MTU, first hops for
//! the packet socket, and the TAP.
//!
//! Once a second the uplink and the neighbour table are read and what changed is published. The TAP is tested at
//! start, and every few seconds once it has carried traffic; the packet path uses it only while the last
//! test succeeded. What the workers gave up is logged for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::host::{FirstHop, Host, Neighbour, Uplink};
use super::state::Daemon;
use super::tap_test::TapTest;
use crate::encap::frame::Hop;
use crate::net::Mode;

/// How often neighbours are read.
const TICK: Duration = Duration::from_secs(1);
/// How often in the first moments, while the kernel resolves the neighbours it was just asked for.
const EAGER_TICK: Duration = Duration::from_millis(50);
const EAGER_FOR: Duration = Duration::from_secs(2);
/// How often gateways are looked up, neighbours kept in use and the TAP is tested.
const SLOW: Duration = Duration::from_secs(5);
/// Failed tests in a row until the TAP is given up: one may fall victim to a busy host.
const PATIENCE: u32 = 2;

/// The uplink's neighbour table.
type Neighbours = HashMap<IpAddr, Neighbour>;

/// What is watched.
pub struct Watch {
    host: Host,
    daemon: Arc<Daemon>,
    /// Our underlay address that says which interface the uplink is.
    own: IpAddr,
    uplink: Uplink,
    tap: Option<TapTest>,
    /// The way to each address of a peer, as of the last slow tick.
    hops: Vec<(IpAddr, FirstHop)>,
    failures: u32,
    /// What the TUN was given last.
    tun_mtu: u16,
}

impl Watch {
    /// Watches for `daemon` through `host`, on which `uplink` has the address `own`.
    pub fn new(host: Host, daemon: Arc<Daemon>, own: IpAddr, uplink: Uplink, tap: Option<TapTest>) -> Self {
        let tun_mtu = daemon.tun_mtu();
        Self { host, daemon, own, uplink, tap, hops: Vec::new(), failures: 0, tun_mtu }
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
            let neighbours = self.host.neighbours(self.uplink.index).await.unwrap_or_default();
            if slow {
                self.find_hops(&neighbours).await;
                next_slow = Instant::now() + SLOW;
            }
            let resolved = self.publish_hops(&neighbours);
            // A TAP that failed, or was never tested, is tested at once; one that never carried
            // anything has nothing to lose, and the wire stays quiet.
            let used = self.daemon.tap_frames() > 0;
            if (slow && (used || moved)) || self.failures > 0 || !self.daemon.tap_active() {
                self.test_tap(&resolved).await;
            }
            let pause = sleep(if start.elapsed() < EAGER_FOR { EAGER_TICK } else { TICK });
            tokio::select! {
                () = pause => {}
                () = self.daemon.writer.peers_changed() => (start, next_slow) = (Instant::now(), Instant::now()),
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
        if let Some(tap) = &mut self.tap {
            tap.set_uplink(uplink.index);
        }
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

    /// Looks up the gateway of every peer and asks the kernel to keep it resolved.
    async fn find_hops(&mut self, neighbours: &Neighbours) {
        let peers = self.daemon.peer_addresses();
        self.hops.clear();
        for peer in peers {
            let hop = self.host.first_hop(peer).await.filter(|hop| hop.index == self.uplink.index);
            let fixed = |hop: &FirstHop| neighbours.get(&hop.via).is_some_and(|neighbour| neighbour.fixed);
            let Some(hop) = hop else { continue };
            if !fixed(&hop) {
                self.host.use_neighbour(hop.index, hop.via).await;
            }
            self.hops.push((peer, hop));
        }
    }

    /// Publishes the link addresses of all first hops; returns the addresses of peers whose first hop
    /// has one.
    fn publish_hops(&self, neighbours: &Neighbours) -> Vec<IpAddr> {
        let Some(source) = self.uplink.mac else { return Vec::new() };
        let resolved = self.hops.iter().filter_map(|(peer, hop)| {
            let destination = neighbours.get(&hop.via)?.mac;
            Some((*peer, Hop { destination, source }))
        });
        let resolved: Vec<(IpAddr, Hop)> = resolved.collect();
        self.daemon.set_hops(&resolved.iter().copied().collect());
        resolved.into_iter().map(|(peer, _)| peer).collect()
    }

    /// Tests the TAP in every encapsulating mode that a peer of `resolved` is reached by. Without
    /// such a peer there is nothing to learn.
    async fn test_tap(&mut self, resolved: &[IpAddr]) {
        let Some(tap) = &mut self.tap else { return };
        let mut outcome = None;
        for mode in [Mode::Vxlan, Mode::Ipip] {
            if mode == Mode::Ipip && !tap.link().ipip {
                continue;
            }
            let peers = self.daemon.peers_by(mode);
            let peer = resolved.iter().find(|peer| peer.is_ipv4() && peers.contains(peer));
            let Some(IpAddr::V4(peer)) = peer else { continue };
            let port = self.daemon.port_of((*peer).into()).unwrap_or_default();
            outcome = Some(tap.run(mode, (*peer, port)).await);
            if outcome.as_ref().is_some_and(Result::is_err) {
                break;
            }
        }
        match outcome {
            None => {}
            Some(Ok(())) => {
                self.failures = 0;
                let link = tap.link();
                let ipip = if link.ipip { "" } else { " for vxlan; eBPF is not available for ipip" };
                let ipv6 =
                    if self.daemon.has_ipv6_peers() { "; sockets towards peers over IPv6" } else { "" };
                self.daemon.set_tap(Some(link), &format!("active{ipip}{ipv6}"));
            }
            Some(Err(reason)) => {
                self.failures += 1;
                if self.failures >= PATIENCE || !self.daemon.tap_active() {
                    self.daemon.set_tap(None, &format!("off: {reason}"));
                }
            }
        }
    }
}
