//! The kernel's main table as of one look: where packets go that need no rule of ours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{DIRECT_PROTOCOL, DirectRoute, HostError, OwnKind, ROUTE_PROTOCOL, default_metric};
use crate::net::Prefix;

/// A route as the kernel has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// Its destination.
    pub prefix: Prefix,
    /// Its metric; of several routes with one destination the smallest counts.
    pub metric: u32,
    /// Who put it there (`rt_protos`).
    pub protocol: u8,
    /// Interface index; `None` when it has several next hops, or none.
    pub device: Option<u32>,
    /// Source address of traffic that the host itself sends there.
    pub source: Option<IpAddr>,
    /// What becomes of packets, by its number (`rtm_type` of rtnetlink(7)).
    pub kind: u8,
}

impl Found {
    /// Whether the daemon put it there, into the device `tun`.
    pub fn is_ours(&self, tun: u32) -> bool {
        self.own_kind(tun) == Some(OwnKind::Tun)
    }

    /// What it is of what the daemon whose TUN is `tun` has put there; `None` for routes of others.
    pub fn own_kind(&self, tun: u32) -> Option<OwnKind> {
        match self.protocol {
            ROUTE_PROTOCOL if self.device == Some(tun) => Some(OwnKind::Tun),
            DIRECT_PROTOCOL => Some(OwnKind::Direct),
            _ => None,
        }
    }

    /// It in words, with the name of its device.
    pub fn describe(&self, names: &BTreeMap<u32, String>) -> String {
        let name = |index| names.get(&index).map_or("?", String::as_str);
        let way = match (self.kind, self.device) {
            (libc::RTN_UNICAST, Some(index)) => format!("dev {}", name(index)),
            (libc::RTN_UNICAST, None) => "over several next hops".to_owned(),
            // IPv6 has a device for the others, too, which no packet goes to.
            (libc::RTN_BLACKHOLE, _) => "a blackhole".to_owned(),
            (kind, _) => format!("of the type {}", kind_name(kind)),
        };
        format!("{way} proto {} metric {}", protocol_name(self.protocol), self.metric)
    }
}

/// The routes that matter: all, or those that overlap with some prefixes or lead into a device.
#[derive(Clone, Debug)]
pub enum Interest {
    /// Everything.
    All,
    /// What overlaps with these prefixes, sorted, none inside another; and all of our own.
    Overlapping(Arc<[Prefix]>),
}

impl Interest {
    /// What overlaps with `prefixes`.
    pub fn overlapping(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        Self::Overlapping(widest(prefixes).into())
    }

    /// Whether a route to `prefix` matters.
    pub fn has(&self, prefix: Prefix) -> bool {
        let Self::Overlapping(widest) = self else { return true };
        let next = widest.partition_point(|one| *one <= prefix);
        let before = next.checked_sub(1).and_then(|place| widest.get(place));
        before.is_some_and(|before| before.covers(prefix))
            || widest.get(next).is_some_and(|after| prefix.covers(*after))
    }
}

/// Those of `prefixes` that lie in no other one, sorted.
pub fn widest(prefixes: impl IntoIterator<Item = Prefix>) -> Vec<Prefix> {
    let mut sorted: Vec<Prefix> = prefixes.into_iter().collect();
    sorted.sort_unstable();
    let mut widest: Vec<Prefix> = Vec::new();
    for prefix in sorted {
        if widest.last().is_none_or(|last| !last.covers(prefix)) {
            widest.push(prefix);
        }
    }
    widest
}

/// The routes of the main table, by destination and metric.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Vec<Found>,
    /// Those of the metric of ours that lead to other hosts, by destination.
    to_hosts: BTreeMap<Prefix, DirectRoute>,
    /// Names of all interfaces.
    pub names: BTreeMap<u32, String>,
}

impl Table {
    /// The table of these routes.
    pub fn new(mut routes: Vec<Found>, names: BTreeMap<u32, String>) -> Self {
        routes.sort_by_key(|route| (route.prefix, route.metric));
        Self { routes, to_hosts: BTreeMap::new(), names }
    }

    /// The same with what is known of routes with [`default_metric`] to other hosts.
    #[must_use]
    pub fn with_hosts(mut self, routes: impl IntoIterator<Item = DirectRoute>) -> Self {
        self.to_hosts = routes.into_iter().map(|route| (route.prefix, route)).collect();
        self
    }

    /// The route of exactly `prefix` with the metric of ours, where it leads to other hosts.
    pub fn to_hosts(&self, prefix: Prefix) -> Option<&DirectRoute> {
        self.to_hosts.get(&prefix)
    }

    /// Whether packets for `wanted.prefix` take the hops of `wanted`, whoever says so.
    pub fn takes(&self, wanted: &DirectRoute) -> bool {
        let metric = default_metric(wanted.prefix);
        self.of(wanted.prefix).first().is_some_and(|first| first.metric == metric)
            && self.to_hosts(wanted.prefix).is_some_and(|there| there.hops == wanted.hops)
    }

    /// The name of an interface.
    pub fn name(&self, index: u32) -> &str {
        self.names.get(&index).map_or("?", String::as_str)
    }

    /// All routes, by destination and metric.
    pub fn routes(&self) -> &[Found] {
        &self.routes
    }

    /// The routes of exactly `prefix`, the one in use first.
    pub fn of(&self, prefix: Prefix) -> &[Found] {
        let begin = self.routes.partition_point(|route| route.prefix < prefix);
        let len = self.routes[begin..].partition_point(|route| route.prefix == prefix);
        &self.routes[begin..begin + len]
    }

    /// The route of the longest destination that covers `prefix`.
    pub fn covering(&self, prefix: Prefix) -> Option<&Found> {
        prefix.and_wider().find_map(|wider| self.of(wider).first())
    }

    /// Whether packets for `prefix` go into `device`, but for what has more precise routes.
    pub fn leads(&self, prefix: Prefix, device: u32) -> bool {
        self.covering(prefix).is_some_and(|found| found.device == Some(device))
    }

    /// Whether there is a route of exactly `prefix`.
    pub fn has(&self, prefix: Prefix) -> bool {
        !self.of(prefix).is_empty()
    }

    /// Why `found` keeps a route of ours into the device `tun` out.
    pub fn refusal(&self, found: &Found, tun: u32) -> HostError {
        let device = self.names.get(&tun).cloned().unwrap_or_default();
        HostError::RouteConflict { prefix: found.prefix, device, existing: found.describe(&self.names) }
    }

    /// The route that keeps one of ours to `prefix` out: of the same metric, somebody else's, into another device.
    pub fn conflict(&self, prefix: Prefix, tun: u32) -> Option<&Found> {
        let metric = default_metric(prefix);
        let others = |found: &&Found| found.device != Some(tun) && found.own_kind(tun).is_none();
        self.of(prefix).iter().filter(|found| found.metric == metric).find(others)
    }
}

fn kind_name(kind: u8) -> String {
    match kind {
        libc::RTN_UNREACHABLE => "unreachable".to_owned(),
        libc::RTN_PROHIBIT => "prohibit".to_owned(),
        libc::RTN_THROW => "throw".to_owned(),
        other => other.to_string(),
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "redirect".to_owned(),
        2 => "kernel".to_owned(),
        3 => "boot".to_owned(),
        4 => "static".to_owned(),
        9 => "ra".to_owned(),
        11 => "zebra".to_owned(),
        12 => "bird".to_owned(),
        16 => "dhcp".to_owned(),
        80 => "80 (calico)".to_owned(),
        186 => "bgp".to_owned(),
        188 => "ospf".to_owned(),
        ROUTE_PROTOCOL | DIRECT_PROTOCOL => format!("{protocol} (underpass)"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Found, Interest, ROUTE_PROTOCOL, Table, protocol_name};
    use crate::net::Prefix;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn found(text: &str, metric: u32, device: Option<u32>) -> Found {
        Found { prefix: prefix(text), metric, protocol: 4, device, source: None, kind: libc::RTN_UNICAST }
    }

    #[test]
    fn the_most_precise_route_with_the_best_metric_decides() {
        let table = Table::new(
            vec![
                found("0.0.0.0/0", 100, Some(2)),
                found("10.244.0.0/16", 50, Some(2)),
                found("10.244.0.0/16", 0, Some(7)),
                found("10.244.0.0/16", 20, Some(2)),
                found("10.9.0.0/16", 0, None),
                found("fd00::/8", 1024, Some(7)),
            ],
            BTreeMap::new(),
        );
        for (which, leads) in [
            ("10.244.0.0/16", true),
            ("10.244.2.0/24", true),
            ("10.0.0.0/8", false),
            ("10.9.1.0/24", false),
            ("fd00:1::/32", true),
            ("fe00::/8", false),
        ] {
            assert_eq!(table.leads(prefix(which), 7), leads, "{which}");
        }
        assert!(table.has(prefix("0.0.0.0/0")) && !table.has(prefix("10.244.2.0/24")));
        assert_eq!(table.conflict(prefix("10.244.0.0/16"), 7), None, "other metrics are no conflict");
        assert!(table.conflict(prefix("10.9.0.0/16"), 7).is_some());
        assert!(table.conflict(prefix("fd00::/8"), 8).is_some());
    }

    #[test]
    fn what_overlaps_matters() {
        let interest = Interest::overlapping(["10.244.0.0/16", "10.244.2.0/24", "172.16.0.0/24"].map(prefix));
        for (which, matters) in [
            ("10.244.0.0/16", true),
            ("10.244.255.7/32", true),
            ("10.0.0.0/8", true),
            ("0.0.0.0/0", true),
            ("10.245.0.0/16", false),
            ("172.16.1.0/24", false),
            ("172.16.0.0/16", true),
            ("fd00::/8", false),
        ] {
            assert_eq!(interest.has(prefix(which)), matters, "{which}");
            assert!(Interest::All.has(prefix(which)));
        }
        assert!(!Interest::overlapping([]).has(prefix("0.0.0.0/0")));
    }

    #[test]
    fn routes_in_words() {
        let names = BTreeMap::from([(2, "eth0".to_owned())]);
        let route = Found { protocol: 12, ..found("10.0.0.0/8", 5, Some(2)) };
        assert_eq!(route.describe(&names), "dev eth0 proto bird metric 5");
        assert_eq!(
            found("10.0.0.0/8", 0, None).describe(&names),
            "over several next hops proto static metric 0"
        );
        for (number, words) in [
            (6, "a blackhole proto static metric 0"),
            (7, "of the type unreachable proto static metric 0"),
            (8, "of the type prohibit proto static metric 0"),
            (9, "of the type throw proto static metric 0"),
            (3, "of the type 3 proto static metric 0"),
        ] {
            for device in [None, Some(2)] {
                let route = Found { kind: number, ..found("10.0.0.0/8", 0, device) };
                assert_eq!(route.describe(&names), words);
            }
        }
        assert_eq!(protocol_name(80), "80 (calico)");
        assert_eq!(protocol_name(ROUTE_PROTOCOL), "117 (underpass)");
    }
}
