//! The kernel routes that must point at the TUN, compared with the kernel's main table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::control::engine::port::{Found, Requirement, Table};
use crate::net::Prefix;

/// What is not as it should be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::control::engine) struct RouteDifferences {
    /// Routes to add: nothing is in their place.
    pub add: Vec<Prefix>,
    /// Routes of ours that must not be there any more.
    pub remove: Vec<Prefix>,
    /// Routes of others that take packets which are for the tunnel, by destination. They are never touched.
    pub foreign: Vec<(Prefix, Requirement)>,
}

/// The device and what must point at it.
#[derive(Clone, Copy, Debug)]
pub(in crate::control::engine) struct Wanted<'a> {
    /// Name of the TUN.
    pub device: &'a str,
    /// Its interface index.
    pub index: u32,
    /// What must point at it.
    pub cover: &'a BTreeSet<Prefix>,
    /// Its addresses, one of a family at most: the sources of what the host itself sends there.
    pub sources: &'a [IpAddr],
}

impl Wanted<'_> {
    /// The source of routes to `prefix`.
    pub(crate) fn source(&self, prefix: Prefix) -> Option<IpAddr> {
        self.sources.iter().copied().find(|source| source.is_ipv4() == prefix.is_ipv4())
    }

    /// Whether `route` is what points its destination at the TUN: ours as it should be, or an administrator's.
    fn is_met_by(&self, route: &Found) -> bool {
        let ours_of_before = route.is_ours(self.index) && route.source != self.source(route.prefix);
        route.device == Some(self.index) && !ours_of_before
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
    for prefix in wanted.cover {
        let there = table.of(*prefix);
        let in_place = there.iter().any(|route| wanted.is_met_by(route));
        if let Some(conflict) = table.conflict(*prefix, wanted.index).filter(|_| !in_place) {
            found.foreign.push(in_the_way(conflict, table));
        } else if !in_place {
            found.add.push(*prefix);
        } else if let Some(better) = there.first().filter(|route| route.device != Some(wanted.index)) {
            found.foreign.push(in_the_way(better, table));
        }
    }
    for route in table.routes() {
        if route.is_ours(wanted.index) {
            if !wanted.cover.contains(&route.prefix) {
                found.remove.push(route.prefix);
            }
        } else if is_more_precise(route, wanted, table) && matters(route) {
            found.foreign.push(in_the_way(route, table));
        }
    }
    found
}

/// What an administrator has to do so that `wanted` comes to be, where the daemon may not.
pub(in crate::control::engine) fn commands(wanted: Wanted<'_>, table: &Table) -> Vec<Requirement> {
    let missing = wanted.cover.iter().filter(|prefix| !table.leads(**prefix, wanted.index));
    let requirement = |prefix: &Prefix| {
        let (what, verb) = if table.has(*prefix) {
            (format!("packets for {prefix} do not reach the tunnel, another route takes them"), "replace")
        } else {
            (format!("packets for {prefix} do not reach the tunnel"), "add")
        };
        Requirement { what, command: format!("ip route {verb} {prefix} dev {}", wanted.device) }
    };
    missing.map(requirement).collect()
}

/// Whether a route of another device is the one in use for a part of what must point at the TUN.
fn is_more_precise(route: &Found, wanted: Wanted<'_>, table: &Table) -> bool {
    let inside = || route.prefix.and_wider().skip(1).any(|wider| wanted.cover.contains(&wider));
    route.device != Some(wanted.index)
        && !wanted.cover.contains(&route.prefix)
        && table.of(route.prefix).first() == Some(route)
        && inside()
}

fn in_the_way(route: &Found, table: &Table) -> (Prefix, Requirement) {
    let prefix = route.prefix;
    let device = route.device.and_then(|index| table.names.get(&index));
    let device = device.map_or_else(String::new, |name| format!(" dev {name}"));
    let what = format!(
        "packets for {prefix} do not reach the tunnel, another route takes them ({})",
        route.describe(&table.names)
    );
    (prefix, Requirement { what, command: format!("ip route del {prefix}{device} metric {}", route.metric) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{RouteDifferences, Wanted, commands, differences};
    use crate::control::engine::port::{Found, ROUTE_PROTOCOL, Table, default_metric};
    use crate::net::Prefix;

    const TUN: u32 = 7;
    const ETH: u32 = 2;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn cover(prefixes: &[&str]) -> BTreeSet<Prefix> {
        prefixes.iter().map(|text| prefix(text)).collect()
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

    fn compare(cover: &BTreeSet<Prefix>, table: &Table) -> RouteDifferences {
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
        assert_eq!(found.add, [prefix("172.16.2.0/24"), prefix("fd00::/48")]);
        assert_eq!(found.remove, [prefix("10.9.0.0/16")]);
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
            assert_eq!(found.add == [prefix("10.244.0.0/16")], renewed, "{source:?}");
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
            assert!(!found.add.contains(&found.foreign[0].0));
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
}
