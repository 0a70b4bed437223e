//! What a process says about itself to those who run it: alive, ready, and its metrics. The door and the workers' listener say the same.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use taskforge_broker::{Broker, Mode};
use taskforge_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{
    Catalog, Metrics, Readiness,
    metrics::Readings,
    view::{Health, ReadyChecks, ReadyView, json},
};

/// A part that does not answer in this time does not work.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const OK: Cow<'static, str> = Cow::Borrowed("ok");

/// The parts that are asked.
pub(crate) struct Vitals {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Arc<dyn Broker>,
    /// `None` where there is no door.
    pub(crate) catalog: Option<Arc<Catalog>>,
    pub(crate) metrics: Metrics,
    pub(crate) ready: Arc<dyn Readiness>,
    /// Cancelled when the server stops taking requests.
    pub(crate) draining: CancellationToken,
    pub(crate) readings: Readings,
}

/// Says that the process answers.
pub(crate) fn health() -> Response {
    let body = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
    };
    json(StatusCode::OK, &body)
}

impl Vitals {
    /// Whether the process can do its work. A broker that is away does not change that: tasks are then claimed from the store, more slowly,
    /// and to take the whole fleet out of service for it would turn latency into an outage.
    pub(crate) async fn readiness(&self) -> Response {
        let (store, (mode, broker)) = tokio::join!(check("store", self.store.ping()), self.broker());
        let server = match self.ready.check() {
            _ if self.draining.is_cancelled() => "shutting down".into(),
            Ok(()) => OK,
            Err(missing) => missing.into(),
        };
        let (code, status) = match store == OK && server == OK {
            true => (StatusCode::OK, "ready"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        let checks = ReadyChecks {
            store,
            broker,
            server,
        };
        let mode = mode.as_str();
        json(code, &ReadyView { status, mode, checks })
    }

    async fn broker(&self) -> (Mode, Cow<'static, str>) {
        match self.broker.mode() {
            mode @ Mode::StoreWhileRedisIsAway => (
                mode,
                "Redis is away; tasks are claimed from the store itself".into(),
            ),
            mode => (mode, check("broker", self.broker.depth()).await),
        }
    }

    /// Everything counted and read, in the Prometheus text format.
    pub(crate) async fn scrape(&self) -> Response {
        let text = self.metrics.render() + &self.readings.render(self).await;
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, content_type)], text).into_response()
    }
}

/// What the client is told is which part does not work; what it said goes to the log.
async fn check<T, E: std::error::Error>(
    part: &str,
    answer: impl Future<Output = Result<T, E>>,
) -> Cow<'static, str> {
    match tokio::time::timeout(CHECK_TIMEOUT, answer).await {
        Ok(Ok(_)) => OK,
        Ok(Err(error)) => {
            tracing::warn!(part, %error, "a part does not work");
            "unavailable".into()
        }
        Err(_) => {
            tracing::warn!(part, "a part does not answer in time");
            "does not answer".into()
        }
    }
}
