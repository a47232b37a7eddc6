//! Which way super-packets leave by an interface, and the words for it. Pure: from features to decisions,
//! from decisions to one line of `status`.
//!
//! The TAP only pays where the interface segments the tunnel itself. Where it does not, the kernel does,
//! one segment at a time behind the TAP, for about four times the processor time of UDP_SEGMENT on sockets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::dataplane::forward::{Choice, Way};
use crate::dataplane::packet::Offloaded;
use crate::net::Mode;

/// Peers and reasons that are named; of more only the number.
const NAMED: usize = 3;

/// `tx-udp_tnl-csum-segmentation`: UDP tunnels whose outer checksum is filled in, as ours is.
pub const UDP_TUNNEL: &str = "tx-udp_tnl-csum-segmentation";
/// `tx-ipxip4-segmentation`: IP packets in IPv4 ones.
pub const IP_IN_IPV4: &str = "tx-ipxip4-segmentation";
/// `tx-tcp-segmentation`: TCP over IPv4, without which no tunnel of it is segmented either.
pub const TCP: &str = "tx-tcp-segmentation";

/// The active features of one interface that decide which way super-packets leave by it. A feature
/// that the kernel does not name is not active.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Features {
    /// [`UDP_TUNNEL`].
    pub udp_tunnel: bool,
    /// [`IP_IN_IPV4`].
    pub ip_in_ipv4: bool,
    /// [`TCP`].
    pub tcp: bool,
}

/// The way by `interface`, as what it segments itself makes it. Where that is not known, sockets: they
/// lose little where the TAP would be better, and the TAP much where sockets would be.
pub fn by_features(interface: &str, features: &Result<Features, String>) -> Way {
    let choice = |what: &str, needed: &[(&str, bool)]| {
        let off: Vec<_> = needed.iter().filter(|(_, on)| !on).map(|(name, _)| *name).collect();
        if off.is_empty() {
            Choice::tap(format!("{interface} segments {what} itself"))
        } else {
            Choice::socket(format!("{interface} does not segment {what} ({} off)", off.join(", ")))
        }
    };
    let (vxlan, ipip) = match features {
        Ok(has) => (
            choice("UDP tunnels", &[(UDP_TUNNEL, has.udp_tunnel), (TCP, has.tcp)]),
            choice("IP-in-IP", &[(IP_IN_IPV4, has.ip_in_ipv4), (TCP, has.tcp)]),
        ),
        Err(error) => {
            let unknown = Choice::socket(format!("the features of {interface} are unknown: {error}"));
            (unknown.clone(), unknown)
        }
    };
    Way { interface: interface.to_owned(), vxlan, ipip }
}

/// The way by `interface` where the configuration demands the TAP.
pub fn forced(interface: &str) -> Way {
    let tap = Choice::tap("configured");
    Way { interface: interface.to_owned(), vxlan: tap.clone(), ipip: tap }
}

/// One way in use: by which mode a peer is reached, and how its super-packets leave.
pub type Use<'a> = (Mode, IpAddr, &'a Choice);

/// What `status` says of the TAP, given every way in use and what is to be said beside `active`.
pub fn summary<'a>(uses: impl IntoIterator<Item = Use<'a>>, beside: &str) -> Offloaded {
    let mut by_reason: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    let mut active = false;
    for (_, peer, choice) in uses {
        active |= choice.tap;
        if !choice.tap {
            let peers = by_reason.entry(&choice.why).or_default();
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
    }
    let more = match by_reason.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("; {more} more reasons"),
        _ => String::new(),
    };
    let named = by_reason.iter().take(NAMED);
    if active {
        let sockets = named.map(|(why, peers)| format!("; sockets towards {}: {why}", list(peers)));
        let except = format!("{beside}{}{more}", sockets.collect::<String>());
        return if except.is_empty() { Offloaded::Active } else { Offloaded::Partly(except) };
    }
    match by_reason.len() {
        1 => Offloaded::off(by_reason.keys().copied().collect::<String>()),
        _ => {
            let reasons: Vec<_> = named.map(|(why, peers)| format!("for {}: {why}", list(peers))).collect();
            Offloaded::Off(format!("{}{more}", reasons.join("; ")))
        }
    }
}

/// The first few of some peers.
fn list(peers: &[IpAddr]) -> String {
    let named: Vec<_> = peers.iter().take(NAMED).map(ToString::to_string).collect();
    match peers.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", named.join(", ")),
        _ => named.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Features, by_features, forced, summary};
    use crate::dataplane::forward::{Choice, Way};
    use crate::net::Mode;

    const ALL: Features = Features { udp_tunnel: true, ip_in_ipv4: true, tcp: true };

    fn taps(way: &Way) -> (bool, bool) {
        (way.vxlan.tap, way.ipip.tap)
    }

    #[test]
    fn the_tap_is_for_interfaces_that_segment_the_tunnel() {
        let way = |features| by_features("u0", &Ok(features));
        assert_eq!(taps(&way(ALL)), (true, true));
        assert_eq!(taps(&way(Features { udp_tunnel: false, ..ALL })), (false, true));
        assert_eq!(taps(&way(Features { ip_in_ipv4: false, ..ALL })), (true, false));
        assert_eq!(taps(&way(Features { tcp: false, ..ALL })), (false, false));
        assert_eq!(way(ALL).vxlan.why, "u0 segments UDP tunnels itself");
        assert_eq!(
            way(Features { udp_tunnel: false, ..ALL }).vxlan.why,
            "u0 does not segment UDP tunnels (tx-udp_tnl-csum-segmentation off)"
        );
        assert_eq!(
            way(Features::default()).ipip.why,
            "u0 does not segment IP-in-IP (tx-ipxip4-segmentation, tx-tcp-segmentation off)"
        );
    }

    #[test]
    fn unknown_features_mean_sockets_and_the_configuration_goes_before_all() {
        let way = by_features("u0", &Err("no answer".to_owned()));
        assert_eq!(taps(&way), (false, false));
        assert_eq!(way.ipip.why, "the features of u0 are unknown: no answer");
        assert_eq!((taps(&forced("u0")), &*forced("u0").vxlan.why), ((true, true), "configured"));
    }

    #[test]
    fn the_line_names_peers_and_reasons() {
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        let (tap, slow, other) = (Choice::tap("fast"), Choice::socket("u0 is slow"), Choice::socket("why"));
        let said = |uses: &[(u8, &Choice)]| {
            summary(uses.iter().map(|(last, choice)| (Mode::Vxlan, peer(*last), *choice)), "").to_string()
        };
        assert_eq!(said(&[(2, &tap), (3, &tap)]), "active");
        assert_eq!(summary([(Mode::Vxlan, peer(2), &tap)], " for vxlan").to_string(), "active for vxlan");
        assert_eq!(said(&[(2, &slow), (3, &slow)]), "off: u0 is slow");
        assert_eq!(said(&[(2, &tap), (3, &slow)]), "active; sockets towards 192.0.2.3: u0 is slow");
        assert_eq!(said(&[(2, &slow), (3, &other)]), "off: for 192.0.2.2: u0 is slow; for 192.0.2.3: why");
        let many: Vec<_> = (3..=9).map(|last| (last, &slow)).chain([(2, &tap)]).collect();
        assert_eq!(
            said(&many),
            "active; sockets towards 192.0.2.3, 192.0.2.4, 192.0.2.5 and 4 more: u0 is slow"
        );
        let reasons: Vec<_> = (0..5).map(|n| Choice::socket(format!("reason {n}"))).collect();
        let many: Vec<_> = reasons.iter().map(|choice| (2, choice)).collect();
        assert!(said(&many).ends_with("reason 2; 2 more reasons"), "{}", said(&many));
        // One peer by two modes is one peer.
        assert_eq!(
            said(&[(9, &tap), (2, &slow), (2, &slow)]),
            "active; sockets towards 192.0.2.2: u0 is slow"
        );
    }
}
