//! Reading what clients send, queries and bodies, within bounds.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::control::engine::edits::batch::Batch;
use crate::control::engine::edits::lines::{Kinds, Reader};
use crate::control::engine::refusal::{Kind, Refusal};

/// Bytes of a text of routes; about fifteen million of them.
const MOST_TEXT: usize = 256 << 20;
/// How long what nobody reads any more is taken.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of a JSON document.
const MOST_JSON: usize = 16 << 20;
/// A query that could be understood; `advice` says what was expected.
pub(super) fn query_of<T>(query: Result<Query<T>, QueryRejection>, advice: &str) -> Result<T, Refusal> {
    let refused = |rejection: QueryRejection| {
        Refusal::new(Kind::Malformed, format!("{}; {advice}", rejection.body_text()))
    };
    query.map(|Query(query)| query).map_err(refused)
}

/// Whether the body is text, by its type.
pub(super) fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    kind.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/plain"))
}

/// At most `most` routes as text, of which only their compact form is kept.
///
/// # Errors
/// Every line that cannot be understood; [`Kind::TooLarge`] as soon as there are more.
pub(super) async fn routes(body: Body, kinds: Kinds, most: usize) -> Result<Batch, Refusal> {
    let mut reader = Reader::new(kinds);
    let mut body = Limited::new(body, MOST_TEXT);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| refused(&*error, MOST_TEXT))?;
        if let Some(piece) = frame.data_ref()
            && !reader.push(piece)
        {
            linger(&mut body).await;
            break;
        }
        if reader.changes() > most {
            let text = format!(
                "more than {most} routes in one request, nothing has changed; `max_routes` under [control] allows no \
                 more"
            );
            linger(&mut body).await;
            return Err(Refusal::new(Kind::TooLarge, text));
        }
    }
    reader.finish().map_err(|culprits| Refusal::of(Kind::Malformed, culprits))
}

/// Takes what a client still sends, for a while: most clients read an answer only when they have sent
/// everything.
async fn linger(body: &mut Limited<Body>) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(LINGER, rest).await;
}

/// A JSON document.
///
/// # Errors
/// When it is none of a `T`; `example` shows one.
pub(super) async fn json<T: DeserializeOwned>(body: Body, example: &str) -> Result<T, Refusal> {
    let body = Limited::new(body, MOST_JSON).collect().await;
    let bytes = body.map_err(|error| refused(&*error, MOST_JSON))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(Kind::Malformed, format!("cannot understand the body: {error}; write it like {example}"))
    })
}

fn refused(error: &(dyn std::error::Error + 'static), most: usize) -> Refusal {
    if error.is::<LengthLimitError>() {
        let text = format!(
            "the body has more than {} MiB; send it in parts, or large lists of routes as text/plain",
            most >> 20
        );
        return Refusal::new(Kind::TooLarge, text);
    }
    Refusal::new(Kind::Malformed, format!("the body ended early: {error}"))
}
