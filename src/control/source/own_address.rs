//! Which address of this host is the node's, by the rule that the file gives in Calico's words.
//!
//! Interfaces are gone through in the order of their indices, and their addresses in the kernel's, primary ones
//! first. An address that was chosen before stays for as long as the rule allows it, so that one that comes up later
//! and would have been found earlier changes nothing. Why each of the others was passed over is told.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{AddressRule, for_node};
use crate::control::engine::port::{Interface, InterfaceAddress};

/// Beginnings of the names of interfaces that `first-found` passes over: those that Calico passes over. Loopback
/// interfaces are known by their kind.
const PASSED_OVER: [&str; 18] = [
    "docker",
    "br-",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
];
/// Most of those that were passed over that are told of.
const TOLD: usize = 8;

/// The host as it was seen.
pub struct Seen<'a> {
    /// Its interfaces, in the order of their indices.
    pub interfaces: &'a [Interface],
    /// The devices of this daemon, which never have the node's address.
    pub ours: &'a [String],
    /// For `can-reach`: the source of packets to the destination, or why there is none.
    pub source: Result<IpAddr, String>,
    /// Why an address cannot be this node's because of what else the configuration says.
    pub taken: &'a dyn Fn(IpAddr) -> Option<String>,
}

/// What was chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The address with the length of its subnet on the interface.
    pub net: IpNet,
    /// The interface.
    pub interface: String,
    /// Why it and no other.
    pub reason: String,
}

/// The address, where it is, and why it is the one.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: {}", self.net, self.interface, self.reason)
    }
}

/// The address of one family that `rule` chooses; `before` is the one that was chosen until now.
///
/// # Errors
/// Why there is none.
pub fn choose(
    rule: &AddressRule,
    is_ipv4: bool,
    seen: &Seen<'_>,
    before: Option<IpAddr>,
) -> Result<Choice, String> {
    let source = match rule {
        AddressRule::CanReach(_) => match (&seen.source, before) {
            (Ok(source), _) => Some(*source),
            // Which address would be the right one is not known now.
            (Err(_), Some(before)) => Some(before),
            (Err(reason), None) => return Err(reason.clone()),
        },
        _ => None,
    };
    let wanted = |address: IpAddr| match rule {
        AddressRule::CanReach(_) => source == Some(address),
        AddressRule::Cidr(prefixes) => prefixes.iter().any(|prefix| prefix.contains(address)),
        _ => true,
    };
    let mut found: Option<(&Interface, IpNet)> = None;
    let mut passed = Passed::default();
    for interface in seen.interfaces {
        match on(rule, is_ipv4, seen, interface, &wanted) {
            Ok(nets) => {
                let kept = nets.iter().find(|net| Some(net.addr()) == before);
                if let Some(net) = kept {
                    return Ok(chosen(interface, *net, "it was chosen before and is still there".to_owned()));
                }
                found = found.or(nets.first().map(|net| (interface, *net)));
            }
            Err(reason) if found.is_none() => passed.push(format!("{} {reason}", interface.name)),
            Err(_) => {}
        }
    }
    match found {
        Some((interface, net)) => Ok(chosen(interface, net, why(rule, &passed))),
        None => Err(format!("no interface has such an IPv{} address: {passed}", if is_ipv4 { 4 } else { 6 })),
    }
}

fn chosen(interface: &Interface, net: IpNet, reason: String) -> Choice {
    Choice { net, interface: interface.name.clone(), reason }
}

/// The addresses on an interface that may be chosen, at least one; or why there is none.
fn on(
    rule: &AddressRule,
    is_ipv4: bool,
    seen: &Seen<'_>,
    interface: &Interface,
    wanted: &dyn Fn(IpAddr) -> bool,
) -> Result<Vec<IpNet>, String> {
    if seen.ours.contains(&interface.name) {
        return Err("is the daemon's".to_owned());
    }
    by_name(rule, interface)?;
    if !interface.up {
        return Err("is down".to_owned());
    }
    let mut against = None;
    let mut nets = Vec::new();
    for own in interface.addresses.iter().filter(|own| own.net.addr().is_ipv4() == is_ipv4) {
        match judge(own, seen, wanted) {
            Ok(net) => nets.push(net),
            Err(reason) => against = against.or(Some(format!("has {}, which {reason}", own.net))),
        }
    }
    match (nets.is_empty(), against) {
        (false, _) => Ok(nets),
        (true, Some(reason)) => Err(reason),
        (true, None) => Err("has none".to_owned()),
    }
}

/// Whether the rule allows an interface of this name, or why not.
fn by_name(rule: &AddressRule, interface: &Interface) -> Result<(), String> {
    let name = interface.name.as_str();
    let usual = || match PASSED_OVER.iter().find(|beginning| name.starts_with(**beginning)) {
        _ if interface.loopback => Err("is a loopback interface".to_owned()),
        Some(beginning) => Err(format!("is passed over ({beginning}.*)")),
        None => Ok(()),
    };
    match rule {
        AddressRule::FirstFound => usual(),
        AddressRule::SkipInterface(patterns) => match patterns.matching(name) {
            Some(pattern) => Err(format!("is to be skipped ({pattern})")),
            None => usual(),
        },
        AddressRule::Interface(patterns) if patterns.matching(name).is_none() => {
            Err("has another name".to_owned())
        }
        AddressRule::Interface(_) | AddressRule::CanReach(_) | AddressRule::Cidr(_) => Ok(()),
    }
}

fn judge(own: &InterfaceAddress, seen: &Seen<'_>, wanted: &dyn Fn(IpAddr) -> bool) -> Result<IpNet, String> {
    let address = own.net.addr();
    if !wanted(address) {
        return Err("is another one".to_owned());
    }
    if let Some(reason) = own.unfit {
        return Err(reason.to_owned());
    }
    for_node(own.net).map_err(|reason| format!("cannot be a node's: {reason}"))?;
    match (seen.taken)(address) {
        Some(reason) => Err(reason),
        None => Ok(own.net),
    }
}

/// Why the first address that was found is the one.
fn why(rule: &AddressRule, passed: &Passed) -> String {
    let reason = match rule {
        AddressRule::CanReach(_) => return "the source of packets to there".to_owned(),
        AddressRule::FirstFound => "the first that is found",
        AddressRule::Interface(_) => "the first on an interface of such a name",
        AddressRule::SkipInterface(_) => "the first on an interface that is not skipped",
        AddressRule::Cidr(_) => "the first in such a subnet",
    };
    if passed.count == 0 { reason.to_owned() } else { format!("{reason}; before it, {passed}") }
}

/// What was passed over and why.
#[derive(Default)]
struct Passed {
    told: Vec<String>,
    count: usize,
}

impl Passed {
    fn push(&mut self, one: String) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(one);
        }
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told.join(", "))?;
        match self.count - self.told.len() {
            0 if self.count == 0 => f.write_str("there are no interfaces"),
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests;
