//! The roles of a fleet, whether they are well, and the upkeep of their database.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use taskforge_domain::TaskType;

use crate::stack;

use super::{
    CeilingArgs, ConfirmArgs, ConnectionArgs, ExternalArgs, MailArgs, PluginFolderArgs, TrustArgs,
    VersionRetentionArgs,
};
use crate::address;

#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// The PostgreSQL database: postgres://user:password@host/database, with
    /// ?sslmode=verify-full&sslrootcert=FILE for TLS. Several servers with commas between are asked
    /// for the one that takes writes
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        value_parser = address::database_url,
        help_heading = "Stores"
    )]
    pub(crate) database_url: String,

    /// The schema that holds everything of TaskForge, for a database that is shared with other
    /// applications; `migrate` makes it
    #[arg(long, env = "TASKFORGE_DATABASE_SCHEMA", value_name = "NAME", help_heading = "Stores")]
    pub(crate) database_schema: Option<String>,

    /// Connections to the database that this process may hold
    #[arg(long, env = "TASKFORGE_DATABASE_CONNECTIONS", default_value_t = 12, value_name = "N", help_heading = "Stores",
        value_parser = clap::value_parser!(u32).range(9..=1_000))]
    pub(crate) database_connections: u32,

    /// How long one statement may take before the database ends it
    #[arg(long, env = "TASKFORGE_STATEMENT_TIMEOUT", default_value = "30s", value_name = "DURATION",
        value_parser = humantime::parse_duration, help_heading = "Stores")]
    pub(crate) statement_timeout: Duration,

    /// How long to wait for a database that is not there yet when the process starts
    #[arg(long, env = "TASKFORGE_STARTUP_TIMEOUT", default_value = "60s", value_name = "DURATION",
        value_parser = humantime::parse_duration, help_heading = "Stores")]
    pub(crate) startup_timeout: Duration,
}

impl DatabaseArgs {
    /// A database with the default settings.
    pub(crate) fn of(url: &str) -> Self {
        Self {
            database_url: url.to_owned(),
            database_schema: None,
            database_connections: 12,
            statement_timeout: Duration::from_secs(30),
            startup_timeout: Duration::ZERO,
        }
    }
}

/// Who tells workers which task is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BrokerKind {
    /// Redis (or Valkey), with the database behind it while Redis is away
    Redis,
    /// The database itself
    Postgres,
}

#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// Who tells workers which task is next [default: redis if a Redis is named, else postgres]
    #[arg(long, env = "TASKFORGE_BROKER", help_heading = "Stores")]
    pub(crate) broker: Option<BrokerKind>,

    /// The Redis server: redis://host:6379, rediss:// for TLS, redis-cluster:// for a cluster
    #[arg(
        long,
        env = "REDIS_URL",
        value_name = "URL",
        hide_env_values = true,
        value_parser = address::redis_url,
        help_heading = "Stores"
    )]
    pub(crate) redis_url: Option<String>,

    /// What every key in Redis begins with; fleets that share a Redis have one each
    #[arg(
        long,
        env = "TASKFORGE_REDIS_PREFIX",
        default_value = "taskforge",
        value_name = "PREFIX",
        help_heading = "Stores"
    )]
    pub(crate) redis_prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct FolderArgs {
    /// Folder for compiled code, and the outbox of the `log` mailer; made if missing
    #[arg(long, env = "TASKFORGE_DATA_DIR", default_value = ".taskforge", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// Folder for compiled code; may be shared and may be deleted [default: `cache` in the data
    /// folder]
    #[arg(long, env = "TASKFORGE_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

impl FolderArgs {
    pub(crate) fn cache(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| self.data_dir.join("cache"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to serve the API on; one that others can reach needs a key [default: 127.0.0.1:8000,
    /// or the next port that is free]
    #[arg(long, env = "TASKFORGE_LISTEN", value_name = "ADDRESS", value_parser = address::listen)]
    pub(crate) listen: Option<SocketAddr>,

    /// The key that clients must send, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; at least
    /// 16 characters
    #[arg(long, env = "TASKFORGE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    /// A second address with /healthz, /readyz and /metrics only, which ask for no key
    #[arg(long, env = "TASKFORGE_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = address::listen)]
    pub(crate) admin_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) connections: ConnectionArgs,

    /// How long running requests may go on after SIGTERM or Ctrl-C
    #[arg(long, env = "TASKFORGE_SHUTDOWN_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) shutdown_grace: Duration,

    #[command(flatten)]
    pub(crate) plugins: PluginFolderArgs,

    #[command(flatten)]
    pub(crate) ceilings: CeilingArgs,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) external: ExternalArgs,

    #[command(flatten)]
    pub(crate) folders: FolderArgs,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Attempts that run at the same time, at most 797; a quarter as many more are a shared
    /// overflow for types that would otherwise wait behind slow ones
    #[arg(long, env = "TASKFORGE_CONCURRENCY", default_value_t = 256, value_parser = stack::concurrency)]
    pub(crate) concurrency: u32,

    /// Serve only these task types [default: every plugin in the registry]
    #[arg(long, env = "TASKFORGE_TYPES", value_name = "TYPE", value_delimiter = ',')]
    pub(crate) types: Vec<TaskType>,

    /// How long this worker may be silent before others take over its tasks
    #[arg(long, env = "TASKFORGE_HEARTBEAT_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = lease)]
    pub(crate) heartbeat_timeout: Duration,

    /// How long running attempts may go on after SIGTERM or Ctrl-C before they are handed back to
    /// the queue
    #[arg(long, env = "TASKFORGE_DRAIN_GRACE", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) drain_grace: Duration,

    /// How long finished tasks are kept in the database
    #[arg(long, env = "TASKFORGE_RETENTION", default_value = "30days", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) retention: Duration,

    #[command(flatten)]
    pub(crate) versions: VersionRetentionArgs,

    /// Address of /healthz, /readyz and /metrics [default: 127.0.0.1:9464, or the next port that is
    /// free]
    #[arg(long, env = "TASKFORGE_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = address::listen)]
    pub(crate) admin_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) plugins: PluginFolderArgs,

    #[command(flatten)]
    pub(crate) ceilings: CeilingArgs,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) folders: FolderArgs,

    #[command(flatten)]
    pub(crate) mail: MailArgs,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// What to ask: a process, such as localhost:8000, for its /readyz, or a whole URL such as
    /// http://127.0.0.1:8000/healthz [default: the address that TASKFORGE_ADMIN_LISTEN or else
    /// TASKFORGE_LISTEN gives, so in the environment of a process no URL is needed; or else the
    /// `taskforge dev` that runs on the data folder]
    #[arg(value_parser = address::server_url)]
    pub(crate) url: Option<reqwest::Url>,

    /// Where the process answers /readyz beside its work
    #[arg(long, env = "TASKFORGE_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = address::listen)]
    pub(crate) admin_listen: Option<SocketAddr>,

    /// Where the process serves the API, and /readyz with it [default: where the `taskforge dev`
    /// that runs on the data folder listens, or 127.0.0.1:8000]
    #[arg(long, env = "TASKFORGE_LISTEN", value_name = "ADDRESS", value_parser = address::listen)]
    pub(crate) listen: Option<SocketAddr>,

    /// The data folder of `taskforge dev`, for its address
    #[arg(long, env = "TASKFORGE_DATA_DIR", default_value = ".taskforge", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// How long to wait for the answer. The process itself gives each of its parts 2 s
    #[arg(long, default_value = "3s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

/// Shorter, and a busy machine would lose its leases for nothing.
fn lease(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(lease) if lease >= Duration::from_millis(500) => Ok(lease),
        Ok(_) => Err("must be at least 500ms".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Forget tasks that ended long ago, now instead of with the sweeper's next upkeep
    Retain(RetainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RetainArgs {
    /// Keep tasks that ended within this time
    #[arg(long, env = "TASKFORGE_RETENTION", default_value = "30days", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) keep: Duration,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
}
