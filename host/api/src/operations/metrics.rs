//! What Prometheus reads.
//!
//! All crates count through the `metrics` facade. This file installs the recorder behind it and
//! adds what is read rather than counted: tasks by type and state, and the length of the queue.

use std::{fmt::Write, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use taskforge_broker::{Broker, Mode};
use taskforge_registry::Catalog;
use taskforge_store::Store;
use tokio::{sync::Mutex, time::Instant};

/// How long a count of tasks is good for: with a long backlog counting reads much of an index, and
/// scrapers may be many. 15 s is a common interval of scrapes.
const COUNTS_MAX_AGE: Duration = Duration::from_secs(15);
/// A scrape must not hang with the store.
const COUNTS_TIMEOUT: Duration = Duration::from_secs(3);

/// Upper bounds of the buckets of everything in seconds: from a fresh instance (tens of
/// microseconds) to a long task.
const SECONDS: [f64; 17] = [
    0.0001, 0.0003, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];
/// Upper bounds of the buckets of everything else: items, bytes, fuel.
const SIZES: [f64; 12] =
    [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 1e6, 1e8, 1e10];

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    recorder: PrometheusHandle,
}

/// Why metrics cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot install the metrics recorder: {0}")]
pub struct MetricsError(String);

impl Metrics {
    /// Installs the process's recorder, once; later calls return the same.
    ///
    /// # Errors
    /// When something else has installed a recorder before.
    pub fn install() -> Result<Self, MetricsError> {
        static INSTALLED: OnceLock<Result<Metrics, MetricsError>> = OnceLock::new();
        INSTALLED.get_or_init(|| build().map_err(|error| MetricsError(error.to_string()))).clone()
    }

    /// Sorts the samples gathered so far into their buckets. To be called every few seconds;
    /// [`crate::Server::serve`] does.
    pub fn upkeep(&self) {
        self.recorder.run_upkeep();
    }

    /// Everything counted, in the Prometheus text format.
    pub(crate) fn render(&self) -> String {
        self.recorder.render()
    }
}

/// What one server reads from its store, kept for a moment.
#[derive(Default)]
pub(crate) struct Readings(Mutex<Option<(Instant, String)>>);

impl Readings {
    /// What others hold, in the Prometheus text format: counts at most [`COUNTS_MAX_AGE`] old, the
    /// rest as it is now.
    pub(crate) async fn render(
        &self,
        store: &dyn Store,
        broker: &dyn Broker,
        catalog: Option<&Catalog>,
    ) -> String {
        let mut text = self.counts(store).await;
        queue(&mut text, broker).await;
        eviction(&mut text, broker);
        if let Some(catalog) = catalog {
            let known = catalog.known().all().len() as u64;
            gauge(
                &mut text,
                "taskforge_plugins",
                "Plugins and external types that tasks may name",
                known,
            );
        }
        text
    }

    /// Held while it counts, so that scrapers who come together cost one count.
    async fn counts(&self, store: &dyn Store) -> String {
        let mut kept = self.0.lock().await;
        if let Some((at, text)) = &*kept
            && at.elapsed() < COUNTS_MAX_AGE
        {
            return text.clone();
        }
        let text = count(store).await;
        *kept = Some((Instant::now(), text.clone()));
        text
    }
}

fn build() -> Result<Metrics, metrics_exporter_prometheus::BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SIZES)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    metrics::describe_counter!(
        "taskforge_http_requests_total",
        "HTTP requests, by route, method and status"
    );
    metrics::describe_histogram!(
        "taskforge_http_request_duration_seconds",
        "Time to answer, long polls included"
    );
    metrics::describe_gauge!("taskforge_http_connections", "Open HTTP connections");
    metrics::describe_counter!(
        "taskforge_http_accept_errors_total",
        "Connections that could not be accepted"
    );
    metrics::describe_counter!("taskforge_http_panics_total", "Requests that ended in a panic");
    metrics::describe_counter!(
        "taskforge_http_unauthorized_total",
        "Requests without the API key, or with a wrong one"
    );
    metrics::describe_counter!("taskforge_tasks_enqueued_total", "Tasks committed by this process");
    metrics::describe_counter!(
        "taskforge_broker_errors_total",
        "Hints or signals that the broker did not take"
    );
    metrics::describe_counter!(
        "taskforge_external_leases_total",
        "Leases given to external workers, by what became of them: given, returned (nobody was there to take it), the state that a task was left in, lost"
    );
    Ok(Metrics { recorder })
}

/// What cannot be read is left out, and `taskforge_store_up` says so.
async fn count(store: &dyn Store) -> String {
    let mut text = String::new();
    let counts =
        tokio::time::timeout(COUNTS_TIMEOUT, store.counts()).await.ok().and_then(Result::ok);
    gauge(
        &mut text,
        "taskforge_store_up",
        "Whether the store answers",
        u64::from(counts.is_some()),
    );
    if let Some(counts) = counts {
        text.push_str(
            "# HELP taskforge_tasks Tasks that wait, run or have failed for good, by type and state; completed and cancelled ones are not \
             counted\n# TYPE taskforge_tasks gauge\n",
        );
        for (task_type, state, count) in counts.by_type {
            // A task type has no character that would need escaping. Writing to a string cannot
            // fail.
            writeln!(text, "taskforge_tasks{{type=\"{task_type}\",state=\"{state}\"}} {count}")
                .ok();
        }
    }
    text
}

/// What cannot be read is left out, and `taskforge_broker_up` says so.
async fn queue(text: &mut String, broker: &dyn Broker) {
    let depth =
        tokio::time::timeout(COUNTS_TIMEOUT, broker.depth()).await.ok().and_then(Result::ok);
    gauge(text, "taskforge_broker_up", "Whether the broker answers", u64::from(depth.is_some()));
    if let Some(depth) = depth {
        gauge(text, "taskforge_queue_depth", "Hints in the broker's queue", depth);
    }
    text.push_str("# HELP taskforge_broker_mode Where hints come from: 1 for the mode that is on\n# TYPE taskforge_broker_mode gauge\n");
    let on = broker.mode();
    for mode in [Mode::Local, Mode::Redis, Mode::Store, Mode::StoreWhileRedisIsAway] {
        let (name, is_on) = (mode.as_str(), u8::from(mode == on));
        writeln!(text, "taskforge_broker_mode{{mode=\"{name}\"}} {is_on}").ok();
    }
}

/// What Redis does when its memory is full.
fn eviction(text: &mut String, broker: &dyn Broker) {
    let Some(eviction) = broker.eviction() else {
        return;
    };
    let name = eviction.name();
    // Of letters and dashes. Writing to a string cannot fail.
    writeln!(
        text,
        "# HELP taskforge_redis_maxmemory_policy What Redis does when its memory is full; it must be noeviction\n\
         # TYPE taskforge_redis_maxmemory_policy gauge\n\
         taskforge_redis_maxmemory_policy{{policy=\"{name}\"}} 1"
    )
    .ok();
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}").ok();
}
