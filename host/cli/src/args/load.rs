//! `demo` and `bench`.

use std::path::PathBuf;

use clap::Args;
use taskforge_domain::TaskType;

use super::PluginFolderArgs;
use crate::{address, stack};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Tasks to run
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) tasks: u32,
    /// Workers that share them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Attempts that each worker runs at the same time [default: 256, or as many as fit into this
    /// process]
    #[arg(long, value_parser = stack::concurrency)]
    pub(crate) concurrency: Option<u32>,
    /// Task types to choose from [default: all built-in types that are found]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) types: Vec<TaskType>,
    /// Input for every task, instead of a random one; needs exactly one --type
    #[arg(long, short, value_name = "JSON")]
    pub(crate) input: Option<String>,
    #[command(flatten)]
    pub(crate) plugins: PluginFolderArgs,
    /// Folder for the database, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl DemoArgs {
    /// Attempts that each worker runs at the same time.
    pub(crate) fn concurrency(&self) -> u32 {
        let most = stack::most_concurrent(self.workers);
        self.concurrency.unwrap_or(most.min(256))
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A PostgreSQL server on which a database may be made, and is dropped at the end; the fleet's
    /// own is not touched
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = address::database_url)]
    pub(crate) database_url: String,
    /// A Redis server; keys are made under a prefix of the benchmark's own, and deleted at the end.
    /// Without one, workers claim from PostgreSQL
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true, value_parser = address::redis_url)]
    pub(crate) redis_url: Option<String>,
    /// Tasks to enqueue and drain
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) tasks: u32,
    /// Worker processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Attempts that each worker runs at the same time
    #[arg(long, default_value_t = 256, value_parser = stack::concurrency)]
    pub(crate) concurrency: u32,
    /// How often enqueueing and draining are measured; the median is shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Single tasks for the latency, at 50 a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) latency_tasks: u32,
    /// Enqueue so many tasks more that nobody works on, and say what they cost
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) backlog: u32,
    /// Task type of the load
    #[arg(long = "type", default_value = "fibonacci", value_name = "TYPE")]
    pub(crate) task_type: TaskType,
    /// Input of every task
    #[arg(long, short, default_value = r#"{"n": 20}"#, value_name = "JSON")]
    pub(crate) input: String,
    #[command(flatten)]
    pub(crate) plugins: PluginFolderArgs,
    /// Folder for compiled code; may be shared and may be deleted [default: a temporary one]
    #[arg(long, env = "TASKFORGE_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}
