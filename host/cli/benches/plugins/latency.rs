//! A steady load of quick tasks, and how long each took from its enqueueing to its committed end,
//! by the database's own record.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::bed::{Bed, KEY};

/// Tasks of a type that are enqueued at a steady rate until the load is stopped.
pub(crate) struct Load {
    stop: tokio::sync::oneshot::Sender<()>,
    running: JoinHandle<()>,
}

/// How often batches go out.
const TICK: Duration = Duration::from_millis(20);

impl Load {
    /// Begins to enqueue `rate` tasks a second.
    pub(crate) fn start(bed: &Bed, task_type: &'static str, rate: u32) -> Self {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (http, url) = (bed.http.clone(), bed.url("/tasks/batch"));
        let running = tokio::spawn(async move {
            let began = Instant::now();
            let mut sent = 0_u64;
            let mut ticks = tokio::time::interval(TICK);
            while stopped.try_recv().is_err() {
                ticks.tick().await;
                let due = began.elapsed().as_millis() as u64 * u64::from(rate) / 1000;
                let tasks: Vec<_> = (sent..due)
                    .map(|_| json!({ "task_type": task_type, "input": { "n": 20 }, "max_retries": 0 }))
                    .collect();
                if tasks.is_empty() {
                    continue;
                }
                sent = due;
                let body = json!({ "tasks": tasks });
                let answer = http.post(&url).bearer_auth(KEY).json(&body).send().await.unwrap();
                let status = answer.status();
                assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
            }
        });
        Self { stop, running }
    }

    /// Stops, and waits until every task of the load has ended.
    pub(crate) async fn finish(self, bed: &Bed, task_type: &str) {
        self.stop.send(()).ok();
        self.running.await.unwrap();
        let open = format!(
            "select count(*) from tasks where task_type = '{task_type}' and state in ('pending', 'running', 'scheduled')"
        );
        while bed.count(&open) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Percentiles of the time from enqueueing to the end, in milliseconds, and what failed.
pub(crate) struct Figures {
    pub(crate) tasks: u64,
    pub(crate) failed: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// The figures of a type's tasks that were enqueued since a moment of the database's clock, as
/// [`now`] gives it.
pub(crate) fn since(bed: &Bed, task_type: &str, moment: &str) -> Figures {
    let row = bed.sql(&format!(
        "select count(*) || ' ' || count(*) filter (where state <> 'completed') || ' ' \
             || coalesce(percentile_cont(0.5) within group (order by finished_at - created_at), 0) / 1000 || ' ' \
             || coalesce(percentile_cont(0.99) within group (order by finished_at - created_at), 0) / 1000 || ' ' \
             || coalesce(max(finished_at - created_at), 0) / 1000.0 \
         from tasks where task_type = '{task_type}' and created_at >= {moment}"
    ));
    let numbers: Vec<f64> = row.split_whitespace().map(|number| number.parse().unwrap()).collect();
    Figures {
        tasks: numbers[0] as u64,
        failed: numbers[1] as u64,
        p50: numbers[2],
        p99: numbers[3],
        max: numbers[4],
    }
}

/// The database's clock, in microseconds.
pub(crate) fn now(bed: &Bed) -> String {
    bed.sql("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} tasks, {} failed, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            self.tasks, self.failed, self.p50, self.p99, self.max
        )
    }
}
