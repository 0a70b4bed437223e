//! What a handler can know about the task it runs for.

use std::time::{Duration, SystemTime};

/// The task behind the input. A handler that wants it takes it as its second parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// UUIDv7, the same at every attempt: a good idempotency key for calls to other systems. A task
    /// runs at least once, and may run again after a crash.
    pub id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The last attempt that will be made.
    pub max_attempts: u32,
    /// When the host stops this attempt.
    pub deadline: SystemTime,
}

impl Task {
    /// Whether a retryable failure of this attempt is final.
    #[must_use]
    pub const fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// Time until the host stops this attempt; zero when it is past.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

impl Default for Task {
    /// A first and only attempt with 30 seconds to go, for unit tests of handlers.
    fn default() -> Self {
        Self {
            id: "00000000-0000-7000-8000-000000000000".to_owned(),
            attempt: 1,
            max_attempts: 1,
            deadline: SystemTime::now() + Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_the_past_leaves_no_time() {
        let task = Task { deadline: SystemTime::UNIX_EPOCH, ..Task::default() };
        assert_eq!(task.time_left(), Duration::ZERO);
        assert!(Task::default().time_left() > Duration::from_secs(20));
    }
}
