//! The list of routes, sent while it is made: a million routes need no memory.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::backend::Backend;
use super::body::query_of;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{Page, Scope};
use crate::net::Prefix;
use crate::route::Source;

/// Prefixes looked at under one lock.
const PAGE: usize = 512;

/// The query of `GET /v1/routes`.
#[derive(Deserialize, IntoParams)]
pub(super) struct Listing {
    /// All routes of this source, in use or not; without it the one in use for each prefix.
    source: Option<String>,
    /// JSON, or lines in the form in which routes are added.
    #[param(inline)]
    format: Option<Format>,
}

/// The form of a list.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Text,
}

const ADVICE: &str = "there are ?source=SOURCE and ?format=json or text";

/// `GET /v1/routes`
pub(super) async fn routes<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Refusal> {
    let listing = query_of(query, ADVICE)?;
    let scope = match &listing.source {
        None => Scope::Best,
        Some(name) => Scope::Of(source(name)?),
    };
    let format = listing.format.unwrap_or(Format::Json);
    let kind = match format {
        Format::Json => "application/json",
        Format::Text => "text/plain; charset=utf-8",
    };
    let pages = Pages { backend: Arc::clone(&api.backend), scope, format, place: Place::Begin };
    let body = stream::unfold(pages, |mut pages| async move {
        // Others get their turn between the pages.
        tokio::task::yield_now().await;
        let page = pages.next()?;
        Some((Ok::<_, Infallible>(page), pages))
    });
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(body)).into_response())
}

fn source(name: &str) -> Result<Source, Refusal> {
    Source::ALL.into_iter().find(|source| source.name() == name).ok_or_else(|| {
        let known: Vec<_> = Source::ALL.iter().map(|source| source.name()).collect();
        let name: String = name.chars().take(64).collect();
        Refusal::new(
            Kind::Malformed,
            format!("no source is called \"{name}\"; there are {}", known.join(", ")),
        )
    })
}

/// A list that is being sent.
struct Pages<D> {
    backend: Arc<D>,
    scope: Scope,
    format: Format,
    place: Place,
}

/// How far the list is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    Begin,
    /// Behind this prefix; whether anything was listed before.
    Behind(Prefix, bool),
    End,
}

impl<D: Backend> Pages<D> {
    /// The next piece of the list; `None` behind the last.
    fn next(&mut self) -> Option<Bytes> {
        let (after, listed) = match self.place {
            Place::Begin => (None, false),
            Place::Behind(prefix, listed) => (Some(prefix), listed),
            Place::End => return None,
        };
        let page = Page { after, scope: self.scope, most: PAGE };
        let (text, listed, next) = match self.format {
            Format::Json => self.json(page, listed),
            Format::Text => {
                let (text, next) = self.backend.route_lines(page);
                (text.into_bytes(), true, next)
            }
        };
        self.place = next.map_or(Place::End, |prefix| Place::Behind(prefix, listed));
        Some(text.into())
    }

    /// One route a line, so that they can be read one by one.
    fn json(&self, page: Page, mut listed: bool) -> (Vec<u8>, bool, Option<Prefix>) {
        let (entries, next) = self.backend.routes(page);
        let mut text = if page.after.is_none() { b"[".to_vec() } else { Vec::new() };
        for entry in entries {
            text.extend_from_slice(if listed { b",\n" } else { b"\n" });
            listed = true;
            // An entry has no part that JSON cannot express.
            let _ = serde_json::to_writer(&mut text, &entry);
        }
        if next.is_none() {
            text.extend_from_slice(b"\n]\n");
        }
        (text, listed, next)
    }
}
