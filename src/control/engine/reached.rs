//! Who is reached by which mode.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::dataplane::forward::Peer;
use crate::dataplane::packet::Family;
use crate::net::{Mode, Prefix};
use crate::route::{Decision, EncapPolicy, Rib, Target};

/// Underlay addresses of the peers that some route reaches, by mode.
#[derive(Debug, Default)]
pub(super) struct Reached {
    pub ipip: BTreeSet<IpAddr>,
    pub vxlan: BTreeSet<IpAddr>,
    pub direct: BTreeSet<IpAddr>,
}

impl Reached {
    pub(super) fn by(&self, mode: Mode) -> &BTreeSet<IpAddr> {
        match mode {
            Mode::Ipip => &self.ipip,
            Mode::Vxlan => &self.vxlan,
            Mode::Direct => &self.direct,
        }
    }
}

/// The owning peers and the decision for each for addresses in `prefix`; empty for our own.
pub(super) fn decide<'a>(
    rib: &'a Rib,
    peers: &'a [Peer],
    policy: &'a EncapPolicy,
    prefix: Prefix,
    target: &'a Target,
) -> impl Iterator<Item = (&'a Peer, Decision)> {
    let owners = rib.peers(target).iter().filter_map(|id| peers.get(usize::from(id.0)));
    owners.map(move |peer| (peer, policy.decide(prefix, peer.next_hop(Family::of(prefix.address())).0)))
}
