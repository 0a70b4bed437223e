//! Whose plugins a process trusts, and how their secrets are kept.

use std::path::PathBuf;

use clap::{Args, builder::FalseyValueParser};

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The key that seals the secrets of plugins: 32 bytes in base64 or hexadecimal digits, for example from `openssl rand -hex 32`. The same
    /// for all processes. Several with commas between: the first seals, all open, so that a key can be changed
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

    /// File with the keys that may sign plugins, and for whom: tables [[key]] with name, public_key, tenants = ["acme"] or shared = true
    #[arg(
        long,
        env = "TASKFORGE_TRUSTED_KEYS",
        value_name = "FILE",
        help_heading = "Plugins"
    )]
    pub(crate) trusted_keys: Option<PathBuf>,
}
