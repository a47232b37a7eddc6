//! Requests about the pods of this node.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::backend::Backend;
use super::{Api, body};
use crate::api::{CniFacts, Endpoint, EndpointDeleted};
use crate::control::engine::refusal::{Kind, Refusal};

/// The parameter of the path of one endpoint.
#[derive(Deserialize, IntoParams)]
pub(super) struct Id {
    /// The container and its interface, with a colon between them.
    id: String,
}

const EXAMPLE: &str =
    r#"{"container_id":"c1","ifname":"eth0","netns":"/run/netns/c1","addresses":["10.244.1.2"]}"#;

/// `GET /v1/cni`
pub(super) async fn facts<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<CniFacts> {
    Json(api.backend.cni())
}

/// `GET /v1/endpoints`
pub(super) async fn list<D: Backend>(State(api): State<Arc<Api<D>>>) -> Json<Vec<Endpoint>> {
    Json(api.backend.endpoints())
}

/// `PUT /v1/endpoints/ID`
pub(super) async fn put<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    path: Result<Path<Id>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Endpoint>, Refusal> {
    let id = id(path)?;
    let upload = api.uploads.admit(&headers).await?;
    let given: Endpoint = upload.read(body::json(body, EXAMPLE)).await?;
    let endpoint = Endpoint { id, ..given };
    api.backend.put_endpoint(endpoint.clone())?;
    Ok(Json(endpoint))
}

/// `DELETE /v1/endpoints/ID`
pub(super) async fn delete<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    path: Result<Path<Id>, PathRejection>,
) -> Result<Json<EndpointDeleted>, Refusal> {
    let deleted = id(path)?;
    api.backend.delete_endpoint(&deleted)?;
    Ok(Json(EndpointDeleted { deleted }))
}

fn id(path: Result<Path<Id>, PathRejection>) -> Result<String, Refusal> {
    let refused = |rejection: PathRejection| Refusal::new(Kind::Malformed, rejection.body_text());
    path.map(|Path(Id { id })| id).map_err(refused)
}
