//! When a failed attempt is tried again.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Failure, FailureKind, Outcome, TaskState};

/// How often and how long after each other a task's attempts are made. Each task carries its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts after the first one.
    pub max_retries: u32,
    /// Upper bound of the delay before the first retry; it doubles with each further one.
    pub base: Duration,
    /// No delay is longer than this.
    pub cap: Duration,
}

impl RetryPolicy {
    /// The largest `max_retries` that a client may ask for.
    pub const MAX_RETRIES: u32 = 100;
    /// The longest `base` and `cap`, and the longest delay that a handler may ask for.
    pub const MAX_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

    /// Lapses that a task survives, at the least: a task that takes no retries is not to blame for
    /// two workers that died under it.
    pub const MIN_LAPSES: u32 = 2;

    /// Lapses that a task survives; one more ends it. As many as its retries, but at least
    /// [`Self::MIN_LAPSES`], and at most [`Self::MAX_RETRIES`].
    #[must_use]
    pub fn max_lapses(&self) -> u32 {
        self.max_retries.clamp(Self::MIN_LAPSES, Self::MAX_RETRIES)
    }

    /// Attempts in all.
    #[must_use]
    pub const fn max_attempts(&self) -> u32 {
        self.max_retries.saturating_add(1)
    }

    /// The delay after attempt number `attempt` (from 1) failed: exponential with full jitter,
    /// `random · min(cap, base · 2^(attempt-1))`, with `random` in `[0, 1)`. Full jitter spreads a
    /// burst of failures best (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    /// 2015).
    #[must_use]
    pub fn backoff(&self, attempt: u32, random: f64) -> Duration {
        let doubled =
            2_f64.powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX).min(64));
        let ceiling = (self.base.as_secs_f64() * doubled).min(self.cap.as_secs_f64());
        Duration::from_secs_f64(ceiling * random.clamp(0.0, 1.0))
    }
}

impl Default for RetryPolicy {
    /// Three retries, from 1 s up to 5 min.
    fn default() -> Self {
        Self { max_retries: 3, base: Duration::from_secs(1), cap: Duration::from_secs(300) }
    }
}

/// Where a task goes when an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To `completed`.
    Complete,
    /// To `scheduled`, until this time.
    RetryAt(Timestamp),
    /// To `failed`.
    DeadLetter,
    /// Back to `pending` without counting the attempt: the worker, not the handler, ended it.
    HandBack,
    /// Nowhere: the task was cancelled already. Only the attempt's record is kept.
    Cancelled,
}

impl Next {
    /// The state that a running task gets, if the lease of the attempt still holds.
    ///
    /// A lease that holds contradicts [`Next::Cancelled`]: nobody cancelled the task, and it must
    /// not be lost. So it is pending again.
    #[must_use]
    pub const fn state(self) -> TaskState {
        match self {
            Self::Complete => TaskState::Completed,
            Self::RetryAt(_) => TaskState::Scheduled,
            Self::DeadLetter => TaskState::Failed,
            Self::HandBack | Self::Cancelled => TaskState::Pending,
        }
    }

    /// When a task that is retried is due.
    #[must_use]
    pub const fn run_at(self) -> Option<Timestamp> {
        match self {
            Self::RetryAt(at) => Some(at),
            _ => None,
        }
    }

    /// Whether this may follow an outcome: a failure completes no task, and a result neither
    /// retries nor buries one.
    #[must_use]
    pub const fn fits(self, outcome: &Outcome) -> bool {
        match self {
            Self::Complete => matches!(outcome, Outcome::Completed(_)),
            Self::RetryAt(_) | Self::DeadLetter => matches!(outcome, Outcome::Failed(_)),
            Self::HandBack | Self::Cancelled => true,
        }
    }

    /// Whether this may become of a task whose lease lapsed. [`Next::HandBack`] says that it has
    /// not lapsed after all.
    #[must_use]
    pub const fn resolves_a_lapse(self) -> bool {
        matches!(self, Self::RetryAt(_) | Self::DeadLetter | Self::HandBack)
    }
}

/// Decides what follows an attempt: the one place where the rule stands.
///
/// `attempt` counts from 1, `random` is in `[0, 1)`.
#[must_use]
pub fn after(
    outcome: &Outcome,
    attempt: u32,
    policy: &RetryPolicy,
    now: Timestamp,
    random: f64,
) -> Next {
    match outcome {
        Outcome::Completed(_) => Next::Complete,
        Outcome::Failed(Failure { kind: FailureKind::Cancelled, .. }) => Next::Cancelled,
        Outcome::Failed(failure)
            if failure.kind.is_retryable() && attempt < policy.max_attempts() =>
        {
            let delay = match failure.retry_after {
                Some(wish) => wish.min(RetryPolicy::MAX_DELAY),
                None => policy.backoff(attempt, random),
            };
            Next::RetryAt(later(now, delay))
        }
        Outcome::Failed(_) => Next::DeadLetter,
    }
}

/// The delays after lapses, whatever the task asks for after failures: a task that kills its
/// workers must not choose how soon it is back, nor beside whom.
const LAPSE_DELAYS: RetryPolicy = RetryPolicy {
    max_retries: RetryPolicy::MAX_RETRIES,
    base: Duration::from_secs(1),
    cap: Duration::from_secs(30),
};

/// Decides what follows a lapse: the worker that held the task died or fell silent.
///
/// Nobody can tell whether the task did that or a neighbour, so the attempt is not counted, and the
/// lapses are counted apart. `lapses` includes this one. A task that kills its worker each time
/// ends as a dead letter after [`RetryPolicy::max_lapses`]; the delays with their jitter meanwhile
/// part it from its neighbours. Lapses are counted over a task's life, until an operator's retry:
/// if an attempt that ends set them back, a killer could fail in between and go on for ever.
///
/// `random` is in `[0, 1)`.
#[must_use]
pub fn after_lapse(lapses: u32, policy: &RetryPolicy, now: Timestamp, random: f64) -> Next {
    if lapses > policy.max_lapses() {
        Next::DeadLetter
    } else {
        Next::RetryAt(later(now, LAPSE_DELAYS.backoff(lapses, random)))
    }
}

fn later(now: Timestamp, delay: Duration) -> Timestamp {
    // Times are stored in microseconds; a delay is far below what a timestamp holds.
    let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
    now.checked_add(jiff::SignedDuration::from_micros(micros)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    const POLICY: RetryPolicy =
        RetryPolicy { max_retries: 3, base: Duration::from_secs(1), cap: Duration::from_secs(5) };

    fn failed(kind: FailureKind) -> Outcome {
        Outcome::Failed(Failure::new(kind, "x"))
    }

    #[test]
    fn backoff_doubles_up_to_the_cap() {
        let ceilings: Vec<_> =
            (1..=5).map(|attempt| POLICY.backoff(attempt, 1.0).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 5, 5]);
        assert_eq!(POLICY.backoff(u32::MAX, 0.5), Duration::from_millis(2500));
        assert_eq!(POLICY.backoff(3, 0.0), Duration::ZERO);
    }

    #[test]
    fn the_last_attempt_is_a_dead_letter() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(
            after(&failed(FailureKind::Retryable), 3, &POLICY, now, 0.5),
            Next::RetryAt(_)
        ));
        assert_eq!(after(&failed(FailureKind::Retryable), 4, &POLICY, now, 0.5), Next::DeadLetter);
    }

    #[test]
    fn the_third_lapse_at_the_least_is_a_dead_letter() {
        let now = Timestamp::UNIX_EPOCH;
        for (max_retries, survived) in [(0, 2), (1, 2), (2, 2), (3, 3), (u32::MAX, 100)] {
            let policy = RetryPolicy { max_retries, ..POLICY };
            for lapses in 1..=survived {
                let next = after_lapse(lapses, &policy, now, 0.5);
                assert!(matches!(next, Next::RetryAt(_)), "{max_retries} {lapses}");
            }
            let next = after_lapse(survived + 1, &policy, now, 0.5);
            assert_eq!(next, Next::DeadLetter, "{max_retries}");
        }
    }

    #[test]
    fn a_lapse_is_waited_for_whatever_the_task_asks() {
        let hasty = RetryPolicy { base: Duration::ZERO, cap: Duration::ZERO, max_retries: 100 };
        let delays =
            [1, 2, 9].map(|lapses| after_lapse(lapses, &hasty, Timestamp::UNIX_EPOCH, 0.5));
        let at = |millis| Next::RetryAt(Timestamp::from_millisecond(millis).unwrap());
        assert_eq!(delays, [at(500), at(1_000), at(15_000)]);
    }

    #[test]
    fn what_cannot_succeed_is_not_tried_again() {
        let now = Timestamp::UNIX_EPOCH;
        for kind in FailureKind::ALL {
            let next = after(&failed(*kind), 1, &POLICY, now, 0.5);
            match kind {
                FailureKind::Cancelled => assert_eq!(next, Next::Cancelled),
                kind if kind.is_retryable() => assert!(matches!(next, Next::RetryAt(_)), "{kind}"),
                kind => assert_eq!(next, Next::DeadLetter, "{kind}"),
            }
        }
        let done = Outcome::Completed(Json::from(serde_json::json!(1)));
        assert_eq!(after(&done, 4, &POLICY, now, 0.5), Next::Complete);
    }

    const ALL: [Next; 5] = [
        Next::Complete,
        Next::RetryAt(Timestamp::UNIX_EPOCH),
        Next::DeadLetter,
        Next::HandBack,
        Next::Cancelled,
    ];

    #[test]
    fn every_end_of_an_attempt_is_a_legal_move_and_only_a_retry_has_a_time() {
        use TaskState::{Completed, Failed, Pending, Scheduled};
        let states = ALL.map(Next::state);
        assert_eq!(states, [Completed, Scheduled, Failed, Pending, Pending]);
        assert!(states.iter().all(|state| TaskState::Running.can_become(*state)));
        for next in ALL {
            assert_eq!(next.run_at().is_some(), next.state() == Scheduled, "{next:?}");
        }
    }

    #[test]
    fn what_follows_an_outcome_fits_it_and_nothing_else_does() {
        let done = Outcome::Completed(Json::from(serde_json::json!(1)));
        let trapped = failed(FailureKind::Trap);
        assert_eq!(ALL.map(|next| next.fits(&done)), [true, false, false, true, true]);
        assert_eq!(ALL.map(|next| next.fits(&trapped)), [false, true, true, true, true]);
        for kind in FailureKind::ALL {
            let outcome = failed(*kind);
            let next = after(&outcome, 1, &POLICY, Timestamp::UNIX_EPOCH, 0.5);
            assert!(next.fits(&outcome), "{kind}");
        }
    }

    #[test]
    fn a_lapse_ends_in_a_retry_a_dead_letter_or_a_hand_back() {
        assert_eq!(ALL.map(Next::resolves_a_lapse), [false, true, true, true, false]);
    }

    #[test]
    fn a_handler_may_say_when() {
        let failure = Failure {
            retry_after: Some(Duration::from_secs(90)),
            ..Failure::new(FailureKind::Retryable, "slow down")
        };
        let next = after(&Outcome::Failed(failure), 1, &POLICY, Timestamp::UNIX_EPOCH, 0.5);
        assert_eq!(next, Next::RetryAt("1970-01-01T00:01:30Z".parse().unwrap()));
    }
}
