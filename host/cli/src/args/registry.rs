//! Whose plugins a process trusts, and how their secrets are kept.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{Args, builder::FalseyValueParser};

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The key that seals the secrets of plugins: 32 bytes in base64 or hexadecimal digits, for
    /// example from `openssl rand -hex 32`. The same for all processes. Several with commas
    /// between: the first seals, all open, so that a key can be changed
    #[arg(
        long,
        env = "TASKFORGE_SECRET_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Plugins"
    )]
    pub(crate) secret_key: Option<String>,

    /// Take and run only plugins that are signed by a trusted key
    #[arg(
        long,
        env = "TASKFORGE_REQUIRE_SIGNATURE",
        value_parser = FalseyValueParser::new(),
        help_heading = "Plugins"
    )]
    pub(crate) require_signature: bool,

    /// File with the keys that may sign plugins, and for whom: tables [[key]] with name,
    /// public_key, tenants = ["acme"] or shared = true
    #[arg(long, env = "TASKFORGE_TRUSTED_KEYS", value_name = "FILE", help_heading = "Plugins")]
    pub(crate) trusted_keys: Option<PathBuf>,

    /// Versions of one plugin that may be stored; a push of one more is refused
    #[arg(
        long,
        env = "TASKFORGE_MAX_PLUGIN_VERSIONS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "N",
        help_heading = "Plugins"
    )]
    pub(crate) max_plugin_versions: u64,

    /// Bytes of components that one owner may store: each tenant, and all shared plugins together
    #[arg(
        long,
        env = "TASKFORGE_MAX_PLUGIN_BYTES",
        default_value = "4 GiB",
        value_name = "SIZE",
        help_heading = "Plugins"
    )]
    pub(crate) max_plugin_bytes: ByteSize,
}

#[derive(Debug, Args)]
pub(crate) struct VersionRetentionArgs {
    /// How many of the newest versions of each plugin are kept, however old they are
    #[arg(
        long,
        env = "TASKFORGE_PLUGIN_KEEP",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "N",
        help_heading = "Plugins"
    )]
    pub(crate) plugin_keep: u32,

    /// How long other versions that nothing refers to are kept after they were pushed, and after
    /// they ran
    #[arg(
        long,
        env = "TASKFORGE_PLUGIN_RETENTION",
        default_value = "30days",
        value_parser = humantime::parse_duration,
        value_name = "DURATION",
        help_heading = "Plugins"
    )]
    pub(crate) plugin_retention: Duration,
}
