//! The configuration that is followed: what the file says, and what a cluster says where the file says nothing.
//!
//! Whatever a cluster says, the result obeys the rules of a checked configuration (`config/check.rs`). A node that
//! breaks one is left out, by name and reason; the others never are because of it. Of two nodes that claim the same
//! the file's has it, then the older one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::discovered::{self, Discovered, Refused};
use crate::config::{self, Config, Peer, for_pods, unicast};
use crate::net::{Mac, NodeName, Prefix};
use crate::route::{Pool, Source};

/// Most peers: they are numbered with 16 bits.
const MOST_PEERS: usize = u16::MAX as usize;

/// What the running daemon has beside the configuration, which no node of a cluster may take.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Names of peers that were added by request.
    pub names: HashSet<String>,
    /// Their underlay addresses.
    pub addresses: HashSet<IpAddr>,
    /// Their Ethernet addresses.
    pub macs: HashSet<Mac>,
    /// Prefixes that routes of others on this host keep from leading into the tunnel, and what the kernel says.
    pub prefixes: HashMap<Prefix, String>,
}

/// This node's underlay addresses with the lengths that decide CrossSubnet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OwnAddresses {
    /// IPv4.
    pub address: Option<Ipv4Net>,
    /// IPv6.
    pub address6: Option<Ipv6Net>,
}

/// What came of it.
#[derive(Debug)]
pub struct Composed {
    /// What is to be followed.
    pub config: Config,
    /// Everything that the cluster says and that is left out.
    pub refused: Vec<Refused>,
}

/// Puts together what `file` and the cluster say.
///
/// # Errors
/// What is missing before there can be a configuration, in words.
pub fn compose(
    file: &Config,
    found: &Discovered,
    own: OwnAddresses,
    taken: &Taken,
) -> Result<Composed, String> {
    let mut config = file.clone();
    config.node.address = file.node.address.or(own.address);
    config.node.address6 = file.node.address6.or(own.address6);
    if config.node.addresses().next().is_none() {
        return Err(format!("the cluster has no address of node {} yet", file.node.name));
    }
    if let Some(cluster) = &file.cluster {
        let given = cluster.given_vxlan();
        config.vxlan.port = given.port.or(found.vxlan_port).unwrap_or(file.vxlan.port);
        config.vxlan.vni = given.vni.or(found.vni).unwrap_or(file.vxlan.vni);
    }
    let mut rules = Rules::of(&config, taken);
    rules.refused.clone_from(&found.refused);
    if file.local_subnets.is_empty() {
        for subnet in &found.own.subnets {
            if let Some(subnet) = rules.subnet(&format!("node {}", file.node.name), *subnet) {
                config.local_subnets.push(subnet);
            }
        }
        rules.local.clone_from(&config.local_subnets);
        config.tunnel.address = file.tunnel.address.or(found
            .own
            .tunnel_address
            .filter(|address| config.local_subnets.iter().any(|subnet| subnet.contains(*address))));
    }
    if config.local_subnets.is_empty() {
        return Err(format!("the cluster gives node {} no pod subnet yet", file.node.name));
    }
    if file.pools.is_empty() {
        config.pools = rules.pools(&found.pools);
    }
    for node in &found.nodes {
        if let Some(peer) = rules.peer(&config, node) {
            config.peers.push(peer);
        }
    }
    // What is the same twice is said once.
    let refused: BTreeSet<Refused> = rules.refused.into_iter().collect();
    Ok(Composed { config, refused: refused.into_iter().collect() })
}

/// What is claimed so far, by whom.
struct Rules<'a> {
    taken: &'a Taken,
    names: HashSet<String>,
    addresses: BTreeSet<IpAddr>,
    macs: HashSet<Mac>,
    subnets: HashMap<Prefix, String>,
    /// Of these, our own.
    local: Vec<Prefix>,
    refused: Vec<Refused>,
}

impl<'a> Rules<'a> {
    /// What `config` claims before a cluster says anything.
    fn of(config: &Config, taken: &'a Taken) -> Self {
        let own = config.node.addresses().map(|own| own.addr());
        let peers = || config.peers.iter();
        let senders = peers().flat_map(|peer| peer.senders(&config.node));
        let given = |peer: &Peer| {
            peer.subnets.iter().map(|subnet| (*subnet, format!("peer {}", peer.name))).collect()
        };
        let local = config.local_subnets.iter().map(|subnet| (*subnet, "[local]".to_owned()));
        let given: Vec<Vec<(Prefix, String)>> = peers().map(given).collect();
        // What the file gives to those whose addresses are not known yet is theirs as well.
        let named = || config.named_peers.iter();
        let to_come = named()
            .flat_map(|peer| peer.subnets.iter().map(|subnet| (*subnet, format!("peer {}", peer.name))));
        let names = peers().map(|peer| &peer.name).chain(named().map(|peer| &peer.name));
        let names = names.chain([&config.node.name]).map(ToString::to_string);
        let macs = peers().map(|peer| peer.vtep_mac).chain(named().map(|peer| peer.vtep_mac));
        let mac = Mac::of_vtep(config.node.name.as_str());
        Self {
            taken,
            names: names.chain(taken.names.iter().cloned()).collect(),
            addresses: own.chain(senders).chain(taken.addresses.iter().copied()).collect(),
            macs: macs.chain([mac]).chain(taken.macs.iter().copied()).collect(),
            subnets: local.chain(given.into_iter().flatten()).chain(to_come).collect(),
            local: config.local_subnets.clone(),
            refused: Vec::new(),
        }
    }

    fn refuse(&mut self, object: &str, reason: impl Into<String>) {
        self.refused.push(Refused { object: discovered::shown(object), reason: reason.into() });
    }

    /// The pools that can be some.
    fn pools(&mut self, pools: &[Pool]) -> Vec<Pool> {
        let mut kept: Vec<Pool> = Vec::new();
        for pool in pools {
            let object = format!("pool {}", pool.cidr);
            match for_pods(pool.cidr) {
                Err(reason) => self.refuse(&object, reason),
                Ok(_) if pool.cidr.is_default() => {
                    self.refuse(&object, "it is every address, not only those of pods");
                }
                Ok(_) if kept.iter().any(|other| other.cidr == pool.cidr) => {
                    self.refuse(&object, "there is another pool of these addresses");
                }
                Ok(_) => kept.push(*pool),
            }
        }
        kept
    }

    /// The peer that a node is, unless something is against it.
    fn peer(&mut self, config: &Config, node: &discovered::Node) -> Option<Peer> {
        let object = format!("node {}", node.name);
        let (name, addresses) = match self.judge(config, node) {
            Ok(judged) => judged,
            Err(reason) => {
                self.refuse(&object, reason);
                return None;
            }
        };
        let mac = node.vtep_mac.unwrap_or_else(|| Mac::of_vtep(name.as_str()));
        // Its own addresses count as those of a node from here on.
        self.addresses.extend(addresses.iter().copied());
        self.names.insert(node.name.clone());
        self.macs.insert(mac);
        let subnets = node.subnets.iter().filter_map(|subnet| self.subnet(&object, *subnet)).collect();
        Some(Peer {
            name,
            address: *addresses.first()?,
            address6: addresses.iter().skip(1).find_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            }),
            port: None,
            subnets,
            sends_for: Vec::new(),
            also_from: Vec::new(),
            vtep_mac: mac,
            source: config.cluster.as_ref().map_or(Source::Static, config::Cluster::source),
        })
    }

    /// Its name and the addresses by which it can be reached, or what is against it.
    fn judge(&self, config: &Config, node: &discovered::Node) -> Result<(NodeName, Vec<IpAddr>), String> {
        if config.peers.len() >= MOST_PEERS {
            return Err(format!("there are {MOST_PEERS} peers already"));
        }
        let name: NodeName = node.name.parse().map_err(|error| format!("its name: {error}"))?;
        if self.names.contains(&node.name) {
            return Err("there is another node of this name".to_owned());
        }
        let both = [Some(node.address), node.address6.map(IpAddr::V6)].into_iter().flatten();
        let usable = |address: &IpAddr| match address {
            IpAddr::V4(_) => config.node.address.is_some(),
            IpAddr::V6(_) => config.node.address6.is_some(),
        };
        let addresses: Vec<IpAddr> = both.filter(usable).collect();
        if addresses.is_empty() {
            return Err(format!("it has {}, and this node no address of that family", node.address));
        }
        for address in &addresses {
            self.judge_address(config, *address)
                .map_err(|reason| format!("its address {address} {reason}"))?;
        }
        let mac = node.vtep_mac.unwrap_or_else(|| Mac::of_vtep(name.as_str()));
        if self.macs.contains(&mac) {
            return Err(format!("its Ethernet address {mac} is another node's"));
        }
        Ok((name, addresses))
    }

    fn judge_address(&self, config: &Config, address: IpAddr) -> Result<(), String> {
        unicast(address).map_err(|reason| format!("cannot be a node's: {reason}"))?;
        if self.addresses.contains(&address) {
            return Err("is another node's".to_owned());
        }
        let is_edge = |own: Ipv4Net, address: Ipv4Addr| {
            own.prefix_len() < 31 && [own.network(), own.broadcast()].contains(&address)
        };
        if let (Some(own), IpAddr::V4(address)) = (config.node.address, address)
            && is_edge(own, address)
        {
            return Err(format!("is the network or broadcast address of {}", own.trunc()));
        }
        let around = Prefix::host(address).and_wider().find_map(|prefix| self.subnets.get_key_value(&prefix));
        match around {
            Some((subnet, owner)) => Err(format!("lies in the pod subnet {subnet} of {owner}")),
            None => Ok(()),
        }
    }

    /// A pod subnet of `object`, unless something is against it.
    fn subnet(&mut self, object: &str, subnet: Prefix) -> Option<Prefix> {
        let reason = match for_pods(subnet) {
            Err(reason) => reason,
            Ok(_) if subnet.is_default() => "is every address, not only those of pods".to_owned(),
            Ok(_) => match self.claimed(subnet) {
                Some(reason) => reason,
                None => {
                    self.subnets.insert(subnet, object.to_owned());
                    return Some(subnet);
                }
            },
        };
        self.refuse(object, format!("its pod subnet {subnet} {reason}"));
        None
    }

    /// What is against `subnet`: the owner of the same one, a node's address in it, a route of this host.
    fn claimed(&self, subnet: Prefix) -> Option<String> {
        if let Some(owner) = self.subnets.get(&subnet) {
            return Some(format!("is that of {owner}"));
        }
        // A pod that came from elsewhere may keep its address; more is not another's to give.
        let is_single = subnet == Prefix::host(subnet.address());
        if let Some(local) = self.local.iter().find(|local| local.covers(subnet)).filter(|_| !is_single) {
            let owner = self.subnets.get(local).map_or("this node", String::as_str);
            return Some(format!("lies in {local}, which is that of {owner}"));
        }
        if let Some(address) = self.addresses.range(subnet.address()..=subnet.last()).next() {
            return Some(format!("contains the address {address} of a node"));
        }
        self.taken.prefixes.get(&subnet).cloned()
    }
}

/// Which addresses this node has, as the cluster says; `length` is that of the subnet of an address on this host.
pub fn own_addresses(
    found: &Discovered,
    running: Option<&config::Node>,
    length: impl Fn(IpAddr) -> Option<u8>,
) -> OwnAddresses {
    let mut own = OwnAddresses { address: found.own.net, address6: found.own.net6 };
    for address in &found.own.addresses {
        match address {
            IpAddr::V4(address) if own.address.is_none() => {
                let same = running.and_then(|node| node.address).filter(|net| net.addr() == *address);
                own.address = same.or_else(|| Ipv4Net::new(*address, length((*address).into())?).ok());
            }
            IpAddr::V6(address) if own.address6.is_none() => {
                let same = running.and_then(|node| node.address6).filter(|net| net.addr() == *address);
                own.address6 = same.or_else(|| Ipv6Net::new(*address, length((*address).into())?).ok());
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    own
}

#[cfg(test)]
mod tests;
