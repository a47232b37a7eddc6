//! The kernel routes of ours that must be there, compared with the kernel's main table.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::control::engine::leads::Lead;
use crate::control::engine::port::{Found, HostError, OwnKind, Requirement, Table};
use crate::net::Prefix;

/// What is not as it should be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::control::engine) struct RouteDifferences {
    /// Routes to add: nothing of others is in their place.
    pub add: Vec<(Prefix, Lead)>,
    /// Routes of ours that must not be there any more.
    pub remove: Vec<(Prefix, OwnKind)>,
    /// Routes of others that take packets which ours are for, by destination. They are never touched.
    pub foreign: Vec<(Prefix, Requirement)>,
}

/// The device and what must be there.
#[derive(Clone, Copy, Debug)]
pub(in crate::control::engine) struct Wanted<'a> {
    /// Name of the TUN.
    pub device: &'a str,
    /// Its interface index.
    pub index: u32,
    /// The routes.
    pub cover: &'a BTreeMap<Prefix, Lead>,
    /// The addresses of the TUN, one of a family at most: the sources of what the host itself sends there.
    pub sources: &'a [IpAddr],
}

impl Wanted<'_> {
    /// The source of routes into the TUN to `prefix`.
    pub(crate) fn source(&self, prefix: Prefix) -> Option<IpAddr> {
        self.sources.iter().copied().find(|source| source.is_ipv4() == prefix.is_ipv4())
    }

    /// Whether `found` leads packets where `lead` says: ours as it should be, or an administrator's.
    fn is_met_by(&self, found: &Found, lead: &Lead, table: &Table) -> bool {
        let kind = found.own_kind(self.index);
        match lead {
            Lead::Tun => {
                let ours_of_before = kind == Some(OwnKind::Tun) && found.source != self.source(found.prefix);
                found.device == Some(self.index) && !ours_of_before
            }
            Lead::Direct(wanted) => match kind {
                Some(OwnKind::Direct) => table.to_hosts(found.prefix) == Some(wanted),
                Some(OwnKind::Tun) => false,
                None => table.takes(wanted),
            },
        }
    }

    /// That the route `lead` to `prefix` is missing, and why.
    pub(crate) fn missing(
        &self,
        prefix: Prefix,
        lead: Option<&Lead>,
        table: &Table,
        why: &HostError,
    ) -> Requirement {
        Requirement {
            what: format!("{}: {why}", misled(prefix, lead)),
            command: format!("ip route add {}", self.words(prefix, lead, table)),
        }
    }

    /// What follows `ip route add`.
    fn words(&self, prefix: Prefix, lead: Option<&Lead>, table: &Table) -> String {
        match lead {
            Some(Lead::Direct(route)) => route.words(|index| table.name(index).to_owned()),
            _ => format!("{prefix} dev {}", self.device),
        }
    }
}

/// Compares `wanted` with `table`; `matters` says whether a route takes packets that
/// are for the tunnel.
pub(in crate::control::engine) fn differences(
    wanted: Wanted<'_>,
    table: &Table,
    matters: impl Fn(&Found) -> bool,
) -> RouteDifferences {
    let mut found = RouteDifferences::default();
    for (prefix, lead) in wanted.cover {
        let there = table.of(*prefix);
        let meets = |route: &Found| wanted.is_met_by(route, lead, table);
        let in_place = there.iter().any(meets);
        if let Some(conflict) = table.conflict(*prefix, wanted.index).filter(|_| !in_place) {
            found.foreign.push(in_the_way(conflict, Some(lead), table));
        } else if !in_place {
            found.add.push((*prefix, lead.clone()));
        } else if let Some(better) = there.first().filter(|route| !meets(route) && !wanted.owns(route)) {
            found.foreign.push(in_the_way(better, Some(lead), table));
        }
    }
    for route in table.routes() {
        if let Some(kind) = route.own_kind(wanted.index) {
            // One of the other kind is replaced by what is to be added.
            if wanted.cover.get(&route.prefix).is_none_or(|lead| lead.kind() != kind) {
                found.remove.push((route.prefix, kind));
            }
        } else if is_more_precise(route, wanted, table) && matters(route) {
            found.foreign.push(in_the_way(route, None, table));
        }
    }
    found
}

impl Wanted<'_> {
    fn owns(&self, route: &Found) -> bool {
        route.own_kind(self.index).is_some()
    }
}

/// What an administrator has to do so that `wanted` comes to be, where the daemon may not.
pub(in crate::control::engine) fn commands(wanted: Wanted<'_>, table: &Table) -> Vec<Requirement> {
    let missing = wanted.cover.iter().filter(|(prefix, lead)| match lead {
        Lead::Tun => !table.leads(**prefix, wanted.index),
        Lead::Direct(route) => !table.takes(route),
    });
    let requirement = |(prefix, lead): (&Prefix, &Lead)| {
        let (what, verb) = if table.has(*prefix) {
            (format!("{}, another route takes them", misled(*prefix, Some(lead))), "replace")
        } else {
            (misled(*prefix, Some(lead)), "add")
        };
        Requirement { what, command: format!("ip route {verb} {}", wanted.words(*prefix, Some(lead), table)) }
    };
    missing.map(requirement).collect()
}

/// That the kernel would not have a route to other nodes, so that the pump sends there.
pub(in crate::control::engine) fn by_the_pump(prefix: Prefix, why: &HostError) -> Requirement {
    Requirement {
        what: format!("packets for {prefix} go by the pump and not by the kernel: {why}"),
        command: format!("ip route get {}", prefix.address()),
    }
}

/// What does not work without a route.
fn misled(prefix: Prefix, lead: Option<&Lead>) -> String {
    match lead {
        Some(Lead::Direct(_)) => format!("packets for {prefix} are not sent to their node by the kernel"),
        _ => format!("packets for {prefix} do not reach the tunnel"),
    }
}

/// Whether a route of another device is the one in use for a part of what ours are for.
fn is_more_precise(route: &Found, wanted: Wanted<'_>, table: &Table) -> bool {
    let inside = || route.prefix.and_wider().skip(1).any(|wider| wanted.cover.contains_key(&wider));
    route.device != Some(wanted.index)
        && !wanted.cover.contains_key(&route.prefix)
        && table.of(route.prefix).first() == Some(route)
        && inside()
}

fn in_the_way(route: &Found, lead: Option<&Lead>, table: &Table) -> (Prefix, Requirement) {
    let prefix = route.prefix;
    let device = route.device.and_then(|index| table.names.get(&index));
    let device = device.map_or_else(String::new, |name| format!(" dev {name}"));
    let what =
        format!("{}, another route takes them ({})", misled(prefix, lead), route.describe(&table.names));
    (prefix, Requirement { what, command: format!("ip route del {prefix}{device} metric {}", route.metric) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Lead, RouteDifferences, Wanted, commands, differences};
    use crate::control::engine::port::{
        DIRECT_PROTOCOL, DirectRoute, FirstHop, Found, OwnKind, ROUTE_PROTOCOL, Table, default_metric,
    };
    use crate::net::Prefix;

    const TUN: u32 = 7;
    const ETH: u32 = 2;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn cover(prefixes: &[&str]) -> BTreeMap<Prefix, Lead> {
        prefixes.iter().map(|text| (prefix(text), Lead::Tun)).collect()
    }

    fn table(routes: &[(&str, Option<u32>, u8, u32)]) -> Table {
        let found = |(text, metric, protocol, device): &(&str, Option<u32>, u8, u32)| {
            let prefix = prefix(text);
            let metric = metric.unwrap_or(default_metric(prefix));
            Found {
                prefix,
                metric,
                protocol: *protocol,
                device: Some(*device),
                source: None,
                kind: libc::RTN_UNICAST,
            }
        };
        Table::new(routes.iter().map(found).collect(), [(ETH, "eth0".to_owned())].into())
    }

    fn compare(cover: &BTreeMap<Prefix, Lead>, table: &Table) -> RouteDifferences {
        let wanted = Wanted { device: "up0", index: TUN, cover, sources: &[] };
        differences(wanted, table, |found| {
            found.prefix.address() != "10.244.1.0".parse::<std::net::IpAddr>().unwrap()
        })
    }

    #[test]
    fn missing_routes_are_added_and_stale_ones_removed() {
        let cover = cover(&["10.244.0.0/16", "172.16.2.0/24", "fd00::/48"]);
        let ours = ROUTE_PROTOCOL;
        let table = table(&[("10.244.0.0/16", None, ours, TUN), ("10.9.0.0/16", None, ours, TUN)]);
        let found = compare(&cover, &table);
        assert_eq!(found.add, [prefix("172.16.2.0/24"), prefix("fd00::/48")].map(|to| (to, Lead::Tun)));
        assert_eq!(found.remove, [(prefix("10.9.0.0/16"), OwnKind::Tun)]);
        assert!(found.foreign.is_empty());
    }

    #[test]
    fn routes_of_a_former_run_are_renewed() {
        let cover = cover(&["10.244.0.0/16"]);
        let sources = ["10.244.1.0".parse().unwrap()];
        let wanted = Wanted { device: "up0", index: TUN, cover: &cover, sources: &sources };
        let mut left = table(&[("10.244.0.0/16", None, ROUTE_PROTOCOL, TUN)]).routes()[0];
        for (source, renewed) in [(None, true), (Some(sources[0]), false)] {
            left.source = source;
            let found = differences(wanted, &Table::new(vec![left], Default::default()), |_| true);
            assert_eq!(found.add == [(prefix("10.244.0.0/16"), Lead::Tun)], renewed, "{source:?}");
        }
    }

    #[test]
    fn what_an_administrator_led_into_the_tun_is_in_place() {
        let cover = cover(&["10.244.0.0/16"]);
        for metric in [None, Some(50)] {
            assert_eq!(
                compare(&cover, &table(&[("10.244.0.0/16", metric, 3, TUN)])),
                RouteDifferences::default()
            );
        }
        // Nor is a route of our protocol into another device one of ours.
        let other = table(&[("10.244.0.0/16", None, 3, TUN), ("10.9.0.0/16", None, ROUTE_PROTOCOL, ETH)]);
        assert_eq!(compare(&cover, &other), RouteDifferences::default());
    }

    #[test]
    fn routes_of_others_are_shown_and_never_touched() {
        let cover = cover(&["10.244.0.0/16", "fd00::/48"]);
        let ours = ("10.244.0.0/16", Some(20), ROUTE_PROTOCOL, TUN);
        for (routes, command) in [
            (&[("10.244.0.0/16", None, 4, ETH)][..], "ip route del 10.244.0.0/16 dev eth0 metric 0"),
            (&[("10.244.0.0/16", Some(5), 4, ETH), ours], "ip route del 10.244.0.0/16 dev eth0 metric 5"),
            (&[("10.244.2.0/24", None, 12, ETH), ours], "ip route del 10.244.2.0/24 dev eth0 metric 0"),
            (&[("fd00::/48", None, 4, ETH), ours], "ip route del fd00::/48 dev eth0 metric 1024"),
        ] {
            let found = compare(&cover, &table(routes));
            let said: Vec<_> = found.foreign.iter().map(|(_, one)| one.command.as_str()).collect();
            assert_eq!(said, [command], "{routes:?}");
            assert!(found.add.iter().all(|(to, _)| *to != found.foreign[0].0));
        }
        // Our own pods' subnet and worse routes are in nobody's way.
        let local = table(&[ours, ("10.244.1.0/24", None, 2, ETH), ("10.244.0.0/16", Some(50), 4, ETH)]);
        assert!(compare(&cover, &local).foreign.is_empty());
    }

    #[test]
    fn without_the_right_the_command_adds_or_replaces() {
        let cover = cover(&["10.244.0.0/16"]);
        let said = |routes: &[(&str, Option<u32>, u8, u32)]| {
            let wanted = Wanted { device: "up0", index: TUN, cover: &cover, sources: &[] };
            commands(wanted, &table(routes)).into_iter().map(|one| one.command).collect::<Vec<_>>()
        };
        let add = ["ip route add 10.244.0.0/16 dev up0"];
        assert_eq!(said(&[("10.244.0.0/16", None, 3, TUN), ("0.0.0.0/0", None, 3, ETH)]), [""; 0]);
        assert_eq!(said(&[("10.0.0.0/8", None, 3, TUN), ("10.244.1.0/24", None, 3, ETH)]), [""; 0]);
        assert_eq!(said(&[]), add);
        assert_eq!(said(&[("10.0.0.0/8", None, 3, ETH), ("0.0.0.0/0", None, 3, TUN)]), add);
        let replace = ["ip route replace 10.244.0.0/16 dev up0"];
        assert_eq!(said(&[("10.244.0.0/16", None, 3, ETH), ("0.0.0.0/0", None, 3, TUN)]), replace);
    }

    fn direct(text: &str, via: &str) -> DirectRoute {
        let hop = FirstHop { index: ETH, via: via.parse().unwrap(), onlink: false };
        DirectRoute::new(prefix(text), [hop], None, None)
    }

    #[test]
    fn routes_to_nodes_are_compared_by_where_they_lead() {
        let to = "10.244.2.0/24";
        let (wanted, other) = (direct(to, "192.0.2.2"), direct(to, "192.0.2.3"));
        let mut cover = cover(&["10.244.0.0/16"]);
        cover.insert(prefix(to), Lead::Direct(wanted.clone().into()));
        let add = (prefix(to), cover[&prefix(to)].clone());
        let pool = ("10.244.0.0/16", None, ROUTE_PROTOCOL, TUN);
        let with = |protocol, device, route: Option<&DirectRoute>| {
            table(&[pool, (to, None, protocol, device)]).with_hosts(route.cloned())
        };
        // None, another one of ours, and one into the TUN that is to go.
        for (table, remove) in [
            (table(&[pool]), vec![]),
            (with(DIRECT_PROTOCOL, ETH, Some(&other)), vec![]),
            (with(ROUTE_PROTOCOL, TUN, None), vec![(prefix(to), OwnKind::Tun)]),
        ] {
            let found = compare(&cover, &table);
            assert_eq!((&found.add[..], found.remove), (&[add.clone()][..], remove));
            assert!(found.foreign.is_empty());
        }
        // Ours, and an administrator's that leads there as well.
        for protocol in [DIRECT_PROTOCOL, 4] {
            assert_eq!(compare(&cover, &with(protocol, ETH, Some(&wanted))), RouteDifferences::default());
        }
        // One of others is in the way, and never touched.
        let found = compare(&cover, &with(4, ETH, Some(&other)));
        assert_eq!((found.add, found.remove), (vec![], vec![]));
        assert_eq!(found.foreign[0].1.command, "ip route del 10.244.2.0/24 dev eth0 metric 0");
        assert!(found.foreign[0].1.what.starts_with("packets for 10.244.2.0/24 are not sent to their node"));
        // What was left behind goes.
        cover.remove(&prefix(to));
        let found = compare(&cover, &with(DIRECT_PROTOCOL, ETH, Some(&wanted)));
        assert_eq!((found.add, found.remove), (vec![], vec![(prefix(to), OwnKind::Direct)]));
    }

    #[test]
    fn without_the_right_the_command_leads_to_the_node() {
        let to = "10.244.2.0/24";
        let wanted = direct(to, "192.0.2.2");
        let cover = BTreeMap::from([(prefix(to), Lead::Direct(wanted.clone().into()))]);
        let said = |table: &Table| {
            let wanted = Wanted { device: "up0", index: TUN, cover: &cover, sources: &[] };
            commands(wanted, table).into_iter().map(|one| one.command).collect::<Vec<_>>()
        };
        let pool = ("10.244.0.0/16", None, ROUTE_PROTOCOL, TUN);
        assert_eq!(said(&table(&[pool])), ["ip route add 10.244.2.0/24 via 192.0.2.2 dev eth0"]);
        let there = table(&[pool, (to, None, 3, ETH)]);
        assert_eq!(said(&there), ["ip route replace 10.244.2.0/24 via 192.0.2.2 dev eth0"]);
        assert_eq!(said(&there.with_hosts([wanted])), [""; 0]);
    }
}
