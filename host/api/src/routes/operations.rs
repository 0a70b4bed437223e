//! `/healthz`, `/readyz` and `/metrics`: for those who run the server.

use std::{borrow::Cow, future::Future, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use crate::{
    state::App,
    view::{Health, ReadyChecks, ReadyView, json},
};

/// A part that does not answer in this time does not work.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const OK: Cow<'static, str> = Cow::Borrowed("ok");

/// Is the process alive?
///
/// Says so as long as it answers at all. Looks at nothing else.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "health",
    responses((status = 200, description = "It is", body = Health)),
)]
pub(super) async fn healthz() -> Response {
    json(
        StatusCode::OK,
        &Health {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
        },
    )
}

/// Can the server do its work?
///
/// Asks the database and the broker.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readiness",
    responses(
        (status = 200, description = "It can", body = ReadyView),
        (status = 503, description = "It cannot; `checks` says why", body = ReadyView),
    ),
)]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let services = &app.services;
    let store = check("store", services.store.ping());
    let broker = check("broker", services.broker.depth());
    let (store, broker) = tokio::join!(store, broker);
    let server = match services.ready.check() {
        _ if app.draining.is_cancelled() => "shutting down".into(),
        Ok(()) => OK,
        Err(missing) => missing.into(),
    };
    let checks = ReadyChecks {
        store,
        broker,
        server,
    };
    let ready = [&checks.store, &checks.broker, &checks.server]
        .into_iter()
        .all(|check| *check == OK);
    let (code, status) = match ready {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    json(code, &ReadyView { status, checks })
}

/// What the client is told is which part does not work; what it said goes to the log.
async fn check<T, E: std::error::Error>(
    part: &str,
    answer: impl Future<Output = Result<T, E>>,
) -> Cow<'static, str> {
    match tokio::time::timeout(CHECK_TIMEOUT, answer).await {
        Ok(Ok(_)) => OK,
        Ok(Err(error)) => {
            tracing::warn!(part, %error, "not ready");
            "unavailable".into()
        }
        Err(_) => {
            tracing::warn!(part, "not ready: no answer in time");
            "does not answer".into()
        }
    }
}

/// Metrics in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let text = app.services.metrics.render() + &app.readings.render(&app.services).await;
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
