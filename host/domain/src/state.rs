//! The states of a task and the moves between them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a task is in its life.
///
/// ```text
///             run_at in the future                    cancel
///  create ──────────────► scheduled ───────────────────────────► cancelled
///    │                      │   ▲                                    ▲
///    └──────► pending ◄─────┘   │ retryable failure, backoff         │
///                │ claim        │                                    │
///                └────────► running ─────────────────────────────────┘
///                             │  └───► failed  (permanent, or attempts used up: a dead letter)
///                             └──────► completed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its time: `run_at`, or the end of its backoff.
    Scheduled,
    /// Waits for a worker.
    Pending,
    /// A worker holds a lease on it.
    Running,
    /// Done; the result is committed.
    Completed,
    /// Failed for good: a dead letter, until somebody retries or prunes it.
    Failed,
    /// Called off before it ended.
    Cancelled,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 6] = [
        Self::Scheduled,
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The name that the API, the store and the metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing but an operator's retry leaves this state.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether a task may go from this state to `to`. Every statement in the store that writes a
    /// state is one of these moves, and the conformance suite tries the others.
    #[must_use]
    pub const fn can_become(self, to: Self) -> bool {
        use TaskState::{Cancelled, Completed, Failed, Pending, Running, Scheduled};
        matches!(
            (self, to),
            (Scheduled, Pending | Cancelled)
                | (Pending, Running | Cancelled)
                // Back to pending: handed back by a draining worker. To scheduled: a retry or a
                // lapse, after its backoff.
                | (Running, Completed | Failed | Cancelled | Scheduled | Pending)
                // An operator's retry.
                | (Failed | Cancelled, Pending)
        )
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state: use scheduled, pending, running, completed, failed or cancelled")]
pub struct UnknownState(String);

impl FromStr for TaskState {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completed_is_final() {
        for to in TaskState::ALL {
            assert!(!TaskState::Completed.can_become(to), "completed -> {to}");
        }
    }

    #[test]
    fn only_a_claim_makes_a_task_running() {
        for from in TaskState::ALL {
            assert_eq!(
                from.can_become(TaskState::Running),
                from == TaskState::Pending,
                "{from} -> running"
            );
        }
    }
}
