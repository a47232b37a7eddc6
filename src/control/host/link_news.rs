//! Being told when an interface changes: `ethtool -K`, down, up, another MTU, gone (RTNLGRP_LINK).

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};

use super::HostError;

/// The kernel's notifications about the interfaces of one network namespace.
pub struct LinkNews {
    /// Index of the interface; `None` where notifications were lost.
    news: BoxStream<'static, Option<u32>>,
    /// Without it the connection would end.
    _handle: Handle,
}

impl LinkNews {
    /// Opens a netlink socket for notifications and serves it by a task on the current tokio runtime.
    ///
    /// # Errors
    /// [`HostError::Connect`] when the kernel refuses the socket.
    pub fn connect() -> Result<Self, HostError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .map_err(|error| HostError::Connect(error.to_string()))?;
        tokio::spawn(connection);
        let news = messages.filter_map(|(message, _)| std::future::ready(about(&message)));
        Ok(Self { news: news.boxed(), _handle: handle })
    }

    /// Completes when an interface that `watched` knows by its index changed, or may have.
    pub async fn about(&mut self, watched: impl Fn(u32) -> bool) {
        while let Some(news) = self.news.next().await {
            if news.is_none_or(&watched) {
                return;
            }
        }
        // The connection is gone: there will be no news.
        std::future::pending::<()>().await;
    }
}

/// The interface that a message is about, `Some(None)` when it says that others were lost, and `None`
/// when it is of another kind.
fn about(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Option<u32>> {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => Some(Some(link.header.index)),
        NetlinkPayload::Overrun(_) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::address::AddressMessage;
    use rtnetlink::packet_route::link::LinkMessage;

    use super::about;

    #[test]
    fn links_and_losses_are_news() {
        let said = |payload| about(&NetlinkMessage::new(NetlinkHeader::default(), payload));
        let mut link = LinkMessage::default();
        link.header.index = 7;
        let inner = NetlinkPayload::InnerMessage;
        assert_eq!(said(inner(RouteNetlinkMessage::NewLink(link.clone()))), Some(Some(7)));
        assert_eq!(said(inner(RouteNetlinkMessage::DelLink(link))), Some(Some(7)));
        assert_eq!(said(NetlinkPayload::Overrun(Vec::new())), Some(None));
        assert_eq!(said(inner(RouteNetlinkMessage::NewAddress(AddressMessage::default()))), None);
    }
}
