//! Log lines, on standard error: standard output is for data.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, LoggingArgs};

/// A server says what it does.
const SERVER_FILTER: &str = "warn,taskforge=info,taskforge_worker=info,taskforge_api=info";
/// A command for a person is quiet unless something is wrong.
const COMMAND_FILTER: &str = "warn";

/// Starts logging for the process.
pub(crate) fn init(args: &LoggingArgs, is_server: bool) {
    let default = || EnvFilter::new(if is_server { SERVER_FILTER } else { COMMAND_FILTER });
    let (filter, problem) = match args.log.as_deref().map(EnvFilter::try_new) {
        None => (default(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (default(), Some(error)),
    };
    let ansi = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    if let Some(error) = problem {
        tracing::warn!(%error, "the log filter cannot be read; using the default");
    }
}
