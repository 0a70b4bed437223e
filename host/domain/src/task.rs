//! A task: as a client requests it, as a worker claims it, and as anyone reads it back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    FailureKind, Json, RetryPolicy, RunLease, TaskId, TaskState, TaskType, TenantId, WorkerId,
};

/// How urgent a task is: 1 is the lowest, 5 the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The lowest.
    pub const MIN: Self = Self(1);
    /// The highest.
    pub const MAX: Self = Self(5);

    /// Checks a number.
    ///
    /// # Errors
    /// When it is not 1 to 5.
    pub const fn new(level: u8) -> Result<Self, InvalidPriority> {
        if level >= 1 && level <= 5 { Ok(Self(level)) } else { Err(InvalidPriority(level)) }
    }

    /// The number, 1 to 5.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(3)
    }
}

impl TryFrom<u8> for Priority {
    type Error = InvalidPriority;
    fn try_from(level: u8) -> Result<Self, InvalidPriority> {
        Self::new(level)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// A priority outside 1 to 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("priority {0} is not between 1 (lowest) and 5 (highest)")]
pub struct InvalidPriority(u8);

/// A task on its way into the store. It exists once the store has committed it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Made by whoever accepts the task.
    pub id: TaskId,
    /// Whose task it is.
    pub tenant: TenantId,
    /// Which plugin handles it.
    pub task_type: TaskType,
    /// Matches the plugin's input schema.
    pub input: Json,
    /// Which of several waiting tasks goes first.
    pub priority: Priority,
    /// How its failures are retried.
    pub retry: RetryPolicy,
    /// Not before this time. `None`, or a time that is not after `created_at`: at once.
    pub run_at: Option<Timestamp>,
    /// When it was accepted.
    pub created_at: Timestamp,
}

impl NewTask {
    /// A task with default priority and retry policy, to be run at once.
    #[must_use]
    pub fn new(tenant: TenantId, task_type: TaskType, input: Json, now: Timestamp) -> Self {
        Self {
            id: TaskId::generate(),
            tenant,
            task_type,
            input,
            priority: Priority::default(),
            retry: RetryPolicy::default(),
            run_at: None,
            created_at: now,
        }
    }

    /// The state that it enters the store in.
    #[must_use]
    pub fn first_state(&self) -> TaskState {
        match self.run_at {
            Some(at) if at > self.created_at => TaskState::Scheduled,
            _ => TaskState::Pending,
        }
    }
}

/// Where a waiting task queues: first in, first out inside a lane; between lanes, priorities and
/// tenants decide.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Whose tasks.
    pub tenant: TenantId,
    /// Of which type.
    pub task_type: TaskType,
    /// How urgent.
    pub priority: Priority,
}

/// A task that waits in a lane, or did: what a hint of the broker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedTask {
    /// The task.
    pub id: TaskId,
    /// Where it waits.
    pub lane: Lane,
}

macro_rules! queued_from {
    ($($kind:ty),*) => {
        $(impl From<&$kind> for QueuedTask {
            fn from(task: &$kind) -> Self {
                let (tenant, task_type) = (task.tenant.clone(), task.task_type.clone());
                Self { id: task.id, lane: Lane { tenant, task_type, priority: task.priority } }
            }
        })*
    };
}

queued_from!(NewTask, ClaimedTask, Task);

/// A task that a worker holds a lease on.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedTask {
    /// The task.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which plugin handles it.
    pub task_type: TaskType,
    /// Its urgency, for handing it back.
    pub priority: Priority,
    /// Its input.
    pub input: Json,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Fences this attempt: every write about it names this number.
    pub run_lease: RunLease,
    /// How its failures are retried.
    pub retry: RetryPolicy,
    /// When it was claimed, which is when the attempt began.
    pub started_at: Timestamp,
}

/// The latest report of a running handler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0.0 to 1.0.
    pub fraction: f64,
    /// What the handler is doing.
    pub note: Option<String>,
}

/// Why the last attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// The class of failure.
    pub kind: FailureKind,
    /// One sentence.
    pub message: String,
}

/// A task as it stands in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The task.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which plugin handles it.
    pub task_type: TaskType,
    /// Where it is in its life.
    pub state: TaskState,
    /// Its urgency.
    pub priority: Priority,
    /// Attempts begun since it was created or last requeued by an operator.
    pub attempt: u32,
    /// Times since then that its worker died or fell silent. Such an attempt is not counted.
    pub lapses: u32,
    /// How its failures are retried.
    pub retry: RetryPolicy,
    /// Its input.
    pub input: Json,
    /// The handler's output, once completed.
    pub result: Option<Json>,
    /// The last attempt's failure. Kept while a retry waits and runs; gone once the task completes.
    pub error: Option<TaskError>,
    /// The running attempt's latest report.
    pub progress: Option<Progress>,
    /// The worker that holds it, while running.
    pub worker: Option<WorkerId>,
    /// The fence of its latest claim; 0 before the first.
    pub run_lease: RunLease,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it may run, or might have.
    pub run_at: Timestamp,
    /// When its latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub finished_at: Option<Timestamp>,
}

impl Task {
    /// Attempts after the first.
    #[must_use]
    pub const fn retry_count(&self) -> u32 {
        self.attempt.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_for_later_starts_scheduled() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut task = NewTask::new(
            TenantId::default(),
            TaskType::new("fibonacci").unwrap(),
            Json::from(serde_json::json!({})),
            now,
        );
        assert_eq!(task.first_state(), TaskState::Pending);
        task.run_at = Some(now);
        assert_eq!(task.first_state(), TaskState::Pending);
        task.run_at = Some("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(task.first_state(), TaskState::Scheduled);
    }

    #[test]
    fn priorities_are_one_to_five() {
        assert!(Priority::new(0).is_err() && Priority::new(6).is_err());
        assert!(Priority::MIN < Priority::default() && Priority::default() < Priority::MAX);
    }
}
