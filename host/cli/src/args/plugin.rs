//! Plugins: run and inspected without a server, pushed to one and steered there.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use taskforge_domain::{HostPattern, TaskType, TenantId};

use super::{MailArgs, ServerArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Run a component once and show its output, logs and what it used of its limits; exits with 1 if it failed
    #[command(disable_version_flag = true)]
    Run(Box<PluginRunArgs>),
    /// Show what a component imports, exports and says about itself
    Inspect(PluginInspectArgs),
    /// Push a component to a server, show what it imports beside what it is granted, and let it run
    #[command(disable_version_flag = true)]
    Push(Box<PluginPushArgs>),
    /// List the plugins of a server
    List(PluginListArgs),
    /// Show a plugin: which versions run, what they import, and what they may use and reach
    Show(PluginNameArgs),
    /// List the versions of a plugin, newest first
    Versions(PluginNameArgs),
    /// Let a version run all tasks of its plugin
    Activate(PluginActivateArgs),
    /// Let the version that ran before run again
    Rollback(PluginNameArgs),
    /// Try a version on a share of the tasks
    Canary(PluginCanaryArgs),
    /// End a trial: the stable version runs all tasks again
    CanaryStop(PluginNameArgs),
    /// Let the tasks of a plugin wait
    Pause(PluginNameArgs),
    /// Let the tasks of a paused plugin run
    Resume(PluginNameArgs),
    /// Accept no more tasks of a plugin; or, with a version, never run that again
    Retire(PluginRetireArgs),
    /// Set what a version may use and reach
    Settings(PluginSettingsArgs),
    /// Set, list and delete the secrets of a plugin
    #[command(subcommand)]
    Secret(PluginSecretCommand),
    /// Show what attempts of a plugin used, and limits that would fit them
    Advise(PluginAdviseArgs),
    /// Show what happened to a plugin, newest first
    Events(PluginEventsArgs),
    /// Make a key pair to sign components with: FILE and FILE.pub
    Keygen(PluginKeygenArgs),
    /// Sign a component: writes FILE.sig
    Sign(PluginSignArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PluginPushArgs {
    /// The component
    pub(crate) file: PathBuf,
    /// Limits, grants and configuration [default: the file beside the component, with the ending .toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// The tenant whose plugin it is; shared by all if left out
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// The detached signature [default: FILE.sig, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<PathBuf>,
    /// Store it, and leave it to `plugin activate` to let it run
    #[arg(long, conflicts_with = "force")]
    pub(crate) stage: bool,
    /// Let it run even if it refuses inputs that the running version takes
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What a WASI command or web server cannot say of itself.
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// Task type, of a WASI command or web server
    #[arg(long, requires = "version")]
    pub(crate) name: Option<TaskType>,
    /// Semantic version, of a WASI command or web server
    #[arg(long, requires = "name")]
    pub(crate) version: Option<String>,
    /// One line for people, of a WASI command or web server
    #[arg(long, requires = "name")]
    pub(crate) summary: Option<String>,
    /// JSON Schema of the input, of a WASI command or web server; `@FILE` reads a file
    #[arg(long, requires = "name", value_name = "JSON")]
    pub(crate) input_schema: Option<String>,
    /// JSON Schema of the output, of a WASI command or web server; `@FILE` reads a file
    #[arg(long, requires = "name", value_name = "JSON")]
    pub(crate) output_schema: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PluginListArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginNameArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginActivateArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// The version
    #[arg(value_name = "VERSION")]
    pub(crate) number: String,
    /// Also if it refuses inputs that the running version takes
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginCanaryArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// The version to try
    #[arg(value_name = "VERSION")]
    pub(crate) number: String,
    /// Its share of the tasks
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub(crate) percent: u8,
    /// Attempts before it is judged
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) min_attempts: u32,
    /// How much larger its share of failed attempts may be than the stable version's, 0.0 to 1.0
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub(crate) failure_margin: f64,
    /// How many times the stable version's 90th percentile of time its own may be
    #[arg(long, default_value_t = 2.0, value_name = "FACTOR")]
    pub(crate) latency_factor: f64,
    /// Also if it refuses inputs that the running version takes
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginRetireArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// A version that is never to run again; without one, the plugin accepts no more tasks
    #[arg(value_name = "VERSION")]
    pub(crate) number: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginSettingsArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// The version
    #[arg(value_name = "VERSION")]
    pub(crate) number: String,
    /// Limits, grants and configuration, as beside a component; what it leaves out has its default
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginSecretCommand {
    /// Set a secret; reads it from standard input
    Set(PluginSecretSetArgs),
    /// List the secrets of a plugin, without what they say
    List(PluginNameArgs),
    /// Delete a secret
    Delete(PluginSecretArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PluginSecretSetArgs {
    #[command(flatten)]
    pub(crate) secret: PluginSecretArgs,
    /// Read it from this environment variable and not from standard input
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) from_env: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PluginSecretArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// The name that the plugin reads it by
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginAdviseArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// The version [default: the one that runs]
    #[arg(value_name = "VERSION")]
    pub(crate) number: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginEventsArgs {
    /// The plugin
    pub(crate) plugin: TaskType,
    /// The most events
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) last: u32,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginKeygenArgs {
    /// Where the private key goes; the public key goes to FILE.pub
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PluginSignArgs {
    /// The component
    pub(crate) file: PathBuf,
    /// The private key: of `plugin keygen`, or of `openssl genpkey -algorithm ed25519`
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
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
    pub(crate) manifest: ManifestArgs,
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
    /// Let it keep values, in memory, until it ends
    #[arg(long)]
    pub(crate) allow_keyvalue: bool,
    /// A value that it reads through wasi:config (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) config: Vec<String>,
    /// A secret that it reads through wasi:config, from an environment variable (repeatable)
    #[arg(long, value_name = "KEY=VARIABLE")]
    pub(crate) secret: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PluginInspectArgs {
    /// The component
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// An existing file that takes the code
    #[arg(long)]
    pub(crate) output: PathBuf,
    /// Memory that may be allocated, in bytes
    #[arg(long)]
    pub(crate) memory: u64,
    /// CPU time that may be used
    #[arg(long)]
    pub(crate) seconds: u64,
    /// The engine that the code is for
    #[arg(long)]
    pub(crate) fingerprint: String,
}
