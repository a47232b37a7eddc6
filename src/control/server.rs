//! The control API: HTTP/JSON on a Unix socket, so that `curl --unix-socket` works too.
//!
//! Everything here answers from memory. What it answers comes from a [`Dataplane`].

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;

use super::api::{self, Drops, ErrorBody, RouteEntry, Status};
use super::capture;
use super::http::{self, Limits, LongLived};
use super::socket::ControlSocket;
use crate::capture::Hub;

/// What the API shows of the dataplane. The calls come from the control plane's thread and must
/// not block.
pub trait Dataplane: Send + Sync + 'static {
    /// The whole daemon at a glance.
    fn status(&self) -> Status;
    /// All routes, in the order in which they are to be listed.
    fn routes(&self) -> Vec<RouteEntry>;
    /// The route a packet to `address` takes; `None` when it would be dropped as `no_route`.
    fn route_get(&self, address: IpAddr) -> Option<RouteEntry>;
    /// Where packets can be captured and the UDP port of VXLAN; `None` where there are none.
    fn capture(&self) -> Option<(Arc<Hub>, u16)> {
        None
    }
}

/// Bytes of a request body; no request of today has one.
const MAX_BODY: usize = 64 * 1024;

/// Answers the API on `socket` until `shutdown` completes, then removes the socket file.
///
/// # Errors
/// When the listener cannot be handed to tokio.
pub async fn serve<D: Dataplane>(
    socket: ControlSocket,
    dataplane: Arc<D>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(socket, dataplane, Limits::default(), shutdown).await
}

/// As [`serve`], with other limits.
///
/// # Errors
/// When the listener cannot be handed to tokio.
pub async fn serve_with<D: Dataplane>(
    socket: ControlSocket,
    dataplane: Arc<D>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // The file outlives the listener by an instant, never the other way round.
    let (listener, _file) = socket.into_parts();
    http::serve(UnixListener::from_std(listener)?, router(dataplane), limits, shutdown).await;
    Ok(())
}

/// The API's paths and what answers them.
pub fn router<D: Dataplane>(dataplane: Arc<D>) -> Router {
    Router::new()
        .route(api::STATUS, get(status::<D>))
        .route(api::ROUTES, get(routes::<D>))
        .route(api::ROUTE_GET, get(route_get::<D>))
        .route(api::DROPS, get(drops::<D>))
        .route(api::CAPTURE, get(capture::<D>))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(dataplane)
}

async fn status<D: Dataplane>(State(dataplane): State<Arc<D>>) -> Json<Status> {
    Json(dataplane.status())
}

async fn routes<D: Dataplane>(State(dataplane): State<Arc<D>>) -> Json<Vec<RouteEntry>> {
    Json(dataplane.routes())
}

async fn drops<D: Dataplane>(State(dataplane): State<Arc<D>>) -> Json<Drops> {
    Json(dataplane.status().drops)
}

/// The query of `/v1/routes/get`.
#[derive(Deserialize)]
struct Destination {
    address: IpAddr,
}

async fn route_get<D: Dataplane>(
    State(dataplane): State<Arc<D>>,
    query: Result<Query<Destination>, QueryRejection>,
) -> Result<Json<RouteEntry>, Failure> {
    let Query(Destination { address }) = query.map_err(|rejection| {
        Failure(StatusCode::BAD_REQUEST, format!("{}; give ?address=IP", rejection.body_text()))
    })?;
    let entry = dataplane.route_get(address).ok_or_else(|| {
        let text = format!("no route to {address}: no prefix in the forwarding table contains it");
        Failure(StatusCode::NOT_FOUND, text)
    })?;
    Ok(Json(entry))
}

async fn capture<D: Dataplane>(
    State(dataplane): State<Arc<D>>,
    long_lived: Option<Extension<LongLived>>,
    query: Result<Query<capture::Query>, QueryRejection>,
) -> Result<Response, Failure> {
    let refused = |text| Failure(StatusCode::BAD_REQUEST, text);
    let Query(query) = query.map_err(|rejection| refused(rejection.body_text()))?;
    let (hub, vxlan_port) = dataplane
        .capture()
        .ok_or_else(|| Failure(StatusCode::NOT_FOUND, "this daemon has no packets to capture".to_owned()))?;
    let wanted = query.wanted(vxlan_port).map_err(refused)?;
    let running = hub.start(wanted).ok_or_else(|| {
        Failure(StatusCode::CONFLICT, "another capture is running; there is one at a time".to_owned())
    })?;
    if let Some(Extension(long_lived)) = long_lived {
        long_lived.set();
    }
    Ok(capture::respond(running, query.count()))
}

async fn not_found(uri: Uri) -> Failure {
    let known = [api::STATUS, api::ROUTES, api::ROUTE_GET, api::DROPS, api::CAPTURE].join(", ");
    Failure(StatusCode::NOT_FOUND, format!("no such path: {}; there are {known}", uri.path()))
}

async fn not_allowed(method: Method, uri: Uri) -> Failure {
    Failure(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}; use GET", uri.path()))
}

/// A refusal with its JSON body.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

#[cfg(test)]
mod tests;
