//! `/healthz`, `/readyz` and `/metrics`: for those who run the server.

use axum::{extract::State, response::Response};

use crate::{
    state::App,
    view::{Health, ReadyView},
    vitals,
};

/// Is the process alive?
///
/// Says so as long as it answers at all. Looks at nothing else.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "health",
    responses((status = 200, description = "It is", body = Health)),
)]
pub(super) async fn healthz() -> Response {
    vitals::health()
}

/// Can the server do its work?
///
/// Asks the database and the broker. It can do its work while the broker is away; `mode` and `checks.broker` say so.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readiness",
    responses(
        (status = 200, description = "It can", body = ReadyView),
        (status = 503, description = "It cannot; `checks` says why", body = ReadyView),
    ),
)]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    app.vitals.readiness().await
}

/// Metrics in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    app.vitals.scrape().await
}
