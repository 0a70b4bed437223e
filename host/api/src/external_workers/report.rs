//! From a client's JSON to how an attempt ended.

use std::time::Duration;

use serde_json::value::RawValue;
use taskforge_domain::{
    Failure, FailureKind, Json, Limits, LogLevel, LogLine, Outcome, RetryPolicy, TaskId, Timestamp,
};
use taskforge_schema::MAX_ERRORS;
use utoipa::ToSchema;

use crate::{
    FieldError, Problem,
    http::{
        fields::{DurationText, Object as _, duration, finish, object, parsed, typed},
        json::{self, shorten},
    },
};

/// Characters of a failure's message that are kept.
const MAX_MESSAGE: usize = 4000;
/// Lines of a log in one body.
const MAX_LINES: usize = 10_000;

object! {
    /// How an attempt ended: exactly one of `output` and `failure`.
    #[schema(as = CompleteTask)]
    pub(crate) struct CompleteBody<'t> {
        /// The task.
        #[schema(value_type = uuid::Uuid)]
        task_id: TaskId = parsed,
        /// What came with it from `POST /task/next`.
        lease_token: String = parsed,
        /// The result. If the type has an output schema it must match.
        #[schema(value_type = Value, required = false)]
        output: Option<&'t RawValue>,
        /// Why there is none.
        #[schema(value_type = Option<FailureBody>)]
        failure: Option<&'t RawValue>,
        /// What the handler had to say, oldest first, at most 10,000 lines. Cut at 64 KiB of text.
        #[schema(value_type = Option<Vec<LogBody>>, required = false, max_items = 10_000)]
        logs: Option<&'t RawValue>,
    }
}

object! {
    /// Why an attempt failed.
    #[schema(as = AttemptFailure)]
    pub(crate) struct FailureBody {
        /// Whether another attempt may succeed.
        #[schema(value_type = FailureKindBody)]
        kind: FailureKind = failure_kind,
        /// One sentence. At most 4000 characters are kept.
        #[schema(example = "the page answered 503")]
        message: String = parsed,
        /// When the next attempt should be made, instead of after the task's own backoff. With
        /// `retryable` only; at most 7 days.
        #[schema(value_type = Option<DurationText>, required = false)]
        retry_after: Option<Duration> = duration(RetryPolicy::MAX_DELAY, "7 days"),
    }
}

/// Whether another attempt may succeed.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes the field for OpenAPI")]
pub(crate) enum FailureKindBody {
    /// It may.
    Retryable,
    /// It cannot.
    Permanent,
}

fn failure_kind(raw: &str) -> Result<FailureKind, String> {
    match parsed::<FailureKind>(raw) {
        Ok(kind @ (FailureKind::Retryable | FailureKind::Permanent)) => Ok(kind),
        _ => Err("must be \"retryable\" or \"permanent\"".to_owned()),
    }
}

object! {
    /// A line of a log.
    #[schema(as = LogText)]
    pub(crate) struct LogBody {
        /// Its severity; `info` unless told.
        #[schema(required = false)]
        level: Option<LogLevel> =
            typed::<LogLevel>("must be trace, debug, info, warn, error or critical"),
        /// The text.
        message: String = parsed,
    }
}

/// A worker's word on how its attempt ended.
pub(crate) struct Report {
    pub(crate) task: TaskId,
    pub(crate) token: String,
    pub(crate) outcome: Outcome,
    pub(crate) logs: Vec<(LogLevel, String)>,
}

impl CompleteBody<'_> {
    /// What the body says of the attempt.
    pub(crate) fn report(self) -> Result<Report, Problem> {
        let mut errors = Vec::new();
        let outcome = outcome(self.output, self.failure, &mut errors);
        let logs = self.logs.map(|raw| logs(raw, &mut errors));
        let report = outcome.map(|outcome| Report {
            task: self.task_id,
            token: self.lease_token,
            outcome,
            logs: logs.unwrap_or_default(),
        });
        finish(report, errors)
    }
}

fn outcome(
    output: Option<&RawValue>,
    failure: Option<&RawValue>,
    errors: &mut Vec<FieldError>,
) -> Option<Outcome> {
    // A client with typed structures may write null for what it leaves out; a null output without a
    // failure is an output.
    let failure = failure.filter(|raw| raw.get() != "null");
    let output = output.filter(|raw| failure.is_none() || raw.get() != "null");
    match (output, failure) {
        (Some(raw), None) => {
            let text = raw.get();
            let read = json::tree(text).and_then(|_| Json::parse(text.to_owned()));
            read.map_err(|error| errors.push(FieldError::at("/output", error.to_string())))
                .ok()
                .map(Outcome::Completed)
        }
        (None, Some(raw)) => read_failure(raw, errors).map(Outcome::Failed),
        _ => {
            errors.push(FieldError::at("", "must hold exactly one of output and failure"));
            None
        }
    }
}

fn read_failure(raw: &RawValue, errors: &mut Vec<FieldError>) -> Option<Failure> {
    let body = FailureBody::read(raw, "/failure", errors)?;
    if body.retry_after.is_some() && body.kind == FailureKind::Permanent {
        let detail = "is for retryable failures only";
        errors.push(FieldError::at("/failure/retry_after", detail));
    }
    Some(Failure {
        kind: body.kind,
        message: clean(&shorten(&body.message, MAX_MESSAGE)),
        retry_after: body.retry_after,
    })
}

fn logs(raw: &RawValue, errors: &mut Vec<FieldError>) -> Vec<(LogLevel, String)> {
    if raw.get() == "null" {
        return Vec::new();
    }
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        errors.push(FieldError::at("/logs", "must be an array"));
        return Vec::new();
    };
    if items.len() > MAX_LINES {
        let detail = format!("must hold at most {MAX_LINES} lines, not {}", items.len());
        errors.push(FieldError::at("/logs", detail));
        return Vec::new();
    }
    let mut lines = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let line = LogBody::read(item, &format!("/logs/{index}"), errors);
        lines.extend(line.map(|line| (line.level.unwrap_or(LogLevel::Info), clean(&line.message))));
        if errors.len() >= MAX_ERRORS {
            break;
        }
    }
    lines
}

/// Text without the one character that not every database keeps in text.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Keeps as much of a log as of a plugin's, and says so if that was not all.
pub(crate) fn cut(lines: Vec<(LogLevel, String)>, at: Timestamp) -> Vec<LogLine> {
    let limit = usize::try_from(Limits::default().log).unwrap_or(usize::MAX);
    let (mut left, mut dropped) = (limit, 0);
    let mut kept = Vec::new();
    for (level, mut message) in lines {
        let fits = message.floor_char_boundary(left);
        dropped += message.len() - fits;
        if left == 0 {
            continue;
        }
        message.truncate(fits);
        // Each line counts one byte for its end.
        left = left.saturating_sub(fits + 1);
        kept.push(LogLine { at, level, message });
    }
    if dropped > 0 {
        let message = format!("[log cut at {limit} bytes; {dropped} more were dropped]");
        let level = LogLevel::Warn;
        kept.push(LogLine { at, level, message });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_between_characters_and_says_so() {
        let line = |length: usize| (LogLevel::Info, "é".repeat(length));
        let short = cut(vec![line(10), line(0)], Timestamp::UNIX_EPOCH);
        assert_eq!(short.len(), 2);
        let long = cut(vec![line(30_000), line(5_000), line(1)], Timestamp::UNIX_EPOCH);
        // 65,536 bytes are 60,000, one line end and 2767 characters of two bytes; one byte is left
        // over.
        let lengths: Vec<usize> = long.iter().map(|line| line.message.chars().count()).collect();
        assert_eq!(lengths[..2], [30_000, 2_767]);
        let marker = &long.last().unwrap().message;
        assert!(marker.starts_with("[log cut at 65536 bytes; 446"), "{marker}");
    }
}
