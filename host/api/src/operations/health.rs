//! What a process says about itself to those who run it: alive, ready, and its metrics. The API and
//! the workers' listener say the same.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Serialize;
use taskforge_broker::{Broker, Mode};
use taskforge_registry::Catalog;
use taskforge_store::Store;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::{Metrics, Readiness, http::answer::json, operations::metrics::Readings};

/// A part that does not answer in this time does not work.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const OK: Cow<'static, str> = Cow::Borrowed("ok");
const AWAY: Cow<'static, str> =
    Cow::Borrowed("Redis is away; tasks are claimed from the store itself");

/// How old what a part said may be when it is repeated to the next who asks. So many probes a
/// second cost a hung database no more than one does.
const FRESH: Duration = Duration::from_secs(1);

/// How long a probe waits for a new answer while there is an old one that is not much older: no
/// longer than a part may take to answer. Then a probe that has a connection gives it back soon,
/// whatever hangs.
const NEW_ANSWER: Duration = Duration::from_millis(250);
const STALE: Duration = Duration::from_secs(3);

const SILENT: Cow<'static, str> = Cow::Borrowed("does not answer");

/// Whether the server can do its work.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness, example = json!({"status": "ready", "mode": "redis",
    "checks": {"store": "ok", "broker": "ok", "server": "ok"}}))]
pub(crate) struct ReadyView {
    /// `ready` or `unavailable`.
    status: &'static str,
    /// Where workers learn of tasks: `local` (a queue in this process), `redis`, `store` (the
    /// database, because nothing else is configured) or `store_while_redis_is_away`.
    mode: &'static str,
    /// What each part says: `ok`, or what is wrong with it.
    checks: ReadyChecks,
}

/// The parts. The store and the server must work; the broker may be away.
#[derive(Serialize, ToSchema)]
struct ReadyChecks {
    /// The database answers and has the right schema.
    store: Cow<'static, str>,
    /// The broker answers, and its server keeps what it is given. While it does not, tasks are
    /// claimed from the store, later and more slowly.
    broker: Cow<'static, str>,
    /// The server has what it needs, and is not shutting down.
    server: Cow<'static, str>,
}

/// That the process answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The version of TaskForge.
    version: &'static str,
}

/// The parts that are asked.
pub(crate) struct HealthChecks {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Arc<dyn Broker>,
    /// `None` where there is no API.
    pub(crate) catalog: Option<Arc<Catalog>>,
    pub(crate) metrics: Metrics,
    pub(crate) ready: Arc<dyn Readiness>,
    /// Cancelled when the server stops taking requests.
    pub(crate) draining: CancellationToken,
    pub(crate) readings: Readings,
    pub(crate) checked: Checked,
}

/// What store and broker said last.
#[derive(Default)]
pub(crate) struct Checked {
    last: watch::Sender<Option<Parts>>,
    /// Held while they are asked.
    asking: Arc<Mutex<()>>,
}

#[derive(Clone)]
struct Parts {
    at: Instant,
    store: Cow<'static, str>,
    mode: Mode,
    broker: Cow<'static, str>,
}

/// Says that the process answers.
pub(crate) fn alive() -> Response {
    let body = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };
    json(StatusCode::OK, &body)
}

impl HealthChecks {
    /// Whether the process can do its work. A broker that is away does not change that: tasks are
    /// then claimed from the store, more slowly, and to take the whole fleet out of service for it
    /// would turn latency into an outage.
    ///
    /// What store and broker say is asked at most once a second, however many probes there are.
    pub(crate) async fn readiness(self: &Arc<Self>) -> Response {
        let Parts { store, mode, broker, .. } = self.parts().await;
        let server = match self.ready.check() {
            _ if self.draining.is_cancelled() => "shutting down".into(),
            Ok(()) => OK,
            Err(missing) => missing.into(),
        };
        let (code, status) = match store == OK && server == OK {
            true => (StatusCode::OK, "ready"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        let checks = ReadyChecks { store, broker, server };
        let mode = mode.as_str();
        json(code, &ReadyView { status, mode, checks })
    }

    /// What store and broker say, or said a moment ago.
    async fn parts(self: &Arc<Self>) -> Parts {
        let mut said = self.checked.last.subscribe();
        let last = said.borrow_and_update().clone();
        let age = last.as_ref().map_or(Duration::MAX, |parts| parts.at.elapsed());
        if let Some(parts) = last.clone().filter(|_| age < FRESH) {
            return parts;
        }
        if let Ok(asking) = Arc::clone(&self.checked.asking).try_lock_owned() {
            let this = Arc::clone(self);
            // Of its own: whoever asked may hang up.
            tokio::spawn(async move {
                let (store, (mode, broker)) =
                    tokio::join!(check("store", this.store.ping()), this.broker());
                let at = Instant::now();
                let parts = Parts { at, store, mode, broker };
                this.checked.last.send_replace(Some(parts));
                drop(asking);
            });
        }
        let wait = if age < STALE { NEW_ANSWER } else { CHECK_TIMEOUT + NEW_ANSWER };
        let answer = timeout(
            wait,
            said.wait_for(|parts| {
                parts.as_ref().map(|parts| parts.at) != last.as_ref().map(|last| last.at)
            }),
        );
        match answer.await {
            Ok(Ok(parts)) => parts.clone().or(last),
            _ => last.filter(|_| age < STALE),
        }
        .unwrap_or_else(|| Parts {
            at: Instant::now(),
            store: SILENT,
            mode: self.broker.mode(),
            broker: SILENT,
        })
    }

    /// Where hints come from, and what is wrong with that.
    async fn broker(&self) -> (Mode, Cow<'static, str>) {
        let mode = self.broker.mode();
        let answers = match mode {
            Mode::StoreWhileRedisIsAway => AWAY,
            _ => check("broker", self.broker.depth()).await,
        };
        // One that does not answer has nothing to add.
        let concern =
            self.broker.concern().filter(|_| answers == OK || mode == Mode::StoreWhileRedisIsAway);
        (mode, concern.map_or(answers, Cow::from))
    }

    /// Everything counted and read, in the Prometheus text format.
    pub(crate) async fn scrape(&self) -> Response {
        let text = self.metrics.render()
            + &self.readings.render(&*self.store, &*self.broker, self.catalog.as_deref()).await;
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
            // The field makes it a fault that lasts, which the log does not repeat at every probe.
            let error = format!("no answer within {CHECK_TIMEOUT:?}");
            tracing::warn!(part, %error, "a part does not answer in time");
            SILENT
        }
    }
}
