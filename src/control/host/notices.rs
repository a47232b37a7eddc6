//! The kernel's notifications: interfaces (`ethtool -K`, down, up, another MTU, gone), addresses and
//! routes, and the rules that choose a table (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE,
//! RTNLGRP_IPV4_RULE and those of IPv6).

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};

use super::route::{self, MAIN};
use crate::control::engine::port::{Found, HostError, Notice};

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The notifications of one network namespace.
pub struct Notices {
    notices: BoxStream<'static, Notice>,
    /// Without it the connection would end.
    _handle: Handle,
}

impl Notices {
    /// Opens a netlink socket for notifications and serves it by a task on the current tokio runtime.
    ///
    /// # Errors
    /// [`HostError::Connect`] when the kernel refuses the socket.
    pub fn connect() -> Result<Self, HostError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .map_err(|error| HostError::Connect(error.to_string()))?;
        tokio::spawn(connection);
        let notices = messages.filter_map(|(message, _)| std::future::ready(notice(&message)));
        Ok(Self { notices: notices.boxed(), _handle: handle })
    }

    /// The next one; `None` when the connection is gone.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.next().await
    }
}

/// What a message says; `None` when it is of another kind.
fn notice(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Notice> {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelRoute, DelRule, NewAddress, NewLink, NewRoute, NewRule,
    };
    match &message.payload {
        NetlinkPayload::InnerMessage(NewLink(link) | DelLink(link)) => Some(Notice::Link(link.header.index)),
        NetlinkPayload::InnerMessage(NewAddress(address) | DelAddress(address)) => {
            Some(Notice::Address(address.header.index))
        }
        NetlinkPayload::InnerMessage(NewRoute(message) | DelRoute(message)) => {
            let (table, Found { prefix, device, .. }) = route::parse(message)?;
            Some(if table == MAIN { Notice::Route { prefix, device } } else { Notice::Elsewhere(prefix) })
        }
        NetlinkPayload::InnerMessage(NewRule(_) | DelRule(_)) => Some(Notice::Policy),
        NetlinkPayload::Overrun(_) => Some(Notice::Overrun),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::address::AddressMessage;
    use rtnetlink::packet_route::link::LinkMessage;
    use rtnetlink::packet_route::neighbour::NeighbourMessage;
    use rtnetlink::packet_route::route::RouteAttribute;
    use rtnetlink::packet_route::rule::RuleMessage;

    use super::notice;
    use crate::control::engine::port::{Notice, TunRoute};
    use crate::control::host::route;

    #[test]
    fn links_addresses_routes_and_losses_are_news() {
        let said = |payload| notice(&NetlinkMessage::new(NetlinkHeader::default(), payload));
        let inner = NetlinkPayload::InnerMessage;
        let mut link = LinkMessage::default();
        link.header.index = 7;
        assert_eq!(said(inner(RouteNetlinkMessage::NewLink(link.clone()))), Some(Notice::Link(7)));
        assert_eq!(said(inner(RouteNetlinkMessage::DelLink(link))), Some(Notice::Link(7)));
        assert_eq!(said(NetlinkPayload::Overrun(Vec::new())), Some(Notice::Overrun));
        let mut address = AddressMessage::default();
        address.header.index = 3;
        assert_eq!(said(inner(RouteNetlinkMessage::DelAddress(address))), Some(Notice::Address(3)));
        let prefix = "10.244.0.0/16".parse().unwrap();
        let message = route::message(9, &TunRoute { prefix, source: None });
        let expected = Notice::Route { prefix, device: Some(9) };
        assert_eq!(said(inner(RouteNetlinkMessage::DelRoute(message.clone()))), Some(expected));
        let mut elsewhere = message;
        elsewhere.attributes.push(RouteAttribute::Table(1000));
        let expected = Notice::Elsewhere(prefix);
        assert_eq!(said(inner(RouteNetlinkMessage::NewRoute(elsewhere))), Some(expected));
        assert_eq!(said(inner(RouteNetlinkMessage::NewRule(RuleMessage::default()))), Some(Notice::Policy));
        let other = RouteNetlinkMessage::NewNeighbour(NeighbourMessage::default());
        assert_eq!(said(inner(other)), None);
    }
}
