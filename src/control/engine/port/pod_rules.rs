//! Policy routing (ip-rule(8)) that leads what local pods send and are sent into the TUN: rules, and a table of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Found;
use crate::net::Prefix;

/// Number of the table that leads everything into the TUN.
pub const POD_TABLE: u32 = 117;
/// Group of the TUN (`IFLA_GROUP`): routes into devices of this group are not for what came out of it.
pub const TUN_GROUP: u32 = 117;
/// Metric of the route that is in effect where the TUN is not: no other one comes after it.
pub const REFUSAL_METRIC: u32 = u32::MAX;

/// A rule of ours.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodRule {
    /// Whether it is about IPv4.
    pub ipv4: bool,
    /// Its priority: rules are asked from the smallest to the largest.
    pub priority: u32,
    /// Which packets it is about.
    pub packets: Packets,
    /// What becomes of them.
    pub action: RuleAction,
}

/// Which packets a rule is about.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Packets {
    /// All.
    All,
    /// Those that come in by the interface of this name; by `lo` those that this host sends.
    By(String),
    /// Those with a source in there.
    From(Prefix),
    /// Those with a destination in there.
    To(Prefix),
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RuleAction {
    /// Go on with the rules of this priority.
    Goto(u32),
    /// Look into this table.
    Table(u32),
    /// The main table, but for its routes into devices of this group.
    MainWithoutGroup(u32),
    /// There is no way, and the sender is told so.
    Unreachable,
    /// Nothing: a place to go on from.
    Nothing,
}

/// A default route of ours in [`POD_TABLE`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodRoute {
    /// Whether it is of IPv4.
    pub ipv4: bool,
    /// Where it leads: into the interface with this index, or nowhere, so that nothing passes where the TUN is down.
    pub device: Option<u32>,
}

/// What there is of both.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodRouting {
    /// The rules of our protocol.
    pub rules: Vec<PodRule>,
    /// The interfaces, but for `lo`, that there are and that these rules are about.
    pub devices: Vec<String>,
    /// Everything in the table.
    pub routes: Vec<Found>,
}

/// What of both is looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PodLook {
    /// Nothing.
    #[default]
    Away,
    /// The rules, and the table where there are any.
    Left,
    /// Both.
    All,
}

impl PodRule {
    /// What follows `ip`, in front of the verb `add` or `del`.
    pub fn command(&self, verb: &str) -> String {
        let family = if self.ipv4 { "" } else { "-6 " };
        let packets = match &self.packets {
            Packets::All => String::new(),
            Packets::By(name) => format!("iif {name} "),
            Packets::From(prefix) => format!("from {prefix} "),
            Packets::To(prefix) => format!("to {prefix} "),
        };
        let action = match self.action {
            RuleAction::Goto(priority) => format!("goto {priority}"),
            RuleAction::Table(table) => format!("lookup {table}"),
            RuleAction::MainWithoutGroup(group) => format!("lookup main suppress_ifgroup {group}"),
            RuleAction::Unreachable => "unreachable".to_owned(),
            RuleAction::Nothing => "nop".to_owned(),
        };
        format!(
            "ip {family}rule {verb} pref {} {packets}{action} protocol {}",
            self.priority,
            super::ROUTE_PROTOCOL
        )
    }
}

impl PodRoute {
    /// Its metric, as the kernel shows it.
    pub fn metric(&self) -> u32 {
        match (self.device, self.ipv4) {
            (None, _) => REFUSAL_METRIC,
            (Some(_), true) => 0,
            (Some(_), false) => 1024,
        }
    }

    /// Its destination.
    pub fn prefix(&self) -> Prefix {
        let any: IpAddr = if self.ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Prefix::host(any).and_wider().last().unwrap_or(Prefix::host(any))
    }

    /// Whether `found` is this route, as we make it.
    pub fn is(&self, found: &Found) -> bool {
        let kind = if self.device.is_some() { libc::RTN_UNICAST } else { libc::RTN_UNREACHABLE };
        found.prefix == self.prefix()
            && found.metric == self.metric()
            && found.protocol == super::ROUTE_PROTOCOL
            && found.kind == kind
            && self.device.is_none_or(|device| found.device == Some(device))
    }

    /// The same as a look would show it.
    pub fn as_found(&self) -> Found {
        Found {
            prefix: self.prefix(),
            metric: self.metric(),
            protocol: super::ROUTE_PROTOCOL,
            device: self.device,
            source: None,
            kind: if self.device.is_some() { libc::RTN_UNICAST } else { libc::RTN_UNREACHABLE },
        }
    }

    /// The command that adds it; `tun` is the name of the TUN.
    pub fn command(&self, verb: &str, tun: &str) -> String {
        let family = if self.ipv4 { "" } else { "-6 " };
        let route = match self.device {
            Some(_) => format!("default dev {tun}"),
            None => format!("unreachable default metric {REFUSAL_METRIC}"),
        };
        format!("ip {family}route {verb} {route} table {POD_TABLE} protocol {}", super::ROUTE_PROTOCOL)
    }
}

#[cfg(test)]
mod tests {
    use super::{Packets, PodRoute, PodRule, RuleAction};

    #[test]
    fn rules_and_routes_in_the_words_of_iproute2() {
        let rule = |ipv4, packets, action| PodRule { ipv4, priority: 5170, packets, action }.command("add");
        let from = Packets::From("10.244.1.0/24".parse().unwrap());
        let main = RuleAction::MainWithoutGroup(117);
        for (said, expected) in [
            (rule(true, from, RuleAction::Table(117)), "ip rule add pref 5170 from 10.244.1.0/24 lookup 117"),
            (
                rule(false, Packets::By("up0".to_owned()), main),
                "ip -6 rule add pref 5170 iif up0 lookup main suppress_ifgroup 117",
            ),
            (rule(true, Packets::All, RuleAction::Nothing), "ip rule add pref 5170 nop"),
        ] {
            assert_eq!(said, format!("{expected} protocol 117"));
        }
        let routes = [(true, Some(7)), (false, None)].map(|(ipv4, device)| PodRoute { ipv4, device });
        let said = routes.map(|route| route.command("add", "up0"));
        assert_eq!(said[0], "ip route add default dev up0 table 117 protocol 117");
        assert_eq!(said[1], "ip -6 route add unreachable default metric 4294967295 table 117 protocol 117");
        assert!(routes.iter().all(|route| route.is(&route.as_found())));
    }
}
