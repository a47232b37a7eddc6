//! The kernel's neighbour table, kept up to date by its notifications (RTNLGRP_NEIGH): it is read once, however
//! many entries it has, and what changes afterwards costs what it is. Only where notifications were lost is it read
//! again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::{Handle, MulticastGroup};

use super::Host;
use super::neighbour::{Neighbour, entry, key};

/// From one renewal to the next, at least: the table may be long, and notifications may be lost again and again.
const PAUSE: Duration = Duration::from_secs(1);

/// Interface and address of an entry.
pub(super) type Key = (u32, IpAddr);

/// The entries that can be sent to.
#[derive(Default)]
pub struct NeighbourTable {
    entries: HashMap<Key, Neighbour>,
    live: Option<Live>,
    /// When it may be renewed again.
    next: Option<Instant>,
}

/// A connection for notifications.
struct Live {
    told: BoxStream<'static, Told>,
    /// Without it the connection would end.
    _handle: Handle,
}

/// What the kernel tells of.
#[derive(Debug, Eq, PartialEq)]
enum Told {
    /// An entry.
    News(News),
    /// Its notifications came faster than they were read, and some were lost.
    Overrun,
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

    /// Reads the table again, after a connection for notifications is there, if there can be one. It is not live
    /// where it cannot be read. Nothing happens so soon after the last renewal that there could be no end of them.
    pub async fn renew(&mut self, host: &Host) {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + PAUSE);
        self.live = connect();
        match host.neighbours().await {
            Ok(entries) => self.entries = entries,
            Err(_) => self.live = None,
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
            let Some(Told::News(news)) = live.told.next().await else {
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

/// A connection that also tells when its buffer overflowed.
fn connect() -> Option<Live> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]).ok()?;
    tokio::spawn(connection);
    let told = messages.filter_map(|(message, _)| std::future::ready(told(&message)));
    Some(Live { told: told.boxed(), _handle: handle })
}

/// What a message says; `None` when it is of another kind.
fn told(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Told> {
    use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
    match &message.payload {
        NetlinkPayload::InnerMessage(NewNeighbour(message)) => news(message, true).map(Told::News),
        NetlinkPayload::InnerMessage(DelNeighbour(message)) => news(message, false).map(Told::News),
        NetlinkPayload::Overrun(_) => Some(Told::Overrun),
        _ => None,
    }
}

fn news(message: &NeighbourMessage, there: bool) -> Option<News> {
    Some(News { key: key(message)?, now: entry(message).filter(|_| there) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use futures_util::{StreamExt, stream};
    use rtnetlink::packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};

    use super::{Live, NeighbourTable, News, Told, news, take, told};
    use crate::control::host::Host;

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

    fn payload(payload: NetlinkPayload<RouteNetlinkMessage>) -> NetlinkMessage<RouteNetlinkMessage> {
        NetlinkMessage::new(NetlinkHeader::default(), payload)
    }

    #[tokio::test]
    async fn what_was_lost_is_told() {
        let entry = RouteNetlinkMessage::NewNeighbour(message(NeighbourState::Reachable, [2; 6]));
        let all = [NetlinkPayload::InnerMessage(entry), NetlinkPayload::Overrun(Vec::new())];
        let told: Vec<Told> = all.into_iter().filter_map(|one| told(&payload(one))).collect();
        let handle = Host::connect().unwrap().handle;
        // The connection itself does not end.
        let told = stream::iter(told).chain(stream::pending()).boxed();
        let mut table = NeighbourTable { live: Some(Live { told, _handle: handle }), ..Default::default() };
        assert_eq!(table.changed().await, Some((3, "192.0.2.2".parse().unwrap())));
        let lost = tokio::time::timeout(Duration::from_secs(5), table.changed());
        assert_eq!((lost.await, table.is_live()), (Ok(None), false));
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_read_is_read_later() {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        drop(connection);
        let (good, mut table) = (Host::connect().unwrap(), NeighbourTable::default());
        let bad = Host { handle, ..good.clone() };
        table.renew(&bad).await;
        assert!(!table.is_live());
        table.renew(&good).await;
        assert!(!table.is_live(), "not at once");
        table.next = Some(Instant::now());
        table.renew(&good).await;
        assert!(table.is_live());
    }
}
