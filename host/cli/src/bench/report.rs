//! The results.

use serde::Serialize;
use taskforge_store::postgres::ceiling::Ceiling;

use super::{
    cost::Cost,
    load::{CONNECTIONS, Latency},
    node::Idle,
};
use crate::{args::BenchArgs, output};

/// The whole result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    load: String,
    cores: usize,
    broker: &'static str,
    workers: u32,
    concurrency: u32,
    enqueue_per_second: Median,
    enqueue_one_by_one_per_second: Median,
    drain_per_second: Median,
    drain_after_activation_per_second: f64,
    cost: Cost,
    sandbox_micros: f64,
    ceiling: CeilingReport,
    enqueue_of_ceiling: f64,
    drain_of_ceiling: f64,
    latency: Latency,
    idle_worker: Idle,
    backlog: Option<Backlog>,
}

/// The figures of the fleet under load, in tasks a second and as a cost.
pub(super) struct Measured {
    pub(super) enqueue: Median,
    pub(super) one_by_one: Median,
    pub(super) drain: Median,
    pub(super) fresh: f64,
    pub(super) cost: Cost,
    pub(super) sandbox_micros: f64,
}

/// The ceiling: the best result of bare SQL on one connection.
#[derive(Debug, Serialize)]
struct CeilingReport {
    enqueue_per_second: f64,
    claim_and_complete_per_second: f64,
    measured: Vec<CeilingRun>,
}

#[derive(Debug, Serialize)]
pub(super) struct CeilingRun {
    rows_a_statement: usize,
    connections: usize,
    enqueue_per_second: Median,
    claim_and_complete_per_second: Median,
}

/// The runs of one form of bare SQL.
pub(super) struct BareSql {
    pub(super) rows_a_statement: usize,
    pub(super) connections: usize,
    enqueue: Vec<f64>,
    drain: Vec<f64>,
}

impl BareSql {
    pub(super) const fn new(rows_a_statement: usize, connections: usize) -> Self {
        Self { rows_a_statement, connections, enqueue: Vec::new(), drain: Vec::new() }
    }

    pub(super) fn add(&mut self, measured: &Ceiling) {
        self.enqueue.push(measured.enqueue_per_second);
        self.drain.push(measured.claim_complete_per_second);
    }

    pub(super) fn finish(self) -> CeilingRun {
        CeilingRun {
            rows_a_statement: self.rows_a_statement,
            connections: self.connections,
            enqueue_per_second: Median::of(self.enqueue),
            claim_and_complete_per_second: Median::of(self.drain),
        }
    }
}

/// What a backlog costs.
#[derive(Debug, Serialize)]
pub(super) struct Backlog {
    pub(super) tasks: u32,
    pub(super) enqueued_per_second: f64,
    pub(super) api_grew_mib: f64,
    pub(super) worker_grew_mib: f64,
    pub(super) hints_in_broker: u64,
}

/// Several measurements of one thing.
#[derive(Debug, Serialize)]
pub(super) struct Median {
    min: f64,
    median: f64,
    max: f64,
}

impl Median {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default().round();
        Self { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}

/// Bytes in MiB, for people.
pub(super) fn mib(bytes: u64) -> f64 {
    // Memory sizes are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let mib = bytes as f64 / f64::from(1 << 20);
    (mib * 10.0).round() / 10.0
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        broker: &'static str,
        Measured { enqueue, one_by_one, drain, fresh, cost, sandbox_micros }: Measured,
        latency: Latency,
        idle_worker: Idle,
        backlog: Option<Backlog>,
        measured: Vec<CeilingRun>,
    ) -> Self {
        let one_connection = || measured.iter().filter(|run| run.connections == 1);
        let enqueued = one_connection().map(|run| run.enqueue_per_second.median);
        let drained = one_connection().map(|run| run.claim_and_complete_per_second.median);
        let ceiling = CeilingReport {
            enqueue_per_second: enqueued.fold(0.0, f64::max),
            claim_and_complete_per_second: drained.fold(0.0, f64::max),
            measured,
        };
        let share = |part: f64, whole: f64| (part / whole * 1e3).round() / 1e3;
        Self {
            load: args.load(),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            broker,
            workers: args.workers,
            concurrency: args.concurrency,
            enqueue_of_ceiling: share(enqueue.median, ceiling.enqueue_per_second),
            drain_of_ceiling: share(drain.median, ceiling.claim_and_complete_per_second),
            enqueue_per_second: enqueue,
            enqueue_one_by_one_per_second: one_by_one,
            drain_after_activation_per_second: fresh,
            cost,
            sandbox_micros,
            drain_per_second: drain,
            ceiling,
            latency,
            idle_worker,
            backlog,
        }
    }

    pub(super) fn print(&self) {
        let rate = |median: &Median, share: f64, ceiling: f64| {
            format!(
                "{} tasks/s ({} to {}), {:.0} % of {ceiling}",
                median.median,
                median.min,
                median.max,
                share * 100.0
            )
        };
        let Latency { p50_ms, p95_ms, p99_ms, max_ms, .. } = self.latency;
        let mut pairs = vec![
            ("load", self.load.clone()),
            (
                "fleet",
                format!(
                    "1 API, {} workers of concurrency {}, broker {}, {} cores",
                    self.workers, self.concurrency, self.broker, self.cores
                ),
            ),
            (
                "enqueued",
                rate(
                    &self.enqueue_per_second,
                    self.enqueue_of_ceiling,
                    self.ceiling.enqueue_per_second,
                ),
            ),
            (
                "drained",
                rate(
                    &self.drain_per_second,
                    self.drain_of_ceiling,
                    self.ceiling.claim_and_complete_per_second,
                ),
            ),
            ("after an activation", format!("{} tasks/s", self.drain_after_activation_per_second)),
            ("enqueued one by one", self.one_by_one()),
            ("processor time a task", self.costs()),
            (
                "50 a second",
                format!(
                    "p50 {p50_ms:.1} ms, p95 {p95_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms"
                ),
            ),
            (
                "idle worker",
                format!(
                    "{} MiB, {:.1} % of a core",
                    self.idle_worker.resident_mib, self.idle_worker.percent_of_a_core
                ),
            ),
        ];
        if let Some(backlog) = &self.backlog {
            pairs.push((
                "backlog",
                format!(
                    "{} tasks: the API grew by {} MiB, the worker by {} MiB; {} hints in the broker",
                    backlog.tasks, backlog.api_grew_mib, backlog.worker_grew_mib, backlog.hints_in_broker
                ),
            ));
        }
        output::pairs(&pairs);
        output::line("");
        let rows: Vec<_> = self.ceiling.measured.iter().map(|run| self.row(run)).collect();
        output::table(
            &[
                "BARE SQL: ROWS A STATEMENT",
                "CONNECTIONS",
                "ENQUEUED/S",
                "CLAIMED AND COMPLETED/S",
                "THE FLEET'S DRAIN IS",
            ],
            &rows,
        );
    }

    fn one_by_one(&self) -> String {
        let Median { min, median, max } = &self.enqueue_one_by_one_per_second;
        format!("{median} tasks/s ({min} to {max}) over {CONNECTIONS} connections")
    }

    fn costs(&self) -> String {
        let Cost { worker_micros, postgres_micros, redis_micros, wal_bytes } = self.cost;
        let elsewhere = |micros: Option<f64>| match micros {
            Some(micros) => format!("{micros:.1} us"),
            None => "not on this machine".to_owned(),
        };
        let beyond = worker_micros - self.sandbox_micros;
        format!(
            "worker {worker_micros:.1} us ({beyond:.1} beyond the bare sandbox's {:.1}), PostgreSQL {}, Redis {}; {wal_bytes} bytes of WAL",
            self.sandbox_micros,
            elsewhere(postgres_micros),
            elsewhere(redis_micros),
        )
    }

    fn row(&self, run: &CeilingRun) -> Vec<String> {
        let drained = &run.claim_and_complete_per_second;
        let share = self.drain_per_second.median / drained.median;
        vec![
            run.rows_a_statement.to_string(),
            run.connections.to_string(),
            run.enqueue_per_second.median.to_string(),
            format!("{} ({} to {})", drained.median, drained.min, drained.max),
            format!("{:.0} %", share * 100.0),
        ]
    }
}
