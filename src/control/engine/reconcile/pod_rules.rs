//! The policy routing that leads what local pods send and are sent into the TUN, compared with what there is.
//!
//! ```text
//! 5170   iif TUN goto 5180                           what the pump gave back is no pod's any more
//! 5171   iif lo  goto 5180                           what the node itself sends is not judged
//! 5172   from SUBNET lookup 117                      what pods send            ─▶ default dev TUN
//! 5173   to SUBNET lookup 117                        what they are sent          unreachable default
//! 5180   nop                                         from here on as without us
//! 32764  iif TUN lookup main suppress_ifgroup 117    what would go back into the TUN
//! 32765  iif TUN unreachable                         ends here: there is no such pod
//! ```
//!
//! The rules of others, behind 5180, hold for what the pump gave back as they do without ours.

use std::collections::BTreeSet;

use super::devices::{Difference, Key};
use crate::config::Config;
use crate::control::engine::from_config::judges_all;
use crate::control::engine::port::{
    DeviceView, Found, HostRequest, LinkChange, POD_TABLE, Packets, PodRoute, PodRouting, PodRule,
    Requirement, RuleAction, TUN_GROUP,
};

const FROM_TUN: u32 = 5170;
const FROM_NODE: u32 = 5171;
const FROM_PODS: u32 = 5172;
const TO_PODS: u32 = 5173;
const BEHIND: u32 = 5180;
const NOT_BACK: u32 = 32764;
const NO_SUCH_POD: u32 = 32765;

/// What there should be.
#[derive(Debug, Default)]
struct Wanted {
    /// What keeps packets from going round, in the order in which it is made.
    guards: Vec<PodRule>,
    /// What leads packets into the TUN.
    leads: Vec<PodRule>,
    routes: Vec<PodRoute>,
}

/// What follows from `config` on the TUN `tun`.
fn wanted(config: &Config, tun: &DeviceView) -> Wanted {
    let mut wanted = Wanted::default();
    if !judges_all(config) {
        return wanted;
    }
    for ipv4 in [true, false] {
        let subnets = config.local_subnets.iter().filter(|subnet| subnet.is_ipv4() == ipv4);
        let rule = |priority, packets, action| PodRule { ipv4, priority, packets, action };
        let leads = subnets.flat_map(|subnet| {
            let table = RuleAction::Table(POD_TABLE);
            [rule(FROM_PODS, Packets::From(*subnet), table), rule(TO_PODS, Packets::To(*subnet), table)]
        });
        let leads: Vec<PodRule> = leads.collect();
        if leads.is_empty() {
            continue;
        }
        wanted.leads.extend(leads);
        let by_tun = || Packets::By(tun.link.name.clone());
        wanted.guards.extend([
            rule(BEHIND, Packets::All, RuleAction::Nothing),
            rule(NOT_BACK, by_tun(), RuleAction::MainWithoutGroup(TUN_GROUP)),
            rule(NO_SUCH_POD, by_tun(), RuleAction::Unreachable),
            rule(FROM_TUN, by_tun(), RuleAction::Goto(BEHIND)),
            rule(FROM_NODE, Packets::By("lo".to_owned()), RuleAction::Goto(BEHIND)),
        ]);
        let refuses = config.policy.as_ref().is_none_or(|policy| !policy.fail_open);
        let devices = [Some(Some(tun.link.index)), refuses.then_some(None)];
        wanted.routes.extend(devices.into_iter().flatten().map(|device| PodRoute { ipv4, device }));
    }
    wanted
}

/// What is not as it follows from `config`, in the order in which it is mended. `may` says whether there is the right
/// to: what leads packets into the TUN then waits for what keeps them from going round.
pub(super) fn differences(
    config: &Config,
    tun: &DeviceView,
    seen: &PodRouting,
    may: bool,
) -> Vec<Difference> {
    let Wanted { guards, leads, routes } = wanted(config, tun);
    let (name, index) = (&tun.link.name, tun.link.index);
    if let Some(other) = seen.devices.iter().find(|device| *device != name) {
        return if guards.is_empty() { Vec::new() } else { vec![taken(other)] };
    }
    let mut found = Vec::new();
    if !guards.is_empty() && tun.link.group != TUN_GROUP {
        let change = LinkChange::Group(TUN_GROUP);
        found.push(Difference {
            key: Key::Group,
            requests: vec![HostRequest::Link { index, name: name.clone(), change }],
            requirement: Some(Requirement {
                what: format!("{name} is not in the group {TUN_GROUP}: {ROUND}"),
                command: format!("ip link set dev {name} group {TUN_GROUP}"),
            }),
        });
    }
    let strange = seen.routes.iter().find(|found| !routes.is_empty() && !own_route(found).is(found));
    if let Some(route) = strange {
        found.push(foreign(route));
    }
    let missing = routes.iter().filter(|route| !seen.routes.iter().any(|one| route.is(one)));
    // There is no route into a device that is down.
    let missing = missing.filter(|route| tun.link.up || route.device.is_none() || !may);
    found.extend(missing.map(|route| add_route(*route, name)));
    let lacks = |rule: &&PodRule| !seen.rules.contains(rule);
    let guarded = !guards.iter().any(|guard| lacks(&guard)) && tun.link.group == TUN_GROUP;
    found.extend(guards.iter().filter(lacks).map(|rule| add_rule(rule, ROUND.to_owned())));
    // A table that others use may lead anywhere.
    let leads_may = !may || guarded && strange.is_none();
    let missing = leads.iter().filter(lacks).filter(|_| leads_may);
    found.extend(missing.map(|rule| add_rule(rule, unjudged(rule))));
    let kept: BTreeSet<&PodRule> = guards.iter().chain(&leads).collect();
    let (led, others): (Vec<&PodRule>, Vec<&PodRule>) = seen
        .rules
        .iter()
        .filter(|rule| !kept.contains(rule))
        .partition(|rule| matches!(rule.action, RuleAction::Table(_)));
    found.extend(led.into_iter().chain(others).map(remove_rule));
    let old = own_routes(seen).filter(|own| !routes.contains(own));
    found.extend(old.map(|route| remove_route(route, name)));
    found
}

/// What takes back everything of ours, in this order.
pub(super) fn removal(seen: &PodRouting) -> Vec<HostRequest> {
    let (led, others): (Vec<_>, Vec<_>) =
        seen.rules.iter().partition(|rule| matches!(rule.action, RuleAction::Table(_)));
    let rules = led.into_iter().chain(others);
    let rules = rules.map(|rule| HostRequest::PodRule { rule: rule.clone(), add: false });
    rules.chain(own_routes(seen).map(|route| HostRequest::PodRoute { route, add: false })).collect()
}

/// Brings `seen` up to date with a request that was executed.
pub(super) fn done(seen: &mut PodRouting, request: &HostRequest) {
    match request {
        HostRequest::PodRule { rule, add } => {
            seen.rules.retain(|one| one != rule);
            seen.rules.extend(add.then(|| rule.clone()));
        }
        HostRequest::PodRoute { route, add } => {
            seen.routes.retain(|one| !route.is(one));
            seen.routes.extend(add.then(|| route.as_found()));
        }
        _ => {}
    }
}

/// The routes that this daemon makes, as far as they are there.
fn own_routes(seen: &PodRouting) -> impl Iterator<Item = PodRoute> + '_ {
    let both = seen.routes.iter().map(|found| (own_route(found), found));
    both.filter(|(own, found)| own.is(found)).map(|(own, _)| own)
}

/// The route of ours that `found` may be.
fn own_route(found: &Found) -> PodRoute {
    let device = found.device.filter(|_| found.kind == libc::RTN_UNICAST);
    PodRoute { ipv4: found.prefix.is_ipv4(), device }
}

const ROUND: &str = "what it gives back of local pods may come to it again";

/// What does not work without a rule that leads packets into the TUN.
fn unjudged(rule: &PodRule) -> String {
    match &rule.packets {
        Packets::From(subnet) => {
            format!("what pods in {subnet} send on this node and to the outside is not judged")
        }
        Packets::To(subnet) => format!("what comes for pods in {subnet} from the outside is not judged"),
        Packets::All | Packets::By(_) => ROUND.to_owned(),
    }
}

fn add_rule(rule: &PodRule, what: String) -> Difference {
    let prefix = match rule.packets {
        Packets::From(prefix) | Packets::To(prefix) => Some(prefix),
        Packets::All | Packets::By(_) => None,
    };
    Difference {
        key: Key::PodRule { leads: prefix.is_some(), ipv4: rule.ipv4, priority: rule.priority, prefix },
        requests: vec![HostRequest::PodRule { rule: rule.clone(), add: true }],
        requirement: Some(Requirement { what, command: rule.command("add") }),
    }
}

fn remove_rule(rule: &PodRule) -> Difference {
    let prefix = match rule.packets {
        Packets::From(prefix) | Packets::To(prefix) => Some(prefix),
        Packets::All | Packets::By(_) => None,
    };
    Difference {
        key: Key::OldPodRule { guards: prefix.is_none(), ipv4: rule.ipv4, priority: rule.priority, prefix },
        requests: vec![HostRequest::PodRule { rule: rule.clone(), add: false }],
        requirement: Some(Requirement {
            what: "a rule is left that leads packets of pods into a TUN".to_owned(),
            command: rule.command("del"),
        }),
    }
}

fn add_route(route: PodRoute, tun: &str) -> Difference {
    let what = match route.device {
        Some(_) => {
            format!("table {POD_TABLE} does not lead to {tun}: what is to be judged there goes nowhere")
        }
        None => format!("what pods send passes unjudged while {tun} is down"),
    };
    Difference {
        key: Key::PodRoute { ipv4: route.ipv4, refuses: route.device.is_none() },
        requests: vec![HostRequest::PodRoute { route, add: true }],
        requirement: Some(Requirement { what, command: route.command("add", tun) }),
    }
}

fn remove_route(route: PodRoute, tun: &str) -> Difference {
    Difference {
        key: Key::PodRoute { ipv4: route.ipv4, refuses: route.device.is_none() },
        requests: vec![HostRequest::PodRoute { route, add: false }],
        requirement: Some(Requirement {
            what: format!("a route is left in table {POD_TABLE}"),
            command: route.command("del", tun),
        }),
    }
}

/// That another daemon of this host does the same.
fn taken(device: &str) -> Difference {
    Difference {
        key: Key::PodTable,
        requests: Vec::new(),
        requirement: Some(Requirement {
            what: format!(
                "packets of local pods are led into {device}, the TUN of another daemon: here they are not judged"
            ),
            command: "ip rule show protocol 117".to_owned(),
        }),
    }
}

/// That the table is used by others, whose routes are not touched.
fn foreign(route: &Found) -> Difference {
    let family = if route.prefix.is_ipv4() { "" } else { "-6 " };
    Difference {
        key: Key::PodTable,
        requests: Vec::new(),
        requirement: Some(Requirement {
            what: format!(
                "table {POD_TABLE}, which is to lead packets of local pods into the TUN, has a route of others to {}: \
                 they are not judged while it is there",
                route.prefix
            ),
            command: format!(
                "ip {family}route del {} table {POD_TABLE} metric {}",
                route.prefix, route.metric
            ),
        }),
    }
}

#[cfg(test)]
mod tests;
