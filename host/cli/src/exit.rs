//! How a command ends: its exit code, and its error for people and for programs.
//!
//! | code | what it says |
//! |---|---|
//! | 0 | done; of a task that was waited for: it completed |
//! | 1 | anything that has no code of its own; of `health`: not ready |
//! | 2 | the command line is wrong |
//! | 3 | the task or the run failed, or was cancelled |
//! | 4 | there is no such task, plugin, version, type or secret |
//! | 5 | the server refused: the key, the input, a state that does not allow it |
//! | 6 | nobody answered, or the server cannot answer now |
//! | 7 | the task has not ended within `--timeout` |
//! | 130 | stopped by Ctrl-C |

use std::{fmt, process::ExitCode};

use serde::Serialize;
use taskforge_domain::Json;

use crate::{output, signals::INTERRUPTED};

/// Why a command failed, as far as its exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// No other.
    Failed,
    /// The command line is wrong.
    Usage,
    /// What was named is not there.
    NotFound,
    /// The server says no.
    Refused,
    /// Nobody answers, or not now.
    Unreachable,
    /// A person or a signal ended the waiting.
    Interrupted,
}

/// A task or a run that failed.
pub(crate) const TASK_FAILED: u8 = 3;
/// A task that has not ended in time.
pub(crate) const NOT_ENDED: u8 = 7;

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 4,
            Self::Refused => 5,
            Self::Unreachable => 6,
            Self::Interrupted => INTERRUPTED,
        }
    }
}

/// An error whose kind is known.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    /// What the server said, where it said anything.
    problem: Option<Json>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), problem: None }
    }

    pub(crate) fn with_problem(self, problem: Option<Json>) -> Self {
        Self { problem, ..self }
    }

    /// A command line that is wrong in a way that its parser does not see.
    pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
        Self::new(Kind::Usage, message).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error as `--json` shows it, on standard error.
#[derive(Serialize)]
struct Shown<'a> {
    kind: Kind,
    exit_code: u8,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a Json>,
}

/// Tells an error, and says what to exit with.
pub(crate) fn tell(error: &anyhow::Error, as_json: bool) -> ExitCode {
    // Whether it is what went wrong, or what was said of it.
    let known = error.downcast_ref::<Failure>();
    let kind = known.map_or(Kind::Failed, |failure| failure.kind);
    let problem = known.and_then(|failure| failure.problem.as_ref());
    // The chain of causes, each once: what was tried, and what stood in the way.
    show(kind, &format!("{error:#}"), problem, as_json)
}

/// Tells that the waiting was ended, and how to go on: to a person that is no error.
pub(crate) fn tell_interrupt(error: &anyhow::Error, as_json: bool) -> ExitCode {
    let message = error.root_cause().to_string();
    if as_json {
        return show(Kind::Interrupted, &message, None, as_json);
    }
    output::aside(&message);
    ExitCode::from(INTERRUPTED)
}

/// Tells what is wrong with a command line, under `--json`.
pub(crate) fn tell_usage(message: &str) -> ExitCode {
    let message = message.trim_end();
    show(Kind::Usage, message.strip_prefix("error: ").unwrap_or(message), None, true)
}

fn show(kind: Kind, message: &str, problem: Option<&Json>, as_json: bool) -> ExitCode {
    let shown = Shown { kind, exit_code: kind.code(), message, problem };
    match serde_json::to_string(&serde_json::json!({ "error": shown })) {
        Ok(text) if as_json => output::on_stderr(&output::indented(&text)),
        _ => output::error(message),
    }
    ExitCode::from(kind.code())
}
