//! The end of an attempt, as both databases write it.

use taskforge_domain::{Next, TaskState};

use crate::{Completion, StoreError, StoreResult, param::time};

/// What follows from a completion, as columns.
pub(crate) struct Ending {
    pub(crate) state: TaskState,
    pub(crate) run_at: Option<i64>,
    /// Not a hand-back, which leaves an event: an attempt that does not count is not listed.
    pub(crate) is_recorded: bool,
    /// A JSON array of log lines.
    pub(crate) logs: Option<String>,
}

impl Ending {
    /// Fails when the outcome and what follows it contradict each other.
    pub(crate) fn of(completion: &Completion) -> StoreResult<Self> {
        let Completion { attempt, next } = completion;
        let state = next.state();
        if !next.fits(&attempt.outcome) {
            return Err(StoreError::Refused(format!(
                "task {}: an attempt with the outcome {:?} cannot make it {state}",
                attempt.task, attempt.outcome
            )));
        }
        // Only a time beyond the calendar does not serialise, and a log line has none.
        let logs = match attempt.logs.as_slice() {
            [] => None,
            lines => serde_json::to_string(lines).ok(),
        };
        Ok(Self {
            state,
            run_at: next.run_at().map(time),
            is_recorded: *next != Next::HandBack,
            logs,
        })
    }
}
