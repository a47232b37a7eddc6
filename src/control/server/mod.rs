//! The control API: HTTP/JSON on a Unix socket, so that `curl --unix-socket` works too.
//!
//! Everything here answers from memory, but that an edit may have to look at the kernel first. What it
//! answers comes from a [`Backend`].

pub mod backend;
mod body;
mod capture;
mod changes;
mod connections;
mod convert;
mod endpoints;
mod exposition;
pub mod http;
mod listing;
pub mod metrics_http;
mod openapi;
mod operation;
mod policies;
mod progress;
mod reading;
pub mod refusal;
pub mod render;
mod request;
pub mod socket;
mod table;
mod uploads;
mod watched;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;

use backend::Backend;
use http::Limits;
use socket::ControlSocket;
use uploads::Uploads;
use watched::Watched;

/// What the handlers share.
struct Api<D> {
    backend: Arc<D>,
    uploads: Uploads,
    /// The OpenAPI document.
    document: Bytes,
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
    http::serve(Watched::new(socket)?, router(backend), limits, shutdown).await;
    Ok(())
}

/// The API's paths and what answers them.
pub fn router<D: Backend>(backend: Arc<D>) -> Router {
    let table = table::table::<D>();
    // The document has no part that JSON cannot express.
    let document = serde_json::to_vec(&openapi::document(&table)).unwrap_or_default().into();
    request::router(table).with_state(Arc::new(Api { backend, uploads: Uploads::default(), document }))
}

#[cfg(test)]
mod tests;
