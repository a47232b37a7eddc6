//! The kernel's way to a peer: interface, gateway and MTU, looked up with our address as source, so that
//! source-based rules (`ip rule from …`) apply to it as they do to our sockets, which are bound to that address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};

use super::direct_route::{own_mtu, via};
use super::{Host, sysctl};
use crate::control::engine::port::{DIRECT_PROTOCOL, FirstHop, Link, PeerWay};

/// MTUs as of one look, by interface and whether they are for IPv6.
#[derive(Debug, Default)]
pub struct Interfaces(Mutex<BTreeMap<(u32, bool), Option<u32>>>);

impl Host {
    /// The kernel's way to `address` from `source`; `None` when there is none that leaves this host. What it says of
    /// interfaces is kept in `interfaces`, so that many peers behind one do not cost a question each.
    ///
    /// The route itself is asked for and not what the kernel has cached for the address: path MTUs that
    /// the kernel learned are not facts, anybody can forge a report.
    pub async fn way(&self, address: IpAddr, source: IpAddr, interfaces: &Interfaces) -> Option<PeerWay> {
        let route = self.ask(address, source, RouteFlags::FibMatch).await?;
        if u8::from(route.header.protocol) == DIRECT_PROTOCOL {
            // One of ours is made of ways, and is none.
            return None;
        }
        let hop = match first_hop(&route, address) {
            Some(hop) => hop,
            // There are several next hops; the kernel chooses one for these two addresses.
            None => first_hop(&self.ask(address, source, RouteFlags::empty()).await?, address)?,
        };
        let route_mtu = own_mtu(&route);
        let mut mtu = route_mtu.unwrap_or(u32::MAX);
        for index in next_hops(&route).chain([hop.index]) {
            mtu = mtu.min(self.mtu_of(index, address.is_ipv6(), interfaces).await?);
        }
        Some(PeerWay { hop, mtu: u16::try_from(mtu).unwrap_or(u16::MAX), route_mtu })
    }

    /// The kernel's answer to a question for a route; `None` where it refuses one.
    pub(super) async fn ask(
        &self,
        address: IpAddr,
        source: IpAddr,
        flags: RouteFlags,
    ) -> Option<RouteMessage> {
        let mut query = RouteMessage::default();
        let (family, width) =
            if address.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        query.header.address_family = family;
        query.header.destination_prefix_length = width;
        query.header.flags = flags;
        query.attributes.push(RouteAttribute::Destination(address.into()));
        if !source.is_unspecified() {
            query.header.source_prefix_length = width;
            query.attributes.push(RouteAttribute::Source(source.into()));
        }
        let mut answers = std::pin::pin!(self.handle.route().get(query).execute());
        answers.try_next().await.ok().flatten()
    }

    /// The MTU of an interface for packets of one family; IPv6 has one of its own, which router advertisements
    /// lower. `None` where no packet leaves the host by it.
    async fn mtu_of(&self, index: u32, ipv6: bool, interfaces: &Interfaces) -> Option<u32> {
        let known = interfaces.0.lock().ok().and_then(|known| known.get(&(index, ipv6)).copied());
        if let Some(known) = known {
            return known;
        }
        let link = self.link_by_index(index).await.filter(|link| !link.dead_end);
        let mtu = link.map(|Link { name, mtu, .. }| {
            let own = ipv6.then(|| sysctl::read::<u32>(&format!("ipv6/conf/{name}/mtu"))).flatten();
            own.map_or(mtu, |own| own.min(mtu))
        });
        if let Ok(mut known) = interfaces.0.lock() {
            known.insert((index, ipv6), mtu);
        }
        mtu
    }
}

/// The first hop of a route with a single one.
fn first_hop(route: &RouteMessage, address: IpAddr) -> Option<FirstHop> {
    let index = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(device) => Some(*device),
        _ => None,
    })?;
    let onlink = route.header.flags.contains(RouteFlags::Onlink);
    Some(FirstHop { index, via: via(&route.attributes).unwrap_or(address), onlink })
}

/// The interfaces of a route with several next hops: a flow may take any of them.
fn next_hops(route: &RouteMessage) -> impl Iterator<Item = u32> + '_ {
    let several = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    several.flatten().map(|hop| hop.interface_index)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteNextHop};

    use super::{FirstHop, first_hop, next_hops, own_mtu};

    fn route(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.attributes = attributes;
        route
    }

    #[test]
    fn the_gateway_or_the_address_itself_is_the_first_hop() {
        let (peer, gateway): (IpAddr, IpAddr) =
            ("192.0.2.9".parse().unwrap(), "192.0.2.254".parse().unwrap());
        assert_eq!(
            first_hop(&route(vec![RouteAttribute::Oif(3)]), peer),
            Some(FirstHop { index: 3, via: peer, onlink: false })
        );
        let routed = route(vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(3)]);
        assert_eq!(first_hop(&routed, peer), Some(FirstHop { index: 3, via: gateway, onlink: false }));
        assert_eq!(first_hop(&route(vec![RouteAttribute::Gateway(gateway.into())]), peer), None);
    }

    #[test]
    fn the_mtu_of_the_route_and_all_its_next_hops_count() {
        let metrics = |metrics| route(vec![RouteAttribute::Metrics(metrics)]);
        assert_eq!(own_mtu(&metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)])), Some(1400));
        assert_eq!(own_mtu(&metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(0)])), None);
        assert_eq!(own_mtu(&metrics(vec![RouteMetric::Hoplimit(9)])), None);
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        let several = route(vec![RouteAttribute::MultiPath(vec![hop(3), hop(4)])]);
        assert_eq!(next_hops(&several).collect::<Vec<_>>(), [3, 4]);
    }
}
