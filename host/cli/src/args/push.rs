//! Commands that change the plugins of a server, and the keys that sign components.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use taskforge_domain::{TaskType, TenantId};

use super::{ConfirmArgs, ServerArgs};

#[derive(Debug, Args)]
pub(crate) struct PluginServerArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginNameArgs {
    /// The plugin, which is the task type
    pub(crate) name: TaskType,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct ShowArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Which version [default: the one that runs]
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct PushArgs {
    /// The component
    pub(crate) file: PathBuf,
    /// Limits, grants and configuration [default: the file beside the component, with the ending
    /// .toml; without one, those of the version that runs]
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// The tenant whose plugin it is, who alone may use it [default: shared by all]
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Task type, of a WASI command or web server, which does not say it itself
    #[arg(long, requires = "version")]
    pub(crate) name: Option<TaskType>,
    /// Version, of a WASI command or web server
    #[arg(long, requires = "name")]
    pub(crate) version: Option<String>,
    /// One line for people, of a WASI command or web server
    #[arg(long, requires = "name")]
    pub(crate) summary: Option<String>,
    /// JSON Schema of the input, of a WASI command or web server; `@FILE` reads a file [default:
    /// anything]
    #[arg(long, value_name = "JSON", requires = "name")]
    pub(crate) input_schema: Option<String>,
    /// JSON Schema of the output, likewise
    #[arg(long, value_name = "JSON", requires = "name")]
    pub(crate) output_schema: Option<String>,
    /// Its signature, of `plugin sign` [default: the component's file with .sig after it, if there
    /// is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<PathBuf>,
    /// Store it, and do not let it run yet
    #[arg(long)]
    pub(crate) stage: bool,
    /// Let it run even if it refuses inputs that the running version takes, or lacks a grant that
    /// this one has
    #[arg(long, conflicts_with = "stage")]
    pub(crate) force: bool,
    /// Let it run even if it is older than a version that was live, where signatures are required
    #[arg(long, conflicts_with = "stage")]
    pub(crate) allow_downgrade: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct ActivateArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Which version
    pub(crate) version: String,
    /// Also if it refuses inputs that the running version takes, or lacks a grant that this one has
    #[arg(long)]
    pub(crate) force: bool,
    /// Also if it is older than a version that was live, where signatures are required
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct CanaryArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Which version
    pub(crate) version: String,
    /// Share of the tasks that it is to run
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub(crate) percent: u8,
    /// Attempts of it before it is judged [default: 50]
    #[arg(long, value_name = "N")]
    pub(crate) min_attempts: Option<u32>,
    /// How much larger its share of failed attempts may be than the stable version's [default:
    /// 0.05]
    #[arg(long, value_name = "SHARE")]
    pub(crate) failure_margin: Option<f64>,
    /// How many times the stable version's 90th percentile of time its own may be [default: 2]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) latency_factor: Option<f64>,
    /// Also if it refuses inputs that the running version takes, or lacks a grant that this one has
    #[arg(long)]
    pub(crate) force: bool,
    /// Also if it is older than a version that was live, where signatures are required
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct RetireArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Only this version, which must not be running
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct SettingsArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Which version
    pub(crate) version: String,
    /// File with limits, grants and configuration; replaces what was set
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret; its value is typed unseen, or comes from standard input or a variable, never
    /// from the command line
    Set(SecretSetArgs),
    /// List the secrets of a plugin, without what they say
    List(PluginNameArgs),
    /// Delete a secret
    Delete(SecretDeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// The name that the plugin reads it by
    pub(crate) key: String,
    /// Take the value from this variable of the environment [default: standard input, without a
    /// line end at its end]
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) from_env: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretDeleteArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// The name that the plugin reads it by
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct AdviseArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Which version [default: the one that runs]
    #[arg(long)]
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// New file for the private key; the public key goes to the same name with .pub after it
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct SignArgs {
    /// The component; the signature goes to the same name with .sig after it
    pub(crate) file: PathBuf,
    /// The private key, of `plugin keygen` or of openssl
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The most that it may be granted, and the configuration values that it may be given, as a
    /// settings file [default: the file beside the component, with the ending .toml; nothing if
    /// there is none]
    #[arg(long, value_name = "FILE")]
    pub(crate) settings: Option<PathBuf>,
    /// The tenant whose plugin it is to be [default: shared by all]
    #[arg(long, alias = "owner")]
    pub(crate) tenant: Option<TenantId>,
    /// Task type, of a WASI command or web server, which does not say it itself
    #[arg(long, requires = "version")]
    pub(crate) name: Option<TaskType>,
    /// Version, of a WASI command or web server
    #[arg(long, requires = "name")]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Args)]
// Its own `version` takes the place of the binary's.
#[command(disable_version_flag = true)]
pub(crate) struct AttachArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// Which version
    pub(crate) version: String,
    /// The signature, of `plugin sign`
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PrunePluginArgs {
    /// The plugin
    pub(crate) name: TaskType,
    /// How many of its newest versions stay, whether anything refers to them or not
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep: u32,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
