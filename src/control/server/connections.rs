//! The connections that policies follow: a list that is sent while the workers are asked, a page after the other, and
//! their end.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::backend::{Ask, Backend};
use super::body::query_of;
use super::progress::Progress;
use crate::api::{ConnectionEntry, ConnectionsFlushed};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::dataplane::policy::{Connection, Filter, PAGE, State as Known};
use crate::net::Prefix;
use crate::net::words::{called, clip};
use crate::policy::{protocol_number, protocol_word};

/// The query of `GET /v1/connections`.
#[derive(Deserialize, IntoParams)]
pub(super) struct Listing {
    /// Those with an end that is this address, or in this prefix.
    #[param(example = "10.244.1.2")]
    address: Option<String>,
    /// Those that this address began, or one in this prefix.
    #[param(example = "10.244.1.0/24")]
    source: Option<String>,
    /// Those to this address, or to one in this prefix.
    destination: Option<String>,
    /// Those of a protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
    #[param(example = "tcp")]
    protocol: Option<String>,
    /// Those with this port at either end.
    port: Option<u16>,
    /// Those in a state: `unanswered`, `answered`, `established`, `closing`, `time_wait`, `closed` or `denied`.
    #[param(example = "established")]
    state: Option<String>,
    /// So many, at most.
    #[param(minimum = 1)]
    limit: Option<u64>,
}

/// The query of `DELETE /v1/connections`.
#[derive(Deserialize, IntoParams)]
pub(super) struct Flush {
    /// Those with an end that is this address, or in this prefix.
    #[param(example = "10.244.1.2")]
    address: Option<String>,
    /// Those that this address began, or one in this prefix.
    source: Option<String>,
    /// Those to this address, or to one in this prefix.
    destination: Option<String>,
    /// Those of a protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
    protocol: Option<String>,
    /// Those with this port at either end.
    port: Option<u16>,
    /// Those in a state.
    state: Option<String>,
    /// All of them, which takes this word where nothing else is given.
    #[serde(default)]
    all: bool,
}

const ADVICE: &str = "there are ?address=, ?source=, ?destination=, ?protocol=, ?port= and ?state=";

/// `GET /v1/connections`
pub(super) async fn list<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    Extension(progress): Extension<Progress>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Listing { address, source, destination, protocol, port, state, limit } =
        query_of(query, &format!("{ADVICE}, and ?limit="))?;
    let filter = Words { address, source, destination, protocol, port, state }.filter()?;
    if limit == Some(0) {
        return Err(Refusal::new(Kind::Malformed, "limit: 0 connections are no list; use 1 or more"));
    }
    let workers = api.backend.connection_workers()?;
    for worker in 0..workers {
        // Behind the first line a refusal cannot be told from a list that ends early.
        let ask = Ask { worker, from: 0, filter, flush: false, room: Vec::new() };
        api.backend.connections(ask).await?;
    }
    let pages = Pages {
        backend: Arc::clone(&api.backend),
        progress,
        filter,
        place: Some((0, 0)),
        workers,
        left: limit.unwrap_or(u64::MAX),
        begun: false,
        listed: false,
        room: Vec::with_capacity(PAGE),
    };
    let body = stream::unfold(pages, |mut pages| async move {
        // Others get their turn between the pages.
        tokio::task::yield_now().await;
        let page = pages.next().await?;
        Some((page, pages))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

/// `DELETE /v1/connections`
pub(super) async fn flush<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Flush>, QueryRejection>,
) -> Result<Json<ConnectionsFlushed>, Refusal> {
    let Flush { address, source, destination, protocol, port, state, all } =
        query_of(query, &format!("{ADVICE}, and ?all=true"))?;
    let filter = Words { address, source, destination, protocol, port, state }.filter()?;
    if all == (filter != Filter::default()) {
        let text = match all {
            true => "all=true and a filter contradict each other; give one of them",
            false => "without a filter all connections would be forgotten; give ?all=true for that",
        };
        return Err(Refusal::new(Kind::Malformed, text));
    }
    let (mut flushed, mut room) = (0, Vec::with_capacity(PAGE));
    for worker in 0..api.backend.connection_workers()? {
        let mut place = Some(0);
        while let Some(from) = place {
            room.clear();
            let answer = api.backend.connections(Ask { worker, from, filter, flush: true, room }).await;
            let answer = answer.map_err(|refusal| {
                let text =
                    format!("{}; {flushed} connections are forgotten, others may be known", refusal.text);
                Refusal { text, ..refusal }
            })?;
            flushed += answer.connections.len() as u64;
            (room, place) = (answer.connections, answer.next);
        }
    }
    Ok(Json(ConnectionsFlushed { flushed }))
}

/// Which connections, as a client says it.
struct Words {
    address: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
    state: Option<String>,
}

impl Words {
    fn filter(&self) -> Result<Filter, Refusal> {
        Ok(Filter {
            address: self.address.as_deref().map(|text| prefix("address", text)).transpose()?,
            source: self.source.as_deref().map(|text| prefix("source", text)).transpose()?,
            destination: self.destination.as_deref().map(|text| prefix("destination", text)).transpose()?,
            protocol: self.protocol.as_deref().map(protocol_number).transpose().map_err(malformed)?,
            port: self.port,
            state: self.state.as_deref().map(state).transpose()?,
        })
    }
}

fn malformed(text: String) -> Refusal {
    Refusal::new(Kind::Malformed, text)
}

/// An address, or a prefix.
fn prefix(which: &str, text: &str) -> Result<Prefix, Refusal> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Prefix::host(address));
    }
    let neither = || format!("{which}: \"{}\" is neither an address nor a prefix", clip(text));
    text.parse().map_err(|_| malformed(neither()))
}

fn state(word: &str) -> Result<Known, Refusal> {
    called(word, Known::ALL, Known::name).map_err(|reason| malformed(format!("state: {reason}")))
}

/// A list that is being sent.
struct Pages<D> {
    backend: Arc<D>,
    progress: Progress,
    filter: Filter,
    /// The worker that is asked next, and from where on; `None` at the end.
    place: Option<(usize, usize)>,
    workers: usize,
    /// Connections that may still come.
    left: u64,
    /// Whether the first bracket is there, and a connection behind it.
    begun: bool,
    listed: bool,
    /// What each answer is written to.
    room: Vec<Connection>,
}

impl<D: Backend> Pages<D> {
    /// The next piece of the list; `None` behind the last.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let (worker, from) = self.place?;
        let _working = self.progress.working();
        let mut room = std::mem::take(&mut self.room);
        room.clear();
        let ask = Ask { worker, from, filter: self.filter, flush: false, room };
        let answer = match self.backend.connections(ask).await {
            Ok(answer) => answer,
            Err(refusal) => {
                // The client sees that the list ends early.
                self.place = None;
                return Some(Err(io::Error::other(refusal)));
            }
        };
        let text = self.page(worker, &answer.connections);
        self.room = answer.connections;
        self.place = match answer.next {
            _ if self.left == 0 => None,
            Some(from) => Some((worker, from)),
            None => Some((worker + 1, 0)).filter(|(worker, _)| *worker < self.workers),
        };
        let end: &[u8] = if self.place.is_none() { b"\n]\n" } else { b"" };
        Some(Ok([&text, end].concat().into()))
    }

    /// One connection a line, so that they can be read one by one.
    fn page(&mut self, worker: usize, connections: &[Connection]) -> Vec<u8> {
        let mut text = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            text.push(b'[');
        }
        for connection in connections {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            text.extend_from_slice(if self.listed { b",\n" } else { b"\n" });
            self.listed = true;
            // An entry has no part that JSON cannot express.
            let entry =
                ConnectionEntry { in_kernel: self.backend.carries(connection), ..entry(worker, connection) };
            let _ = serde_json::to_writer(&mut text, &entry);
        }
        text
    }
}

fn entry(worker: usize, connection: &Connection) -> ConnectionEntry {
    let Connection { tuple, state, age, expires_in } = connection;
    ConnectionEntry {
        protocol: protocol_word(tuple.protocol),
        source: tuple.source,
        source_port: tuple.ports.map(|(from, _)| from),
        destination: tuple.destination,
        destination_port: tuple.ports.map(|(_, to)| to),
        icmp_type: tuple.icmp.map(|(kind, _)| kind),
        state: state.name().to_owned(),
        age_seconds: *age,
        expires_in_seconds: *expires_in,
        worker,
        in_kernel: false,
    }
}
