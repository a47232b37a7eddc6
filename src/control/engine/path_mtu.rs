//! The MTU of the path to each peer, as routers report it: which reports are believed, and for how long.
//!
//! Reports can be forged, so one counts only where a route to that peer uses the mode of the packet that it
//! quotes. It can only lower the MTU, never below a floor, and is forgotten after a while, as the path may
//! have changed (RFC 1191 §6.3).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::event::PathMtu;
use super::state::State;

/// How long a report holds.
const EXPIRY: Duration = Duration::from_secs(600);
/// The smallest path MTU that is believed: 576 bytes (RFC 791) inside the largest overhead, so that
/// Linux pods, which go no lower than 552 and then clear DF, always fit.
const LEAST: u16 = 576 + 70;

/// When to forget about which peer.
#[derive(Debug, Default)]
pub(super) struct PathMtus {
    deadlines: HashMap<IpAddr, Instant>,
}

impl PathMtus {
    /// Follows a report, if it is to be believed and changes something.
    pub(super) fn learn(&mut self, state: &mut State, report: PathMtu, now: Instant) {
        let (uplink, mtu) = (state.underlay.mtu, report.mtu.max(LEAST));
        let Some(place) = state.peers.iter().position(|peer| peer.address == report.peer) else { return };
        let peer = &state.peers[place];
        let lower = mtu < peer.path_mtu.unwrap_or(uplink);
        let its_port = report.port.is_none_or(|port| port == peer.port);
        if lower && its_port && state.peers_by(report.mode).contains(&report.peer) {
            state.peer_mut(place).path_mtu = Some(mtu);
            state.publish_now();
            tracing::info!(
                "path to {}: outer packets of {} bytes at most, says a router",
                report.peer,
                report.mtu
            );
            self.deadlines.insert(report.peer, now + EXPIRY);
        }
    }

    /// Forgets what has been known for long enough.
    pub(super) fn expire(&mut self, state: &mut State, now: Instant) {
        self.deadlines.retain(|address, deadline| {
            let keep = *deadline > now;
            let place = state.peers.iter().position(|peer| peer.address == *address);
            if let Some(place) = place.filter(|_| !keep)
                && state.peers[place].path_mtu.is_some()
            {
                state.peer_mut(place).path_mtu = None;
                state.publish_now();
                tracing::info!("path to {address}: trying the uplink's MTU again");
            }
            keep
        });
    }

    /// When the next is to be forgotten.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::{EXPIRY, PathMtus};
    use crate::control::engine::event::PathMtu;
    use crate::control::engine::state::{Setup, State};
    use crate::net::Mode;

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
    const B: &str = "198.51.100.3";

    fn state(config: &str) -> State {
        let mut state = State::new(crate::config::parse(config, "f").unwrap(), Setup::sample()).unwrap();
        state.publish().unwrap();
        state
    }

    fn report(peer: &str, mode: Mode, port: Option<u16>, mtu: u16) -> PathMtu {
        PathMtu { peer: peer.parse().unwrap(), mode, port, mtu }
    }

    /// Bytes of the largest outer packet to `peer`.
    fn known(state: &State, peer: &str) -> u16 {
        let address: IpAddr = peer.parse().unwrap();
        let peer = state.peers.iter().find(|peer| peer.address == address).unwrap();
        peer.path_mtu.unwrap_or(state.underlay.mtu)
    }

    #[test]
    fn a_report_lowers_and_holds_for_a_while() {
        let (mut state, mut paths, mut now) = (state(CONFIG), PathMtus::default(), Instant::now());
        // No route to the peer uses VXLAN, and this is no peer.
        paths.learn(&mut state, report(B, Mode::Vxlan, Some(4789), 1300), now);
        paths.learn(&mut state, report("198.51.100.9", Mode::Ipip, None, 1300), now);
        assert_eq!((known(&state, B), paths.deadline()), (1500, None));
        for (mtu, expected) in [(1300, 1300), (1400, 1300), (1300, 1300), (1200, 1200), (68, 646), (600, 646)]
        {
            paths.learn(&mut state, report(B, Mode::Ipip, None, mtu), now);
            assert_eq!(known(&state, B), expected, "{mtu}");
        }
        now += EXPIRY - Duration::from_secs(1);
        paths.expire(&mut state, now);
        assert_eq!(known(&state, B), 646);
        now += Duration::from_secs(1);
        assert_eq!(paths.deadline(), Some(now));
        paths.expire(&mut state, now);
        assert_eq!((known(&state, B), paths.deadline()), (1500, None));
        // Another uplink, another start.
        paths.learn(&mut state, report(B, Mode::Ipip, None, 1300), now);
        state.set_uplink_mtu(1400);
        assert_eq!((known(&state, B), state.wanted_mtu()), (1400, 1360));
        assert_eq!(known(&state, "2001:db8:3::3"), 1400);
    }

    #[test]
    fn a_report_must_quote_the_peers_own_port() {
        let config = CONFIG
            .replace("ipip_mode", "vxlan_mode")
            .replace("address = \"198", "port = 8472\naddress = \"198");
        let (mut state, mut paths) = (state(&config), PathMtus::default());
        for (port, expected) in [(4789, 1500), (8472, 1300)] {
            paths.learn(&mut state, report(B, Mode::Vxlan, Some(port), 1300), Instant::now());
            assert_eq!(known(&state, B), expected, "{port}");
        }
    }
}
