//! A load with progress bars and a summary.
//!
//! The system is thrown away, and real: tasks go in through the HTTP API in batches, workers claim
//! and run them in the sandbox, and the figures come from the rows that were committed.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use taskforge_api::{ApiConfig, ApiKey};
use taskforge_broker::{Broker as _, Signal};
use taskforge_domain::{Json, Limits, Task, TaskState, TaskType, TenantId};
use taskforge_runtime::OutboxMailer;
use taskforge_store::{Cursor, Page, Store, TaskFilter};
use taskforge_worker::WorkerConfig;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    args::DemoArgs,
    client::Client,
    data_folder, output, plugin_folder,
    registry::Trust,
    signals,
    stack::{self, SandboxConfig, Stack, StackConfig},
    waiting::Waiting,
};

/// Tasks in one `POST /tasks/batch`.
const BATCH: usize = 1_000;
/// The longest time without a signal before the store is read.
const SILENCE: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: DemoArgs, json: bool) -> anyhow::Result<ExitCode> {
    let waiting = Waiting::begin(
        "starting a system to throw away; plugins are compiled, which may take a minute",
    );
    let own = std::fs::Permissions::from_mode(0o700);
    let temporary = tempfile::Builder::new().permissions(own).tempdir()?;
    let data_dir = args.data_dir.as_deref().unwrap_or(temporary.path());
    data_folder::prepare(data_dir)?;
    let key = data_folder::new_key()?;
    let gone = || match &args.data_dir {
        Some(data_dir) => {
            format!("the tasks are in {}, where the demo can be run again", data_dir.display())
        }
        None => "nothing is left of it".to_owned(),
    };
    let started = waiting.until(Box::pin(start(&args, data_dir, &key)));
    let stack = signals::interruptible(started, gone).await?;
    drop(waiting);
    let client = Client::with_key(format!("http://{}", stack.address).parse()?, Some(key))?;
    let measuring = Box::pin(async {
        let recipe = Recipe::new(&args, &client, stack.address).await?;
        measure(&args, &recipe, &stack, &client).await
    });
    let measured = signals::interruptible(measuring, gone).await;
    stack.stop().await;
    let summary = measured?;
    if json {
        output::json(&summary)?;
    } else {
        summary.print();
    }
    let all_completed =
        summary.outcomes.keys().all(|outcome| outcome == TaskState::Completed.as_str());
    Ok(if all_completed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start(args: &DemoArgs, data_dir: &Path, key: &str) -> anyhow::Result<Stack> {
    let folder = plugin_folder::locate(&args.plugins)?;
    let mailer =
        Arc::new(OutboxMailer::new(data_dir.join("outbox"), "TaskForge demo <demo@localhost>")?);
    // The scraper reads pages of the demo itself, on loopback, which the address guard refuses.
    let mut private = args.plugins.allow_private.clone();
    private.push(ipnet::Ipv4Net::from(Ipv4Addr::LOCALHOST).into());
    let (most, concurrency) = (stack::most_concurrent(args.workers), args.concurrency());
    anyhow::ensure!(
        concurrency <= most,
        "{} workers in one process run at most {most} attempts each at once (--concurrency)",
        args.workers
    );
    let instances = stack::instances(concurrency);
    let (mut stack, loading) = Stack::start(StackConfig {
        data_dir,
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        api: ApiConfig { key: Some(ApiKey::new(key)?), ..ApiConfig::default() },
        workers: args.workers,
        worker: WorkerConfig {
            concurrency: concurrency as usize,
            instances: instances as usize,
            ..WorkerConfig::default()
        },
        sandbox: SandboxConfig {
            cache_dir: data_dir.join("cache"),
            mailer,
            instances: args.workers * instances,
            allow_private: private,
            ceilings: Limits::ceilings(),
        },
        folder: &folder,
        is_watched: false,
        external: &[],
        trust: Trust::default(),
    })
    .await?;
    stack.load(loading).await;
    for task_type in &args.types {
        let is_known =
            stack.plugins.iter().any(|plugin| plugin.split(' ').next() == Some(task_type.as_str()));
        if !is_known {
            bail!(
                "no plugin handles {task_type}; {} has {}",
                folder.display(),
                stack.plugins.join(", ")
            );
        }
    }
    Ok(stack)
}

/// How a task of the load is made.
struct Recipe {
    types: Vec<TaskType>,
    input: Option<Json>,
    api: SocketAddr,
}

/// A task as `POST /tasks/batch` takes it.
#[derive(Serialize)]
struct Request<'a> {
    task_type: &'a TaskType,
    input: Json,
    priority: u8,
}

impl Recipe {
    const BUILT_IN: [&'static str; 3] = ["fibonacci", "scraper", "email"];

    async fn new(args: &DemoArgs, client: &Client, api: SocketAddr) -> anyhow::Result<Self> {
        let input =
            args.input.clone().map(Json::parse).transpose().context("--input is not JSON")?;
        let mut types = args.types.clone();
        if types.is_empty() {
            let loaded = client.get("plugins", &[]).await?;
            let is_loaded = |name: &str| {
                loaded["plugins"]
                    .as_array()
                    .is_some_and(|plugins| plugins.iter().any(|p| p["name"] == name))
            };
            types = Self::BUILT_IN
                .into_iter()
                .filter(|n| is_loaded(n))
                .map(TaskType::new)
                .collect::<Result<_, _>>()?;
        }
        if input.is_some() && types.len() != 1 {
            bail!("--input needs exactly one --type, because each type has its own input");
        }
        if let Some(foreign) =
            types.iter().find(|t| input.is_none() && !Self::BUILT_IN.contains(&t.as_str()))
        {
            bail!("{foreign} is not a built-in type: say with --input what its tasks get");
        }
        if types.is_empty() {
            bail!("none of the built-in plugins is loaded; build them with `make plugins`");
        }
        Ok(Self { types, input, api })
    }

    fn task(&self) -> Request<'_> {
        let task_type = &self.types[fastrand::usize(..self.types.len())];
        let input = self.input.clone().unwrap_or_else(|| self.random_input(task_type));
        Request { task_type, input, priority: fastrand::u8(1..=5) }
    }

    fn random_input(&self, task_type: &TaskType) -> Json {
        Json::from(match task_type.as_str() {
            "fibonacci" => serde_json::json!({ "n": fastrand::u32(0..=1_000) }),
            "scraper" => serde_json::json!({ "url": format!("http://{}/docs/", self.api) }),
            _ => serde_json::json!({
                "to": format!("reader{}@example.com", fastrand::u16(..)),
                "subject": "A task ran",
                "text": "This message was made by a WebAssembly component.",
            }),
        })
    }
}

async fn measure(
    args: &DemoArgs,
    recipe: &Recipe,
    stack: &Stack,
    client: &Client,
) -> anyhow::Result<Summary> {
    let total = args.tasks as usize;
    let mut signals = stack.broker.subscribe();
    let bars = Bars::new(total as u64);
    let began = Instant::now();
    let accepted = AtomicU64::new(0);
    // Reads the store when the signals say that all have ended, or stop.
    let watch = async {
        let mut heard = 0;
        loop {
            let is_silent = match tokio::time::timeout(SILENCE, signals.recv()).await {
                Ok(Ok(Signal::Finished(_))) => {
                    heard += 1;
                    false
                }
                Ok(Ok(Signal::Cancel(_) | Signal::Policy | Signal::Plugins | Signal::Missed)) => {
                    false
                }
                Ok(Err(RecvError::Lagged(missed))) => {
                    heard += missed;
                    false
                }
                Ok(Err(RecvError::Closed)) | Err(_) => true,
            };
            bars.drained.set_position(heard);
            if is_silent || heard >= total as u64 {
                let enqueued = accepted.load(Ordering::Relaxed);
                let left = unfinished(stack).await?;
                heard = enqueued.saturating_sub(left);
                if enqueued == total as u64 && left == 0 {
                    return anyhow::Ok(began.elapsed());
                }
            }
        }
    };
    let enqueue = async {
        let mut left = total;
        while left > 0 {
            let tasks: Vec<_> = (0..left.min(BATCH)).map(|_| recipe.task()).collect();
            let body = Json::from_value(&BTreeMap::from([("tasks", &tasks)]))?;
            client.post("tasks/batch", Some(&body)).await?;
            left -= tasks.len();
            accepted.fetch_add(tasks.len() as u64, Ordering::Relaxed);
            bars.enqueued.inc(tasks.len() as u64);
        }
        anyhow::Ok(began.elapsed())
    };
    let (enqueued, drained) = tokio::select! {
        done = async { tokio::try_join!(enqueue, watch) } => done?,
        never = bars.report() => match never {},
    };
    bars.finish();
    Summary::of(&read_back(stack, total).await?, args, enqueued, drained)
}

async fn unfinished(stack: &Stack) -> anyhow::Result<u64> {
    let counts = stack.store.counts().await?;
    Ok(counts
        .by_type
        .iter()
        .filter(|(_, state, _)| !state.is_terminal())
        .map(|(_, _, count)| count)
        .sum())
}

/// The newest `total` tasks, as they stand in the store.
async fn read_back(stack: &Stack, total: usize) -> anyhow::Result<Vec<Task>> {
    let mut tasks: Vec<Task> = Vec::with_capacity(total);
    while tasks.len() < total {
        let after = tasks.last().map(|task| Cursor(task.id));
        let limit = u32::try_from((total - tasks.len()).min(1_000))?;
        let page = stack
            .store
            .tasks(&TenantId::default(), &TaskFilter::default(), Page { after, limit })
            .await?;
        if page.is_empty() {
            bail!("{} tasks were enqueued and only {} are in the store", total, tasks.len());
        }
        tasks.extend(page);
    }
    Ok(tasks)
}

/// Progress bars on a terminal, and a line at intervals elsewhere.
struct Bars {
    enqueued: ProgressBar,
    drained: ProgressBar,
}

/// Between two lines where there is no terminal.
const REPORT: Duration = Duration::from_secs(5);

impl Bars {
    fn new(total: u64) -> Self {
        let all = MultiProgress::new();
        // The template is a constant; a mistake in it costs the looks, not the run.
        let style = ProgressStyle::with_template(
            "{prefix:9} {bar:40} {pos:>8}/{len} {per_sec:>12} {elapsed:>5}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar =
            |name| all.add(ProgressBar::new(total).with_style(style.clone()).with_prefix(name));
        Self { enqueued: bar("enqueued"), drained: bar("ended") }
    }

    /// Says how it goes, for as long as it is polled.
    async fn report(&self) -> Infallible {
        loop {
            let of = self.enqueued.length().unwrap_or_default();
            let (enqueued, ended) = (self.enqueued.position(), self.drained.position());
            if !output::is_watched() {
                output::aside(&format!("{enqueued} of {of} tasks enqueued, {ended} ended"));
            }
            tokio::time::sleep(REPORT).await;
        }
    }

    fn finish(&self) {
        self.enqueued.finish();
        self.drained.finish();
    }
}

/// The results.
#[derive(Debug, Serialize)]
struct Summary {
    tasks: usize,
    workers: u32,
    concurrency: u32,
    /// From the first request to the last acknowledgement.
    enqueue_seconds: f64,
    enqueued_per_second: f64,
    /// From the first request to the last committed end.
    drain_seconds: f64,
    drained_per_second: f64,
    outcomes: BTreeMap<String, usize>,
    by_type: BTreeMap<String, Latencies>,
}

/// Times in microseconds.
#[derive(Debug, Serialize)]
struct Latencies {
    tasks: usize,
    /// From acceptance to the committed end: with a backlog, mostly waiting.
    total: Percentiles,
    /// From claim to the committed end.
    running: Percentiles,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: u64,
    p95: u64,
    p99: u64,
    max: u64,
}

impl Summary {
    fn of(
        tasks: &[Task],
        args: &DemoArgs,
        enqueue: Duration,
        drain: Duration,
    ) -> anyhow::Result<Self> {
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        let mut times: BTreeMap<String, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        for task in tasks {
            *outcomes.entry(task.state.to_string()).or_default() += 1;
            if let (Some(started), Some(finished)) = (task.started_at, task.finished_at) {
                let since = |then| {
                    u64::try_from(finished.duration_since(then).as_micros()).unwrap_or_default()
                };
                let (total, running) = times.entry(task.task_type.to_string()).or_default();
                total.push(since(task.created_at));
                running.push(since(started));
            }
        }
        // Counts of tasks are far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let count = tasks.len() as f64;
        let by_type = times.into_iter().map(|(task_type, (total, running))| {
            let tasks = total.len();
            (
                task_type,
                Latencies {
                    tasks,
                    total: Percentiles::of(total),
                    running: Percentiles::of(running),
                },
            )
        });
        Ok(Self {
            tasks: tasks.len(),
            workers: args.workers,
            concurrency: args.concurrency(),
            enqueue_seconds: enqueue.as_secs_f64(),
            enqueued_per_second: (count / enqueue.as_secs_f64()).round(),
            drain_seconds: drain.as_secs_f64(),
            drained_per_second: (count / drain.as_secs_f64()).round(),
            outcomes,
            by_type: by_type.collect(),
        })
    }

    fn print(&self) {
        let outcomes: Vec<_> =
            self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        output::pairs(&[
            ("tasks", outcomes.join(", ")),
            ("workers", format!("{} of concurrency {}", self.workers, self.concurrency)),
            (
                "enqueued",
                format!(
                    "in {:.2} s, {:.0} tasks/s",
                    self.enqueue_seconds, self.enqueued_per_second
                ),
            ),
            (
                "all ended",
                format!("in {:.2} s, {:.0} tasks/s", self.drain_seconds, self.drained_per_second),
            ),
        ]);
        output::line("");
        let mut rows = Vec::new();
        for (task_type, latencies) in &self.by_type {
            for (what, p) in
                [("accepted to ended", &latencies.total), ("claimed to ended", &latencies.running)]
            {
                let mut row = vec![task_type.clone(), latencies.tasks.to_string(), what.to_owned()];
                row.extend([p.p50, p.p95, p.p99, p.max].map(output::micros));
                rows.push(row);
            }
        }
        output::table(&["TYPE", "TASKS", "TIME", "P50", "P95", "P99", "MAX"], &rows);
    }
}

impl Percentiles {
    /// By the nearest rank.
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { p50: rank(50), p95: rank(95), p99: rank(99), max: rank(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let p = Percentiles::of((1..=200).rev().collect());
        assert_eq!((p.p50, p.p95, p.p99, p.max), (100, 190, 198, 200));
        let one = Percentiles::of(vec![7]);
        assert_eq!((one.p50, one.max), (7, 7));
    }
}
