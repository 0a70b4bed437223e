//! The certificate authorities that this process trusts, for all its connections.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::Context as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use taskforge_runtime::{Authorities, authorities};

/// The names of the setting, for messages.
const NAMED: &str = "--ca-file, TASKFORGE_CA_FILE";

/// The file that the command line names. One for the process, like its log.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// Variables that name a proxy to programs that use one.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Sets the file with more authorities, once.
pub(crate) fn set(file: Option<PathBuf>) {
    if let Some(file) = file {
        FILE.get_or_init(|| file);
    }
}

/// A file with more authorities, if one was named.
pub(crate) fn file() -> Option<&'static Path> {
    FILE.get().map(PathBuf::as_path)
}

/// The authorities for HTTPS and SMTP.
pub(crate) fn read() -> anyhow::Result<Authorities> {
    Authorities::read(file()).context(NAMED)
}

/// The authorities for Redis, if they are not the library's defaults.
pub(crate) fn of_redis() -> anyhow::Result<Option<String>> {
    file().map(authorities::system_and).transpose().context(NAMED)
}

/// The URL of a database, with the file unless it names one: PostgreSQL's library adds that to the
/// system's.
pub(crate) fn of_database(url: &str) -> String {
    let Some(file) = file().filter(|_| !url.contains("sslrootcert=")) else {
        return url.to_owned();
    };
    let between = if url.contains('?') { '&' } else { '?' };
    let file = utf8_percent_encode(&file.to_string_lossy(), NON_ALPHANUMERIC).to_string();
    format!("{url}{between}sslrootcert={file}")
}

/// The TLS configuration of a client; empty for a server without TLS.
pub(crate) fn client(server: &reqwest::Url) -> anyhow::Result<rustls::ClientConfig> {
    let authorities = match server.scheme() {
        "https" => read()?,
        _ => Authorities::public(),
    };
    Ok(rustls::ClientConfig::builder()
        .with_root_certificates(authorities.roots())
        .with_no_client_auth())
}

/// Warns that a process that runs tasks uses no proxy, where variables name one.
pub(crate) fn warn_of_proxies() {
    let set = |name: &&str| {
        [name.to_string(), name.to_lowercase()]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    };
    let set: Vec<_> = PROXIES.iter().filter(|name| set(name)).copied().collect();
    if !set.is_empty() {
        tracing::warn!(
            variables = set.join(", "),
            "a proxy is named, and not used: plugins' HTTP, mail, Redis and PostgreSQL are reached directly"
        );
    }
}
