//! Requests that change routes and peers.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::backend::Backend;
use super::body::query_of;
use super::{Api, body};
use crate::api::{NewPeer, PeerDeleted, PeerStatus, Reloaded, RouteChanges, RoutesChanged};
use crate::control::engine::edits::batch::{Batch, Places, TooManySets};
use crate::control::engine::edits::lines::{Culprits, Kinds, parse_prefix};
use crate::control::engine::refusal::{Kind, Refusal};

/// The query of other changes.
#[derive(Deserialize, IntoParams)]
pub(super) struct Wait {
    /// Whether to answer only when packets see the change.
    #[serde(default)]
    wait: bool,
}

/// The query of a `POST` of routes.
#[derive(Deserialize, IntoParams)]
pub(super) struct Edit {
    /// Whether every line of a text is the removal of its route.
    #[serde(default)]
    delete: bool,
    /// Whether to answer only when packets see the change.
    #[serde(default)]
    wait: bool,
}

/// The query of a `POST` of a peer.
#[derive(Deserialize, IntoParams)]
pub(super) struct AddPeer {
    /// Whether a node of that name that is known already is changed to what is given.
    #[serde(default)]
    replace: bool,
    /// Whether to answer only when packets see the change.
    #[serde(default)]
    wait: bool,
}

/// The query of a `DELETE`.
#[derive(Deserialize, IntoParams)]
pub(super) struct Delete {
    /// The route's destination.
    #[param(example = "10.9.0.0/24")]
    prefix: String,
    /// Whether to answer only when packets see the change.
    #[serde(default)]
    wait: bool,
}

/// The parameter of the path of one peer.
#[derive(Deserialize, IntoParams)]
pub(super) struct Name {
    /// The node's name.
    name: String,
}

const WAIT: &str = "there is ?wait=true";
const EXAMPLE: &str = r#"{"add":[{"prefix":"10.9.0.0/24","via":["node-b"]}],"del":["10.8.0.0/24"]}"#;
const PEER_EXAMPLE: &str = r#"{"name":"node-d","address":"192.0.2.4","subnets":["10.244.4.0/24"]}"#;

/// `POST /v1/routes`
pub(super) async fn edit<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Edit>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RoutesChanged>, Refusal> {
    let Edit { delete, wait } = query_of(query, "there are ?wait=true and, for text, ?delete=true")?;
    let most = api.backend.most_changes();
    let upload = api.uploads.admit(&headers).await?;
    let read = async {
        if body::is_text(&headers) {
            body::routes(body, if delete { Kinds::Deletions } else { Kinds::All }, most).await
        } else {
            batch_of(&body::json(body, EXAMPLE).await?)
        }
    };
    let batch = upload.read(read).await?;
    Ok(Json(api.backend.edit_routes(batch, wait).await?))
}

/// `PUT /v1/routes`
pub(super) async fn replace<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RoutesChanged>, Refusal> {
    let Wait { wait } = query_of(query, WAIT)?;
    if !body::is_text(&headers) {
        let text = "all routes are replaced by text only; send `Content-Type: text/plain` and lines `PREFIX via PEER`";
        return Err(Refusal::new(Kind::Malformed, text));
    }
    let upload = api.uploads.admit(&headers).await?;
    let batch = upload.read(body::routes(body, Kinds::Additions, api.backend.most_routes())).await?;
    Ok(Json(api.backend.replace_routes(batch, wait).await?))
}

/// `DELETE /v1/routes`
pub(super) async fn delete<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Delete>, QueryRejection>,
) -> Result<Json<RoutesChanged>, Refusal> {
    let Delete { prefix, wait } = query_of(query, "give ?prefix=PREFIX")?;
    let prefix = parse_prefix(&prefix).map_err(|reason| Refusal::new(Kind::Malformed, reason))?;
    let mut batch = Batch::new(Places::Alone);
    batch.del(prefix, 0);
    Ok(Json(api.backend.edit_routes(batch, wait).await?))
}

/// `POST /v1/peers`
pub(super) async fn add_peer<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<AddPeer>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Option<PeerStatus>>, Refusal> {
    let AddPeer { replace, wait } = query_of(query, "there are ?wait=true and ?replace=true")?;
    let upload = api.uploads.admit(&headers).await?;
    let peer: NewPeer = upload.read(body::json(body, PEER_EXAMPLE)).await?;
    Ok(Json(api.backend.add_peer(peer, replace, wait).await?))
}

/// `POST /v1/reload`
pub(super) async fn reload<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<Reloaded>, Refusal> {
    let Wait { wait } = query_of(query, WAIT)?;
    Ok(Json(api.backend.reload(wait).await?))
}

/// `DELETE /v1/peers/NAME`
pub(super) async fn delete_peer<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    path: Result<Path<Name>, PathRejection>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<PeerDeleted>, Refusal> {
    let refused = |rejection: PathRejection| Refusal::new(Kind::Malformed, rejection.body_text());
    let Path(Name { name: deleted }) = path.map_err(refused)?;
    let Wait { wait } = query_of(query, WAIT)?;
    api.backend.delete_peer(deleted.clone(), wait).await?;
    Ok(Json(PeerDeleted { deleted }))
}

/// The changes of a JSON document.
fn batch_of(changes: &RouteChanges) -> Result<Batch, Refusal> {
    let alone = changes.add.len() + changes.del.len() == 1;
    let mut batch = Batch::new(if alone { Places::Alone } else { Places::Lists });
    let mut culprits = Culprits::default();
    for (place, route) in (0..).zip(&changes.add) {
        let added = parse_prefix(&route.prefix).and_then(|prefix| {
            if route.via.is_empty() {
                return Err(format!("{prefix} has no node in \"via\"; name at least one peer"));
            }
            let added = batch.add(prefix, &route.via.join(","), route.mtu, place);
            added.map_err(|full: TooManySets| full.to_string())
        });
        if let Err(reason) = added {
            culprits.push(|| format!("{}{reason}", batch.lead(place, false)));
        }
    }
    for (place, prefix) in (0..).zip(&changes.del) {
        match parse_prefix(prefix) {
            Ok(prefix) => batch.del(prefix, place),
            Err(reason) => culprits.push(|| format!("{}{reason}", batch.lead(place, true))),
        }
    }
    if culprits.is_empty() { Ok(batch) } else { Err(Refusal::of(Kind::Malformed, culprits)) }
}
