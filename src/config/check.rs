//! The rules that several values must obey together.
//!
//! Each value has passed its own rules already; what did not is absent here, so nothing is
//! reported twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;

use super::diagnostic::Log;
use super::owners::{Owner, Owners};
use super::raw::{Peer, Pool, Raw};
use super::reader::At;
use super::speakers;
use super::value::{PeerAddress, unicast};
use super::{Backend, Switch};
use crate::net::{EncapMode, Mac};
use crate::wire::ipv6;

/// Most peers a node can have.
const MOST_PEERS: usize = 1 << 16;

/// Reports every conflict between values of `raw`.
pub(super) fn across(raw: &Raw, log: &mut Log<'_>) {
    let owners = Owners::collect(raw, log);
    one_encapsulation(&raw.pools, log);
    verified_cross_subnet(&raw.pools, log);
    peer_count(raw, log);
    peer_names(raw, log);
    peer_addresses(raw, log);
    vtep_macs(raw, log);
    mtu_for_ipv6(raw, log);
    plain_backend(raw, log);
    tunnel_address(raw, &owners, log);
    owners.refuse_loops(raw, log);
    speakers::judge(raw, &owners, log);
}

fn one_encapsulation(pools: &[Pool], log: &mut Log<'_>) {
    for pool in pools {
        let (Some(ipip), Some(vxlan)) = (&pool.ipip_mode, &pool.vxlan_mode) else { continue };
        if ipip.value != EncapMode::Never && vxlan.value != EncapMode::Never {
            log.push(
                ipip.at.max(vxlan.at),
                format!(
                    "ipip_mode \"{}\" and vxlan_mode \"{}\" in one pool; set one of them to \"Never\"",
                    ipip.value, vxlan.value
                ),
            );
        }
    }
}

/// Only `CrossSubnet` has a tunnel to take where the direct path fails.
fn verified_cross_subnet(pools: &[Pool], log: &mut Log<'_>) {
    for pool in pools {
        let (Some(ipip), Some(vxlan), Some(verify)) = (&pool.ipip_mode, &pool.vxlan_mode, &pool.verify)
        else {
            continue;
        };
        if verify.value && ![ipip.value, vxlan.value].contains(&EncapMode::CrossSubnet) {
            log.push(
                verify.at,
                "verify: only a pool with a mode \"CrossSubnet\" has a direct path to verify and a tunnel to \
                 take instead; set one of its modes to that, or remove this",
            );
        }
    }
}

/// Peers are numbered with 16 bits.
fn peer_count(raw: &Raw, log: &mut Log<'_>) {
    if let Some(peer) = raw.peers.get(MOST_PEERS) {
        log.push(peer.at, format!("more than {MOST_PEERS} peers; remove those from here on"));
    }
}

fn peer_names(raw: &Raw, log: &mut Log<'_>) {
    let mut first = Firsts::new();
    for name in raw.peers.iter().filter_map(|peer| peer.name.as_ref()) {
        if raw.node.name.as_ref().is_some_and(|own| own.value == name.value) {
            log.push(
                name.at,
                format!(
                    "name: \"{}\" is this node's own name; a node is not its own peer, remove this section",
                    name.value
                ),
            );
        } else if let Some(at) = first.clash(name.value.clone(), name.at) {
            let line = log.line(at);
            log.push(
                name.at,
                format!("name: peer \"{}\" exists already in line {line}; names are unique", name.value),
            );
        }
    }
}

fn peer_addresses(raw: &Raw, log: &mut Log<'_>) {
    let (mut first, mut first_name) = (Firsts::new(), Firsts::new());
    let also = |address: &dyn Display, line| {
        format!("{address} is also the address of the peer in line {line}; each node has its own")
    };
    for peer in &raw.peers {
        common_family(raw, peer, log);
        if let Some(At { value: PeerAddress::Name(name), at }) = &peer.address
            && let Some(before) = first_name.clash(name.clone(), *at)
        {
            let line = log.line(before);
            log.push(*at, format!("address: {}", also(name, line)));
        }
        for (key, address) in peer.addresses() {
            if let Some(reason) = own_address(raw, address.value) {
                log.push(address.at, format!("{key}: {} {reason}", address.value));
            } else if let Some(at) = first.clash(address.value, address.at) {
                let line = log.line(at);
                log.push(address.at, format!("{key}: {}", also(&address.value, line)));
            }
        }
    }
}

/// A peer is reached over a family in which both nodes have an address.
fn common_family(raw: &Raw, peer: &Peer, log: &mut Log<'_>) {
    let (Some(address), Some(second)) = (&peer.address, peer.address6) else { return };
    let PeerAddress::Ip(ip) = address.value else { return };
    let is_ipv4 = ip.is_ipv4();
    if second.value.is_some() && !is_ipv4 {
        log.push(
            second.at,
            "address6: address is IPv6 already; give the peer's IPv4 address there, or leave this out",
        );
    }
    let node = &raw.node;
    // What of our own is wrong rather than absent is reported already.
    // A cluster says which addresses this node has.
    let said = raw.cluster.is_none();
    let absent4 = said && node.address.as_ref().is_some_and(|own| own.value.is_absent());
    let absent6 = said && node.address6.as_ref().is_some_and(|own| own.value.is_absent());
    if !is_ipv4 && absent6 {
        let message = "address: IPv6 needs this node's own IPv6 address; give address6 under [node]";
        log.push(address.at, message);
    } else if is_ipv4 && absent4 && second.value.is_none() {
        let message = "address: IPv4 needs this node's own IPv4 address; give address under [node], or the peer's address6";
        log.push(address.at, message);
    }
}

/// Why `address` cannot be another node's, as far as our own addresses tell.
fn own_address(raw: &Raw, address: IpAddr) -> Option<String> {
    if raw.node.address_in(false).is_some_and(|own| own.value == address) {
        return Some("is this node's own address6; give the peer's".into());
    }
    let own = raw.node.address.as_ref()?.value.given()?;
    if own.addr() == address {
        return Some("is this node's own address; give the peer's".into());
    }
    let edge = [own.network(), own.broadcast()].map(IpAddr::V4).contains(&address);
    (edge && own.prefix_len() < 31).then(|| {
        format!("is the network or broadcast address of this node's subnet {}; give a host's", own.trunc())
    })
}

fn vtep_macs(raw: &Raw, log: &mut Log<'_>) {
    let mut first = Firsts::new();
    let own = raw.node.name.as_ref().map(|name| Mac::of_vtep(name.value.as_str()));
    // Explicit ones last: where a given address meets a derived one, the given one is at fault.
    let (derived, given): (Vec<_>, Vec<_>) = raw.peers.iter().partition(|peer| !gives_mac(peer));
    for mac in derived.iter().filter_map(|peer| peer.effective_mac()) {
        first.clash(mac.value, mac.at); // equal only for equal names, which are reported as such
    }
    for mac in given.iter().filter_map(|peer| peer.effective_mac()) {
        if own == Some(mac.value) {
            log.push(
                mac.at,
                format!("vtep_mac: {} is this node's own VTEP address; give the peer's", mac.value),
            );
        } else if let Some(at) = first.clash(mac.value, mac.at) {
            let line = log.line(at);
            let message = format!(
                "vtep_mac: {} is also the VTEP address of the peer in line {line}; each node has its own",
                mac.value
            );
            log.push(mac.at, message);
        }
    }
}

fn gives_mac(peer: &Peer) -> bool {
    peer.vtep_mac.as_ref().is_some_and(|mac| mac.value.is_some())
}

fn mtu_for_ipv6(raw: &Raw, log: &mut Log<'_>) {
    let Some(At { value: Some(mtu), at }) = raw.tunnel.mtu else { return };
    let carries_ipv6 = raw.local.items.iter().any(|subnet| !subnet.value.is_ipv4())
        || matches!(raw.tunnel.address, Some(At { value: Some(IpAddr::V6(_)), .. }));
    if carries_ipv6 && mtu < ipv6::MIN_MTU {
        log.push(
            at,
            format!("mtu: {mtu} is too small for IPv6, which this node's pods use; use at least 1280"),
        );
    }
}

/// The plain backend has one queue and no vnet_hdr, so it can keep neither promise.
fn plain_backend(raw: &Raw, log: &mut Log<'_>) {
    let tunnel = &raw.tunnel;
    if !tunnel.backend.is_some_and(|backend| backend.value == Backend::Plain) {
        return;
    }
    if let Some(At { value: Some(workers @ 2..), at }) = tunnel.workers {
        log.push(
            at,
            format!("workers: {workers} workers need a queue each, but backend \"plain\" has one; use 1"),
        );
    }
    for (key, switch) in [("tso", tunnel.tso), ("uso", tunnel.uso), ("gro", tunnel.gro)] {
        if let Some(At { value: Switch::On, at }) = switch {
            log.push(
                at,
                format!(
                    "{key}: \"on\" needs backend \"offload\", but backend is \"plain\"; use \"auto\" or \"off\""
                ),
            );
        }
    }
}

fn tunnel_address(raw: &Raw, owners: &Owners, log: &mut Log<'_>) {
    let Some(given) = raw.tunnel.address else { return };
    let Some(address) = given.value else { return auto_address(raw, owners, log) };
    let node = raw.node.address_in(address.is_ipv4()).is_some_and(|own| own.value == address);
    let peer = raw.peers.iter().any(|peer| peer.addresses().any(|(_, a)| a.value == address));
    if node || peer {
        log.push(
            given.at,
            format!(
                "address: {address} is a node's underlay address; give the tunnel an address of its own, or write \"auto\""
            ),
        );
    } else if let Some(owner) = foreign(owners, address, raw, log) {
        log.push(
            given.at,
            format!(
                "address: {address} belongs to {owner}; give an address of a local subnet, or write \"auto\""
            ),
        );
    }
}

/// "auto" is the first address of the first local subnet, so there must be one fit for it.
fn auto_address(raw: &Raw, owners: &Owners, log: &mut Log<'_>) {
    let Some(first) = raw.local.items.first() else {
        if raw.local.whole && raw.cluster.is_none() {
            log.push(
                raw.local_at,
                "no local subnet for tunnel.address \"auto\"; give [local] subnets, or tunnel.address",
            );
        }
        return;
    };
    let address = first.value.address();
    let reason = match unicast(address) {
        Err(reason) => Some(reason),
        Ok(()) => foreign(owners, address, raw, log).map(|owner| format!("{address} belongs to {owner}")),
    };
    if let Some(reason) = reason.filter(|_| !(first.value.is_default() && first.value.is_ipv4())) {
        log.push(
            first.at,
            format!(
                "subnets: the first of {} cannot be the tunnel's address: {reason}; set tunnel.address",
                first.value
            ),
        );
    }
}

/// The peer that owns `address`, in words.
fn foreign(owners: &Owners, address: IpAddr, raw: &Raw, log: &Log<'_>) -> Option<String> {
    let claim = owners.of_subnet(address)?;
    matches!(claim.owner, Owner::Peer(_)).then(|| claim.describe(raw, log))
}

/// Where each value was seen first.
pub(super) struct Firsts<T>(HashMap<T, usize>);

impl<T: Eq + Hash> Firsts<T> {
    /// Nothing seen.
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes `value` at `at`; the place where it was seen before, if it was.
    pub(super) fn clash(&mut self, value: T, at: usize) -> Option<usize> {
        match self.0.entry(value) {
            Entry::Occupied(seen) => Some(*seen.get()),
            Entry::Vacant(free) => {
                free.insert(at);
                None
            }
        }
    }
}
