//! The processor time that a task costs, by part.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use taskforge_broker::RedisBroker;
use taskforge_domain::{Json, Outcome, PluginSettings, TaskId, TaskType, TenantId};
use taskforge_runtime::{Invocation, LogTail, OutboxMailer, Runtime, RuntimeConfig};
use taskforge_store::postgres::Scratch;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::args::PluginFolderArgs;

/// Attempts of the bare sandbox.
const ATTEMPTS: u32 = 20_000;

/// What the parts of a fleet have used so far.
pub(super) struct Used {
    workers: Duration,
    postgres: Option<Duration>,
    redis: Option<Duration>,
    wal_bytes: u64,
}

/// What a task cost while a backlog was drained, in microseconds of processor time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Cost {
    pub(super) worker_micros: f64,
    pub(super) postgres_micros: Option<f64>,
    pub(super) redis_micros: Option<f64>,
    pub(super) wal_bytes: f64,
}

impl Used {
    pub(super) async fn now(
        workers: &[Node],
        database: &Scratch,
        redis: Option<&RedisBroker>,
    ) -> anyhow::Result<Self> {
        let server = database.server_use().await?;
        let workers = workers.iter().map(Node::processor_time).sum::<anyhow::Result<Duration>>()?;
        let redis = match redis {
            Some(redis) => Some(redis.processor_time().await?),
            None => None,
        };
        Ok(Self { workers, postgres: server.processor, redis, wal_bytes: server.wal_bytes })
    }

    pub(super) fn since(&self, before: &Self, tasks: u32) -> Cost {
        let share = |part: Duration| round(part.as_secs_f64() * 1e6 / f64::from(tasks));
        let both =
            |now: Option<Duration>, then: Option<Duration>| Some(share(now?.saturating_sub(then?)));
        Cost {
            worker_micros: share(self.workers.saturating_sub(before.workers)),
            postgres_micros: both(self.postgres, before.postgres),
            redis_micros: both(self.redis, before.redis),
            // A log of some terabytes is far below what a float holds exactly.
            wal_bytes: ((self.wal_bytes - before.wal_bytes) as f64 / f64::from(tasks)).round(),
        }
    }
}

impl Cost {
    /// The median of each part.
    pub(super) fn median(costs: &[Self]) -> Option<Self> {
        let median = |part: &dyn Fn(&Self) -> Option<f64>| {
            let mut parts: Vec<f64> = costs.iter().filter_map(part).collect();
            parts.sort_by(f64::total_cmp);
            parts.get(parts.len() / 2).copied()
        };
        Some(Self {
            worker_micros: median(&|cost| Some(cost.worker_micros))?,
            postgres_micros: median(&|cost| cost.postgres_micros),
            redis_micros: median(&|cost| cost.redis_micros),
            wal_bytes: median(&|cost| Some(cost.wal_bytes))?,
        })
    }
}

/// What an attempt costs in the sandbox alone, one after the other on one thread, in microseconds
/// of processor time.
pub(super) async fn bare_sandbox(
    plugins: &PluginFolderArgs,
    task_type: &TaskType,
    input: &Json,
) -> anyhow::Result<f64> {
    let file = crate::plugin_folder::locate(plugins)?.join(format!("{task_type}.wasm"));
    let bytes = tokio::fs::read(&file).await.with_context(|| file.display().to_string())?;
    let outbox = tempfile::tempdir()?;
    let mailer = Arc::new(OutboxMailer::new(outbox.path().to_owned(), "bench <bench@localhost>")?);
    let runtime = Runtime::new(RuntimeConfig::new(mailer))?;
    let plugin = runtime.load(bytes, PluginSettings::default()).await?;
    let mut begun = process_time();
    for n in 0..ATTEMPTS + ATTEMPTS / 10 {
        let invocation = Invocation {
            tenant: TenantId::default(),
            task: TaskId::generate(),
            attempt: 1,
            max_attempts: 1,
            input: input.clone(),
            cancel: CancellationToken::new(),
            progress: None,
            log: LogTail::default(),
        };
        let invoked = runtime.invoke(&plugin, invocation).await;
        if let Outcome::Failed(failure) = &invoked.outcome {
            anyhow::bail!("{task_type} fails in the sandbox: {}", failure.message);
        }
        // The first ones warm it up.
        if n == ATTEMPTS / 10 {
            begun = process_time();
        }
    }
    let computed = process_time().saturating_sub(begun);
    Ok(round(computed.as_secs_f64() * 1e6 / f64::from(ATTEMPTS)))
}

/// The processor time of this process.
fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_nanos(nanos.unwrap_or(0))
}

fn round(micros: f64) -> f64 {
    (micros * 10.0).round() / 10.0
}
