//! The MTU of the path to each peer, as routers report it (RFC 1191; RFC 2003 §5.1; RFC 8201).
//!
//! ```text
//! pod ─▶ n1 ─▶ outer packet, DF ─▶ router: 1300 at most
//!         ◀── ICMP 3/4, quotes the outer packet ──┘
//! pod ◀── n1: ICMP 3/4 about the next packet that is too large, with the inner MTU
//! ```
//!
//! Over IPv6 the router says "packet too big".
//!
//! Anybody can forge such an error, so it must quote one of our own packets as far as a router
//! quotes them, and can only lower the MTU, never below a floor. It is
//! forgotten after a while, as the path may have changed (RFC 1191 §6.3).

mod report;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::report::Ours;
use self::report::Report;
use crate::control::engine::state::Daemon;
use crate::dataplane::underlay::icmp;

/// How long a report holds.
const EXPIRY: Duration = Duration::from_secs(600);
/// Pause behind each report, so that forged ones cannot keep the control plane busy.
const PAUSE: Duration = Duration::from_millis(1);

/// The listener and what it has learned.
pub struct PathMtu {
    socket: UdpSocket,
    daemon: Arc<Daemon>,
    ours: Ours,
    /// When to forget about which peer.
    deadlines: HashMap<IpAddr, Instant>,
}

impl PathMtu {
    /// Learns for `daemon` about packets like `ours`, of one family.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub fn new(daemon: Arc<Daemon>, ours: Ours) -> io::Result<Self> {
        // tokio's name for a datagram socket; the address family is no matter to it.
        let socket = UdpSocket::from_std(icmp::listen(ours.address)?.into())?;
        Ok(Self { socket, daemon, ours, deadlines: HashMap::new() })
    }

    /// Learns for ever.
    pub async fn run(mut self) {
        let mut buffer = [0; 2048];
        loop {
            let next = self.deadlines.values().min().copied();
            tokio::select! {
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(len) => {
                        self.learn(&buffer[..len], Instant::now());
                        sleep(PAUSE).await;
                    }
                    Err(error) => {
                        tracing::warn!("path MTUs are not learned any more: {error}");
                        return;
                    }
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.expire(Instant::now());
                }
            }
        }
    }

    fn learn(&mut self, packet: &[u8], now: Instant) {
        let Some(report) = Report::read(packet, &self.ours) else { return };
        let peer = report.peer;
        // Whether it would change anything is the cheaper question.
        if report.mtu < self.daemon.outer_mtu(peer)
            && self.daemon.peers_by(report.mode).contains(&peer)
            && report.port.is_none_or(|port| self.daemon.port_of(peer) == Some(port))
            && self.daemon.lower_path_mtu(peer, report.mtu)
        {
            tracing::info!("path to {peer}: outer packets of {} bytes at most, says a router", report.mtu);
            self.deadlines.insert(peer, now + EXPIRY);
        }
    }

    fn expire(&mut self, now: Instant) {
        let daemon = &self.daemon;
        self.deadlines.retain(|peer, deadline| {
            let keep = *deadline > now;
            if !keep && daemon.forget_path_mtu(*peer) {
                tracing::info!("path to {peer}: trying the uplink's MTU again");
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::net::UdpSocket;
    use tokio::time::Instant;

    use super::report::samples::{PEER, PEER6, US, ours, ours6, outer, outer6, too_big, too_big6};
    use super::{EXPIRY, Ours, PathMtu};
    use crate::control::engine::state::{Choices, Daemon, State};
    use crate::dataplane::observe::Counters;

    const CONFIG: &str = r#"
        [node]
        name = "a"
        address = "192.0.2.1/24"
        address6 = "2001:db8::1/64"
        [local]
        subnets = ["10.1.0.0/24"]
        [[pool]]
        cidr = "10.0.0.0/8"
        ipip_mode = "Always"
        [[peer]]
        name = "b"
        address = "198.51.100.3"
        subnets = ["10.2.0.0/24"]
        [[peer]]
        name = "c"
        address = "2001:db8:3::3"
        subnets = ["10.3.0.0/24"]
    "#;

    async fn listener(ours: Ours) -> PathMtu {
        listener_with(CONFIG, ours).await
    }

    async fn listener_with(config: &str, ours: Ours) -> PathMtu {
        let state = State::new(crate::config::parse(config, "f").unwrap(), 1500).unwrap();
        let choices =
            Choices { backend: "", offloads: Vec::new(), uplink: String::new(), address: US.into() };
        let daemon = Arc::new(Daemon::new(state, Counters::new(1), choices, "f".into()));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        PathMtu { socket, daemon, ours, deadlines: HashMap::new() }
    }

    #[tokio::test]
    async fn a_report_must_quote_the_peers_own_port() {
        let config = CONFIG.replace("ipip_mode", "vxlan_mode") + "port = 8472";
        let config = config.replace("198.51.100.3", "2001:db8:3::4").replace("2001:db8:3::3", "198.51.100.3");
        let mut listener = listener_with(&config, ours()).await;
        for (port, known) in [(4789, 1500), (8472, 1300)] {
            listener.learn(&too_big(1300, &outer(Some((49160, port)))[..60]), Instant::now());
            assert_eq!(listener.daemon.outer_mtu(PEER.into()), known, "{port}");
        }
    }

    #[tokio::test]
    async fn a_report_lowers_and_holds_for_a_while() {
        let mut listener = listener(ours()).await;
        let daemon = Arc::clone(&listener.daemon);
        let (mut now, peer) = (Instant::now(), PEER.into());
        let ipip = |mtu| too_big(mtu, &outer(None)[..60]);
        // No route to the peer uses VXLAN.
        listener.learn(&too_big(1300, &outer(Some((49160, 4789)))[..60]), now);
        assert_eq!(daemon.outer_mtu(peer), 1500);
        for (mtu, known) in [(1300, 1300), (1400, 1300), (1300, 1300), (1200, 1200), (68, 646), (600, 646)] {
            listener.learn(&ipip(mtu), now);
            assert_eq!(daemon.outer_mtu(peer), known, "{mtu}");
        }
        now += EXPIRY - Duration::from_secs(1);
        listener.expire(now);
        assert_eq!(daemon.outer_mtu(peer), 646);
        now += Duration::from_secs(1);
        listener.expire(now);
        assert_eq!((daemon.outer_mtu(peer), listener.deadlines.len()), (1500, 0));
        // Another uplink, another start.
        listener.learn(&ipip(1300), now);
        daemon.set_uplink_mtu(1400);
        assert_eq!((daemon.outer_mtu(peer), daemon.tun_mtu()), (1400, 1360));
    }

    #[tokio::test]
    async fn over_ipv6_no_lower_than_a_link_can_be() {
        let mut listener = listener(ours6()).await;
        let daemon = Arc::clone(&listener.daemon);
        let (now, peer) = (Instant::now(), PEER6.into());
        for (mtu, known) in [(1200, 1500), (1400, 1400), (1279, 1400), (1280, 1280)] {
            listener.learn(&too_big6(mtu, &outer6(None)[..60]), now);
            assert_eq!(daemon.outer_mtu(peer), known, "{mtu}");
        }
        assert_eq!(daemon.outer_mtu(PEER.into()), 1500);
    }
}
