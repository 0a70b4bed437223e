//! Every flag and variable, and its help.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use taskforge_domain::{FailureKind, HostPattern, TaskState, TaskType};

/// A task queue that runs code which is not your own: every handler is a WebAssembly component in a fresh sandbox.
#[derive(Debug, Parser)]
#[command(name = "taskforge", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: LoggingArgs,

    /// Print data as JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct LoggingArgs {
    /// What to log, as in RUST_LOG: a level, or module=level pairs [default: info for dev, warn otherwise]
    #[arg(
        long,
        global = true,
        env = "TASKFORGE_LOG",
        value_name = "FILTER",
        help_heading = "Logging"
    )]
    pub(crate) log: Option<String>,

    /// How log lines look; they go to standard error
    #[arg(
        long,
        global = true,
        env = "TASKFORGE_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in this process: API, workers, embedded store and queue
    Dev(DevArgs),
    /// Submit, watch and steer tasks on a server
    #[command(subcommand)]
    Task(TaskCommand),
    /// Run or inspect a component, without any server
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Run a load of random tasks through a throw-away system and measure it
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Address to serve the API on
    #[arg(long, env = "TASKFORGE_LISTEN", default_value = "127.0.0.1:8000")]
    pub(crate) listen: SocketAddr,

    /// Folder for the database, the compiled code and the outbox; made if missing
    #[arg(
        long,
        env = "TASKFORGE_DATA_DIR",
        default_value = ".taskforge",
        value_name = "DIR"
    )]
    pub(crate) data_dir: PathBuf,

    #[command(flatten)]
    pub(crate) plugins: PluginFolderArgs,

    /// Folder for compiled code; may be shared and may be deleted [default: `cache` in the data folder]
    #[arg(long, env = "TASKFORGE_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Attempts that run at the same time
    #[arg(long, env = "TASKFORGE_CONCURRENCY", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,

    /// How long running attempts may go on after SIGTERM or Ctrl-C before they are handed back to the queue
    #[arg(long, env = "TASKFORGE_DRAIN_GRACE", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) drain_grace: Duration,

    #[command(flatten)]
    pub(crate) mail: MailArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginFolderArgs {
    /// Folder with plugins: NAME.wasm, and NAME.toml with its limits and grants [default: `plugins` beside or above the
    /// executable, then ./plugins]
    #[arg(long, env = "TASKFORGE_PLUGINS", value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,

    /// Let every plugin that may use HTTP reach addresses in this network, which would be refused as private (repeatable)
    #[arg(
        long,
        env = "TASKFORGE_ALLOW_PRIVATE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) allow_private: Vec<ipnet::IpNet>,
}

#[derive(Debug, Args)]
pub(crate) struct MailArgs {
    /// Where mail goes: `log` (the task's log and the outbox folder), or smtp://[user:password@]host[:port] or smtps://...
    #[arg(long, env = "TASKFORGE_MAILER", default_value = "log", value_name = "log|URL")]
    pub(crate) mailer: String,

    /// Sender of messages that name none
    #[arg(
        long,
        env = "TASKFORGE_MAIL_FROM",
        default_value = "TaskForge <taskforge@localhost>",
        value_name = "ADDRESS"
    )]
    pub(crate) mail_from: String,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server's address
    #[arg(
        long,
        env = "TASKFORGE_SERVER",
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    pub(crate) server: reqwest::Url,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Enqueue a task
    Submit(SubmitArgs),
    /// Show a task
    Get(TaskIdArgs),
    /// List tasks, newest first
    List(ListArgs),
    /// Wait until a task has ended and show it; exits with 1 unless it completed
    Wait(WaitArgs),
    /// Show what happened to a task
    Logs(TaskIdArgs),
    /// Call off a task that has not ended
    Cancel(TaskIdArgs),
    /// Run a failed or cancelled task again
    Retry(TaskIdArgs),
    /// Delete the oldest tasks that have ended
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// Name of the plugin that is to handle the task
    pub(crate) task_type: TaskType,
    /// Input as JSON; `-` reads standard input, `@FILE` a file
    #[arg(long, short, default_value = "{}", value_name = "JSON")]
    pub(crate) input: String,
    /// 1 (lowest) to 5 (highest)
    #[arg(long, short, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) priority: u8,
    /// Attempts after the first
    #[arg(long)]
    pub(crate) max_retries: Option<u32>,
    /// Run it this much later, such as 90s or 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "run_at")]
    pub(crate) delay: Option<Duration>,
    /// Run it at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) run_at: Option<jiff::Timestamp>,
    /// Wait until it has ended; exits with 1 unless it completed
    #[arg(long, short)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TaskIdArgs {
    /// The task's id
    pub(crate) id: uuid::Uuid,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The task's id
    pub(crate) id: uuid::Uuid,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only tasks in this state (repeatable)
    #[arg(long, value_name = "STATE")]
    pub(crate) status: Vec<TaskState>,
    /// Only tasks of this type (repeatable)
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) task_type: Vec<TaskType>,
    /// Only tasks whose last failure was of this kind (repeatable)
    #[arg(long, value_name = "KIND")]
    pub(crate) error_kind: Vec<FailureKind>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How many
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) last: usize,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// How many; tasks that have not ended are left alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) first: u32,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Run a component once and show its output, logs and what it used of its limits; exits with 1 if it failed
    Run(Box<PluginRunArgs>),
    /// Show what a component imports, exports and says about itself
    Inspect(PluginInspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PluginRunArgs {
    /// The component
    pub(crate) file: PathBuf,
    /// Input as JSON; `-` reads standard input, `@FILE` a file
    #[arg(long, short, default_value = "{}", value_name = "JSON")]
    pub(crate) input: String,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    #[command(flatten)]
    pub(crate) mail: MailArgs,
    /// Folder that the `log` mailer writes messages to [default: a new one among the temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) outbox: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    /// Limits and grants [default: the file beside the component, with the ending .toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// Fuel limit, about one unit an instruction
    #[arg(long, value_name = "N")]
    pub(crate) fuel: Option<u64>,
    /// Memory limit, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<bytesize::ByteSize>,
    /// Time limit, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Let it send HTTP requests to this host: example.com, *.example.com, *, each with :PORT or :* (repeatable)
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_http: Vec<HostPattern>,
    /// Let it reach addresses in this network, which would be refused as private (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_private: Vec<ipnet::IpNet>,
    /// Let it send mail
    #[arg(long)]
    pub(crate) allow_mail: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PluginInspectArgs {
    /// The component
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Tasks to run
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) tasks: u32,
    /// Workers that share them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Attempts that each worker runs at the same time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,
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
