//! The kernel's neighbour table, kept up to date by its notifications (RTNLGRP_NEIGH): it is read once, however
//! many entries it has, and what changes afterwards costs what it is.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::{Handle, MulticastGroup};

use super::Host;
use super::neighbour::{Neighbour, entry, key};

/// Interface and address of an entry.
pub(super) type Key = (u32, IpAddr);

/// The entries that can be sent to.
#[derive(Default)]
pub struct NeighbourTable {
    entries: HashMap<Key, Neighbour>,
    live: Option<Live>,
}

/// A connection for notifications.
struct Live {
    news: BoxStream<'static, News>,
    /// Without it the connection would end.
    _handle: Handle,
}

/// What a notification says of one entry.
#[derive(Debug, Eq, PartialEq)]
struct News {
    key: Key,
    /// `None` when it cannot be sent to.
    now: Option<Neighbour>,
}

impl NeighbourTable {
    /// Whether the kernel tells of changes. If not, the table is as old as its last renewal.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Reads the table again, after a connection for notifications is there, if there can be one.
    pub async fn renew(&mut self, host: &Host) {
        self.live = connect();
        if let Ok(entries) = host.neighbours().await {
            self.entries = entries;
        }
    }

    /// The entry of `address` on the interface `index`.
    pub fn get(&self, key: Key) -> Option<&Neighbour> {
        self.entries.get(&key)
    }

    /// Waits for a change, and takes it over. `None`: notifications were lost, the table has to be renewed.
    pub async fn changed(&mut self) -> Option<Key> {
        loop {
            let Some(live) = &mut self.live else { return std::future::pending().await };
            let Some(news) = live.news.next().await else {
                self.live = None;
                return None;
            };
            if take(&mut self.entries, &news) {
                return Some(news.key);
            }
        }
    }
}

/// Takes over what a notification says; returns whether that is new: an entry goes through states that
/// make no difference.
fn take(entries: &mut HashMap<Key, Neighbour>, news: &News) -> bool {
    match news.now {
        Some(now) => entries.insert(news.key, now) != Some(now),
        None => entries.remove(&news.key).is_some(),
    }
}

/// A connection; it ends when its buffer overflows.
fn connect() -> Option<Live> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]).ok()?;
    tokio::spawn(connection);
    let news = messages.filter_map(|(message, _)| {
        std::future::ready(match &message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => news(message, true),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => news(message, false),
            _ => None,
        })
    });
    Some(Live { news: news.boxed(), _handle: handle })
}

fn news(message: &NeighbourMessage, there: bool) -> Option<News> {
    let key = key(message)?;
    let now = entry(message).map(|(_, neighbour)| neighbour).filter(|_| there);
    Some(News { key, now })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};

    use super::{News, news, take};

    fn message(state: NeighbourState, mac: [u8; 6]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(std::net::Ipv4Addr::new(192, 0, 2, 2).into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    #[test]
    fn what_makes_a_difference_is_told() {
        let mut entries = HashMap::new();
        let mut told = |state, mac, there| {
            let news: News = news(&message(state, mac), there).unwrap();
            take(&mut entries, &news)
        };
        let (one, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        assert!(!told(NeighbourState::Incomplete, [0; 6], true));
        assert!(told(NeighbourState::Reachable, one, true));
        assert!(!told(NeighbourState::Stale, one, true) && !told(NeighbourState::Probe, one, true));
        assert!(told(NeighbourState::Reachable, other, true), "another link address");
        assert!(told(NeighbourState::Failed, other, true));
        assert!(told(NeighbourState::Stale, other, true) && told(NeighbourState::Stale, other, false));
        assert!(!told(NeighbourState::Stale, other, false));
        assert_eq!(news(&NeighbourMessage::default(), true), None);
    }
}
