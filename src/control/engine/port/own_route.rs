//! Routes of ours in the main table, and the ways to other nodes that they are made of.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::net::Prefix;

/// A route of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OwnRoute {
    /// Into the TUN.
    Tun(TunRoute),
    /// To other nodes.
    Direct(Arc<DirectRoute>),
}

/// The kind of a route of ours; each has a protocol number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OwnKind {
    /// Into the TUN.
    Tun,
    /// To other nodes.
    Direct,
}

impl OwnRoute {
    /// Its destination.
    pub fn prefix(&self) -> Prefix {
        match self {
            Self::Tun(route) => route.prefix,
            Self::Direct(route) => route.prefix,
        }
    }
}

/// One route into the TUN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Source address of traffic that the host itself sends there; it must be a local address of
    /// the prefix's family.
    pub source: Option<IpAddr>,
}

/// One route by which the kernel sends bare packets to other nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirectRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Where packets go first, sorted, each once; with several, a flow's hash chooses.
    pub hops: Box<[WeightedHop]>,
    /// Bytes of the largest packet, where that is less than the interface carries.
    pub mtu: Option<u32>,
    /// Source address of traffic that the host itself sends there.
    pub source: Option<IpAddr>,
}

/// A first hop that several nodes may be behind.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct WeightedHop {
    /// The hop.
    pub hop: FirstHop,
    /// Its share of the flows, beside those of the other hops; 1 to 256.
    pub weight: u16,
}

/// Where packets to an address go first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FirstHop {
    /// The interface.
    pub index: u32,
    /// The gateway, or the address itself on its own link.
    pub via: IpAddr,
    /// Whether the kernel is told that `via` is on the link (`onlink`), which its routes do not say.
    pub onlink: bool,
}

/// A way to an address, with what it carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerWay {
    /// The first hop.
    pub hop: FirstHop,
    /// Bytes of the largest packet that the interface and the route's own `mtu` allow.
    pub mtu: u16,
    /// The `mtu` that an administrator gave the route.
    pub route_mtu: Option<u32>,
}

impl DirectRoute {
    /// The route over these hops, in whatever order and however often each occurs.
    pub fn new(
        prefix: Prefix,
        hops: impl IntoIterator<Item = FirstHop>,
        mtu: Option<u32>,
        source: Option<IpAddr>,
    ) -> Self {
        let mut found: Vec<WeightedHop> = Vec::new();
        for hop in hops {
            match found.iter_mut().find(|known| known.hop == hop) {
                Some(known) => known.weight = (known.weight + 1).min(MOST_WEIGHT),
                None => found.push(WeightedHop { hop, weight: 1 }),
            }
        }
        Self::weighted(prefix, found, mtu, source)
    }

    /// The same of hops that occur once, with their weights; that of a single hop says nothing.
    pub fn weighted(
        prefix: Prefix,
        mut hops: Vec<WeightedHop>,
        mtu: Option<u32>,
        source: Option<IpAddr>,
    ) -> Self {
        hops.sort_unstable();
        if let [only] = &mut hops[..] {
            only.weight = 1;
        }
        Self { prefix, hops: hops.into(), mtu, source }
    }

    /// What follows `ip route add`, with the interfaces called as `name` says.
    pub fn words<N: fmt::Display>(&self, name: impl Fn(u32) -> N) -> String {
        let mtu = self.mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
        let mut words = format!("{}{mtu}", self.prefix);
        let several = self.hops.len() > 1;
        for WeightedHop { hop: FirstHop { index, via, onlink }, weight } in &self.hops {
            let nexthop = if several { " nexthop" } else { "" };
            let family = if via.is_ipv4() == self.prefix.is_ipv4() { "" } else { "inet6 " };
            let onlink = if *onlink { " onlink" } else { "" };
            let weight = if *weight > 1 { format!(" weight {weight}") } else { String::new() };
            words += &format!("{nexthop} via {family}{via} dev {}{weight}{onlink}", name(*index));
        }
        words
    }
}

/// The largest weight of a hop (`rtnh_hops` is a byte, one less than the weight).
const MOST_WEIGHT: u16 = 256;

#[cfg(test)]
mod tests {
    use super::{DirectRoute, FirstHop};

    fn hop(index: u32, via: &str) -> FirstHop {
        FirstHop { index, via: via.parse().unwrap(), onlink: false }
    }

    fn route(prefix: &str, hops: &[FirstHop], mtu: Option<u32>) -> DirectRoute {
        DirectRoute::new(prefix.parse().unwrap(), hops.iter().copied(), mtu, None)
    }

    #[test]
    fn hops_are_in_order_and_count_as_often_as_they_occur() {
        let (b, c) = (hop(2, "192.0.2.2"), hop(2, "192.0.2.3"));
        let weights: Vec<u16> =
            route("10.2.0.0/24", &[c, b, c], None).hops.iter().map(|hop| hop.weight).collect();
        assert_eq!(weights, [1, 2]);
        assert_eq!(route("10.2.0.0/24", &[b, b], None), route("10.2.0.0/24", &[b], None));
    }

    #[test]
    fn the_words_are_those_of_iproute2() {
        let (b, c) = (hop(2, "192.0.2.2"), hop(3, "192.0.2.3"));
        for (route, words) in [
            (route("10.2.0.0/24", &[b], None), "10.2.0.0/24 via 192.0.2.2 dev e2"),
            (route("10.2.0.0/24", &[b], Some(1400)), "10.2.0.0/24 mtu 1400 via 192.0.2.2 dev e2"),
            (
                route("10.2.0.0/24", &[FirstHop { onlink: true, ..b }], None),
                "10.2.0.0/24 via 192.0.2.2 dev e2 onlink",
            ),
            (
                route("10.2.0.0/24", &[b, c, c], None),
                "10.2.0.0/24 nexthop via 192.0.2.2 dev e2 nexthop via 192.0.2.3 dev e3 weight 2",
            ),
            (route("10.2.0.0/24", &[hop(2, "fe80::1")], None), "10.2.0.0/24 via inet6 fe80::1 dev e2"),
            (route("fd00:2::/64", &[hop(2, "fe80::1")], None), "fd00:2::/64 via fe80::1 dev e2"),
        ] {
            assert_eq!(route.words(|index| format!("e{index}")), words);
        }
    }
}
