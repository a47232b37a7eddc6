//! The decision: encapsulate, and how, or send directly. Calico's rules and words.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::net::{EncapMode, Mode, Prefix};

/// Calico's IPPool: the modes of all destinations in `cidr`. At most one of the modes is not
/// `Never`; were both set, VXLAN would win.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pool {
    /// The destinations.
    pub cidr: Prefix,
    /// When to encapsulate in IP-in-IP.
    pub ipip_mode: EncapMode,
    /// When to encapsulate in VXLAN.
    pub vxlan_mode: EncapMode,
    /// Whether what leaves the cluster from these addresses gets the node's address.
    pub nat_outgoing: bool,
    /// Whether packets of a `CrossSubnet` pool go directly only while probes of that path get through.
    pub verify: bool,
}

/// What bare packets of one family to one node take.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DirectPath {
    /// Whether the packets are IPv4.
    pub ipv4: bool,
    /// The underlay address of the node.
    pub next_hop: IpAddr,
}

impl Pool {
    /// The encapsulation this pool uses and when.
    pub fn encapsulation(self) -> (Mode, EncapMode) {
        match (self.vxlan_mode, self.ipip_mode) {
            (EncapMode::Never, EncapMode::Never) => (Mode::Direct, EncapMode::Never),
            (EncapMode::Never, when) => (Mode::Ipip, when),
            (when, _) => (Mode::Vxlan, when),
        }
    }
}

/// Everything a decision depends on besides destination and peer.
#[derive(Clone, Debug, Default)]
pub struct EncapPolicy {
    pools: BTreeMap<Prefix, Pool>,
    /// The lengths of pools there are, longest first.
    lengths: Vec<u8>,
    subnets: Vec<IpNet>,
    /// The direct paths of which it is known that they carry packets of pods.
    verified: BTreeSet<DirectPath>,
}

impl EncapPolicy {
    /// The policy of a node with these pools and underlay addresses. Of pools with the same CIDR the
    /// last counts.
    pub fn new(pools: &[Pool], address: Option<Ipv4Net>, address6: Option<Ipv6Net>) -> Self {
        let mut lengths: Vec<u8> = pools.iter().map(|pool| pool.cidr.len()).collect();
        lengths.sort_unstable_by_key(|len| Reverse(*len));
        lengths.dedup();
        let subnets = address.map(IpNet::V4).into_iter().chain(address6.map(IpNet::V6)).collect();
        let pools = pools.iter().map(|pool| (pool.cidr, *pool)).collect();
        Self { pools, lengths, subnets, verified: BTreeSet::new() }
    }

    /// The same policy where these paths are verified.
    #[must_use]
    pub fn with_verified(self, verified: BTreeSet<DirectPath>) -> Self {
        Self { verified, ..self }
    }

    /// The paths that are verified.
    pub fn verified(&self) -> &BTreeSet<DirectPath> {
        &self.verified
    }

    /// Whether some pool of IPv4 or of IPv6 takes direct paths only while they are verified.
    pub fn verifies(&self, ipv4: bool) -> bool {
        self.pools().any(|pool| pool.verify && pool.cidr.is_ipv4() == ipv4)
    }

    /// The pools, in the order of their CIDRs.
    pub fn pools(&self) -> impl Iterator<Item = Pool> + Clone + '_ {
        self.pools.values().copied()
    }

    /// Whether exactly `cidr` is a pool.
    pub fn has(&self, cidr: Prefix) -> bool {
        self.pools.contains_key(&cidr)
    }

    /// The longest pool that covers `destination`.
    pub fn pool_of(&self, destination: Prefix) -> Option<Pool> {
        let lengths = self.lengths.iter().filter(|len| **len <= destination.len());
        let mut around = lengths.filter_map(|len| Prefix::containing(destination.address(), *len));
        around.find_map(|cidr| self.pools.get(&cidr).copied())
    }

    /// How packets for `destination`, which lies in one pool or in none, travel to the node at
    /// `peer`.
    pub fn decide(&self, destination: Prefix, peer: IpAddr) -> Decision {
        let Some(pool) = self.pool_of(destination) else {
            return direct(Reason::NoPool);
        };
        match pool.encapsulation() {
            (_, EncapMode::Never) => direct(Reason::Never(pool.cidr)),
            (mode, EncapMode::Always) => Decision { mode, reason: Reason::Always(pool.cidr, mode) },
            (mode, EncapMode::CrossSubnet) => match self.own_subnet_of(peer) {
                Some(subnet) => {
                    let path = DirectPath { ipv4: destination.is_ipv4(), next_hop: peer };
                    let (pool, verify) = (pool.cidr, pool.verify);
                    match verify.then(|| self.verified.contains(&path)) {
                        None => direct(Reason::SameSubnet(pool, mode, peer, subnet)),
                        Some(true) => direct(Reason::Verified(pool, mode, peer)),
                        Some(false) => Decision { mode, reason: Reason::Unverified(pool, mode, peer) },
                    }
                }
                None => Decision { mode, reason: Reason::OtherSubnet(pool.cidr, mode, peer) },
            },
        }
    }

    /// Whether the direct path to `peer` is one that a `CrossSubnet` pool takes.
    pub fn is_in_own_subnet(&self, peer: IpAddr) -> bool {
        self.own_subnet_of(peer).is_some()
    }

    /// The subnet of this node that contains `peer`. A host prefix contains nobody else, so a /32
    /// node always encapsulates.
    fn own_subnet_of(&self, peer: IpAddr) -> Option<IpNet> {
        self.subnets
            .iter()
            .find(|net| net.prefix_len() != net.max_prefix_len() && net.contains(&peer))
            .copied()
    }
}

fn direct(reason: Reason) -> Decision {
    Decision { mode: Mode::Direct, reason }
}

/// How packets travel, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The mode.
    pub mode: Mode,
    /// The rule that chose it.
    pub reason: Reason,
}

/// The rule behind a [`Decision`]; `Display` gives it as one sentence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// No pool contains the destination.
    NoPool,
    /// The pool never encapsulates.
    Never(Prefix),
    /// The pool always encapsulates.
    Always(Prefix, Mode),
    /// CrossSubnet, and the peer is in this node's subnet.
    SameSubnet(Prefix, Mode, IpAddr, IpNet),
    /// The same, and probes of the direct path get through.
    Verified(Prefix, Mode, IpAddr),
    /// The same, but probes of the direct path do not get through.
    Unverified(Prefix, Mode, IpAddr),
    /// CrossSubnet, and the peer is not in this node's subnet.
    OtherSubnet(Prefix, Mode, IpAddr),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => write!(f, "no pool contains the destination, so it is routed directly"),
            Self::Never(pool) => write!(f, "pool {pool} has ipip_mode=Never and vxlan_mode=Never"),
            Self::Always(pool, mode) => write!(f, "pool {pool} has {mode}_mode=Always"),
            Self::SameSubnet(pool, mode, peer, subnet) => {
                write!(
                    f,
                    "pool {pool} has {mode}_mode=CrossSubnet and {peer} is in our subnet {}",
                    subnet.trunc()
                )
            }
            Self::Verified(pool, mode, peer) => write!(
                f,
                "pool {pool} has {mode}_mode=CrossSubnet with verify, and probes to and from {peer} get through directly"
            ),
            Self::Unverified(pool, mode, peer) => write!(
                f,
                "pool {pool} has {mode}_mode=CrossSubnet with verify, and probes to and from {peer} do not get through \
                 directly"
            ),
            Self::OtherSubnet(pool, mode, peer) => {
                write!(f, "pool {pool} has {mode}_mode=CrossSubnet and {peer} is outside our subnet")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{DirectPath, EncapPolicy, Pool, Reason};
    use crate::net::EncapMode::{Always, CrossSubnet, Never};
    use crate::net::{EncapMode, Mode};

    fn pool(cidr: &str, ipip_mode: EncapMode, vxlan_mode: EncapMode) -> Pool {
        Pool { cidr: cidr.parse().unwrap(), ipip_mode, vxlan_mode, nat_outgoing: false, verify: false }
    }

    fn mode(policy: &EncapPolicy, destination: &str, peer: &str) -> Mode {
        policy.decide(destination.parse().unwrap(), peer.parse().unwrap()).mode
    }

    #[test]
    fn longest_pool_decides() {
        let pools = [
            pool("10.0.0.0/8", Always, Never),
            pool("10.1.0.0/16", Never, CrossSubnet),
            pool("10.1.2.0/24", Never, Never),
        ];
        let policy = EncapPolicy::new(&pools, "192.0.2.1/24".parse().ok(), None);
        assert_eq!(mode(&policy, "10.9.0.0/24", "192.0.2.2"), Mode::Ipip);
        assert_eq!(mode(&policy, "10.1.1.0/24", "192.0.2.2"), Mode::Direct);
        assert_eq!(mode(&policy, "10.1.1.0/24", "198.51.100.3"), Mode::Vxlan);
        assert_eq!(mode(&policy, "10.1.2.0/24", "198.51.100.3"), Mode::Direct);
        assert_eq!(mode(&policy, "172.16.0.0/24", "198.51.100.3"), Mode::Direct);
    }

    #[test]
    fn cross_subnet_by_own_prefix_only() {
        let pools = [pool("10.0.0.0/8", CrossSubnet, Never)];
        let host = EncapPolicy::new(&pools, "192.0.2.1/32".parse().ok(), None);
        assert_eq!(mode(&host, "10.1.0.0/24", "192.0.2.2"), Mode::Ipip);
        assert_eq!(mode(&host, "10.1.0.0/24", "192.0.2.1"), Mode::Ipip);
        let wide = EncapPolicy::new(&pools, "192.0.2.1/16".parse().ok(), None);
        assert_eq!(mode(&wide, "10.1.0.0/24", "192.0.99.9"), Mode::Direct);
        assert_eq!(mode(&wide, "10.1.0.0/24", "2001:db8::1"), Mode::Ipip);
        let unknown = EncapPolicy::new(&pools, None, None);
        assert_eq!(mode(&unknown, "10.1.0.0/24", "192.0.2.2"), Mode::Ipip);
    }

    #[test]
    fn a_path_that_is_to_be_verified_is_taken_while_it_is() {
        let pools = [
            Pool { verify: true, ..pool("10.0.0.0/8", CrossSubnet, Never) },
            Pool { verify: true, ..pool("fd00::/16", Never, CrossSubnet) },
        ];
        let policy = EncapPolicy::new(&pools, "192.0.2.1/24".parse().ok(), None);
        let modes = |policy: &EncapPolicy| {
            ["10.1.0.0/24", "fd00:1::/64"].map(|destination| mode(policy, destination, "192.0.2.2"))
        };
        assert_eq!(modes(&policy), [Mode::Ipip, Mode::Vxlan]);
        let next_hop = "192.0.2.2".parse().unwrap();
        let verified = BTreeSet::from([DirectPath { ipv4: true, next_hop }]);
        let policy = policy.with_verified(verified);
        assert_eq!(modes(&policy), [Mode::Direct, Mode::Vxlan]);
        assert_eq!(mode(&policy, "10.1.0.0/24", "192.0.2.3"), Mode::Ipip);
        assert_eq!(mode(&policy, "10.1.0.0/24", "198.51.100.3"), Mode::Ipip);
        assert!(policy.verifies(true) && policy.verifies(false));
        assert!(policy.is_in_own_subnet(next_hop) && !EncapPolicy::default().is_in_own_subnet(next_hop));
    }

    #[test]
    fn the_reason_is_a_sentence() {
        let pools = [pool("10.0.0.0/8", CrossSubnet, Never)];
        let policy = EncapPolicy::new(&pools, "192.0.2.1/24".parse().ok(), None);
        let decision = policy.decide("10.1.0.0/24".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert!(matches!(decision.reason, Reason::SameSubnet(..)));
        assert_eq!(
            decision.reason.to_string(),
            "pool 10.0.0.0/8 has ipip_mode=CrossSubnet and 192.0.2.2 is in our subnet 192.0.2.0/24"
        );
    }
}
