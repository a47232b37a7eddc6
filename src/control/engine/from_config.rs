//! From the configuration to what the packet path is made of.

use std::net::IpAddr;

use super::judge::Needs;
use super::port::{Device, Interest, Look, PodLook};
use crate::config::{self, Config, DirectVia, Dscp, PolicyScope};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::forward::{Peer, Scope, TunLink, Underlay};
use crate::dataplane::observe::PeerCounters;
use crate::net::{Mac, Mode, Prefix};
use crate::route::EncapPolicy;
use crate::wire::ipv6;

/// This node's side of the underlay, on an uplink of `mtu` bytes with index `uplink`.
pub(super) fn underlay(config: &Config, mtu: u16, uplink: u32) -> Underlay {
    Underlay {
        address: config.node.address.map(|net| net.addr()),
        address6: config.node.address6.map(|net| net.addr()),
        vtep_mac: Mac::of_vtep(config.node.name.as_str()),
        vni: config.vxlan.vni,
        vxlan_port: config.vxlan.port,
        mtu,
        marking: marking(config.tunnel.dscp),
        uplink,
        tun: tun_link(config),
        tap: None,
    }
}

/// Whether policies are about everything that local pods send and are sent.
pub(super) fn judges_all(config: &Config) -> bool {
    config.policy.as_ref().is_some_and(|policy| policy.scope == PolicyScope::All)
}

/// What may cross beside pod traffic of peers.
pub(super) fn scope(config: &Config) -> Scope {
    Scope {
        allow_nested: config.tunnel.allow_nested,
        external_nodes: config.node.external_nodes.clone(),
        sends_for: config.local_sends_for.clone(),
    }
}

pub(super) fn marking(dscp: Dscp) -> Marking {
    match dscp {
        Dscp::Inherit => Marking::INHERIT,
        Dscp::Fixed(dscp) => Marking::fixed(dscp),
    }
}

/// A peer as this node reaches it, with counters for so many workers.
pub(super) fn peer(peer: &config::Peer, config: &Config, workers: usize) -> Option<Peer> {
    let mut addresses = peer.addresses(&config.node);
    Some(Peer {
        counters: PeerCounters::new(workers),
        name: peer.name.clone(),
        address: addresses.next()?,
        port: peer.port.unwrap_or(config.vxlan.port),
        vtep_mac: peer.vtep_mac,
        hop: None,
        link_mtus: [None; 2],
        path_mtu: None,
        rumoured: false,
        policed: false,
        way: None,
        second: addresses.next().map(|address| (address, None)),
        also_from: peer.also_from.as_slice().into(),
        sends_for: peer.sends_for.as_slice().into(),
    })
}

/// The pools that the kernel leads into the TUN as a whole: those that hold pods of other nodes, and no node, as
/// `has_node` says. One that is all ours stays with the kernel's own routes to our pods; of one with nodes in it
/// only the subnets of the peers lead there, as with Calico.
pub(super) fn foreign_pools(config: &Config, has_node: impl Fn(Prefix) -> bool) -> Vec<Prefix> {
    let ours = |cidr: &Prefix| config.local_subnets.iter().any(|subnet| subnet.covers(*cidr));
    config.pools.iter().map(|pool| pool.cidr).filter(|cidr| !ours(cidr) && !has_node(*cidr)).collect()
}

/// The same as far as the nodes of the configuration go.
pub(super) fn configured_pools(config: &Config) -> Vec<Prefix> {
    let own = config.node.addresses().map(|own| own.addr());
    let nodes: Vec<IpAddr> =
        own.chain(config.peers.iter().flat_map(|peer| peer.senders(&config.node))).collect();
    foreign_pools(config, |cidr| nodes.iter().any(|node| cidr.contains(*node)))
}

/// The TUN with its addresses. A node without IPv6 pods has none of that family there, but may have
/// one itself.
fn tun_link(config: &Config) -> TunLink {
    let mut tun = TunLink {
        address6: config.node.address6.map(|net| net.addr()),
        hairpin: judges_all(config),
        ..TunLink::default()
    };
    for address in tun_addresses(config) {
        match address {
            IpAddr::V4(address) => tun.address = Some(address),
            IpAddr::V6(address) => tun.address6 = Some(address),
        }
    }
    tun
}

/// The addresses on the TUN: the configured one or the first of the first local subnet, and, as a pod
/// network of two families needs a host address in each, the first of the other family. At most two.
pub fn tun_addresses(config: &Config) -> Vec<IpAddr> {
    let first = config.tunnel.address.or(config.local_subnets.first().map(|subnet| subnet.address()));
    let Some(first) = first else { return Vec::new() };
    let other = config.local_subnets.iter().find(|subnet| subnet.is_ipv4() != first.is_ipv4());
    [Some(first), other.map(|subnet| subnet.address())].into_iter().flatten().collect()
}

/// The configured MTU, or what the largest link towards any peer carries, less the largest overhead that any
/// pool may add: the MTUs of the routes hold for the peers behind smaller links. Where pods use IPv6, no less
/// than that demands of a link.
pub(super) fn tun_mtu(config: &Config, underlay: &Underlay, policy: &EncapPolicy, peers: &[Peer]) -> u16 {
    let fits = automatic_mtu(underlay, policy, peers);
    let ipv6 = config.local_subnets.iter().any(|subnet| !subnet.is_ipv4());
    config.tunnel.mtu.unwrap_or(if ipv6 { fits.max(ipv6::MIN_MTU) } else { fits })
}

/// The MTU of the largest link less the largest overhead that any pool may add towards any peer.
fn automatic_mtu(underlay: &Underlay, policy: &EncapPolicy, peers: &[Peer]) -> u16 {
    // Without peers, those to come will have an address of this node's better family.
    let own = underlay.address.map(IpAddr::V4).or(underlay.address6.map(IpAddr::V6));
    let known = || peers.iter().filter(|peer| !peer.is_gone());
    let largest = known().map(|peer| underlay.link_mtu(peer)).max();
    let underlay = Underlay { mtu: largest.unwrap_or(underlay.mtu), ..*underlay };
    let mut outer: Vec<IpAddr> = known().map(|peer| peer.address).collect();
    if outer.is_empty() {
        outer.extend(own);
    }
    let modes = policy.pools().map(|pool| pool.encapsulation().0);
    let paths = modes.flat_map(|mode| outer.iter().map(move |outer| underlay.path_mtu(mode, *outer)));
    paths.min().unwrap_or(underlay.mtu)
}

/// What `config` demands of the host whose uplink is `uplink`.
pub fn needs(config: &Config, uplink: &str) -> Needs {
    let direct = uses(config, Mode::Direct);
    let by_pump = direct && config.direct_via == DirectVia::Pump;
    needs_of(config, uplink, (uses(config, Mode::Ipip), direct, by_pump))
}

/// The same where it is known whether `ipip` and `direct` are used, and whether the pump sends what is direct: to find
/// out takes a look at every subnet.
pub(super) fn needs_of(config: &Config, uplink: &str, (ipip, direct, by_pump): (bool, bool, bool)) -> Needs {
    Needs {
        device: config.tunnel.device.clone(),
        uplink: uplink.to_owned(),
        ipip,
        direct,
        direct_by_pump: by_pump,
        ipv6: config.local_subnets.iter().any(|subnet| !subnet.is_ipv4()),
        ipv6_underlay: config.node.address6.is_some(),
        own: config.node.addresses().map(|own| own.addr()).collect(),
    }
}

/// Whether some configured route travels by `mode` from the start on: a direct path that is to be verified is none yet.
fn uses(config: &Config, mode: Mode) -> bool {
    let policy = EncapPolicy::new(&config.pools, config.node.address, config.node.address6);
    config.peers.iter().any(|peer| {
        let addresses: Vec<IpAddr> = peer.addresses(&config.node).collect();
        let decided = |prefix: Prefix| {
            let own = addresses.iter().find(|address| address.is_ipv4() == prefix.is_ipv4());
            own.or(addresses.first()).map(|next_hop| policy.decide(prefix, *next_hop).mode)
        };
        peer.subnets.iter().any(|subnet| {
            // A pool inside a subnet decides for its own addresses.
            let inside = policy.pools().map(|pool| pool.cidr).filter(|cidr| subnet.covers(*cidr));
            inside.chain([*subnet]).any(|prefix| decided(prefix) == Some(mode))
        })
    })
}

/// What to look at before `config` is followed on a host whose uplink is `uplink`.
pub fn look(config: &Config, uplink: &str, tap: Option<u32>) -> Look {
    let subnets = config.peers.iter().flat_map(|peer| peer.subnets.iter().copied());
    Look {
        tun: Device::Named(config.tunnel.device.clone()),
        tap,
        uplink: uplink.to_owned(),
        routes: Some(Interest::overlapping(configured_pools(config).into_iter().chain(subnets))),
        led: Vec::new(),
        nat: None,
        pods: PodLook::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::needs;

    #[test]
    fn the_modes_of_the_configured_routes() {
        let text = r#"
            [node]
            name = "a"
            address = "192.0.2.1/24"
            [local]
            subnets = ["10.1.0.0/24"]
            [[pool]]
            cidr = "10.0.0.0/8"
            ipip_mode = "CrossSubnet"
            [[peer]]
            name = "b"
            address = "PEER"
            subnets = ["SUBNET"]
        "#;
        for (peer, subnet, expected) in [
            ("192.0.2.2", "10.2.0.0/24", (false, true)),
            ("198.51.100.2", "10.2.0.0/24", (true, false)),
            // Outside of every pool packets travel bare; the pool inside decides for its own.
            ("198.51.100.2", "172.16.0.0/24", (false, true)),
            ("198.51.100.2", "8.0.0.0/6", (true, true)),
        ] {
            let text = text.replace("PEER", peer).replace("SUBNET", subnet);
            let needs = needs(&crate::config::parse(&text, "f").unwrap(), "eth0");
            assert_eq!((needs.ipip, needs.direct), expected, "{peer} {subnet}");
        }
    }
}
