//! The routes of ours, and reading the main table.
//!
//! They live in the main table under protocol numbers of our own, so that ours are told from
//! others' at any time, also after a crash. A route of the same prefix and metric that is not ours
//! is an error, never replaced. Requests are under way together, so that the kernel is never waited for one
//! by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt, stream};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};

use super::netlink::{errno, failed, tolerate_gone};
use super::{Host, direct_route};
use crate::control::engine::Failure;
use crate::control::engine::port::{
    DIRECT_PROTOCOL, DirectRoute, Found, HostError, Interest, Link, OwnKind, OwnRoute, ROUTE_PROTOCOL, Table,
    TunRoute, default_metric,
};
use crate::net::Prefix;

/// The main table.
pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Requests under way together.
const TOGETHER: usize = 64;

impl Host {
    /// Adds routes, those for the TUN into the device `index`. Those that are there already are taken over when they
    /// are ours and kept when they lead there anyway. Returns what was refused.
    pub(super) async fn add_routes(&self, index: u32, routes: Vec<OwnRoute>) -> Vec<Failure> {
        let add = |route: OwnRoute| {
            let request = self.handle.route().add(own_message(index, &route));
            async move { (route, request.execute().await) }
        };
        let answers = stream::iter(routes.into_iter().map(add)).buffer_unordered(TOGETHER);
        let failures: Vec<(OwnRoute, rtnetlink::Error)> =
            answers.filter_map(async |(route, done)| Some((route, done.err()?))).collect().await;
        let (existing, other): (Vec<_>, Vec<_>) =
            failures.into_iter().partition(|(_, error)| errno(error) == Some(libc::EEXIST));
        let mut refused: Vec<Failure> = other
            .into_iter()
            .map(|(route, error)| {
                let prefix = route.prefix();
                failure(prefix, failed(format!("add the route {prefix}"), &error))
            })
            .collect();
        if !existing.is_empty() {
            refused.extend(self.settle_existing(index, &existing).await);
        }
        refused
    }

    /// What to do about routes that stand in the way: ours are replaced, as their source may be another
    /// one; those of others are an error.
    async fn settle_existing(&self, index: u32, routes: &[(OwnRoute, rtnetlink::Error)]) -> Vec<Failure> {
        let interest = Interest::overlapping(routes.iter().map(|(route, _)| route.prefix()));
        let table = async { self.table(&interest, self.links().await?).await };
        let table = match table.await {
            Ok(table) => table,
            Err(error) => {
                return routes.iter().map(|(route, _)| failure(route.prefix(), error.clone())).collect();
            }
        };
        let mut refused = Vec::new();
        for (route, error) in routes {
            let prefix = route.prefix();
            let found = table.of(prefix).iter().find(|found| found.metric == default_metric(prefix));
            match found {
                Some(found) if found.own_kind(index).is_some() => {
                    let replaced =
                        self.handle.route().add(own_message(index, route)).replace().execute().await;
                    if let Err(error) = replaced {
                        let action = format!("take over the route {prefix}");
                        refused.push(failure(prefix, failed(action, &error)));
                    }
                }
                Some(found) if leads_there(index, route, found, &table) => {
                    tracing::info!(%prefix, "route was already there and is kept");
                }
                Some(found) => refused.push(failure(prefix, table.refusal(found, index))),
                None => refused.push(failure(prefix, failed(format!("add the route {prefix}"), error))),
            }
        }
        refused
    }

    /// Removes routes of ours, those of the TUN into the device `index`; those that are gone already are no error.
    pub(super) async fn remove_routes(
        &self,
        index: u32,
        routes: impl IntoIterator<Item = (Prefix, OwnKind)>,
    ) -> Vec<Failure> {
        let remove = |(prefix, kind): (Prefix, OwnKind)| async move {
            let message = match kind {
                OwnKind::Tun => {
                    let mut message = message(index, &TunRoute { prefix, source: None });
                    message.attributes.push(RouteAttribute::Priority(default_metric(prefix)));
                    message
                }
                OwnKind::Direct => direct_route::removal(prefix),
            };
            let removed = self.handle.route().del(message).execute().await;
            tolerate_gone(removed, &format!("remove the route {prefix}"))
                .err()
                .map(|error| failure(prefix, error))
        };
        let removals = stream::iter(routes.into_iter().map(remove)).buffer_unordered(TOGETHER);
        removals.filter_map(std::future::ready).collect().await
    }

    /// Removes every route of ours; those into the device `index`, if it is still called `name`.
    pub(super) async fn flush_routes(&self, index: u32, name: &str) -> Result<(), HostError> {
        let there = self.link_by_name(name).await?.is_some_and(|link| link.index == index);
        let table = self.main_table(&Interest::All).await?.0;
        let own = |route: &Found| Some((route.prefix, route.own_kind(index)?));
        let ours = table.iter().filter_map(own).filter(|(_, kind)| there || *kind == OwnKind::Direct);
        let refused = self.remove_routes(index, ours.collect::<Vec<_>>()).await;
        refused.into_iter().next().map_or(Ok(()), |failure| Err(failure.error))
    }

    /// The routes of the main table that matter, with the names of `links`, which are all interfaces.
    pub(super) async fn table(&self, interest: &Interest, links: Vec<Link>) -> Result<Table, HostError> {
        let names = links.into_iter().map(|link| (link.index, link.name)).collect();
        let (routes, to_hosts) = self.main_table(interest).await?;
        Ok(Table::new(routes, names).with_hosts(to_hosts))
    }

    /// The routes of the main table that matter, and all of our protocols; and where those lead that may be like ours.
    async fn main_table(&self, interest: &Interest) -> Result<(Vec<Found>, Vec<DirectRoute>), HostError> {
        // A connection keeps room for the longest answer it ever had, so this one ends with its answers. Where
        // there can be none, for want of descriptors, memory is the smaller trouble.
        let dump = Self::connect().unwrap_or_else(|_| self.clone());
        let (mut all, mut to_hosts) = (Vec::new(), Vec::new());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let mut answers = std::pin::pin!(dump.handle.route().get(query).execute());
            while let Some(message) =
                answers.try_next().await.map_err(|error| failed("list the routes", &error))?
            {
                let ours = |one: &Found| [ROUTE_PROTOCOL, DIRECT_PROTOCOL].contains(&one.protocol);
                let found = found(&message).filter(|one| ours(one) || interest.has(one.prefix));
                to_hosts.extend(found.and_then(|one| direct_route::read(&one, &message)));
                all.extend(found);
            }
        }
        Ok((all, to_hosts))
    }
}

fn failure(prefix: Prefix, error: HostError) -> Failure {
    Failure { route: Some(prefix), error }
}

/// A route of the main table; `None` for those of other tables and for what is no IP route.
pub(super) fn found(message: &RouteMessage) -> Option<Found> {
    parse(message).filter(|(table, _)| *table == MAIN).map(|(_, found)| found)
}

/// The table of a route, and the route; `None` for what is no IP route.
pub(super) fn parse(message: &RouteMessage) -> Option<(u32, Found)> {
    let mut table = u32::from(message.header.table);
    let mut address: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut metric, mut device, mut source) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(RouteAddress::Inet(a)) => address = (*a).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(a)) => address = (*a).into(),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::PrefSource(RouteAddress::Inet(a)) => source = Some((*a).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(a)) => source = Some((*a).into()),
            _ => {}
        }
    }
    let prefix = Prefix::containing(address, message.header.destination_prefix_length)?;
    let protocol = message.header.protocol.into();
    let kind = message.header.kind.into();
    Some((table, Found { prefix, metric, protocol, device, source, kind }))
}

/// Whether `found`, a route of others, leads where `route` does.
fn leads_there(index: u32, route: &OwnRoute, found: &Found, table: &Table) -> bool {
    match route {
        OwnRoute::Tun(_) => found.device == Some(index),
        OwnRoute::Direct(route) => table.takes(route),
    }
}

fn own_message(index: u32, route: &OwnRoute) -> RouteMessage {
    match route {
        OwnRoute::Tun(route) => message(index, route),
        OwnRoute::Direct(route) => direct_route::message(route),
    }
}

/// The route into the TUN as the kernel is asked for it.
pub(super) fn message(index: u32, route: &TunRoute) -> RouteMessage {
    // IPv6 routes have no scope of their own; the kernel shows them as universe.
    let scope = if route.prefix.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .scope(scope);
    let message = builder.get_mut();
    message.header.address_family = match route.prefix.address() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.prefix.len();
    message.attributes.push(RouteAttribute::Destination(route.prefix.address().into()));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    builder.build()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

    use super::{TunRoute, found, message};
    use crate::net::Prefix;

    fn route(prefix: &str) -> TunRoute {
        TunRoute { prefix: prefix.parse().unwrap(), source: None }
    }

    #[test]
    fn what_we_add_is_recognised_as_ours() {
        for prefix in ["10.244.0.0/16", "0.0.0.0/0", "fd00:10::/48"] {
            let found = found(&message(9, &route(prefix))).unwrap();
            assert_eq!(found.prefix, prefix.parse::<Prefix>().unwrap());
            assert!(found.is_ours(9));
            assert!(!found.is_ours(8));
        }
    }

    #[test]
    fn other_tables_families_and_impossible_lengths_are_passed_over() {
        let mut other_table = message(9, &route("10.244.0.0/16"));
        other_table.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(found(&other_table), None);
        assert_eq!(found(&RouteMessage::default()), None);
        let mut too_long = message(9, &route("10.244.0.0/16"));
        too_long.header.destination_prefix_length = 200;
        assert_eq!(found(&too_long), None);
        too_long.header.address_family = AddressFamily::Mpls;
        assert_eq!(found(&too_long), None);
    }
}
