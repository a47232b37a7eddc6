//! Who claims which prefix, and the rule that no node's own address may be in a subnet.
//!
//! A tunnel packet is addressed to a node. If that address lies in a prefix that is routed into
//! the tunnel, the packet comes back to us instead of leaving, for ever. A pool may have nodes in it: the
//! kernel's routes then lead to the subnets of the peers alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use super::diagnostic::Log;
use super::raw::{Peer, Raw};
use super::reader::At;
use crate::net::Prefix;

/// Every claimed prefix. Looked up by length, so thousands of peers cost no more than a few.
pub(super) struct Owners {
    pools: HashMap<Prefix, Claim>,
    subnets: HashMap<Prefix, Claim>,
}

/// A prefix, by whom it is claimed, and where.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    prefix: Prefix,
    at: usize,
    /// Who claims it.
    pub(super) owner: Owner,
}

/// Who claims a prefix.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Owner {
    Pool,
    Local,
    /// The peer of this index.
    Peer(usize),
}

impl Owners {
    /// Collects the claims of `raw` and reports every prefix that is claimed twice.
    pub(super) fn collect(raw: &Raw, log: &mut Log<'_>) -> Self {
        let mut owners = Self { pools: HashMap::new(), subnets: HashMap::new() };
        let pools = raw.pools.iter().filter_map(|pool| pool.cidr.as_ref());
        for cidr in pools {
            claim(&mut owners.pools, cidr, Owner::Pool, raw, log);
        }
        for subnet in &raw.local.items {
            claim(&mut owners.subnets, subnet, Owner::Local, raw, log);
        }
        for (index, peer) in raw.peers.iter().enumerate() {
            for subnet in &peer.subnets.items {
                claim(&mut owners.subnets, subnet, Owner::Peer(index), raw, log);
            }
        }
        owners
    }

    /// The longest subnet that contains `address`.
    pub(super) fn of_subnet(&self, address: IpAddr) -> Option<&Claim> {
        longest(&self.subnets, address)
    }

    /// The longest subnet that covers `prefix`.
    pub(super) fn around(&self, prefix: Prefix) -> Option<&Claim> {
        prefix.and_wider().find_map(|wider| self.subnets.get(&wider))
    }

    /// Reports every node address that would be routed into the tunnel, which a subnet does; a pool does not.
    pub(super) fn refuse_loops(&self, raw: &Raw, log: &mut Log<'_>) {
        let nodes = node_addresses(raw);
        self.refuse_defaults(|is_ipv4| nodes.iter().any(|(_, node)| node.value.is_ipv4() == is_ipv4), log);
        for (key, node) in nodes {
            let Some(claim) = longest(&self.subnets, node.value) else { continue };
            if claim.prefix.is_default() {
                continue;
            }
            let message = format!(
                "{key}: {} lies inside {}; packets to this node would be routed into the tunnel",
                node.value,
                claim.describe(raw, log)
            );
            log.push(node.at, message);
        }
    }

    /// A default route is at fault itself, rather than all the addresses in it: as a subnet it would lead the
    /// packets to nodes into the tunnel, as a pool it says nothing of where pods are. That of a family in
    /// which no node has an underlay address is fine: an exit node over the other one.
    fn refuse_defaults(&self, has_nodes: impl Fn(bool) -> bool, log: &mut Log<'_>) {
        for claim in self.pools.values().chain(self.subnets.values()) {
            if !claim.prefix.is_default() || !has_nodes(claim.prefix.is_ipv4()) {
                continue;
            }
            let reason = match claim.owner {
                Owner::Pool => {
                    "is every address, not only those of pods; list the prefixes of the pods instead"
                }
                Owner::Local | Owner::Peer(_) => {
                    "contains every node's address; packets to them would be routed into the tunnel; list the \
                     prefixes without node addresses instead"
                }
            };
            log.push(claim.at, format!("{}: {} {reason}", claim.owner.key(), claim.prefix));
        }
    }
}

impl Claim {
    /// The claim in words: prefix, owner, line.
    pub(super) fn describe(&self, raw: &Raw, log: &Log<'_>) -> String {
        let line = log.line(self.at);
        match self.owner {
            Owner::Pool => format!("pool {} (line {line})", self.prefix),
            Owner::Local => format!("local subnet {} (line {line})", self.prefix),
            Owner::Peer(index) => {
                format!("subnet {} of {} (line {line})", self.prefix, peer_name(raw, index, log))
            }
        }
    }
}

impl Owner {
    /// The key under which it claims prefixes.
    fn key(self) -> &'static str {
        match self {
            Self::Pool => "cidr",
            Self::Local | Self::Peer(_) => "subnets",
        }
    }

    fn name(self, raw: &Raw, log: &Log<'_>) -> String {
        match self {
            Self::Pool => "a pool".to_owned(),
            Self::Local => "this node".to_owned(),
            Self::Peer(index) => peer_name(raw, index, log),
        }
    }
}

fn peer_name(raw: &Raw, index: usize, log: &Log<'_>) -> String {
    let peer = &raw.peers[index];
    match &peer.name {
        Some(name) => format!("peer \"{}\"", name.value),
        None => format!("the peer in line {}", log.line(peer.at)),
    }
}

fn claim(
    claims: &mut HashMap<Prefix, Claim>,
    prefix: &At<Prefix>,
    owner: Owner,
    raw: &Raw,
    log: &mut Log<'_>,
) {
    let new = Claim { prefix: prefix.value, at: prefix.at, owner };
    match claims.entry(prefix.value) {
        Entry::Vacant(free) => {
            free.insert(new);
        }
        Entry::Occupied(taken) => {
            let message = conflict(taken.get(), &new, raw, log);
            log.push(new.at, message);
        }
    }
}

fn conflict(old: &Claim, new: &Claim, raw: &Raw, log: &Log<'_>) -> String {
    let (key, prefix, line) = (new.owner.key(), new.prefix, log.line(old.at));
    if old.owner == new.owner {
        return format!("{key}: {prefix} is given twice, first in line {line}; remove one");
    }
    format!(
        "{key}: overlapping peer subnets with equal length: {prefix} belongs to {} (line {line}) and to {}; \
         a prefix has one owner",
        old.owner.name(raw, log),
        new.owner.name(raw, log)
    )
}

/// The longest claimed prefix that contains `address`.
fn longest(claims: &HashMap<Prefix, Claim>, address: IpAddr) -> Option<&Claim> {
    Prefix::host(address).and_wider().find_map(|prefix| claims.get(&prefix))
}

/// Every underlay address, with the key that gives it.
fn node_addresses(raw: &Raw) -> Vec<(&'static str, At<IpAddr>)> {
    let own = [("address", true), ("address6", false)];
    let own = own.into_iter().filter_map(|(key, is_ipv4)| Some((key, raw.node.address_in(is_ipv4)?)));
    own.chain(raw.peers.iter().flat_map(Peer::addresses)).collect()
}
