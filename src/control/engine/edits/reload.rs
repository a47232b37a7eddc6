//! Following the configuration file while packets flow.
//!
//! A reload is judged as a whole and made as a whole, in one publication: a packet travels by the old
//! configuration or by the new one. Pools, peers and what may cross can change; what sockets and
//! devices were made of cannot. A peer that stays keeps its number and its counters. What the control
//! API has added stays as long as the nodes it is about do.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, Policy};
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::edits::pending::Pending;
use crate::control::engine::from_config::{judges_all, marking, scope, tun_addresses};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::state::State;
use crate::net::Prefix;
use crate::route::{EncapPolicy, PeerId, Route, Source, Target};

impl State {
    /// Follows `new`, unless it or the `host` has something against it. Returns the peers that went, whose
    /// places are free once that is published.
    ///
    /// # Errors
    /// Everything that speaks against it; nothing has changed then.
    pub(in crate::control::engine) fn reload(
        &mut self,
        new: Config,
        host: impl Iterator<Item = String>,
        now: u32,
    ) -> Result<Vec<PeerId>, Refusal> {
        let mut culprits = Culprits::default();
        for key in needs_restart(&self.config, &new) {
            culprits.push(|| format!("{key} has changed, which takes a restart"));
        }
        let policy = EncapPolicy::new(&new.pools, new.node.address, new.node.address6);
        self.judge_modes(&new, &policy, &mut culprits);
        self.judge_additions(&new, &mut culprits);
        host.for_each(|reason| culprits.push(|| reason));
        if !culprits.is_empty() {
            return Err(Refusal::of(Kind::Conflict, culprits));
        }
        // The places of those that go are free only once that is published.
        let fresh = new.peers.iter().filter(|peer| self.roster.id(peer.name.as_str()).is_none()).count();
        if self.roster.len() + fresh > usize::from(u16::MAX) {
            return Err(Refusal::new(Kind::Full, "there would be more than 65535 peers"));
        }
        Ok(self.follow(new, now))
    }

    /// Follows `new`, about which everything has been judged. Returns the peers that went.
    pub(in crate::control::engine) fn follow(&mut self, new: Config, now: u32) -> Vec<PeerId> {
        let gone = self.forget_unlisted(&new);
        self.place(&new);
        self.load_local(&new, now);
        for source in [Source::Static, Source::Kubernetes, Source::Etcd] {
            self.load_peers(&new, source, now);
        }
        let policy = EncapPolicy::new(&new.pools, new.node.address, new.node.address6);
        self.policy = Arc::new(policy.with_verified(self.policy.verified().clone()));
        self.set_scope(scope(&new));
        self.underlay.marking = marking(new.tunnel.dscp);
        // What was led here still comes until that is undone.
        self.underlay.tun.hairpin |= judges_all(&new);
        self.config = Arc::new(new);
        self.pending = Pending::Everything;
        self.follow_peers();
        gone
    }

    /// A mode that needs sockets which are not there.
    fn judge_modes(&self, new: &Config, policy: &EncapPolicy, culprits: &mut Culprits) {
        for peer in &new.peers {
            let first = |subnet| {
                let mode = self.unsendable(policy, subnet, peer.addresses(&new.node).take(1))?;
                Some((subnet, mode))
            };
            if let Some((subnet, mode)) = peer.subnets.iter().copied().find_map(first) {
                culprits.push(|| {
                    format!("{subnet} of peer {} would travel by {mode}, for which the daemon has no right (CAP_NET_RAW); start it with that", peer.name)
                });
            }
        }
    }

    /// What the control API has added must go together with the new configuration.
    fn judge_additions(&self, new: &Config, culprits: &mut Culprits) {
        let configured: HashSet<&str> =
            self.config.peers.iter().chain(&new.peers).map(|peer| peer.name.as_str()).collect();
        let known = self.peers.iter().filter(|peer| !peer.is_gone());
        for added in known.filter(|peer| !configured.contains(peer.name.as_str())) {
            for address in added.senders() {
                if let Some(reason) = clash(new, address) {
                    let name = &added.name;
                    culprits.push(|| format!("peer {name}, added by `peer add`, has the address {address}, {reason}; delete it first"));
                }
            }
            if let Some(peer) = new.peers.iter().find(|peer| peer.vtep_mac == added.vtep_mac) {
                culprits.push(|| {
                    format!(
                        "peers {} and {}, which was added by `peer add`, have one vtep_mac",
                        peer.name, added.name
                    )
                });
            }
        }
        for peer in &new.peers {
            for address in peer.senders(&new.node) {
                if let Some(prefix) = self.control_route_around(address) {
                    culprits.push(|| {
                        format!("peer {} has the address {address}, which lies in the control route {prefix}; delete that first", peer.name)
                    });
                }
            }
        }
    }

    fn control_route_around(&self, address: IpAddr) -> Option<Prefix> {
        Prefix::host(address).and_wider().find(|prefix| self.rib.get(*prefix, Source::Control).is_some())
    }

    /// Forgets the peers of the old configuration that the new one does not have.
    fn forget_unlisted(&mut self, new: &Config) -> Vec<PeerId> {
        let stays: HashSet<&str> = new.peers.iter().map(|peer| peer.name.as_str()).collect();
        let names: Vec<String> = self.config.peers.iter().map(|peer| peer.name.to_string()).collect();
        let unlisted = names.iter().filter(|name| !stays.contains(name.as_str()));
        unlisted.filter_map(|name| self.delete_peer(name).ok()).collect()
    }

    /// Replaces the routes to our own pods; those that stay keep their age.
    fn load_local(&mut self, new: &Config, now: u32) {
        let route = |prefix: &Prefix| {
            let since = self.rib.get(*prefix, Source::Local).map_or(now, |route| route.since);
            Route { since, ..Route::new(*prefix, Source::Local, Target::Local) }
        };
        let routes: Vec<Route> = new.local_subnets.iter().map(route).collect();
        self.rib.replace(Source::Local, routes);
    }

    /// Replaces the routes to the peers of a source; those that stay keep their age.
    fn load_peers(&mut self, new: &Config, source: Source, now: u32) {
        let mut routes = Vec::new();
        for peer in new.peers.iter().filter(|peer| peer.source == source) {
            let Some(target) = self.roster.id(peer.name.as_str()).map(Target::Peer) else { continue };
            for prefix in &peer.subnets {
                let before = self.rib.get(*prefix, source).filter(|route| route.target == target);
                let since = before.map_or(now, |route| route.since);
                routes.push(Route { prefix: *prefix, target, source, mtu: None, since });
            }
        }
        self.rib.replace(source, routes);
    }
}

/// Why no other node may have `address` in the new configuration.
fn clash(new: &Config, address: IpAddr) -> Option<String> {
    if let Some(peer) = new.peers.iter().find(|peer| peer.senders(&new.node).any(|its| its == address)) {
        return Some(format!("which is that of peer {}", peer.name));
    }
    let mut subnets = new.peers.iter().flat_map(|peer| &peer.subnets).chain(&new.local_subnets);
    subnets.find(|subnet| subnet.contains(address)).map(|subnet| format!("which lies in subnet {subnet}"))
}

/// What of `new` takes a restart, by where it stands in the file: it was used to make sockets and devices.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.tunnel, &new.tunnel);
    // What is in only one of them is told as a whole.
    let policy = |key: fn(&Policy) -> usize| {
        old.policy.as_ref().zip(new.policy.as_ref()).is_some_and(|(old, new)| key(old) != key(new))
    };
    let keys = [
        ("`name` under [node]", old.node.name != new.node.name),
        ("`address` under [node]", old.node.address != new.node.address),
        ("`address6` under [node]", old.node.address6 != new.node.address6),
        ("`device` under [tunnel]", was.device != is.device),
        ("`address` under [tunnel]", was.address != is.address),
        ("`workers` under [tunnel]", was.workers != is.workers),
        ("`backend` under [tunnel]", was.backend != is.backend),
        ("`uplink` under [tunnel]", was.uplink != is.uplink),
        ("an offload switch under [tunnel]", was.offload != is.offload),
        ("`kernel_path` under [tunnel]", was.kernel_path != is.kernel_path),
        ("`kernel_path_hooks` under [tunnel]", was.kernel_path_hooks != is.kernel_path_hooks),
        ("`kernel_path_after` under [tunnel]", was.kernel_path_after != is.kernel_path_after),
        ("`busy_poll` under [tunnel]", was.busy_poll != is.busy_poll),
        ("a key under [vxlan]", old.vxlan != new.vxlan),
        (
            "the first of `subnets` under [local], the TUN's address,",
            tun_addresses(old) != tun_addresses(new),
        ),
        ("`socket` under [control]", old.control.socket != new.control.socket),
        ("`listen` under [metrics]", old.metrics != new.metrics),
        ("a key under [source.kubernetes] or [source.etcd]", old.cluster != new.cluster),
        ("a key under [cni]", old.cni != new.cni),
        ("whether there is [policy]", old.policy.is_some() != new.policy.is_some()),
        ("`connections` under [policy]", policy(|policy| policy.connections)),
    ];
    keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests;
