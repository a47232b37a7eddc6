//! What the control plane asks of the connections of a worker, which only that worker can see.
//!
//! ```text
//! control plane ──Query, with room for the answer──▶ worker ──Answer──▶ control plane
//! ```
//!
//! A worker answers for a few buckets at a time, between two batches, so that no packet waits for long.

use crossbeam::channel::Sender;

use super::connections::{Connection, State};
use super::judge::Judge;
use crate::net::Prefix;

/// Buckets that one query is answered for.
const BUCKETS: usize = 256;
/// Connections that fit into them.
pub const PAGE: usize = BUCKETS * 16;

/// Which connections; all where nothing is given.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Either address is in this prefix.
    pub address: Option<Prefix>,
    /// Who began it is in this prefix.
    pub source: Option<Prefix>,
    /// The other one is in this prefix.
    pub destination: Option<Prefix>,
    /// The upper-layer protocol.
    pub protocol: Option<u8>,
    /// Either port.
    pub port: Option<u16>,
    /// How far it is.
    pub state: Option<State>,
}

/// A question to one worker.
#[derive(Debug)]
pub struct Query {
    /// Where to begin: 0, or [`Answer::next`].
    pub from: usize,
    /// Which connections.
    pub filter: Filter,
    /// Whether they are to be forgotten.
    pub flush: bool,
    /// Room for [`PAGE`] connections: a worker makes none.
    pub room: Vec<Connection>,
    /// Where the answer goes.
    pub reply: Sender<Answer>,
}

/// What a worker answers.
#[derive(Debug)]
pub struct Answer {
    /// The connections of a few buckets: those that there are, or that are forgotten now.
    pub connections: Vec<Connection>,
    /// Where to go on; `None` at the end.
    pub next: Option<usize>,
}

impl Filter {
    /// Whether a connection is one of those.
    pub fn matches(&self, connection: &Connection) -> bool {
        let tuple = &connection.tuple;
        let (from, to) = (tuple.source, tuple.destination);
        let ports = tuple.ports.map(|(from, to)| [from, to]);
        self.address.is_none_or(|prefix| prefix.contains(from) || prefix.contains(to))
            && self.source.is_none_or(|prefix| prefix.contains(from))
            && self.destination.is_none_or(|prefix| prefix.contains(to))
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && self.port.is_none_or(|port| ports.is_some_and(|ports| ports.contains(&port)))
            && self.state.is_none_or(|state| state == connection.state)
    }
}

impl Judge {
    /// Answers a question about the connections.
    #[cold]
    pub fn answer_query(&mut self, query: Query) {
        let Query { from, filter, flush, mut room, reply } = query;
        let keep = |room: &mut Vec<Connection>, connection: &Connection| {
            let wanted = filter.matches(connection) && room.len() < room.capacity();
            if wanted {
                room.push(*connection);
            }
            wanted
        };
        let next = match flush {
            true => self.flush(from, BUCKETS, |connection| keep(&mut room, connection)),
            false => self.page(from, BUCKETS, |connection| {
                keep(&mut room, &connection);
            }),
        };
        // Who asked may have gone.
        let _ = reply.try_send(Answer { connections: room, next });
    }
}
