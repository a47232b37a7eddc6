//! Routes by which the kernel sends bare packets to other nodes, as rtnetlink has them.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::control::engine::port::{
    DIRECT_PROTOCOL, DirectRoute, FirstHop, Found, WeightedHop, default_metric,
};
use crate::net::Prefix;

/// The route as the kernel is asked for it.
pub(super) fn message(route: &DirectRoute) -> RouteMessage {
    let mut message = removal(route.prefix);
    message.header.scope = RouteScope::Universe;
    let ipv4 = route.prefix.is_ipv4();
    match &route.hops[..] {
        [WeightedHop { hop, .. }] => {
            if hop.onlink {
                message.header.flags |= RouteFlags::Onlink;
            }
            message.attributes.extend([gateway(hop.via, ipv4), RouteAttribute::Oif(hop.index)]);
        }
        several => {
            let hops = several.iter().map(|hop| next_hop(*hop, ipv4)).collect();
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
    }
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

/// What names the route of ours to `prefix`, by whatever hops.
pub(super) fn removal(prefix: Prefix) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match prefix.address() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = prefix.len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(DIRECT_PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Destination(prefix.address().into()));
    message.attributes.push(RouteAttribute::Priority(default_metric(prefix)));
    message
}

/// Where the unicast route `found` leads, where it has the metric of ours and leads to other hosts.
pub(super) fn read(found: &Found, message: &RouteMessage) -> Option<DirectRoute> {
    if found.kind != libc::RTN_UNICAST || found.metric != default_metric(found.prefix) {
        return None;
    }
    let several = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let hops = match several {
        Some(several) => several.iter().map(weighted).collect::<Option<Vec<_>>>()?,
        None => {
            let via = via(&message.attributes)?;
            let onlink = message.header.flags.contains(RouteFlags::Onlink);
            vec![WeightedHop { hop: FirstHop { index: found.device?, via, onlink }, weight: 1 }]
        }
    };
    Some(DirectRoute::weighted(found.prefix, hops, own_mtu(message), found.source))
}

/// The gateway among the attributes of a route or of one of its next hops.
pub(super) fn via(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some((*gateway).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some((*gateway).into()),
        // A gateway of the other family (RFC 5549).
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

/// The `mtu` that an administrator gave the route, locked or not.
pub(super) fn own_mtu(route: &RouteMessage) -> Option<u32> {
    let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
        _ => None,
    })
}

fn weighted(hop: &RouteNextHop) -> Option<WeightedHop> {
    let onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
    let first = FirstHop { index: hop.interface_index, via: via(&hop.attributes)?, onlink };
    Some(WeightedHop { hop: first, weight: u16::from(hop.hops) + 1 })
}

fn next_hop(WeightedHop { hop, weight }: WeightedHop, ipv4: bool) -> RouteNextHop {
    let mut next = RouteNextHop::default();
    next.interface_index = hop.index;
    next.hops = u8::try_from(weight.saturating_sub(1)).unwrap_or(u8::MAX);
    if hop.onlink {
        next.flags |= RouteNextHopFlags::Onlink;
    }
    next.attributes.push(gateway(hop.via, ipv4));
    next
}

fn gateway(via: IpAddr, ipv4: bool) -> RouteAttribute {
    match via {
        IpAddr::V6(via) if ipv4 => RouteAttribute::Via(RouteVia::Inet6(via)),
        via => RouteAttribute::Gateway(via.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{message, read};
    use crate::control::engine::port::{DirectRoute, FirstHop, OwnKind};
    use crate::control::host::route::found;

    fn hop(index: u32, via: &str, onlink: bool) -> FirstHop {
        FirstHop { index, via: via.parse().unwrap(), onlink }
    }

    #[test]
    fn what_is_asked_for_is_read_again() {
        let (b, c) = (hop(2, "192.0.2.2", false), hop(3, "192.0.2.3", true));
        for (prefix, hops, mtu) in [
            ("10.2.0.0/24", vec![b], None),
            ("10.2.0.0/24", vec![c], Some(1400)),
            ("10.2.0.0/24", vec![b, c, c], None),
            ("10.2.0.0/24", vec![hop(2, "fe80::1", false)], None),
            ("10.2.0.0/24", vec![b, hop(2, "2001:db8::2", false)], None),
            ("fd00:2::/64", vec![hop(2, "2001:db8::2", false), hop(3, "fe80::1", false)], Some(1280)),
        ] {
            let source = prefix.starts_with('1').then(|| "192.0.2.1".parse().unwrap());
            let route = DirectRoute::new(prefix.parse().unwrap(), hops, mtu, source);
            let message = message(&route);
            let found = found(&message).unwrap();
            assert_eq!(found.own_kind(7), Some(OwnKind::Direct));
            assert_eq!(read(&found, &message), Some(route));
        }
    }
}
