//! What becomes of a lapsed task, as both databases write it.

use taskforge_domain::{
    EventKind, FailureKind, Fingerprint, Next, RunLease, TaskId, TaskState, Timestamp,
};

use crate::{
    Resolution, StoreError, StoreResult,
    event::NewEvent,
    param::{text, time},
};

/// A [`Resolution`], as columns.
pub(crate) struct ResolvedLapse {
    pub(crate) id: TaskId,
    pub(crate) run_lease: RunLease,
    pub(crate) state: TaskState,
    pub(crate) run_at: Option<i64>,
    pub(crate) finished_at: Option<i64>,
    /// Whether the task lapsed, which is an error. It was handed back otherwise, and keeps the
    /// error that it had.
    pub(crate) is_lapse: bool,
    pub(crate) detail: String,
}

impl ResolvedLapse {
    /// Fails when the resolution is none that a sweeper may give.
    pub(crate) fn of(resolution: &Resolution, now: Timestamp) -> StoreResult<Self> {
        let Resolution { id, run_lease, next, detail } = resolution;
        if !next.resolves_a_lapse() {
            let why = format!("{next:?} is no resolution of a lapsed task: {id}");
            return Err(StoreError::Refused(why));
        }
        let state = next.state();
        Ok(Self {
            id: *id,
            run_lease: *run_lease,
            state,
            run_at: next.run_at().map(time),
            finished_at: state.is_terminal().then(|| time(now)),
            is_lapse: *next != Next::HandBack,
            detail: text(detail).into_owned(),
        })
    }

    pub(crate) fn error_kind(&self) -> Option<&'static str> {
        self.is_lapse.then(|| FailureKind::LeaseLapsed.as_str())
    }

    pub(crate) fn error_message(&self) -> Option<&str> {
        self.is_lapse.then_some(self.detail.as_str())
    }

    pub(crate) fn error_fingerprint(&self) -> Option<i64> {
        let fingerprint = || Fingerprint::of(FailureKind::LeaseLapsed, &self.detail).to_i64();
        self.is_lapse.then(fingerprint)
    }

    pub(crate) fn event(&self, now: Timestamp) -> NewEvent<'_> {
        NewEvent {
            task: self.id,
            at: now,
            kind: if self.is_lapse { EventKind::Lapsed } else { EventKind::HandedBack },
            run_lease: self.run_lease,
            detail: &self.detail,
        }
    }
}
