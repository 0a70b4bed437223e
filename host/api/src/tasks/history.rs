//! A task's log: its attempts and what happened between them, in one list of lines.

use std::fmt::Write;

use bytesize::ByteSize;
use serde::Serialize;
use taskforge_domain::{
    Attempt, Event, EventKind, LogLevel, Outcome, Task, TaskId, TaskState, Timestamp, Usage,
};
use taskforge_store::History;
use utoipa::ToSchema;

/// One line of a task's log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub(crate) struct LogView {
    /// The line's place in the log, from 1.
    id: usize,
    /// The task.
    #[schema(value_type = uuid::Uuid)]
    task_id: TaskId,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// How serious it is.
    level: LogLevel,
    /// What kind of line it is.
    event: LineKind,
    /// The attempt that it belongs to.
    #[schema(required)]
    attempt: Option<u32>,
    /// The line.
    #[schema(example = "attempt 1 completed in 1.2ms")]
    message: String,
    /// What the attempt used; only on the line that ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    usage: Option<Usage>,
}

/// The kinds of log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LineKind {
    /// The task was accepted.
    Accepted,
    /// A worker began an attempt.
    Started,
    /// The handler, or the host on its behalf, said something.
    Log,
    /// An attempt succeeded.
    Completed,
    /// An attempt failed.
    Failed,
    /// The task waits for its next attempt, or did.
    Waiting,
    /// The task failed for good.
    DeadLetter,
    /// Somebody cancelled the task.
    Cancelled,
    /// Somebody had the task run again.
    Requeued,
    /// A worker stopped answering.
    Lapsed,
    /// A worker gave the task back before its attempt ended.
    HandedBack,
}

/// The lines, oldest first.
pub(crate) fn lines(history: &History) -> Vec<LogView> {
    let task = &history.task;
    let mut lines = Lines { task: task.id, lines: Vec::new() };
    lines.accepted(task);
    for (index, attempt) in history.attempts.iter().enumerate() {
        lines.attempt(attempt);
        if let Some(next) =
            history.attempts.get(index + 1).filter(|next| next.number == attempt.number + 1)
        {
            lines.waited(attempt, next);
        }
    }
    for event in &history.events {
        lines.event(event);
    }
    lines.now(history);
    lines.in_order()
}

struct Lines {
    task: TaskId,
    lines: Vec<LogView>,
}

impl Lines {
    fn add(
        &mut self,
        at: Timestamp,
        level: LogLevel,
        event: LineKind,
        attempt: Option<u32>,
        message: String,
    ) {
        let usage = None;
        self.lines.push(LogView {
            id: 0,
            task_id: self.task,
            created_at: at,
            level,
            event,
            attempt,
            message,
            usage,
        });
    }

    fn accepted(&mut self, task: &Task) {
        let retries = match task.retry.max_retries {
            0 => "no retries".to_owned(),
            1 => "1 retry".to_owned(),
            many => format!("{many} retries"),
        };
        let message = format!(
            "accepted as {} with priority {} and up to {retries}",
            task.task_type,
            task.priority.get()
        );
        self.add(task.created_at, LogLevel::Info, LineKind::Accepted, None, message);
    }

    fn attempt(&mut self, attempt: &Attempt) {
        let number = Some(attempt.number);
        let message = format!(
            "attempt {} picked up by worker {}, plugin version {}",
            attempt.number, attempt.worker, attempt.plugin_version
        );
        self.add(attempt.started_at, LogLevel::Info, LineKind::Started, number, message);
        for line in &attempt.logs {
            self.add(line.at, line.level, LineKind::Log, number, line.message.clone());
        }
        let time =
            humantime::format_duration(std::time::Duration::from_micros(attempt.usage.wall_micros));
        let (level, event, ended) = match &attempt.outcome {
            Outcome::Completed(_) => (LogLevel::Info, LineKind::Completed, "completed".to_owned()),
            Outcome::Failed(failure) => (
                LogLevel::Error,
                LineKind::Failed,
                format!("failed ({}): {}", failure.kind, failure.message),
            ),
        };
        let mut message = format!(
            "attempt {} {ended}; took {time}, used {}",
            attempt.number,
            used(&attempt.usage)
        );
        if matches!(&attempt.outcome, Outcome::Failed(failure) if failure.retry_after.is_some()) {
            message.push_str("; the handler asked for a delay of its own");
        }
        self.add(attempt.finished_at, level, event, number, message);
        if let Some(line) = self.lines.last_mut() {
            line.usage = Some(attempt.usage);
        }
    }

    fn waited(&mut self, attempt: &Attempt, next: &Attempt) {
        let waited = next.started_at.duration_since(attempt.finished_at).unsigned_abs();
        // Whole milliseconds read better and are all that anyone asks.
        let waited =
            std::time::Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        let message =
            format!("waited {} for attempt {}", humantime::format_duration(waited), next.number);
        self.add(
            attempt.finished_at,
            LogLevel::Info,
            LineKind::Waiting,
            Some(attempt.number),
            message,
        );
    }

    fn event(&mut self, event: &Event) {
        let (level, kind, what) = match event.kind {
            EventKind::Cancelled => (LogLevel::Warn, LineKind::Cancelled, "cancelled"),
            EventKind::Requeued => {
                (LogLevel::Info, LineKind::Requeued, "queued again, with fresh attempts")
            }
            EventKind::Lapsed => {
                (LogLevel::Error, LineKind::Lapsed, "the worker stopped answering")
            }
            EventKind::HandedBack => (
                LogLevel::Info,
                LineKind::HandedBack,
                "handed back by its worker before the attempt ended",
            ),
        };
        let message = if event.detail.is_empty() {
            what.to_owned()
        } else {
            format!("{what}: {}", event.detail)
        };
        self.add(event.at, level, kind, None, message);
    }

    /// What no record says yet, because it is still going on.
    fn now(&mut self, history: &History) {
        let (task, last) = (&history.task, history.attempts.last());
        let number = Some(task.attempt).filter(|number| *number > 0);
        match (task.state, task.started_at) {
            (TaskState::Running, Some(at)) => {
                let by =
                    task.worker.map(|worker| format!(" by worker {worker}")).unwrap_or_default();
                let message = format!("attempt {} picked up{by}", task.attempt);
                self.add(at, LogLevel::Info, LineKind::Started, number, message);
                for line in &history.log {
                    self.add(line.at, line.level, LineKind::Log, number, line.message.clone());
                }
            }
            (TaskState::Scheduled, _) => {
                let message = format!(
                    "waits until {} for attempt {}",
                    task.run_at,
                    task.attempt.saturating_add(1)
                );
                let since = last.map_or(task.created_at, |attempt| attempt.finished_at);
                self.add(since, LogLevel::Info, LineKind::Waiting, number, message);
            }
            (TaskState::Failed, _) => {
                let message = format!(
                    "failed for good at attempt {} of at most {}",
                    task.attempt,
                    task.retry.max_attempts()
                );
                let at = task.finished_at.unwrap_or(task.created_at);
                self.add(at, LogLevel::Error, LineKind::DeadLetter, number, message);
            }
            _ => {}
        }
    }

    fn in_order(self) -> Vec<LogView> {
        let mut lines = self.lines;
        // Stable: lines of one instant stay as they were told. An attempt's own lines may come from
        // a clock that is off.
        lines.sort_by_key(|line| line.created_at);
        for (index, line) in lines.iter_mut().enumerate() {
            line.id = index + 1;
        }
        lines
    }
}

fn used(usage: &Usage) -> String {
    let mut text = format!("{} fuel and {} of memory", usage.fuel, ByteSize::b(usage.peak_memory));
    // Writing to a string cannot fail.
    if usage.host_calls > 0 {
        write!(text, ", {} host calls", usage.host_calls).ok();
    }
    if usage.http_requests > 0 {
        write!(text, ", {} HTTP requests ({})", usage.http_requests, ByteSize::b(usage.http_bytes))
            .ok();
    }
    text
}
