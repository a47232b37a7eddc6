//! Requests that are answered with one document from memory.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::backend::Backend;
use super::body::query_of;
use crate::api::{Drops, PeerStatus, RouteEntry, Status};
use crate::control::engine::refusal::{Kind, Refusal};

/// `GET /v1/status`
pub(super) async fn status<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Status> {
    Json(api.backend.status())
}

/// `GET /v1/peers`
pub(super) async fn peers<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Vec<PeerStatus>> {
    Json(api.backend.peers())
}

/// `GET /v1/drops`
pub(super) async fn drops<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Drops> {
    Json(api.backend.status().drops)
}

/// `GET /v1/openapi.json`
pub(super) async fn document<D: Backend>(State(api): State<Arc<Api<D>>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], api.document.clone()).into_response()
}

/// The query of `GET /v1/routes/get`.
#[derive(Deserialize, IntoParams)]
pub(super) struct Destination {
    /// The destination of a packet.
    #[param(value_type = String, example = "10.244.2.7")]
    address: IpAddr,
}

/// `GET /v1/routes/get`
pub(super) async fn route_get<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Destination>, QueryRejection>,
) -> Result<Json<RouteEntry>, Refusal> {
    let Destination { address } = query_of(query, "give ?address=IP")?;
    let entry = api.backend.route_get(address).ok_or_else(|| {
        let text = format!("no route to {address}: no prefix in the forwarding table contains it");
        Refusal::new(Kind::NoRoute, text)
    })?;
    Ok(Json(entry))
}
