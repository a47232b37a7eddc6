//! The routes that lead pools and peer subnets into the TUN.
//!
//! They live in the main table under a protocol number of our own, so that ours are told from
//! others' at any time, also after a crash. A route of the same prefix and metric that is not ours
//! is an error, never replaced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};

use super::error::{errno, tolerate_gone};
use super::{Host, HostError};
use crate::net::Prefix;

/// Our number in the kernel's route protocol field. Not used by the kernel, iproute2's
/// `rt_protos`, BIRD (12), FRR (11, 186 to 198), Open/R (99) or Calico (80).
pub const ROUTE_PROTOCOL: u8 = 117;

/// One route into the TUN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Source address of traffic that the host itself sends there; it must be a local address of
    /// the prefix's family.
    pub source: Option<IpAddr>,
    /// MTU of the route in bytes when smaller than the device's.
    pub mtu: Option<u32>,
}

impl Host {
    /// Adds `routes` to the main table, device `tun_index`. One that already leads into this
    /// device is taken over when it is ours and left alone when an administrator put it there.
    ///
    /// # Errors
    /// [`HostError::RouteConflict`] when the prefix is routed elsewhere with the same metric;
    /// [`HostError::Netlink`]. Routes added before the error stay until teardown.
    pub async fn add_routes(&self, tun_index: u32, routes: &[TunRoute]) -> Result<(), HostError> {
        for route in routes {
            match self.add_route(tun_index, route).await {
                // The kernel did not even look whether it is there already, so we do, for all.
                Err(error) if error.errno() == Some(libc::EPERM) => {
                    self.unless_denied(Err(error))?;
                    let prefixes: Vec<Prefix> = routes.iter().map(|route| route.prefix).collect();
                    let conflict = self.conflicts(tun_index, &prefixes).await.into_iter().next();
                    return conflict.map_or(Ok(()), |(_, conflict)| Err(conflict));
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Removes every route of our protocol on the device `tun_index`, as a former run may have left
    /// them on a persistent device. Returns how many there were.
    ///
    /// # Errors
    /// [`HostError::Netlink`]; a device or route that vanished meanwhile is none.
    pub async fn remove_stale_routes(&self, tun_index: u32) -> Result<usize, HostError> {
        let mut removed = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.routes(family).await?;
            let ours = routes.iter().filter(|route| route.is_ours(tun_index));
            let ours: Vec<_> = ours.map(|route| (route.prefix, route.metric)).collect();
            removed += ours.len();
            self.remove_many(tun_index, ours).await?;
        }
        Ok(removed)
    }

    async fn add_route(&self, tun_index: u32, route: &TunRoute) -> Result<(), HostError> {
        let message = message(tun_index, route);
        let added = self.handle.route().add(message.clone()).execute().await;
        match added {
            Ok(()) => Ok(()),
            Err(error) => match errno(&error) {
                Some(libc::EEXIST) => self.settle_existing(tun_index, route, message, &error).await,
                _ => Err(HostError::netlink(format!("add the route {}", route.prefix), &error)),
            },
        }
    }

    /// What to do about the route that stands in the way, as `refusal` says.
    async fn settle_existing(
        &self,
        tun_index: u32,
        route: &TunRoute,
        message: RouteMessage,
        refusal: &rtnetlink::Error,
    ) -> Result<(), HostError> {
        let routes = self.routes(message.header.address_family).await?;
        let metric = default_metric(route.prefix);
        let Some(found) = routes.iter().find(|r| r.prefix == route.prefix && r.metric == metric) else {
            return Err(HostError::netlink(format!("add the route {}", route.prefix), refusal));
        };
        if found.is_ours(tun_index) {
            let replaced = self.handle.route().add(message).replace().execute().await;
            return replaced
                .map_err(|e| HostError::netlink(format!("take over the route {}", route.prefix), &e));
        }
        if found.device == Some(tun_index) {
            let protocol = protocol_name(found.protocol);
            tracing::info!(prefix = %route.prefix, protocol, "route was already there and is kept");
            return Ok(());
        }
        Err(self.conflict(tun_index, found).await?)
    }

    pub(in crate::control) async fn conflict(
        &self,
        tun_index: u32,
        found: &Found,
    ) -> Result<HostError, HostError> {
        let links = self.links().await?;
        let name = |index| links.iter().find(|l| l.index == index).map_or("?", |l| l.name.as_str());
        let device = found.device.map_or("of several next hops", name);
        let existing =
            format!("dev {device} proto {} metric {}", protocol_name(found.protocol), found.metric);
        Ok(HostError::RouteConflict { prefix: found.prefix, device: name(tun_index).to_owned(), existing })
    }

    pub(in crate::control) async fn remove_route(
        &self,
        tun_index: u32,
        prefix: Prefix,
        metric: u32,
    ) -> Result<(), HostError> {
        let mut message = message(tun_index, &TunRoute { prefix, source: None, mtu: None });
        message.attributes.push(RouteAttribute::Priority(metric));
        let removed = self.handle.route().del(message).execute().await;
        tolerate_gone(removed, &format!("remove the route {prefix}"))
    }

    /// The main table of one family.
    pub(in crate::control) async fn routes(&self, family: AddressFamily) -> Result<Vec<Found>, HostError> {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let found =
            self.handle.route().get(query).execute().try_filter_map(async |m| Ok(Found::from_message(&m)));
        found.try_collect().await.map_err(|e| HostError::netlink("list the routes", &e))
    }
}

/// A route as the kernel has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::control) struct Found {
    pub(in crate::control) prefix: Prefix,
    pub(in crate::control) metric: u32,
    protocol: RouteProtocol,
    /// `None` when it has several next hops.
    pub(in crate::control) device: Option<u32>,
}

impl Found {
    /// `None` for routes of other tables and for what is no IP route.
    fn from_message(message: &RouteMessage) -> Option<Self> {
        let mut table = u32::from(message.header.table);
        let mut address: IpAddr = match message.header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let (mut metric, mut device) = (0, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Destination(RouteAddress::Inet(a)) => address = (*a).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(a)) => address = (*a).into(),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Oif(index) => device = Some(*index),
                _ => {}
            }
        }
        let prefix = Prefix::containing(address, message.header.destination_prefix_length)?;
        (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(Self {
            prefix,
            metric,
            protocol: message.header.protocol,
            device,
        })
    }

    fn is_ours(&self, tun_index: u32) -> bool {
        self.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) && self.device == Some(tun_index)
    }
}

pub(in crate::control) fn message(tun_index: u32, route: &TunRoute) -> RouteMessage {
    // IPv6 routes have no scope of their own; the kernel shows them as universe.
    let scope = if route.prefix.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(tun_index)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .scope(scope);
    let message = builder.get_mut();
    message.header.address_family = match route.prefix.address() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.prefix.len();
    message.attributes.push(RouteAttribute::Destination(route.prefix.address().into()));
    message.attributes.extend(route.source.map(|s| RouteAttribute::PrefSource(s.into())));
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    builder.build()
}

/// The metric the kernel gives a route that names none: 0 in IPv4, `IP6_RT_PRIO_USER` in IPv6.
pub fn default_metric(prefix: Prefix) -> u32 {
    if prefix.is_ipv4() { 0 } else { 1024 }
}

fn protocol_name(protocol: RouteProtocol) -> String {
    match protocol {
        RouteProtocol::Other(80) => "80 (calico)".to_owned(),
        RouteProtocol::Other(ROUTE_PROTOCOL) => format!("{ROUTE_PROTOCOL} (underpass)"),
        known => known.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};

    use super::{Found, ROUTE_PROTOCOL, TunRoute, message, protocol_name};
    use crate::net::Prefix;

    fn route(prefix: &str) -> TunRoute {
        TunRoute { prefix: prefix.parse().unwrap(), source: None, mtu: Some(1400) }
    }

    #[test]
    fn what_we_add_is_recognised_as_ours() {
        for prefix in ["10.244.0.0/16", "0.0.0.0/0", "fd00:10::/48"] {
            let found = Found::from_message(&message(9, &route(prefix))).unwrap();
            assert_eq!(found.prefix, prefix.parse::<Prefix>().unwrap());
            assert!(found.is_ours(9));
            assert!(!found.is_ours(8));
        }
    }

    #[test]
    fn other_tables_families_and_impossible_lengths_are_passed_over() {
        let mut other_table = message(9, &route("10.244.0.0/16"));
        other_table.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(Found::from_message(&other_table), None);
        assert_eq!(Found::from_message(&RouteMessage::default()), None);
        let mut too_long = message(9, &route("10.244.0.0/16"));
        too_long.header.destination_prefix_length = 200;
        assert_eq!(Found::from_message(&too_long), None);
        too_long.header.address_family = AddressFamily::Mpls;
        assert_eq!(Found::from_message(&too_long), None);
    }

    #[test]
    fn protocols_have_names() {
        assert_eq!(protocol_name(RouteProtocol::Bird), "bird");
        assert_eq!(protocol_name(RouteProtocol::from(80)), "80 (calico)");
        assert_eq!(protocol_name(RouteProtocol::from(ROUTE_PROTOCOL)), "117 (underpass)");
    }
}
