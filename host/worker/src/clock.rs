//! The fleet's time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use taskforge_domain::Timestamp;
use taskforge_store::{Store, StoreResult};
use tokio_util::sync::CancellationToken;

/// The time on the database's clock, told from this host's clock and the difference between the two.
///
/// Leases are written by one host and judged by another. Judged by the hosts' own clocks, a worker whose clock is late by more than its lease
/// would lapse while it works; so everybody goes by the one clock that all of them can ask.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Microseconds by which the database is ahead of this host.
    ahead: Arc<AtomicI64>,
    is_compared: Arc<AtomicBool>,
}

/// How often a process compares the clocks.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// An answer that took longer says too little to replace what is known.
const LONGEST: Duration = Duration::from_millis(100);

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let here = Timestamp::now();
        here.saturating_add(SignedDuration::from_micros(self.ahead.load(Ordering::Relaxed)))
            .unwrap_or(here)
    }

    /// Asks the database for its time. What the question took is uncertain by half, so the midpoint is compared.
    ///
    /// # Errors
    /// When the store fails; the difference known so far stays.
    pub async fn compare(&self, store: &dyn Store) -> StoreResult<()> {
        let (asked, began) = (Timestamp::now(), Instant::now());
        let there = store.time().await?;
        let took = began.elapsed();
        if took > LONGEST && self.is_compared.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.is_compared.store(took <= LONGEST, Ordering::Relaxed);
        let midpoint = asked.as_microsecond().saturating_add(micros(took) / 2);
        let ahead = there.as_microsecond().saturating_sub(midpoint);
        // Less than what the question took may be the question itself.
        let ahead = if ahead.saturating_abs() <= micros(took) {
            0
        } else {
            ahead
        };
        self.ahead.store(ahead, Ordering::Relaxed);
        Ok(())
    }

    /// Compares the clocks again and again until `stop`.
    pub(crate) async fn keep_until(self, store: Arc<dyn Store>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(COMPARE_EVERY))
            .await
            .is_some()
        {
            if let Err(error) = self.compare(&*store).await {
                tracing::debug!(%error, "the clocks were not compared");
            }
        }
    }
}

fn micros(took: Duration) -> i64 {
    i64::try_from(took.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_ahead_by_the_difference() {
        let clock = Clock::default();
        clock.ahead.store(3_600_000_000, Ordering::Relaxed);
        let ahead = clock.now().duration_since(Timestamp::now());
        assert!((3_599..=3_600).contains(&ahead.as_secs()), "{ahead:?}");
    }
}
