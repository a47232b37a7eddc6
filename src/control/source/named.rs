//! The peers of the file as this node can reach them: those at host names get the addresses that the resolver knows,
//! and those that cannot be reached or would break a rule are left out, by name and reason.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use super::compose::Taken;
use super::discovered::Refused;
use super::names::Answers;
use crate::config::{Config, NamedPeer, Node, Peer, unicast};
use crate::net::Prefix;

/// Removes from `config` the peers that this node cannot reach by the addresses that it has. Returns them with the
/// reasons.
pub fn without_unreachable(config: &mut Config) -> Vec<Refused> {
    let mut refused = Vec::new();
    let node = config.node.clone();
    config.peers.retain(|peer| {
        let reason = match peer.addresses(&node).next() {
            None => Some(format!("it has {}, and this node no address of that family", peer.address)),
            Some(_) => peer.senders(&node).find_map(|address| {
                against_own(&node, address).map(|reason| format!("its address {address} {reason}"))
            }),
        };
        refused.extend(reason.iter().map(|reason| Refused::new("peer", peer.name.as_str(), reason)));
        reason.is_none()
    });
    refused
}

/// Adds to the peers of `config` those at host names, as far as `answers` has addresses for them. One that a peer of
/// `running` has already stays its own. Returns those that are left out with the reasons.
pub fn resolve(
    config: &mut Config,
    answers: &Answers,
    running: Option<&Config>,
    taken: &Taken,
) -> Vec<Refused> {
    if config.named_peers.is_empty() {
        return Vec::new();
    }
    let mut refused = Vec::new();
    let mut rules = Rules::of(config, taken);
    for named in &config.named_peers {
        let before = running.and_then(|config| config.peers.iter().find(|peer| peer.name == named.name));
        match rules.place(named, &config.node, answers, before) {
            Ok(peer) => {
                rules.addresses.extend(peer.senders(&config.node));
                config.peers.push(peer);
            }
            Err(reason) => refused.push(Refused::new("peer", named.name.as_str(), reason)),
        }
    }
    refused
}

/// What is claimed already.
struct Rules<'a> {
    taken: &'a Taken,
    addresses: HashSet<IpAddr>,
    subnets: BTreeSet<Prefix>,
}

impl<'a> Rules<'a> {
    fn of(config: &Config, taken: &'a Taken) -> Self {
        let further = config.named_peers.iter().flat_map(|peer| peer.also_from.iter().copied());
        let senders = config.peers.iter().flat_map(|peer| peer.senders(&config.node)).chain(further);
        let subnets = config.peers.iter().flat_map(|peer| &peer.subnets);
        let named = config.named_peers.iter().flat_map(|peer| &peer.subnets);
        Self {
            taken,
            addresses: senders.collect(),
            subnets: subnets.chain(named).chain(&config.local_subnets).copied().collect(),
        }
    }

    /// The peer at the addresses of its name, or why it is left out.
    fn place(
        &self,
        named: &NamedPeer,
        node: &Node,
        answers: &Answers,
        before: Option<&Peer>,
    ) -> Result<Peer, String> {
        let host = &named.address;
        if self.taken.names.contains(named.name.as_str()) {
            return Err("a peer of this name was added by request; delete that".to_owned());
        }
        if self.taken.macs.contains(&named.vtep_mac) {
            return Err(format!(
                "its vtep_mac {} is that of a peer that was added by request",
                named.vtep_mac
            ));
        }
        let inside = |address: &&IpAddr| named.subnets.iter().any(|subnet| subnet.contains(**address));
        if let Some(address) = self.taken.addresses.iter().find(inside) {
            return Err(format!(
                "its subnets contain {address}, the address of a peer that was added by request"
            ));
        }
        let answer = answers.get(host).ok_or_else(|| format!("{host} is not resolved yet"))?;
        if answer.addresses.is_empty() {
            let trouble = answer.trouble.as_deref().unwrap_or("it has no address");
            return Err(format!("{host} is not resolved: {trouble}"));
        }
        let mut against = None;
        let mut usable = Vec::new();
        for address in &answer.addresses {
            match self.judge(*address, node) {
                Ok(()) => usable.push(*address),
                Err(reason) => against = against.or(Some(format!("{host} is {address}, which {reason}"))),
            }
        }
        let had: Vec<IpAddr> = before.map(|peer| peer.addresses(node).collect()).unwrap_or_default();
        let pick = |is_ipv4: bool| {
            let mut own = usable.iter().copied().filter(|address| address.is_ipv4() == is_ipv4);
            own.clone().find(|address| had.contains(address)).or_else(|| own.next())
        };
        let as_ipv6 = |address: IpAddr| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        };
        let second: Option<Ipv6Addr> = named.address6.or(pick(false).and_then(as_ipv6));
        match (pick(true), second.filter(|_| node.address6.is_some())) {
            (Some(address), second) => Ok(named.at(address, second)),
            (None, Some(only)) => Ok(named.at(only.into(), None)),
            (None, None) => Err(against.unwrap_or_else(|| format!("{host} has no address"))),
        }
    }

    fn judge(&self, address: IpAddr, node: &Node) -> Result<(), String> {
        unicast(address).map_err(|reason| format!("cannot be a node's: {reason}"))?;
        let family = if address.is_ipv4() { node.address.is_some() } else { node.address6.is_some() };
        if !family {
            return Err("is of a family in which this node has no address".to_owned());
        }
        if let Some(reason) = against_own(node, address) {
            return Err(reason);
        }
        if self.addresses.contains(&address) {
            return Err("is that of another peer".to_owned());
        }
        if self.taken.addresses.contains(&address) {
            return Err(
                "is that of a peer that was added by request or is a next hop of the kernel's routes"
                    .to_owned(),
            );
        }
        let around = Prefix::host(address).and_wider().find(|prefix| self.subnets.contains(prefix));
        around.map_or(Ok(()), |subnet| Err(format!("lies in the pod subnet {subnet}")))
    }
}

/// Why no other node can have `address`, as far as this node's own addresses tell.
fn against_own(node: &Node, address: IpAddr) -> Option<String> {
    if node.addresses().any(|own| own.addr() == address) {
        return Some("is this node's own address".to_owned());
    }
    let own = node.address.filter(|own| own.prefix_len() < 31)?;
    let edge = [own.network(), own.broadcast()].map(IpAddr::V4).contains(&address);
    edge.then(|| format!("is the network or broadcast address of {}", own.trunc()))
}

#[cfg(test)]
mod tests;
