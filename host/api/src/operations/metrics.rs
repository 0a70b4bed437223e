//! What Prometheus reads.
//!
//! All crates count through the `metrics` facade. This file installs the recorder behind it and
//! adds what is read rather than counted: tasks by type and state, and the length of the queue.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics::{Gauge, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use taskforge_broker::{Broker, Mode};
use taskforge_registry::Catalog;
use taskforge_store::{Counts, Store};
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
pub(crate) struct Readings(Mutex<Option<(Instant, Arc<Option<Counts>>)>>);

impl Readings {
    /// What others hold, in the Prometheus text format: counts at most [`COUNTS_MAX_AGE`] old, the
    /// rest as it is now. What cannot be read is left out, and `taskforge_store_up` and
    /// `taskforge_broker_up` say so.
    pub(crate) async fn render(
        &self,
        store: &dyn Store,
        broker: &dyn Broker,
        catalog: Option<&Catalog>,
    ) -> String {
        let counts = self.counts(store).await;
        let depth = tokio::time::timeout(COUNTS_TIMEOUT, broker.depth()).await;
        let depth = depth.ok().and_then(Result::ok);
        // Of this scrape only: a series that is not read any more is gone.
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            tasks((*counts).as_ref());
            queue(broker, depth);
            if let Some(catalog) = catalog {
                describe_gauge!(
                    "taskforge_plugins",
                    "Plugins and external types that tasks may name"
                );
                set(&gauge!("taskforge_plugins"), catalog.known().all().len() as u64);
            }
        });
        recorder.handle().render()
    }

    /// Held while it counts, so that scrapers who come together cost one count.
    async fn counts(&self, store: &dyn Store) -> Arc<Option<Counts>> {
        let mut kept = self.0.lock().await;
        if let Some((at, counts)) = &*kept
            && at.elapsed() < COUNTS_MAX_AGE
        {
            return Arc::clone(counts);
        }
        let counts = tokio::time::timeout(COUNTS_TIMEOUT, store.counts()).await;
        let counts = Arc::new(counts.ok().and_then(Result::ok));
        *kept = Some((Instant::now(), Arc::clone(&counts)));
        counts
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
    describe_gauge!("taskforge_http_connections", "Open HTTP connections");
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
        "Leases given to external workers, by what became of them: given, returned (nobody was \
         there to take it), the state that a task was left in, lost"
    );
    Ok(Metrics { recorder })
}

fn tasks(counts: Option<&Counts>) {
    describe_gauge!("taskforge_store_up", "Whether the store answers");
    set(&gauge!("taskforge_store_up"), u64::from(counts.is_some()));
    describe_gauge!(
        "taskforge_tasks",
        "Tasks that wait, run or have failed for good, by type and state; completed and cancelled \
         ones are not counted"
    );
    for (task_type, state, count) in counts.into_iter().flat_map(|counts| &counts.by_type) {
        let (task_type, state) = (task_type.to_string(), state.to_string());
        set(&gauge!("taskforge_tasks", "type" => task_type, "state" => state), *count);
    }
}

fn queue(broker: &dyn Broker, depth: Option<u64>) {
    describe_gauge!("taskforge_broker_up", "Whether the broker answers");
    set(&gauge!("taskforge_broker_up"), u64::from(depth.is_some()));
    if let Some(depth) = depth {
        describe_gauge!("taskforge_queue_depth", "Hints in the broker's queue");
        set(&gauge!("taskforge_queue_depth"), depth);
    }
    describe_gauge!("taskforge_broker_mode", "Where hints come from: 1 for the mode that is on");
    let on = broker.mode();
    for mode in [Mode::Local, Mode::Redis, Mode::Store, Mode::StoreWhileRedisIsAway] {
        set(&gauge!("taskforge_broker_mode", "mode" => mode.as_str()), u64::from(mode == on));
    }
    if let Some(eviction) = broker.eviction() {
        describe_gauge!(
            "taskforge_redis_maxmemory_policy",
            "What Redis does when its memory is full; it must be noeviction"
        );
        let policy = eviction.name().to_string();
        set(&gauge!("taskforge_redis_maxmemory_policy", "policy" => policy), 1);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, exact up to 2^53")]
fn set(gauge: &Gauge, value: u64) {
    gauge.set(value as f64);
}
