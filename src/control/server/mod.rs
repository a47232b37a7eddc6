//! The control API: HTTP/JSON on a Unix socket, so that `curl --unix-socket` works too.
//!
//! Everything here answers from memory, but that an edit may have to look at the kernel first. What it
//! answers comes from a [`Dataplane`].

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
use crate::api::{self, Drops, ErrorBody, NewPeer, PeerStatus, RouteEntry, RoutesChanged, Status};
use crate::control::engine::batch::Batch;
use crate::dataplane::observe::capture::Hub;
use crate::net::Prefix;
use crate::route::Source;
use body::Uploads;
use http::Limits;
use progress::Progress;
use socket::ControlSocket;

/// What the API shows of the dataplane, and what it changes. The calls come from the control
/// plane's thread; only large edits take longer than moments.
///
/// A change returns its generation, for [`Dataplane::settled`].
pub trait Dataplane: Send + Sync + 'static {
    /// The whole daemon at a glance.
    fn status(&self) -> Status;
    /// A page of routes, in the order in which they are to be listed, and where the next page
    /// begins; `None` behind the last.
    fn routes(&self, page: Page) -> (Vec<RouteEntry>, Option<Prefix>);
    /// The same page as text, in the form in which routes are added.
    fn route_lines(&self, page: Page) -> (String, Option<Prefix>);
    /// The route a packet to `address` takes; `None` when it would be dropped as `no_route`.
    fn route_get(&self, address: IpAddr) -> Option<RouteEntry>;
    /// Looks at what the next edit is judged by, where that is not in memory.
    fn observe(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// Makes all changes of `batch` to the control routes.
    ///
    /// # Errors
    /// When one of them cannot be made; none is then.
    fn edit_routes(&self, batch: &mut Batch) -> Result<(RoutesChanged, u64), Refusal>;
    /// Replaces all control routes by those of `batch`.
    ///
    /// # Errors
    /// When one of them cannot be; nothing has changed then.
    fn replace_routes(&self, batch: &mut Batch) -> Result<(RoutesChanged, u64), Refusal>;
    /// The other nodes.
    fn peers(&self) -> Vec<PeerStatus>;
    /// Makes a node known.
    ///
    /// # Errors
    /// When something speaks against it.
    fn add_peer(&self, peer: &NewPeer) -> Result<u64, Refusal>;
    /// Forgets a node and its routes.
    ///
    /// # Errors
    /// When there is no such node.
    fn delete_peer(&self, name: &str) -> Result<u64, Refusal>;
    /// Reads the configuration file again and follows it.
    ///
    /// # Errors
    /// Everything that speaks against it; nothing has changed then.
    fn reload(&self) -> Result<u64, Refusal>;
    /// Completes when packets see the change of this generation.
    fn settled(&self, generation: u64) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Where packets can be captured and the UDP ports of VXLAN, here and at the peers; `None` where there are none.
    fn capture(&self) -> Option<(Arc<Hub>, Vec<u16>)> {
        None
    }
}

/// A piece of the list of routes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Page {
    /// Behind this prefix; from the first one on when `None`.
    pub after: Option<Prefix>,
    /// Which routes.
    pub scope: Scope,
    /// Prefixes to look at, at most.
    pub most: usize,
}

/// Which routes are listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The one in use for each prefix.
    Best,
    /// All of one source, in use or not.
    Of(Source),
}

/// What the handlers share.
struct Api<D> {
    dataplane: Arc<D>,
    uploads: Uploads,
}

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
        .with_state(Arc::new(Api { dataplane, uploads: Uploads::default() }))
}

async fn status<D: Dataplane>(State(api): State<Arc<Api<D>>>) -> Json<Status> {
    Json(api.dataplane.status())
}

async fn peers<D: Dataplane>(State(api): State<Arc<Api<D>>>) -> Json<Vec<PeerStatus>> {
    Json(api.dataplane.peers())
}

async fn drops<D: Dataplane>(State(api): State<Arc<Api<D>>>) -> Json<Drops> {
    Json(api.dataplane.status().drops)
}

/// The query of `/v1/routes/get`.
#[derive(Deserialize)]
struct Destination {
    address: IpAddr,
}

async fn route_get<D: Dataplane>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Destination>, QueryRejection>,
) -> Result<Json<RouteEntry>, Refusal> {
    let Destination { address } = query_of(query, "give ?address=IP")?;
    let entry = api.dataplane.route_get(address).ok_or_else(|| {
        let text = format!("no route to {address}: no prefix in the forwarding table contains it");
        Refusal::new(Kind::Missing, text)
    })?;
    Ok(Json(entry))
}

async fn capture<D: Dataplane>(
    State(api): State<Arc<Api<D>>>,
    Extension(progress): Extension<Progress>,
    query: Result<Query<capture::Query>, QueryRejection>,
) -> Result<Response, Refusal> {
    let refused = |text| Refusal::new(Kind::Malformed, text);
    let query = query_of(query, "there are ?point=, ?filter=, ?count= and ?snaplen=")?;
    let nothing = || Refusal::new(Kind::Missing, "this daemon has no packets to capture");
    let (hub, vxlan_ports) = api.dataplane.capture().ok_or_else(nothing)?;
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
