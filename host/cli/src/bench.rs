//! Measures a fleet, and the ceiling of bare SQL.
//!
//! The fleet is thrown away, and real: a database of its own on the server that is named, one
//! `taskforge serve`, some `taskforge worker`, tasks that go in through `POST /tasks/batch` and
//! whose attempts are kept. In the same run, on the same database, the same rows are inserted,
//! claimed and completed by bare batched SQL: what this machine could do without HTTP, broker and
//! sandbox.
//!
//! | file | the concept |
//! |---|---|
//! | `node` | the processes |
//! | `load` | enqueueing, draining and single tasks |
//! | `cost` | the processor time that a task costs, by part |
//! | `report` | what was measured |

mod cost;
mod load;
mod node;
mod report;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use taskforge_broker::{Broker, RedisBroker, RedisConfig};
use taskforge_domain::Json;
use taskforge_store::{
    PostgresConfig, PostgresStore,
    postgres::{self, Scratch, ceiling},
};

use self::{
    cost::{Cost, Used},
    load::Load,
    node::Node,
    report::{Backlog, BareSql, Measured, Median, Report},
};
use crate::{
    args::{BenchArgs, BrokerArgs, DatabaseArgs},
    client::Client,
    fleet::Fleet,
    output, plugin_folder, signals,
};

/// How long an idle process is watched.
const IDLE: Duration = Duration::from_secs(5);
/// Rows in a statement of bare SQL, and connections at once. The best of one connection is the
/// ceiling: one stream of statements, which leaves the other core of two to whoever sends them.
/// What a second one adds is shown beside it.
const CEILINGS: [(usize, usize); 4] = [(256, 1), (1_000, 1), (256, 2), (1_000, 2)];

pub(crate) async fn run(args: BenchArgs, json: bool) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::create(&args.database_url)
        .await
        .context("cannot make a database for the benchmark (--database-url, DATABASE_URL)")?;
    let measuring = Box::pin(measure(&args, &scratch));
    let measured = signals::interruptible(measuring, || "nothing is left of it".to_owned()).await;
    // Dropped in any case; an earlier error is the one to report.
    let dropped = scratch.remove().await;
    let report = measured?;
    dropped.context("the benchmark's database was not dropped")?;
    if json {
        output::json(&report)?;
    } else {
        report.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// The fleet of the benchmark, and the benchmark's own connections to it.
struct Bench {
    api: Node,
    workers: Vec<Node>,
    client: Client,
    store: Arc<PostgresStore>,
    broker: Arc<dyn Broker>,
}

async fn measure(args: &BenchArgs, database: &Scratch) -> anyhow::Result<Report> {
    let database_url = database.url();
    postgres::migrate(&PostgresConfig::new(database_url)).await?;
    // Compiled code and nothing else; not in the working directory.
    let folder = tempfile::tempdir()?;
    let prefix = format!("taskforge-bench-{}", std::process::id());
    let bench = Bench::start(args, database_url, folder.path(), &prefix).await?;
    let input = Json::parse(args.input.clone()).context("--input is not JSON")?;
    let load = Load::new(&bench.client, &*bench.store, &*bench.broker, &args.task_type, &input);

    let redis = match &args.redis_url {
        Some(url) => {
            let config = RedisConfig { prefix: prefix.clone(), ..RedisConfig::new(url) };
            Some(RedisBroker::connect(&config).await?)
        }
        None => None,
    };
    output::aside("the bare sandbox");
    let sandbox_micros = cost::bare_sandbox(&args.plugins, &args.task_type, &input).await?;
    output::aside("warming up");
    load.enqueue_and_drain(args.tasks.min(2_000) as usize).await?;
    // Its plugin has been active for some seconds, so each input is checked once more.
    output::aside("right after an activation");
    let (_, fresh) = load.enqueue_and_drain(args.tasks as usize).await?;
    let fresh = f64::from(args.tasks) / fresh.as_secs_f64();
    database.settle().await?;
    output::aside("single tasks, 50 a second");
    let latency = load.single_tasks(args.latency_tasks, 50).await?;
    let (mut enqueue, mut drain, mut single) = (Vec::new(), Vec::new(), Vec::new());
    let mut costs = Vec::new();
    let mut ceilings = CEILINGS.map(|(batch, connections)| BareSql::new(batch, connections));
    for run in 1..=args.runs {
        output::aside(&format!("run {run} of {}", args.runs));
        load.pause(true).await?;
        let enqueued = load.enqueue(args.tasks as usize).await?;
        enqueue.push(f64::from(args.tasks) / enqueued.as_secs_f64());
        let before = Used::now(&bench.workers, database, redis.as_ref()).await?;
        let drained = load.drain(args.tasks as usize).await?;
        drain.push(f64::from(args.tasks) / drained.as_secs_f64());
        let after = Used::now(&bench.workers, database, redis.as_ref()).await?;
        costs.push(after.since(&before, args.tasks));
        let one_by_one = load.enqueue_one_by_one(&bench.api.url, args.tasks as usize).await?;
        single.push(f64::from(args.tasks) / one_by_one.as_secs_f64());
        load.drain(args.tasks as usize).await?;
        // In turns, so that other load on the machine affects both.
        for ceiling in &mut ceilings {
            let (batch, connections) = (ceiling.rows_a_statement, ceiling.connections);
            let measured =
                ceiling::measure(database_url, args.tasks as usize, batch, connections).await?;
            ceiling.add(&measured);
        }
    }
    output::aside("idle");
    let idle = bench.workers.first().context("there is a worker")?.idle(IDLE).await?;
    let backlog = match args.backlog {
        0 => None,
        tasks => Some(bench.backlog(&load, tasks).await?),
    };
    let broker = bench.broker.mode().as_str();
    bench.stop().await?;
    if let Some(redis) = redis {
        redis.erase().await.context("the benchmark's keys were not deleted")?;
    }
    Ok(Report::new(
        args,
        broker,
        Measured {
            enqueue: Median::of(enqueue),
            one_by_one: Median::of(single),
            drain: Median::of(drain),
            fresh: fresh.round(),
            cost: Cost::median(&costs).context("there was a run")?,
            sandbox_micros,
        },
        latency,
        idle,
        backlog,
        ceilings.into_iter().map(BareSql::finish).collect(),
    ))
}

impl Bench {
    async fn start(
        args: &BenchArgs,
        database_url: &str,
        folder: &std::path::Path,
        prefix: &str,
    ) -> anyhow::Result<Self> {
        let plugins = plugin_folder::locate(&args.plugins)?;
        let cache = args.cache_dir.clone().unwrap_or_else(|| folder.join("cache"));
        let node = |role: &str, arguments: &[String]| {
            let mut command = node::command(role)?;
            command.args(arguments);
            command
                .env("DATABASE_URL", database_url)
                .env("TASKFORGE_PLUGINS", &plugins)
                .env("TASKFORGE_DATA_DIR", folder)
                .env("TASKFORGE_CACHE_DIR", &cache)
                .env("TASKFORGE_REDIS_PREFIX", prefix);
            match &args.redis_url {
                Some(url) => command.env("REDIS_URL", url),
                None => command.env_remove("REDIS_URL"),
            };
            Node::start(command)
        };
        let concurrency = args.concurrency.to_string();
        let worker =
            ["--admin-listen", "127.0.0.1:0", "--concurrency", &concurrency].map(str::to_owned);
        let api = node("serve", &["--listen", "127.0.0.1:0"].map(str::to_owned))?;
        let workers = (0..args.workers).map(|_| node("worker", &worker));
        let workers = workers.collect::<anyhow::Result<Vec<_>>>()?;
        let Fleet { store, broker } = Fleet::join(
            &DatabaseArgs::of(database_url),
            &BrokerArgs {
                broker: None,
                redis_url: args.redis_url.clone(),
                redis_prefix: prefix.to_owned(),
            },
        )
        .await?;
        let client = Client::with_key(api.url.parse()?, None)?;
        let known = client.get("plugins", &[]).await?;
        let names = known["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !names.iter().any(|plugin| plugin["name"] == args.task_type.as_str()) {
            bail!("no plugin in {} handles {}", plugins.display(), args.task_type);
        }
        Ok(Self { api, workers, client, store, broker })
    }

    /// Enqueues a backlog that no worker serves, and measures what it costs.
    async fn backlog(&self, load: &Load<'_>, tasks: u32) -> anyhow::Result<Backlog> {
        output::aside(&format!("a backlog of {tasks} tasks"));
        let worker = self.workers.first().context("there is a worker")?;
        let before = (self.api.resident()?, worker.resident()?);
        load.pause(true).await?;
        let enqueued = load.enqueue(tasks as usize).await?;
        // Long enough for an audit, and for dozens of ticks.
        tokio::time::sleep(Duration::from_secs(40)).await;
        let after = (self.api.resident()?, worker.resident()?);
        Ok(Backlog {
            tasks,
            enqueued_per_second: f64::from(tasks) / enqueued.as_secs_f64(),
            api_grew_mib: report::mib(after.0.saturating_sub(before.0)),
            worker_grew_mib: report::mib(after.1.saturating_sub(before.1)),
            hints_in_broker: self.broker.depth().await?,
        })
    }

    async fn stop(self) -> anyhow::Result<()> {
        for node in self.workers.into_iter().chain([self.api]) {
            node.stop().await?;
        }
        self.store.close().await;
        Ok(())
    }
}

impl BenchArgs {
    /// Tasks in the load, in words.
    pub(crate) fn load(&self) -> String {
        format!("{} × {} {}", self.tasks, self.task_type, self.input)
    }
}
