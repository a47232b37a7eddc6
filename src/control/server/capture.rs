//! `GET /v1/capture`: the running capture as a pcapng stream, for as long as the client reads.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{self, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::backend::Backend;
use super::body::query_of;
use super::progress::{Progress, Working};
use crate::api::CapturePoint;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::dataplane::observe::capture::{Capture, Filter, Point, Wanted, pcapng};
use crate::net::words::called;

/// How long packets wait for the next look: a packet path that told us would have to call the
/// kernel.
const PAUSE: Duration = Duration::from_millis(20);
/// Packets in one piece of the stream.
const PIECE: usize = 256;
/// The media type of the stream.
pub(super) const PCAPNG: &str = "application/x-pcapng";
/// Bytes of each packet that are kept unless the client says otherwise.
const SNAPLEN: usize = 2048;

/// `GET /v1/capture`
pub(super) async fn capture<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    Extension(progress): Extension<Progress>,
    query: Result<extract::Query<Query>, QueryRejection>,
) -> Result<Response, Refusal> {
    let refused = |text| Refusal::new(Kind::Malformed, text);
    let query = query_of(query, "there are ?point=, ?filter=, ?count= and ?snaplen=")?;
    let nothing = || Refusal::new(Kind::Missing, "this daemon has no packets to capture");
    let (hub, vxlan_ports) = api.backend.capture().ok_or_else(nothing)?;
    let wanted = query.wanted(vxlan_ports).map_err(refused)?;
    let running = hub
        .start(wanted)
        .ok_or_else(|| Refusal::new(Kind::Conflict, "another capture is running; there is one at a time"))?;
    api.backend.captures();
    Ok(respond(running, query.count(), progress.working()))
}

/// The query.
#[derive(Debug, Default, Deserialize, IntoParams)]
pub(super) struct Query {
    /// Names of points, `device`, `underlay`, `drop` or `log`, separated by commas; all without.
    #[param(example = "device,drop")]
    point: Option<String>,
    /// Which packets, such as `host 10.244.2.7 and not tcp`; all without.
    #[param(example = "host 10.244.2.7 and not tcp")]
    filter: Option<String>,
    /// Packets until the end.
    count: Option<u64>,
    /// Bytes of each packet, 1 to 65535.
    #[param(minimum = 1)]
    snaplen: Option<u16>,
}

impl Query {
    /// What the query asks for.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub(super) fn wanted(&self, vxlan_ports: Vec<u16>) -> Result<Wanted, String> {
        let names = self.point.as_deref().into_iter().flat_map(|names| names.split(','));
        let filter = self.filter.as_deref().map(str::parse::<Filter>).transpose();
        Ok(Wanted {
            points: names.map(point).collect::<Result<_, _>>()?,
            filter: filter.map_err(|error| error.to_string())?,
            snaplen: match self.snaplen {
                Some(0) => return Err("snaplen: 0 bytes are no packet; use 1 to 65535".to_owned()),
                Some(snaplen) => usize::from(snaplen),
                None => SNAPLEN,
            },
            vxlan_ports,
        })
    }

    /// Packets until the end of the capture.
    pub(super) fn count(&self) -> u64 {
        self.count.unwrap_or(u64::MAX)
    }
}

fn point(name: &str) -> Result<Point, String> {
    let named = called(name, CapturePoint::ALL, CapturePoint::name);
    named.map(Point::from).map_err(|reason| format!("point: {reason}"))
}

/// The response: the head of a file at once, then packets, until `count` of them or until nobody
/// reads. Dropping the body ends the capture. Until then the client waits for packets, which
/// `working` says for it: a capture may be silent, or left unread, for as long as the client likes.
pub(super) fn respond(capture: Capture, count: u64, working: Working) -> Response {
    let mut head = Vec::new();
    pcapng::begin(&mut head, capture.snaplen());
    let first =
        Running { capture, left: count, head: Some(head), lost: [0; Point::ALL.len()], _working: working };
    let body = Body::from_stream(stream::unfold(first, |mut running| async move {
        let piece = running.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), running))
    }));
    ([(CONTENT_TYPE, PCAPNG)], body).into_response()
}

struct Running {
    capture: Capture,
    /// Packets still to come.
    left: u64,
    head: Option<Vec<u8>>,
    /// As last written.
    lost: [u64; Point::ALL.len()],
    _working: Working,
}

impl Running {
    /// The next piece of the stream, whole blocks; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        if self.left == 0 {
            return None;
        }
        loop {
            let mut piece = Vec::new();
            let most = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
            let packets = self.capture.drain(most, |record| pcapng::packet(&mut piece, record));
            self.left -= packets as u64;
            let lost = self.capture.lost();
            if self.lost != lost {
                self.lost = lost;
                pcapng::statistics(&mut piece, lost);
            }
            if !piece.is_empty() {
                return Some(piece);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
