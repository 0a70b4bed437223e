//! Answers in JSON.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    (status, axum::Json(body)).into_response()
}
