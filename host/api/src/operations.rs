//! `/healthz`, `/readyz` and `/metrics`: for those who run the server.

pub mod admin;
pub(crate) mod health;
pub mod metrics;

use axum::{extract::State, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    operations::health::{Health, ReadyView},
    state::App,
};

/// The routes for operators.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(metrics))
}

/// Is the process alive?
///
/// Says so as long as it answers at all. Looks at nothing else.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "health",
    responses((status = 200, description = "It is", body = Health)),
)]
pub(crate) async fn healthz() -> Response {
    health::alive()
}

/// Can the server do its work?
///
/// Asks the database and the broker. It can do its work while the broker is away; `mode` and
/// `checks.broker` say so.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readiness",
    responses(
        (status = 200, description = "It can", body = ReadyView),
        (status = 503, description = "It cannot; `checks` says why", body = ReadyView),
    ),
)]
pub(crate) async fn readyz(State(app): State<App>) -> Response {
    app.health.readiness().await
}

/// Metrics in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200,
        description = "The metrics", body = String, content_type = "text/plain")),
)]
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    app.health.scrape().await
}
