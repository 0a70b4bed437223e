//! What happens to a task outside an attempt.

use taskforge_domain::{EventKind, RunLease, TaskId, Timestamp};

/// An event on its way in.
pub(crate) struct NewEvent<'a> {
    pub(crate) task: TaskId,
    pub(crate) at: Timestamp,
    pub(crate) kind: EventKind,
    pub(crate) run_lease: RunLease,
    pub(crate) detail: &'a str,
}
