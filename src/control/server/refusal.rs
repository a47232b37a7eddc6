//! Refusals as responses: the status of each error code, and the body.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::{ErrorBody, ErrorCode};
use crate::control::engine::refusal::Refusal;

/// The HTTP status that errors of `code` have.
pub const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Malformed => StatusCode::BAD_REQUEST,
        ErrorCode::UnknownPath | ErrorCode::NoRoute | ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::UnknownPeer | ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Full => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The response for an error.
pub(super) fn respond(code: ErrorCode, error: String, errors: Vec<String>) -> Response {
    (status_of(code), Json(ErrorBody { code: code.name().to_owned(), error, errors })).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        respond(self.kind.into(), self.text, self.culprits)
    }
}
