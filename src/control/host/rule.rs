//! Rules of policy routing (ip-rule(8)) that lead packets past the TUN, although the main table leads them into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::{Host, pod_rules};
use crate::control::engine::port::TunRoute;
use crate::net::Prefix;

/// The rules that every host has: the local table, the main one, and the default one.
const USUAL: [(u32, u8); 3] =
    [(0, libc::RT_TABLE_LOCAL), (32766, libc::RT_TABLE_MAIN), (32767, libc::RT_TABLE_DEFAULT)];

/// What rules of others there are in one family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Others {
    /// Whether there are any.
    any: bool,
    /// Whether some refuse packets.
    refuse: bool,
}

impl Host {
    /// The prefixes of `led`, routes of ours by `tun`, whose packets a rule leads elsewhere, and to which table. The
    /// kernel is asked with the source that our routes prefer, which is an address of the pods, and only where there
    /// are rules of others; those about marks and interfaces that packets come in by do not apply to such a question.
    pub(super) async fn ruled_away(&self, led: &[TunRoute], tun: u32) -> Vec<(Prefix, Option<u32>)> {
        let mut found = Vec::new();
        for ipv4 in [true, false] {
            let routes = led.iter().filter(|route| route.prefix.is_ipv4() == ipv4);
            let others =
                if routes.clone().next().is_some() { self.rules(ipv4).await } else { Others::default() };
            for route in routes.filter(|_| others.any) {
                let nowhere = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let source = route.source.unwrap_or(nowhere);
                let flags = RouteFlags::FibMatch | RouteFlags::LookupTable;
                let answer = self.ask(inside(route.prefix), source, flags).await;
                match answer.as_ref().map(|answer| past(answer, tun)) {
                    Some(None) => {}
                    Some(Some(table)) => found.push((route.prefix, Some(table))),
                    None if others.refuse => found.push((route.prefix, None)),
                    // No route at all is for the comparison of routes to find.
                    None => {}
                }
            }
        }
        found
    }

    async fn rules(&self, ipv4: bool) -> Others {
        let version = if ipv4 { IpVersion::V4 } else { IpVersion::V6 };
        let rules: Result<Vec<RuleMessage>, _> =
            self.handle.rule().get(version).execute().try_collect().await;
        others(&rules.unwrap_or_default())
    }
}

fn others(rules: &[RuleMessage]) -> Others {
    let mut others = Others::default();
    for rule in rules.iter().filter(|rule| !is_usual(rule) && !pod_rules::is_ours(rule)) {
        others.any = true;
        others.refuse |= matches!(
            rule.header.action,
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit
        );
    }
    others
}

fn is_usual(rule: &RuleMessage) -> bool {
    let priority = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    USUAL.contains(&(priority.unwrap_or(0), rule.header.table))
}

/// The table of a route that does not lead to the interface `tun` and is not of the main table, whose routes are
/// compared with ours anyway.
fn past(route: &RouteMessage, tun: u32) -> Option<u32> {
    let mut table = u32::from(route.header.table);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(device) if *device == tun => return None,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let usual = USUAL.iter().any(|(_, usual)| u32::from(*usual) == table);
    (!usual).then_some(table)
}

/// An address in `prefix` that a pod may have.
fn inside(prefix: Prefix) -> IpAddr {
    match prefix.address() {
        IpAddr::V4(address) if prefix.len() < 31 => Ipv4Addr::from_bits(address.to_bits() | 1).into(),
        IpAddr::V6(address) if prefix.len() < 127 => Ipv6Addr::from_bits(address.to_bits() | 1).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
    use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

    use super::{Others, inside, others, past};

    fn rule(priority: Option<u32>, table: u8, action: RuleAction) -> RuleMessage {
        let mut rule = RuleMessage::default();
        (rule.header.table, rule.header.action) = (table, action);
        rule.attributes.extend(priority.map(RuleAttribute::Priority));
        rule
    }

    #[test]
    fn the_rules_of_every_host_are_no_news() {
        let mut rules = [(None, 255), (Some(32766), 254), (Some(32767), 253)]
            .map(|(priority, table)| rule(priority, table, RuleAction::ToTable))
            .to_vec();
        assert_eq!(others(&rules), Others { any: false, refuse: false });
        rules.push(rule(Some(10), 100, RuleAction::ToTable));
        assert_eq!(others(&rules), Others { any: true, refuse: false });
        rules.push(rule(Some(11), 0, RuleAction::Unreachable));
        assert_eq!(others(&rules), Others { any: true, refuse: true });
    }

    #[test]
    fn the_table_that_takes_a_packet_is_told() {
        let route = |table: u8, attributes: &[RouteAttribute]| {
            let mut route = RouteMessage::default();
            route.header.table = table;
            route.attributes.extend_from_slice(attributes);
            route
        };
        for (table, attributes, expected) in [
            (100, vec![RouteAttribute::Oif(3)], Some(100)),
            (252, vec![RouteAttribute::Oif(3), RouteAttribute::Table(1000)], Some(1000)),
            (100, vec![RouteAttribute::Oif(7)], None),
            (254, vec![RouteAttribute::Oif(3)], None),
            (100, vec![], Some(100)),
        ] {
            assert_eq!(past(&route(table, &attributes), 7), expected, "{table} {attributes:?}");
        }
    }

    #[test]
    fn an_address_of_a_pod_is_asked_for() {
        for (prefix, address) in [
            ("10.244.0.0/16", "10.244.0.1"),
            ("10.9.9.9/32", "10.9.9.9"),
            ("10.9.9.8/31", "10.9.9.8"),
            ("fd00::/64", "fd00::1"),
            ("fd00::7/128", "fd00::7"),
        ] {
            assert_eq!(inside(prefix.parse().unwrap()).to_string(), address);
        }
    }
}
