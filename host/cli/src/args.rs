//! Every flag and variable, and its help.

//!
//! | file | whose arguments |
//! |---|---|
//! | `fleet` | the roles `migrate`, `serve`, `worker`, `health`, and the database's upkeep |
//! | `client` | commands that talk to a server |
//! | `plugin` | running and inspecting a component without a server |
//! | `push` | changing the plugins of a server, signing components |
//! | `registry` | whose plugins a process trusts |
//! | `ceilings` | the most that the limits of plugins may be |
//! | `load` | `demo` and `bench` |

mod ceilings;
mod client;
mod fleet;
mod load;
mod plugin;
mod push;
mod registry;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};
use taskforge_domain::TaskType;

use crate::{address, stack};

pub(crate) use self::{ceilings::*, client::*, fleet::*, load::*, plugin::*, push::*, registry::*};

/// The table in `exit.rs`, for people.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 another failure, 2 wrong command line, 3 the task failed or was cancelled, 4 not found, \
                          5 refused by the server, 6 nobody answered, 7 not ended within --timeout, 130 stopped by Ctrl-C";

/// A task queue that runs code which is not your own: every handler is a WebAssembly component in a
/// fresh sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "taskforge",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: LoggingArgs,

    /// Print data, and errors, as JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// PEM certificates of authorities to trust besides the public ones, for all connections that
    /// this process makes: plugins' HTTPS, SMTP, Redis, PostgreSQL, a server's API. SSL_CERT_FILE
    /// and SSL_CERT_DIR name others in place of the public ones
    #[arg(
        long,
        global = true,
        env = "TASKFORGE_CA_FILE",
        value_name = "FILE",
        help_heading = "TLS"
    )]
    pub(crate) ca_file: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct LoggingArgs {
    /// What to log, as in RUST_LOG: a level, or module=level pairs [default: info for dev, warn
    /// otherwise]
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
    Dev(Box<DevArgs>),
    /// Serve the API of a fleet
    Serve(Box<ServeArgs>),
    /// Run tasks of a fleet
    Worker(Box<WorkerArgs>),
    /// Bring the fleet's database to this version's schema
    Migrate(DatabaseArgs),
    /// Ask a process whether it can do its work; exits with 1 unless it can
    Health(HealthArgs),
    /// Look after the fleet's database
    #[command(subcommand)]
    Db(DbCommand),
    /// Submit, watch and steer tasks on a server
    #[command(subcommand)]
    Task(TaskCommand),
    /// Look through, requeue and delete dead letters: tasks that failed for good
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Pause, resume and cap task types, and share the fleet out between tenants
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Run, inspect and sign components; push them to a server and choose the versions that run
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Run a load of random tasks through a throw-away system and measure it
    Demo(DemoArgs),
    /// Measure a throw-away fleet on real PostgreSQL and Redis beside the ceiling of bare SQL
    Bench(Box<BenchArgs>),
    /// Write the script that completes commands in a shell, for its start-up file
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Compile the component on standard input for the host that started this process
    #[command(hide = true)]
    CompileComponent(CompileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Address to serve the API on [default: 127.0.0.1:8000, or the next port that is free]
    #[arg(long, env = "TASKFORGE_LISTEN", value_name = "ADDRESS", value_parser = address::listen)]
    pub(crate) listen: Option<SocketAddr>,

    /// Folder for the database, the compiled code, the outbox and the key; made if missing, and
    /// private to this user
    #[arg(long, env = "TASKFORGE_DATA_DIR", default_value = ".taskforge", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// The key that clients must send, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; at least
    /// 16 characters [default: the one in the file `key` in the data folder, which is made at the
    /// first start]
    #[arg(long, env = "TASKFORGE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    /// Require no key: everybody on this machine may do everything. Only on loopback; pages of
    /// other sites are still kept out
    #[arg(long, env = "TASKFORGE_NO_KEY", value_parser = FalseyValueParser::new(), conflicts_with = "api_key")]
    pub(crate) no_key: bool,

    #[command(flatten)]
    pub(crate) connections: ConnectionArgs,

    #[command(flatten)]
    pub(crate) plugins: PluginFolderArgs,

    #[command(flatten)]
    pub(crate) external: ExternalArgs,

    /// Folder for compiled code; may be shared and may be deleted [default: `cache` in the data
    /// folder]
    #[arg(long, env = "TASKFORGE_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Attempts that run at the same time, at most 797; a quarter as many more are a shared
    /// overflow for types that would otherwise wait behind slow ones
    #[arg(long, env = "TASKFORGE_CONCURRENCY", default_value_t = 256, value_parser = stack::concurrency)]
    pub(crate) concurrency: u32,

    /// How long running attempts may go on after SIGTERM or Ctrl-C before they are handed back to
    /// the queue
    #[arg(long, env = "TASKFORGE_DRAIN_GRACE", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) drain_grace: Duration,

    #[command(flatten)]
    pub(crate) ceilings: CeilingArgs,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) mail: MailArgs,
}

/// How many connections clients of the API may have.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// Connections of clients at once; when there are more, idle ones are ended
    #[arg(long, env = "TASKFORGE_MAX_CONNECTIONS", default_value_t = 1024, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,

    /// How many of them one address may have; behind a proxy that is all of them [default: half]
    #[arg(long, env = "TASKFORGE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections_per_address: Option<u32>,
}

impl ConnectionArgs {
    /// Sets both in a configuration, as far as the limit on open files allows.
    pub(crate) fn apply(&self, config: taskforge_api::ApiConfig) -> taskforge_api::ApiConfig {
        let most = crate::descriptors::connections(self.max_connections);
        let of_one = self.max_connections_per_address.map(|of_one| of_one as usize);
        taskforge_api::ApiConfig {
            max_connections: most,
            max_connections_per_address: of_one.unwrap_or(most.div_ceil(2)).min(most),
            ..config
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PluginFolderArgs {
    /// Folder with plugins to register at the start: NAME.wasm, NAME.toml with its limits and
    /// grants, NAME.wasm.sig with its signature [default: `plugins` beside or above the executable,
    /// then ./plugins]
    #[arg(long, env = "TASKFORGE_PLUGINS", value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,

    /// Let every plugin that may use HTTP reach addresses in this network, which would be refused
    /// as private (repeatable)
    #[arg(
        long,
        env = "TASKFORGE_ALLOW_PRIVATE",
        value_name = "CIDR",
        value_parser = taskforge_domain::parse_network,
        value_delimiter = ','
    )]
    pub(crate) allow_private: Vec<ipnet::IpNet>,
}

/// Task types that have no component.
#[derive(Debug, Args)]
pub(crate) struct ExternalArgs {
    /// A task type that only external workers handle, over HTTP, with any JSON as input
    /// (repeatable). NAME.external.toml in the plugins folder does the same with schemas
    #[arg(long, env = "TASKFORGE_EXTERNAL_TYPES", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) external_types: Vec<TaskType>,
}

#[derive(Debug, Args)]
pub(crate) struct MailArgs {
    /// Where mail goes: `log` (the task's log and the outbox folder), or
    /// smtp://[user:password@]host[:port] or smtps://...
    #[arg(long, env = "TASKFORGE_MAILER", default_value = "log", value_name = "log|URL", value_parser = address::mailer)]
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
