//! Running and inspecting a component without a server.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use taskforge_domain::HostPattern;

use super::MailArgs;

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
