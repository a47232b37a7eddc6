//! Where the kernel leads packets for other nodes: into the TUN, or to the nodes by itself.
//!
//! ```text
//! route, mode, ways ──▶ tun      a tunnel, or what the kernel cannot do
//!                       direct   a route of ours to the nodes, with `[direct] via = "kernel"`
//!                       theirs   a routing daemon's route in the main table, where it goes bare
//! ```
//!
//! The longest route takes a packet. So what is for the TUN has a route of its own where a wider one leads elsewhere,
//! and so has what a routing daemon has written to the main table.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::port::{DirectRoute, HostError, PeerWay};
use super::reached::decide;
use crate::config::{Config, DirectVia, KernelRoutes};
use crate::dataplane::forward::Peer;
use crate::dataplane::packet::Family;
use crate::net::{Mode, Prefix};
use crate::route::{EncapPolicy, Rib, Route, Source, Target};

/// Routes of ours to other nodes that the kernel refused: why, and until when each is not tried again.
pub(super) type Refused = BTreeMap<Prefix, (HostError, Instant)>;

/// A route of ours that the kernel has to have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Lead {
    /// Into the TUN.
    Tun,
    /// To other nodes.
    Direct(Arc<DirectRoute>),
}

/// What one destination needs beside what leads wider ones.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Own {
    /// A route of its own.
    pub lead: Option<Lead>,
    /// Whether its packets are bare ones that the kernel should send and cannot.
    pub cannot: bool,
}

/// Who sends the packets for a destination.
#[derive(Debug)]
pub(super) enum Sender {
    /// Nobody: it is this node's own.
    Local,
    /// The pump; why, where the packets are bare and the kernel should send them.
    Pump(Option<Why>),
    /// The kernel, by a route of ours.
    Kernel(DirectRoute),
    /// The kernel, by the route of a routing daemon.
    Theirs,
}

/// Why the kernel does not send bare packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// It has no way to any of the nodes.
    NoWay,
    /// A subnet of this node lies inside the destination.
    OwnSubnet(Prefix),
    /// The node has an IPv4 address alone, and the destination is IPv6.
    Family(IpAddr),
    /// It has refused the route.
    Refused,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWay => f.write_str("the kernel has no way to the node"),
            Self::OwnSubnet(own) => {
                write!(f, "{own} of this node lies inside, and packets to pods that it has not would circle")
            }
            Self::Family(node) => {
                write!(f, "the kernel cannot send IPv6 by way of {node}; give the node an `address6`")
            }
            Self::Refused => f.write_str("the kernel has refused the route"),
        }
    }
}

/// Everything that says where packets are led.
#[derive(Clone, Copy)]
pub(super) struct Leads<'a> {
    pub config: &'a Config,
    pub policy: &'a EncapPolicy,
    pub peers: &'a [Peer],
    pub rib: &'a Rib,
    pub ways: &'a HashMap<IpAddr, PeerWay>,
    pub refused: &'a Refused,
}

impl Leads<'_> {
    /// Whether the kernel may lead packets for other nodes elsewhere than into the TUN.
    pub(super) fn are_mixed(&self) -> bool {
        self.by_kernel() || self.follows_main()
    }

    /// What `prefix` needs, which has a route or is a pool.
    pub(super) fn own(&self, prefix: Prefix) -> Own {
        if !self.are_mixed() {
            return Own::default();
        }
        match self.sender(prefix) {
            None | Some(Sender::Local | Sender::Theirs) => Own::default(),
            Some(Sender::Kernel(route)) => Own { lead: Some(Lead::Direct(Arc::new(route))), cannot: false },
            Some(Sender::Pump(why)) => {
                let outdo = || self.follows_main() && self.rib.get(prefix, Source::Kernel).is_some();
                let lead = (outdo() || self.is_inside_kernels(prefix)).then_some(Lead::Tun);
                Own { lead, cannot: why.is_some_and(|why| why != Why::NoWay) }
            }
        }
    }

    /// The prefixes whose needs may be others once the routes of `changed` are: what lies inside counts too.
    pub(super) fn concerned(&self, changed: &[Prefix]) -> Vec<Prefix> {
        let mut all = changed.to_vec();
        if self.are_mixed() {
            for wide in super::port::widest(changed.iter().copied()) {
                let inside = self.rib.after(Some(wide)).map(|route| route.prefix);
                all.extend(inside.take_while(|prefix| wide.covers(*prefix)));
                all.extend(self.pools().filter(|pool| wide.covers(*pool)));
            }
        }
        all
    }

    /// The pools, which are destinations of their own inside of routes.
    pub(super) fn pools(&self) -> impl Iterator<Item = Prefix> {
        self.policy.pools().map(|pool| pool.cidr)
    }

    /// The destination whose needs decide about `address` inside `route`: a pool in the route, or the route.
    pub(super) fn destination(&self, route: Prefix, address: IpAddr) -> Prefix {
        let pool = self.policy.pool_of(Prefix::host(address)).map(|pool| pool.cidr);
        pool.filter(|pool| route.covers(*pool)).unwrap_or(route)
    }

    /// Who sends packets for `prefix`; `None` where it is neither a route nor a pool inside of one.
    pub(super) fn sender(&self, prefix: Prefix) -> Option<Sender> {
        let inside = || self.policy.has(prefix).then(|| self.rib.covering(prefix)).flatten();
        let route = self.rib.exact(prefix).or_else(inside)?;
        Some(match route.target {
            Target::Local => Sender::Local,
            _ if !self.goes_bare(prefix, &route) => Sender::Pump(None),
            _ if self.follows_main() && self.learnt(prefix).is_some() => Sender::Theirs,
            _ if !self.by_kernel() => Sender::Pump(None),
            _ => self.direct(prefix, &route).map_or_else(|why| Sender::Pump(Some(why)), Sender::Kernel),
        })
    }

    /// The route by which the kernel sends packets for `prefix`, which lies in `route`.
    fn direct(&self, prefix: Prefix, route: &Route) -> Result<DirectRoute, Why> {
        if let Some(own) = self.config.local_subnets.iter().find(|own| prefix.covers(**own)) {
            return Err(Why::OwnSubnet(*own));
        }
        let nodes: Vec<IpAddr> = self.decide(prefix, route).map(|(node, _)| node).collect();
        if let Some(node) = nodes.iter().find(|node| node.is_ipv4() && !prefix.is_ipv4()) {
            return Err(Why::Family(*node));
        }
        if self.refused.contains_key(&prefix) {
            return Err(Why::Refused);
        }
        let ways: Vec<&PeerWay> = nodes.iter().filter_map(|node| self.ways.get(node)).collect();
        if ways.is_empty() {
            return Err(Why::NoWay);
        }
        let limits = ways.iter().filter_map(|way| way.route_mtu).chain(route.mtu.map(u32::from));
        let own = self.config.node.addresses().map(|own| own.addr());
        let source = own.into_iter().find(|own| own.is_ipv4() == prefix.is_ipv4());
        Ok(DirectRoute::new(prefix, ways.iter().map(|way| way.hop), limits.min(), source))
    }

    /// Whether the narrowest wider destination is one that the kernel sends packets for by itself.
    fn is_inside_kernels(&self, prefix: Prefix) -> bool {
        let mut outer = prefix.and_wider().nth(1);
        while let Some(wider) = outer {
            let route = self.rib.covering(wider).map(|route| route.prefix);
            let pool = self.policy.pool_of(wider).map(|pool| pool.cidr);
            let Some(next) = route.into_iter().chain(pool).max_by_key(|next| next.len()) else {
                return false;
            };
            match self.sender(next) {
                Some(Sender::Kernel(_) | Sender::Theirs) => return true,
                Some(Sender::Local) => outer = next.and_wider().nth(1),
                // A pool without a route leads into the TUN.
                Some(Sender::Pump(_)) | None => return false,
            }
        }
        false
    }

    fn by_kernel(&self) -> bool {
        self.config.direct_via == DirectVia::Kernel
    }

    /// Whether routes of the main table are followed, where the longest one takes packets whatever this daemon does.
    fn follows_main(&self) -> bool {
        self.config.kernel_routes.as_ref().is_some_and(KernelRoutes::has_main)
    }

    /// The route in use to exactly `prefix`, where a routing daemon has said something of it.
    pub(super) fn learnt(&self, prefix: Prefix) -> Option<Route> {
        self.rib.get(prefix, Source::Kernel)?;
        self.rib.exact(prefix)
    }

    /// Whether packets for `prefix` reach all nodes of `route` without encapsulation.
    pub(super) fn goes_bare(&self, prefix: Prefix, route: &Route) -> bool {
        let mut modes = self.decide(prefix, route).map(|(_, mode)| mode).peekable();
        modes.peek().is_some() && modes.all(|mode| mode == Mode::Direct)
    }

    /// The address that bare packets go to, and the mode, for each node of a route.
    fn decide<'s>(&'s self, prefix: Prefix, route: &'s Route) -> impl Iterator<Item = (IpAddr, Mode)> + 's {
        let family = Family::of(prefix.address());
        let decisions = decide(self.rib, self.peers, self.policy, prefix, &route.target);
        decisions.map(move |(peer, decision)| (peer.next_hop(family).0, decision.mode))
    }
}
