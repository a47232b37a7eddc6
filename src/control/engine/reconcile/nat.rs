//! Masquerading as it should be, compared with the table that there is.

use std::collections::BTreeSet;

use super::devices::{Difference, Key};
use crate::control::engine::from_config::judges_all;
use crate::control::engine::port::{Blind, HostRequest, NatRules, NatView, Requirement};
use crate::control::engine::state::State;
use crate::net::Prefix;
use crate::route::Pool;

/// What does not work without the table.
const WITHOUT: &str = "packets of pods leave the cluster without this node's address (nat_outgoing)";

/// The rules that follow from the pools and peers of `state`, on a TUN with this name; `None` where nothing is
/// masqueraded. What the kernel sends to `outside`, destinations of other nodes in no pool, does not come to the TUN
/// and stays in the cluster all the same.
pub(in crate::control::engine) fn wanted(
    state: &State,
    outside: &BTreeSet<Prefix>,
    device: &str,
) -> Option<NatRules> {
    let pools = &state.config.pools;
    let mut pods = masqueraded(pools);
    if pods.is_empty() {
        return None;
    }
    let known = pools.iter().map(|pool| pool.cidr).chain(state.config.local_subnets.iter().copied());
    let known = known.chain(outside.iter().copied());
    let mut cluster = Prefix::aggregate(known);
    for is_ipv4 in [true, false] {
        let of_family = |prefix: &Prefix| prefix.is_ipv4() == is_ipv4;
        let none_outside = cluster.iter().any(|prefix| of_family(prefix) && prefix.is_default());
        if none_outside || !pods.iter().any(of_family) {
            pods.retain(|prefix| !of_family(prefix));
            cluster.retain(|prefix| !of_family(prefix));
        }
    }
    let of_peers = state.peers.iter().filter(|peer| !peer.is_gone()).map(|peer| peer.port);
    let tunnel_ports = of_peers.chain([state.config.vxlan.port]).collect();
    let by_tun = judges_all(&state.config);
    (!pods.is_empty()).then(|| NatRules { device: device.to_owned(), pods, cluster, tunnel_ports, by_tun })
}

/// The addresses whose longest pool has `nat_outgoing`.
fn masqueraded(pools: &[Pool]) -> BTreeSet<Prefix> {
    let mut pools: Vec<&Pool> = pools.iter().collect();
    pools.sort_unstable_by_key(|pool| pool.cidr.len());
    let mut found = BTreeSet::new();
    for pool in pools {
        // Those that are not shorter come later, so what has addresses in common with this one covers it.
        let around = pool.cidr.and_wider().find(|wider| found.contains(wider));
        match around {
            Some(around) if !pool.nat_outgoing => {
                found.remove(&around);
                found.extend(around.without(pool.cidr));
            }
            None if pool.nat_outgoing => {
                found.insert(pool.cidr);
            }
            _ => {}
        }
    }
    Prefix::aggregate(found)
}

/// What is not as `wanted`, where `table` was seen as `view`.
pub(super) fn difference(
    table: &str,
    wanted: Option<NatRules>,
    view: Option<&NatView>,
) -> Option<Difference> {
    let (requests, requirement) = match (wanted, view?) {
        (Some(rules), NatView::Rules(seen)) if rules == *seen => return None,
        (Some(rules), NatView::Unseen(blind)) => (Vec::new(), unseen(table, &rules, blind)),
        (Some(rules), _) => {
            let requirement = Requirement { what: WITHOUT.to_owned(), command: nft(table, &rules) };
            let request = HostRequest::Nat { table: table.to_owned(), rules: Some(rules) };
            (vec![request], requirement)
        }
        (None, view) if view.is_there() => {
            let requirement = Requirement {
                what: format!(
                    "packets of pods still leave the cluster with this node's address: the table {table}"
                ),
                command: format!("nft delete table inet {table}"),
            };
            (vec![HostRequest::Nat { table: table.to_owned(), rules: None }], requirement)
        }
        (None, _) => return None,
    };
    Some(Difference { key: Key::Nat, requests, requirement: Some(requirement) })
}

/// What an administrator is told where the table cannot be seen.
fn unseen(table: &str, rules: &NatRules, blind: &Blind) -> Requirement {
    let (why, command) = match blind {
        Blind::Denied => ("the daemon has no CAP_NET_ADMIN", nft(table, rules)),
        Blind::NoNftables => ("this kernel has no nf_tables", iptables(rules)),
        Blind::Nft(why) => (why.as_str(), nft(table, rules)),
    };
    Requirement { what: format!("{WITHOUT}: {why}"), command }
}

/// The command that makes a table of these rules.
fn nft(table: &str, rules: &NatRules) -> String {
    let (mut families, mut zones) = (String::new(), String::new());
    for (is_ipv4, family) in [(true, "ip"), (false, "ip6")] {
        let [pods, cluster] = [&rules.pods, &rules.cluster].map(|set| of_family(set, is_ipv4).join(", "));
        if !pods.is_empty() {
            let leaving = format!("{family} saddr {{ {pods} }} {family} daddr != {{ {cluster} }}");
            families += &format!("{leaving} masquerade; ");
            zones +=
                &format!("iifname \"{}\" {leaving} ct original zone set {}; ", rules.device, NatRules::ZONE);
        }
    }
    let ports: Vec<String> = rules.tunnel_ports.iter().map(ToString::to_string).collect();
    let again = format!(" chain prerouting {{ type filter hook prerouting priority raw; {zones}}};");
    let again = if rules.by_tun { again } else { String::new() };
    let tunnels = NatRules::TUNNELS.map(|protocol| protocol.to_string()).join(", ");
    format!(
        "nft 'table inet {table} {{ chain postrouting {{ type nat hook postrouting priority srcnat; \
         oifname \"{}\" return; meta l4proto {{ {tunnels} }} return; udp dport {{ {} }} return; {families}}};{again} }}'",
        rules.device,
        ports.join(", ")
    )
}

/// The command that does it for one pool on a kernel that has only the older iptables.
fn iptables(rules: &NatRules) -> String {
    let first = rules.pods.first();
    let program = if first.is_none_or(|prefix| prefix.is_ipv4()) { "iptables" } else { "ip6tables" };
    let pod = first.map_or_else(String::new, ToString::to_string);
    let around = rules.cluster.iter().find(|cluster| first.is_some_and(|pod| cluster.covers(*pod)));
    let cluster = around.map_or_else(|| pod.clone(), ToString::to_string);
    let leaving = format!("-s {pod} ! -d {cluster}");
    let device = &rules.device;
    let masquerade = format!("{program} -t nat -A POSTROUTING {leaving} ! -o {device} -j MASQUERADE");
    let zone = NatRules::ZONE;
    match rules.by_tun {
        true => format!(
            "{masquerade} && {program} -t raw -A PREROUTING -i {device} {leaving} -j CT --zone-orig {zone}"
        ),
        false => masquerade,
    }
}

fn of_family(set: &BTreeSet<Prefix>, is_ipv4: bool) -> Vec<String> {
    set.iter().filter(|prefix| prefix.is_ipv4() == is_ipv4).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
