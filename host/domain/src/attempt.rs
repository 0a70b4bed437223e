//! The record of an attempt, and of events of a task outside one.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, Outcome, RunLease, TaskId, Usage, WorkerId};

/// The record of one run of a task, written in the statement that ends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The task.
    pub task: TaskId,
    /// Which claim this was; unique within the task.
    pub run_lease: RunLease,
    /// Which attempt this was, from 1; starts again after an operator's retry.
    pub number: u32,
    /// Who ran it.
    pub worker: WorkerId,
    /// Version of the plugin that ran it.
    pub plugin_version: String,
    /// Digest of the plugin that ran it.
    pub plugin_digest: Digest,
    /// When it was claimed.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// The log of handler and host, oldest first, cut at the log limit.
    pub logs: Vec<LogLine>,
}

/// Severity of a log line.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// The finest level.
    Trace,
    /// For the plugin's author.
    Debug,
    /// Standard output, and `info`.
    Info,
    /// Standard error, and `warn`.
    Warn,
    /// Something failed.
    Error,
    /// A severe failure.
    Critical,
}

/// One line of an attempt's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the host received it.
    pub at: Timestamp,
    /// Its severity.
    pub level: LogLevel,
    /// The text, without its line break.
    pub message: String,
}

/// Something that happened to a task outside an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The claim that the task was in, for a cancel of a running task or a lapse; otherwise its
    /// latest.
    pub run_lease: RunLease,
    /// Details, as one sentence.
    pub detail: String,
}

/// The kinds of [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The task was cancelled.
    Cancelled,
    /// A failed or cancelled task was sent to run again.
    Requeued,
    /// The lease of its worker ran out.
    Lapsed,
    /// A draining worker handed it back.
    HandedBack,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Cancelled, Self::Requeued, Self::Lapsed, Self::HandedBack];

    /// The name that the store uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Requeued => "requeued",
            Self::Lapsed => "lapsed",
            Self::HandedBack => "handed_back",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not an event kind"))
    }
}
