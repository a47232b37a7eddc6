//! The control API: HTTP/JSON on a Unix socket, so that `curl --unix-socket` works too.
//!
//! Everything here answers from memory, but that an edit may have to look at the kernel first. What it
//! answers comes from a [`Backend`].

pub mod backend;
mod body;
mod capture;
mod changes;
pub mod http;
mod listing;
pub mod metrics_http;
mod progress;
pub mod render;
pub mod socket;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;

use super::engine::refusal::{Kind, Refusal};
use crate::api::{self, Drops, ErrorBody, PeerStatus, RouteEntry, Status};
use crate::control::engine::{Page, Scope};
use backend::Backend;
use body::Uploads;
use http::Limits;
use progress::Progress;
use socket::ControlSocket;

/// What the handlers share.
struct Api<D> {
    backend: Arc<D>,
    uploads: Uploads,
}

/// Answers the API on `socket` until `shutdown` completes, then removes the socket file.
///
/// # Errors
/// When the listener cannot be handed to tokio.
pub async fn serve<D: Backend>(
    socket: ControlSocket,
    backend: Arc<D>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(socket, backend, Limits::default(), shutdown).await
}

/// As [`serve`], with other limits.
///
/// # Errors
/// When the listener cannot be handed to tokio.
pub async fn serve_with<D: Backend>(
    socket: ControlSocket,
    backend: Arc<D>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // The file outlives the listener by an instant, never the other way round.
    let (listener, _file) = socket.into_parts();
    http::serve(UnixListener::from_std(listener)?, router(backend), limits, shutdown).await;
    Ok(())
}

/// The API's paths and what answers them.
pub fn router<D: Backend>(backend: Arc<D>) -> Router {
    let routes = get(listing::routes::<D>).post(changes::edit::<D>).put(changes::replace::<D>);
    let peers = get(peers::<D>).post(changes::add_peer::<D>);
    Router::new()
        .route(api::STATUS, get(status::<D>))
        .route(api::ROUTES, routes.delete(changes::delete::<D>))
        .route(api::ROUTE_GET, get(route_get::<D>))
        .route(api::PEERS, peers)
        .route(&format!("{}/{{name}}", api::PEERS), delete(changes::delete_peer::<D>))
        .route(api::RELOAD, post(changes::reload::<D>))
        .route(api::DROPS, get(drops::<D>))
        .route(api::CAPTURE, get(capture::<D>))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .with_state(Arc::new(Api { backend, uploads: Uploads::default() }))
}

async fn status<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Status> {
    Json(api.backend.status())
}

async fn peers<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Vec<PeerStatus>> {
    Json(api.backend.peers())
}

async fn drops<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Drops> {
    Json(api.backend.status().drops)
}

/// The query of `/v1/routes/get`.
#[derive(Deserialize)]
struct Destination {
    address: IpAddr,
}

async fn route_get<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Destination>, QueryRejection>,
) -> Result<Json<RouteEntry>, Refusal> {
    let Destination { address } = query_of(query, "give ?address=IP")?;
    let entry = api.backend.route_get(address).ok_or_else(|| {
        let text = format!("no route to {address}: no prefix in the forwarding table contains it");
        Refusal::new(Kind::Missing, text)
    })?;
    Ok(Json(entry))
}

async fn capture<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    Extension(progress): Extension<Progress>,
    query: Result<Query<capture::Query>, QueryRejection>,
) -> Result<Response, Refusal> {
    let refused = |text| Refusal::new(Kind::Malformed, text);
    let query = query_of(query, "there are ?point=, ?filter=, ?count= and ?snaplen=")?;
    let nothing = || Refusal::new(Kind::Missing, "this daemon has no packets to capture");
    let (hub, vxlan_ports) = api.backend.capture().ok_or_else(nothing)?;
    let wanted = query.wanted(vxlan_ports).map_err(refused)?;
    let running = hub
        .start(wanted)
        .ok_or_else(|| Refusal::new(Kind::Conflict, "another capture is running; there is one at a time"))?;
    Ok(capture::respond(running, query.count(), progress.working()))
}

/// A query that could be understood; `advice` says what was expected.
fn query_of<T>(query: Result<Query<T>, QueryRejection>, advice: &str) -> Result<T, Refusal> {
    let refused = |rejection: QueryRejection| {
        Refusal::new(Kind::Malformed, format!("{}; {advice}", rejection.body_text()))
    };
    query.map(|Query(query)| query).map_err(refused)
}

async fn not_found(uri: Uri) -> Refusal {
    let known = [api::STATUS, api::ROUTES, api::ROUTE_GET, api::PEERS, api::DROPS, api::CAPTURE].join(", ");
    Refusal::new(Kind::Missing, format!("no such path: {}; there are {known}", uri.path()))
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let methods = match uri.path() {
        api::ROUTES => "GET, POST, PUT or DELETE",
        api::PEERS => "GET or POST",
        path if path.starts_with(api::PEERS) => "DELETE",
        _ => "GET",
    };
    let error = format!("{} does not take {method}; use {methods}", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, Json(ErrorBody { error, errors: Vec::new() })).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            Kind::Malformed => StatusCode::BAD_REQUEST,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Missing => StatusCode::NOT_FOUND,
            Kind::Full => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(ErrorBody { error: self.text, errors: self.culprits })).into_response()
    }
}

#[cfg(test)]
mod tests;
