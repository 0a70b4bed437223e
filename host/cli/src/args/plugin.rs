//! Plugins: run and inspected without a server, and on their way through the registry of one.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use taskforge_domain::{HostPattern, TaskType};

use super::{
    ActivateArgs, AdviseArgs, AttachArgs, CanaryArgs, KeygenArgs, MailArgs, PluginNameArgs,
    PluginServerArgs, PrunePluginArgs, PushArgs, RetireArgs, SecretCommand, SettingsArgs, ShowArgs,
    SignArgs,
};

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Run a component once and show its output, logs and what it used of its limits; exits with 3
    /// if it failed
    Run(Box<PluginRunArgs>),
    /// Show what a component imports, exports and says about itself
    Inspect(PluginInspectArgs),
    /// Push a component to a server, show what it imports beside what it is granted, and let it run
    Push(Box<PushArgs>),
    /// List the plugins of a server
    List(PluginServerArgs),
    /// Show a plugin and which of its versions run, or one of its versions
    Show(ShowArgs),
    /// List the versions of a plugin, newest first
    Versions(PluginNameArgs),
    /// Let a version run all tasks
    Activate(ActivateArgs),
    /// Let the version before run again; once more undoes it
    Rollback(PluginNameArgs),
    /// Try a version on a share of the tasks; it is taken back by itself if it does worse
    Canary(CanaryArgs),
    /// End a trial
    CanaryStop(PluginNameArgs),
    /// Let the tasks of a plugin wait; they are still accepted
    Pause(PluginNameArgs),
    /// Let the tasks of a plugin run again
    Resume(PluginNameArgs),
    /// Accept no more tasks of a plugin, or never let a version run again
    Retire(RetireArgs),
    /// Set what a version may use and reach
    Settings(SettingsArgs),
    /// Set, list and delete what a plugin may know and nobody may read
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Show what attempts used, and limits that would fit
    Advise(AdviseArgs),
    /// Show what happened to a plugin, newest first
    Events(PluginNameArgs),
    /// Make a pair of keys to sign components with
    Keygen(KeygenArgs),
    /// Sign what a component is and what it may reach at most, so that hosts that ask for it take
    /// it
    Sign(Box<SignArgs>),
    /// Give a version that is stored a signature, in the place of the one that it may have
    Attach(AttachArgs),
    /// Delete versions that nothing refers to, but for the newest
    Prune(PrunePluginArgs),
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct PluginRunArgs {
    /// The component
    pub(crate) file: PathBuf,
    /// Input as JSON; `-` reads standard input, `@FILE` a file
    #[arg(long, short, default_value = "{}", value_name = "JSON")]
    pub(crate) input: String,
    /// Task type, of a WASI command or web server, which does not say it itself [default: the
    /// file's name]
    #[arg(long)]
    pub(crate) name: Option<TaskType>,
    /// Version, of a WASI command or web server [default: 0.0.0]
    #[arg(long)]
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    #[command(flatten)]
    pub(crate) mail: MailArgs,
    /// Folder that the `log` mailer writes messages to [default: a new one among the temporary
    /// files]
    #[arg(long, value_name = "DIR")]
    pub(crate) outbox: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Folder for compiled code; may be shared and may be deleted [default: `taskforge` in your
    /// cache folder: $XDG_CACHE_HOME, or .cache in your home]
    #[arg(long, env = "TASKFORGE_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

impl CacheArgs {
    /// Where compiled code is kept. `None`: this user has no place for it.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let absolute = |name| {
            let folder = std::env::var_os(name).map(PathBuf::from);
            // A relative one is to be ignored (XDG Base Directory Specification).
            folder.filter(|folder| folder.is_absolute())
        };
        self.cache_dir.clone().or_else(|| {
            let caches =
                absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
            Some(caches?.join("taskforge"))
        })
    }
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
    /// Let it send HTTP requests to this host: example.com, *.example.com, *, each with :PORT or :*
    /// (repeatable)
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_http: Vec<HostPattern>,
    /// Let it reach addresses in this network, which would be refused as private (repeatable)
    #[arg(long, value_name = "CIDR", value_parser = taskforge_domain::parse_network)]
    pub(crate) allow_private: Vec<ipnet::IpNet>,
    /// Let it send mail
    #[arg(long)]
    pub(crate) allow_mail: bool,
    /// Let it keep values, for as long as the run takes
    #[arg(long)]
    pub(crate) allow_keyvalue: bool,
    /// A value that it reads through wasi:config (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) config: Vec<(String, String)>,
    /// A value that it reads through wasi:config, from this variable of the environment
    /// (repeatable)
    #[arg(long, value_name = "KEY=VARIABLE", value_parser = pair)]
    pub(crate) secret: Vec<(String, String)>,
}

/// Reads a name and what it stands for.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be a name, an equals sign and a value".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct PluginInspectArgs {
    /// The component
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
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
