//! The rules and the table that lead what local pods send and are sent into the TUN (ip-rule(8)): added, removed, read.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{
    RuleAction as Action, RuleAttribute, RuleFlags, RuleHeader, RuleMessage,
};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::netlink::{errno, failed, tolerate_gone};
use super::{Host, route};
use crate::control::engine::port::{
    Found, HostError, POD_TABLE, Packets, PodLook, PodRoute, PodRouting, PodRule, ROUTE_PROTOCOL, RuleAction,
};
use crate::net::Prefix;

impl Host {
    /// Adds a rule, or removes it. One that is there already is no error, nor is one that is gone.
    pub(super) async fn set_pod_rule(&self, rule: &PodRule, add: bool) -> Result<(), HostError> {
        let message = message(rule);
        if !add {
            let removed = self.handle.rule().del(message).execute().await;
            return tolerate_gone(removed, &format!("remove the rule {}", rule.priority));
        }
        let mut request = self.handle.rule().add();
        *request.message_mut() = message;
        tolerate_there(request.execute().await, &format!("add the rule {}", rule.priority))
    }

    /// The same of a route of the table.
    pub(super) async fn set_pod_route(&self, route: PodRoute, add: bool) -> Result<(), HostError> {
        let message = route_message(route);
        let what = format!("the default route in table {POD_TABLE}");
        if !add {
            return tolerate_gone(
                self.handle.route().del(message).execute().await,
                &format!("remove {what}"),
            );
        }
        tolerate_there(self.handle.route().add(message).execute().await, &format!("add {what}"))
    }

    /// The rules of ours and the table, as far as `look` says.
    pub(super) async fn pod_routing(&self, look: PodLook) -> Result<PodRouting, HostError> {
        let mut found = PodRouting::default();
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = self.handle.rule().get(version).execute().try_collect::<Vec<_>>().await;
            match rules {
                Ok(rules) => {
                    for (rule, attached) in rules.iter().filter_map(read) {
                        if let Packets::By(name) = &rule.packets
                            && attached
                            && name != "lo"
                        {
                            found.devices.push(name.clone());
                        }
                        found.rules.push(rule);
                    }
                }
                // A kernel without rules has none.
                Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(failed("list the rules", &error)),
            }
        }
        if look == PodLook::All || !found.rules.is_empty() {
            found.routes = pod_table().await?;
        }
        Ok(found)
    }
}

/// Everything in the table. The kernel leaves out all other ones, which may have a million routes.
async fn pod_table() -> Result<Vec<Found>, HostError> {
    let (mut connection, handle, _unsolicited) =
        rtnetlink::new_connection().map_err(|error| HostError::Connect(error.to_string()))?;
    // Without, a kernel sends all tables, and the rest is left out below.
    let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
    let serving = tokio::spawn(connection);
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.attributes.push(RouteAttribute::Table(POD_TABLE));
        match handle.route().get(query).execute().try_collect::<Vec<_>>().await {
            Ok(routes) => {
                let read = routes.iter().filter_map(route::parse);
                found.extend(read.filter(|(table, _)| *table == POD_TABLE).map(|(_, found)| found));
            }
            // There is no such table, or no such family.
            Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {}
            Err(error) => {
                return Err(failed(format!("list the routes of table {POD_TABLE}"), &error));
            }
        }
    }
    drop(handle);
    serving.abort();
    Ok(found)
}

/// The rule as the kernel is asked for it.
fn message(rule: &PodRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    match &rule.packets {
        Packets::All => {}
        Packets::By(name) => attributes.push(RuleAttribute::Iifname(name.clone())),
        Packets::From(prefix) => {
            message.header.src_len = prefix.len();
            attributes.push(RuleAttribute::Source(prefix.address()));
        }
        Packets::To(prefix) => {
            message.header.dst_len = prefix.len();
            attributes.push(RuleAttribute::Destination(prefix.address()));
        }
    }
    message.header.action = match rule.action {
        RuleAction::Goto(priority) => {
            attributes.push(RuleAttribute::Goto(priority));
            Action::Goto
        }
        RuleAction::Table(table) => {
            attributes.push(RuleAttribute::Table(table));
            Action::ToTable
        }
        RuleAction::MainWithoutGroup(group) => {
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            attributes.push(RuleAttribute::SuppressIfGroup(group));
            Action::ToTable
        }
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::Nothing => Action::Nop,
    };
    message
}

/// The rule in a message, if it is one of ours as we make them, and whether there is the interface that it is about.
fn read(message: &RuleMessage) -> Option<(PodRule, bool)> {
    let RuleHeader { family, src_len, dst_len, tos, table, action, flags } = &message.header;
    let (mut table, mut priority, mut ours) = (u32::from(*table), 0, false);
    let (mut packets, mut goto, mut group) = (Packets::All, None, None);
    let prefix = |address: &IpAddr, len: &u8| Prefix::containing(*address, *len);
    for attribute in &message.attributes {
        let one = match attribute {
            RuleAttribute::Iifname(name) => Packets::By(name.clone()),
            RuleAttribute::Source(address) => Packets::From(prefix(address, src_len)?),
            RuleAttribute::Destination(address) => Packets::To(prefix(address, dst_len)?),
            other => {
                match other {
                    RuleAttribute::Priority(own) => priority = *own,
                    RuleAttribute::Table(own) => table = *own,
                    RuleAttribute::Goto(own) => goto = Some(*own),
                    RuleAttribute::SuppressIfGroup(own) => group = Some(*own),
                    RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == ROUTE_PROTOCOL,
                    // What the kernel says where nothing is set.
                    RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Other(_) => {}
                    _ => return None,
                }
                continue;
            }
        };
        if packets != Packets::All {
            return None;
        }
        packets = one;
    }
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    let action = match (action, goto, group) {
        (Action::Goto, Some(priority), None) => RuleAction::Goto(priority),
        (Action::ToTable, None, None) => RuleAction::Table(table),
        (Action::ToTable, None, Some(group)) if table == main => RuleAction::MainWithoutGroup(group),
        (Action::Unreachable, None, None) => RuleAction::Unreachable,
        (Action::Nop, None, None) => RuleAction::Nothing,
        _ => return None,
    };
    let as_made = ours && *tos == 0 && !flags.contains(RuleFlags::Invert);
    let rule = PodRule { ipv4: *family == AddressFamily::Inet, priority, packets, action };
    as_made.then_some((rule, !flags.contains(RuleFlags::IifDetached)))
}

/// Whether a rule is one of ours.
pub(super) fn is_ours(rule: &RuleMessage) -> bool {
    read(rule).is_some()
}

fn route_message(route: PodRoute) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .table_id(POD_TABLE)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .priority(route.metric());
    let mut builder = match route.device {
        // IPv6 routes have no scope of their own.
        Some(index) => builder.output_interface(index).scope(if route.ipv4 {
            RouteScope::Link
        } else {
            RouteScope::Universe
        }),
        None => builder.kind(RouteType::Unreachable),
    };
    builder.get_mut().header.address_family =
        if route.ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    builder.build()
}

/// Passes success and the error that means "already there".
fn tolerate_there(result: Result<(), rtnetlink::Error>, action: &str) -> Result<(), HostError> {
    match result {
        Err(error) if errno(&error) != Some(libc::EEXIST) => Err(failed(action, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteProtocol;
    use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags};

    use super::{PodRule, is_ours, message, read, route, route_message};
    use crate::control::engine::port::{POD_TABLE, Packets, PodRoute, RuleAction};

    fn rules() -> Vec<PodRule> {
        let rule = |priority, packets, action| PodRule { ipv4: true, priority, packets, action };
        let prefix = "10.244.1.0/24".parse().unwrap();
        let six = PodRule {
            ipv4: false,
            ..rule(5172, Packets::From("fd00::/64".parse().unwrap()), RuleAction::Table(70_000))
        };
        vec![
            rule(5170, Packets::By("up0".to_owned()), RuleAction::Goto(5180)),
            rule(5172, Packets::From(prefix), RuleAction::Table(POD_TABLE)),
            rule(5173, Packets::To(prefix), RuleAction::Table(POD_TABLE)),
            rule(5180, Packets::All, RuleAction::Nothing),
            rule(32764, Packets::By("up0".to_owned()), RuleAction::MainWithoutGroup(117)),
            rule(32765, Packets::By("up0".to_owned()), RuleAction::Unreachable),
            six,
        ]
    }

    #[test]
    fn what_we_add_is_recognised_as_ours() {
        for rule in rules() {
            let mut message = message(&rule);
            message.attributes.push(RuleAttribute::SuppressPrefixLen(u32::MAX));
            assert_eq!(read(&message), Some((rule, true)));
        }
        for (ipv4, device) in [(true, Some(9)), (false, Some(9)), (true, None), (false, None)] {
            let own = PodRoute { ipv4, device };
            let (table, found) = route::parse(&route_message(own)).unwrap();
            assert!(table == POD_TABLE && own.is(&found), "{found:?}");
        }
    }

    #[test]
    fn rules_of_others_are_none_of_ours() {
        for rule in rules() {
            let made = message(&rule);
            let mut other = made.clone();
            other.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
            assert!(!is_ours(&other));
            other.attributes.push(RuleAttribute::Protocol(RouteProtocol::Static));
            assert!(!is_ours(&other));
            let mut narrow = made.clone();
            narrow.attributes.push(RuleAttribute::FwMark(1));
            assert!(!is_ours(&narrow));
            let mut inverted = made.clone();
            inverted.header.flags |= RuleFlags::Invert;
            assert!(!is_ours(&inverted));
            let mut two = made;
            two.attributes.push(RuleAttribute::Iifname("eth9".to_owned()));
            two.attributes.push(RuleAttribute::Iifname("eth8".to_owned()));
            assert!(!is_ours(&two));
        }
    }
}
