//! Routes that others write to the kernel's tables: all that there are, and those that come and go
//! (RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE).
//!
//! The kernel takes routes away without a word when an interface or an address goes (`fib_sync_down_dev`), and a
//! socket whose buffer is full loses what comes next (ENOBUFS). Both are news too: what is known is then in doubt until
//! all is read again.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REPLACE, Parseable};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};

use super::raw_netlink::{self, RawNetlink};
use super::route;
use crate::control::engine::port::{Found, KernelRoute};
use crate::net::Prefix;

const LINKS_AND_ADDRESSES: [u16; 4] =
    [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR];
/// Of links, addresses and routes.
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;
/// Bytes that may wait in the kernel, as it counts them: some ten thousand routes.
const WAITING: usize = 16 << 20;
/// Most messages of one reading.
const TOGETHER: usize = 1024;
/// Most messages that are forgotten at once: they may come faster than they go.
const MOST_FORGOTTEN: usize = 1 << 20;
/// How long the kernel may take to list all routes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most listings that others may spoil by changes meanwhile.
const TRIES: usize = 5;

/// Which routes are asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteFilter {
    /// Numbers of routing tables.
    pub tables: Vec<u32>,
    /// Numbers of protocols (`rtm_protocol`).
    pub protocols: Vec<u8>,
}

/// What is new.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteNews {
    /// This is the route of its table, prefix, metric and protocol from now on.
    Added(KernelRoute),
    /// Another route, of whatever protocol, is in the place of what had this table, prefix and metric.
    Replaced(u32, Prefix, u32),
    /// These next hops of it are gone.
    Removed(KernelRoute),
    /// An interface or an address changed: routes may have gone without a word.
    Links,
    /// More came than the socket could hold: anything may be different.
    Overrun,
}

/// The notifications of one network namespace.
pub struct RouteFeed {
    socket: TokioSocket,
    filter: RouteFilter,
    buffer: Vec<u8>,
}

impl RouteFeed {
    /// Listens in the network namespace of this thread, within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(filter: RouteFilter) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        // Without the right to more, the usual limit has to do.
        if set_socket_recv_buffer_size_force(socket.socket_ref(), WAITING).is_err() {
            set_socket_recv_buffer_size(socket.socket_ref(), WAITING)?;
        }
        for group in GROUPS {
            socket.socket_ref().add_membership(group)?;
        }
        Ok(Self { socket, filter, buffer: vec![0; BUFFER] })
    }

    /// Waits for news and appends what is there.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn next(&mut self, news: &mut Vec<RouteNews>) -> io::Result<()> {
        let before = news.len();
        while news.len() == before {
            let mut room: &mut [u8] = &mut self.buffer;
            let received = self.socket.recv(&mut room).await.map(|()| BUFFER - room.len());
            self.take(received, news)?;
            // The others that wait already come along.
            for _ in 1..TOGETHER {
                let mut room: &mut [u8] = &mut self.buffer;
                let received = self.socket.socket_ref().recv(&mut room, 0);
                if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                    break;
                }
                self.take(received, news)?;
            }
        }
        Ok(())
    }

    /// Forgets what waits, before all routes are read: what is read then is newer. Returns how often more came than the
    /// socket could hold. It says so once and is silent until it has been emptied, so a reading beside one that is full
    /// would miss what comes meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget(&mut self) -> io::Result<u64> {
        let mut overruns = 0;
        for _ in 0..MOST_FORGOTTEN {
            let mut room: &mut [u8] = &mut self.buffer;
            match self.socket.socket_ref().recv(&mut room, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overruns += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(overruns)
    }

    fn take(&self, received: io::Result<usize>, news: &mut Vec<RouteNews>) -> io::Result<()> {
        match received {
            Ok(len) => hear(self.buffer.get(..len).unwrap_or_default(), &self.filter, news),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news.push(RouteNews::Overrun),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// All routes that `filter` asks for. It takes as long as the kernel needs, a second for a million.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::Interrupted`] when routes change all the time.
pub fn read_routes(filter: &RouteFilter) -> io::Result<Vec<KernelRoute>> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_read(filter) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < TRIES => {}
            done => return done,
        }
    }
}

fn try_read(filter: &RouteFilter) -> io::Result<Vec<KernelRoute>> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)?;
        // `struct rtmsg`: all of a family.
        let mut body = [0; 12];
        body[0] = family.to_le_bytes()[0];
        netlink.ask(libc::RTM_GETROUTE, NLM_F_DUMP, &body, |kind, body| {
            if kind == libc::RTM_NEWROUTE {
                routes.extend(read_route(body, filter));
            }
            false
        })?;
    }
    Ok(routes)
}

/// Appends what the messages in `bytes` say.
fn hear(mut bytes: &[u8], filter: &RouteFilter, news: &mut Vec<RouteNews>) {
    while let Some((kind, body, rest)) = raw_netlink::message(bytes) {
        match kind {
            libc::RTM_NEWROUTE => {
                if raw_netlink::flags(bytes) & NLM_F_REPLACE != 0 {
                    news.extend(read_place(body, filter));
                }
                news.extend(read_route(body, filter).map(RouteNews::Added));
            }
            libc::RTM_DELROUTE => news.extend(read_route(body, filter).map(RouteNews::Removed)),
            kind if LINKS_AND_ADDRESSES.contains(&kind) && news.last() != Some(&RouteNews::Links) => {
                news.push(RouteNews::Links);
            }
            _ => {}
        }
        bytes = rest;
    }
}

/// The route in a message, if `filter` asks for it.
fn read_route(body: &[u8], filter: &RouteFilter) -> Option<KernelRoute> {
    // Most are others', and reading a whole message costs more than a look at its header.
    let header = RouteHeader::parse(body).ok()?;
    let protocol = u8::from(header.protocol);
    if !filter.protocols.contains(&protocol) || header.kind != RouteType::Unicast {
        return None;
    }
    let (table, found, message) = read_in_tables(body, filter)?;
    let next_hops = next_hops(&message.attributes);
    Some(KernelRoute { table, prefix: found.prefix, metric: found.metric, protocol, next_hops })
}

/// The place of a route that has replaced another one, in one of the tables that are asked for.
fn read_place(body: &[u8], filter: &RouteFilter) -> Option<RouteNews> {
    let (table, found, _) = read_in_tables(body, filter)?;
    Some(RouteNews::Replaced(table, found.prefix, found.metric))
}

/// The whole of a message about a route in one of the tables that are asked for, its table first.
fn read_in_tables(body: &[u8], filter: &RouteFilter) -> Option<(u32, Found, RouteMessage)> {
    let message = RouteMessage::parse(body).ok()?;
    let (table, found) = route::parse(&message).filter(|(table, _)| filter.tables.contains(table))?;
    Some((table, found, message))
}

/// The addresses of the next hops, those of RTA_MULTIPATH among them.
fn next_hops(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => {
                found.push((*address).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => found.push((*address).into()),
            // One level: what is inside has none of its own.
            RouteAttribute::MultiPath(hops) => {
                found.extend(hops.iter().flat_map(|hop| next_hops(&hop.attributes)));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::route::{
        RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteProtocol, RouteType, RouteVia,
    };
    use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

    use super::{KernelRoute, RouteFilter, RouteNews, hear, read_routes};

    fn filter() -> RouteFilter {
        RouteFilter { tables: vec![100, 70_000], protocols: vec![12] }
    }

    /// 10.1.0.0/26 in table 100 of BIRD, with more attributes.
    fn message(more: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = 100;
        message.header.protocol = RouteProtocol::Bird;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 26;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet([10, 1, 0, 0].into())));
        message.attributes.push(RouteAttribute::Priority(32));
        message.attributes.extend(more);
        message
    }

    fn bytes(kind: u16, message: &RouteMessage) -> Vec<u8> {
        let inner = match kind {
            libc::RTM_NEWROUTE => RouteNetlinkMessage::NewRoute(message.clone()),
            _ => RouteNetlinkMessage::DelRoute(message.clone()),
        };
        let mut whole = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(inner));
        whole.finalize();
        let mut bytes = vec![0; whole.buffer_len()];
        whole.serialize(&mut bytes);
        bytes
    }

    fn heard(bytes: &[u8]) -> Vec<RouteNews> {
        let mut news = Vec::new();
        hear(bytes, &filter(), &mut news);
        news
    }

    fn route(next_hops: &[&str]) -> KernelRoute {
        let next_hops = next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
        KernelRoute {
            table: 100,
            prefix: "10.1.0.0/26".parse().unwrap(),
            metric: 32,
            protocol: 12,
            next_hops,
        }
    }

    fn gateway(last: u8) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, last].into()))
    }

    #[test]
    fn routes_come_and_go_with_all_their_next_hops() {
        let mut both = bytes(libc::RTM_NEWROUTE, &message(vec![gateway(2)]));
        both.extend(bytes(libc::RTM_DELROUTE, &message(vec![])));
        let expected = [RouteNews::Added(route(&["192.0.2.2"])), RouteNews::Removed(route(&[]))];
        assert_eq!(heard(&both), expected);
        let hop = |last| {
            let mut hop = RouteNextHop::default();
            hop.attributes.push(gateway(last));
            hop
        };
        let multipath = RouteAttribute::MultiPath(vec![hop(3), hop(2)]);
        let expected = [RouteNews::Added(route(&["192.0.2.3", "192.0.2.2"]))];
        assert_eq!(heard(&bytes(libc::RTM_NEWROUTE, &message(vec![multipath]))), expected);
        // RFC 5549: an IPv4 route by way of an IPv6 address.
        let via = RouteAttribute::Via(RouteVia::Inet6("2001:db8::2".parse().unwrap()));
        let expected = [RouteNews::Added(route(&["2001:db8::2"]))];
        assert_eq!(heard(&bytes(libc::RTM_NEWROUTE, &message(vec![via]))), expected);
    }

    #[test]
    fn what_is_replaced_by_others_is_gone() {
        let mut of_zebra = message(vec![gateway(2)]);
        of_zebra.header.protocol = RouteProtocol::Zebra;
        let mut replaced = bytes(libc::RTM_NEWROUTE, &of_zebra);
        replaced[6..8].copy_from_slice(&NLM_F_REPLACE.to_ne_bytes());
        let place = RouteNews::Replaced(100, "10.1.0.0/26".parse().unwrap(), 32);
        assert_eq!(heard(&replaced), std::slice::from_ref(&place));
        let mut again = bytes(libc::RTM_NEWROUTE, &message(vec![gateway(3)]));
        again[6..8].copy_from_slice(&NLM_F_REPLACE.to_ne_bytes());
        assert_eq!(heard(&again), [place, RouteNews::Added(route(&["192.0.2.3"]))]);
    }

    #[test]
    fn what_is_not_asked_for_is_passed_over() {
        let mut of_zebra = message(vec![gateway(2)]);
        of_zebra.header.protocol = RouteProtocol::Zebra;
        let mut elsewhere = message(vec![gateway(2)]);
        elsewhere.header.table = 101;
        let mut blackhole = message(vec![]);
        blackhole.header.kind = RouteType::BlackHole;
        for other in [of_zebra, elsewhere, blackhole] {
            assert_eq!(heard(&bytes(libc::RTM_NEWROUTE, &other)), [], "{other:?}");
        }
        // RTA_TABLE goes before the 8 bits of the header.
        let mut far = message(vec![gateway(2), RouteAttribute::Table(70_000)]);
        far.header.table = 252;
        let expected = [RouteNews::Added(KernelRoute { table: 70_000, ..route(&["192.0.2.2"]) })];
        assert_eq!(heard(&bytes(libc::RTM_NEWROUTE, &far)), expected);
    }

    #[test]
    fn interfaces_and_addresses_put_routes_in_doubt_once() {
        let mut bytes = Vec::new();
        for kind in [16_u16, 20, 21, 17] {
            bytes.extend(16_u32.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
        }
        assert_eq!(heard(&bytes), [RouteNews::Links]);
    }

    #[test]
    fn whatever_comes_is_read_without_harm() {
        let whole = bytes(libc::RTM_NEWROUTE, &message(vec![gateway(2)]));
        for len in 0..whole.len() {
            assert_eq!(heard(&whole[..len]), []);
        }
        for place in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = whole.clone();
                broken[place] = value;
                assert!(heard(&broken).len() <= 2);
            }
        }
    }

    #[test]
    fn the_kernel_lists_its_routes() {
        // Whatever there is here, none is of this protocol.
        let none = RouteFilter { tables: vec![254, 255], protocols: vec![250] };
        assert_eq!(read_routes(&none).unwrap(), []);
    }
}
