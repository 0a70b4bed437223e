//! What a running attempt has said, as it stands in two columns of its task.
//!
//! `progress` and `progress_note` hold a report of progress as it is. With lines of the log, the
//! note is a JSON object that holds them beside it. So whatever takes the report off the row (the
//! end of the attempt, a cancel, a lapse) takes the lines with it.

use serde::{Deserialize, Serialize};
use taskforge_domain::{LogLine, Progress};

use crate::ProgressReport;

/// How an object begins, and no other note does: one that would is put into an object.
const OBJECT: &str = r#"{"log":["#;

#[derive(Serialize, Deserialize)]
struct Said {
    log: Vec<LogLine>,
    /// Whether the handler has reported progress. If not, the fraction stands for nothing.
    is_report: bool,
    note: Option<String>,
}

/// The columns of a report: a fraction from 0 to 1, and a note.
pub(crate) fn columns(report: &ProgressReport) -> (f64, Option<String>) {
    let fraction = report.progress.as_ref().map_or(0.0, |progress| progress.fraction);
    // NaN counts as nothing done.
    let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
    let note = report.progress.as_ref().and_then(|progress| progress.note.as_deref());
    let is_plain = report.log.is_empty()
        && report.progress.is_some()
        && !note.is_some_and(|note| note.starts_with(OBJECT));
    if is_plain {
        return (fraction, note.map(str::to_owned));
    }
    let said = Said {
        log: report.log.clone(),
        is_report: report.progress.is_some(),
        note: note.map(str::to_owned),
    };
    // Text, numbers and times can always be written.
    (fraction, serde_json::to_string(&said).ok())
}

/// The report and the lines of the log that the columns hold.
pub(crate) fn read(
    fraction: Option<f64>,
    note: Option<String>,
) -> (Option<Progress>, Vec<LogLine>) {
    let Some(fraction) = fraction else {
        return (None, Vec::new());
    };
    let said = note.as_deref().filter(|note| note.starts_with(OBJECT));
    match said.and_then(|said| serde_json::from_str::<Said>(said).ok()) {
        Some(Said { log, is_report, note }) => {
            (is_report.then_some(Progress { fraction, note }), log)
        }
        None => (Some(Progress { fraction, note }), Vec::new()),
    }
}
