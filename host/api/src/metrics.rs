//! What Prometheus reads.
//!
//! The rooms count through the `metrics` facade. This one installs the recorder behind it and adds what is read rather than counted:
//! tasks by type and state, and the length of the queue.

use std::{
    fmt::Write,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;

use crate::Services;

/// How long a count of all tasks is good for: counting reads the whole table, and scrapers may be many.
const COUNTS_MAX_AGE: Duration = Duration::from_secs(5);
/// A scrape must not hang with the store.
const COUNTS_TIMEOUT: Duration = Duration::from_secs(3);

/// Upper bounds of the buckets of everything in seconds: from a fresh instance (tens of microseconds) to a long task.
const SECONDS: [f64; 17] = [
    0.0001, 0.0003, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Upper bounds of the buckets of everything else: items, bytes, fuel.
const SIZES: [f64; 12] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 1e6, 1e8, 1e10,
];

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
        INSTALLED
            .get_or_init(|| build().map_err(|error| MetricsError(error.to_string())))
            .clone()
    }

    /// Sorts the samples gathered so far into their buckets. To be called every few seconds; [`crate::Server::serve`] does.
    pub fn upkeep(&self) {
        self.recorder.run_upkeep();
    }

    /// Everything counted, in the Prometheus text format.
    pub(crate) fn render(&self) -> String {
        self.recorder.render()
    }
}

/// What one server reads from its store and broker, kept for a moment.
#[derive(Default)]
pub(crate) struct Readings(Mutex<Option<(Instant, String)>>);

impl Readings {
    /// The readings in the Prometheus text format, at most [`COUNTS_MAX_AGE`] old.
    pub(crate) async fn render(&self, services: &Services) -> String {
        if let Some((at, text)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < COUNTS_MAX_AGE
        {
            return text.clone();
        }
        let text = read(services).await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), text.clone()));
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
        "taskforge_tasks_enqueued_total",
        "Tasks committed by this process"
    );
    metrics::describe_counter!(
        "taskforge_broker_errors_total",
        "Hints or signals that the broker did not take"
    );
    Ok(Metrics { recorder })
}

/// Reads what others hold. What cannot be read is left out, and `taskforge_store_up` or `taskforge_broker_up` says so.
async fn read(services: &Services) -> String {
    let mut text = String::new();
    let counts = tokio::time::timeout(COUNTS_TIMEOUT, services.store.counts())
        .await
        .ok()
        .and_then(Result::ok);
    gauge(
        &mut text,
        "taskforge_store_up",
        "Whether the store answers",
        u64::from(counts.is_some()),
    );
    if let Some(counts) = counts {
        text.push_str(
            "# HELP taskforge_tasks Tasks in the store, by type and state\n# TYPE taskforge_tasks gauge\n",
        );
        for (task_type, state, count) in counts.by_type {
            // A task type has no character that would need escaping. Writing to a string cannot fail.
            writeln!(
                text,
                "taskforge_tasks{{type=\"{task_type}\",state=\"{state}\"}} {count}"
            )
            .ok();
        }
    }
    let depth = tokio::time::timeout(COUNTS_TIMEOUT, services.broker.depth())
        .await
        .ok()
        .and_then(Result::ok);
    gauge(
        &mut text,
        "taskforge_broker_up",
        "Whether the broker answers",
        u64::from(depth.is_some()),
    );
    if let Some(depth) = depth {
        gauge(
            &mut text,
            "taskforge_queue_depth",
            "Hints in the broker's queue",
            depth,
        );
    }
    gauge(
        &mut text,
        "taskforge_plugins",
        "Plugins that tasks may name",
        services.catalog.list().len() as u64,
    );
    text
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}").ok();
}
