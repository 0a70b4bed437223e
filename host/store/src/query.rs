//! Filters, pages and cursors of the read side.

use taskforge_domain::{FailureKind, Fingerprint, TaskId, TaskState, TaskType, Timestamp};

/// Which tasks a list or a prune is about. An empty filter means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// One of these.
    pub ids: Vec<TaskId>,
    /// In one of these states.
    pub states: Vec<TaskState>,
    /// Of one of these types.
    pub types: Vec<TaskType>,
    /// Whose last failure is of one of these kinds.
    pub error_kinds: Vec<FailureKind>,
    /// Whose last failure has one of these fingerprints.
    pub fingerprints: Vec<Fingerprint>,
    /// Created at or after this time.
    pub created_from: Option<Timestamp>,
    /// Created before this time.
    pub created_before: Option<Timestamp>,
    /// Ended at or after this time.
    pub finished_from: Option<Timestamp>,
    /// Ended before this time.
    pub finished_before: Option<Timestamp>,
}

/// A place in a list: everything after this task. Lists are ordered by id, newest first, so a
/// cursor stays right while tasks come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub TaskId);

/// A page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Where the page begins; `None` for the newest task.
    pub after: Option<Cursor>,
    /// The most tasks on it.
    pub limit: u32,
}
