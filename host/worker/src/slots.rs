//! How many tasks a worker holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// How long a task may be expected to wait for an instance after it was claimed.
const PATIENCE: Duration = Duration::from_millis(20);
/// The most that is held, in multiples of the attempts that run at once.
const MOST: usize = 8;
/// How much a single attempt moves the average, as a divisor.
const INERTIA: u32 = 64;

/// The tasks that a worker holds, from their claim to their commit.
///
/// At least as many as may run at once. More while attempts are quick: a claim and a commit cost the database a fixed share of time besides
/// that of their rows (as much as some hundred of them), so tasks that take microseconds must be claimed and committed in hundreds, and
/// there must be some to run in the meantime. But what is claimed here is not run elsewhere, so no more is held than can
/// be expected to begin within some milliseconds.
#[derive(Debug)]
pub(crate) struct Slots {
    concurrency: usize,
    held: AtomicUsize,
    /// Average time of an attempt, in microseconds.
    pace: AtomicU32,
    freed: Notify,
}

/// One task's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(concurrency: usize) -> Arc<Self> {
        Arc::new(Self {
            concurrency,
            held: AtomicUsize::new(0),
            // Slow, until attempts have shown otherwise.
            pace: AtomicU32::new(u32::MAX / 2),
            freed: Notify::new(),
        })
    }

    /// Waits until a task can be taken; says how many. Only one caller may wait, who also is the only one that takes.
    pub(crate) async fn free(&self) -> usize {
        loop {
            // Registered before the look, so that a slot that is freed in between is not missed.
            let freed = self.freed.notified();
            match self.limit().saturating_sub(self.held()) {
                0 => freed.await,
                free => return free,
            }
        }
    }

    /// How many can be taken now.
    pub(crate) fn free_now(&self) -> usize {
        self.limit().saturating_sub(self.held())
    }

    /// How many are held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How many may be held.
    pub(crate) fn limit(&self) -> usize {
        let pace = u128::from(self.pace.load(Ordering::Relaxed).max(1));
        let more = self.concurrency as u128 * PATIENCE.as_micros() / pace;
        let most = self.concurrency * (MOST - 1);
        self.concurrency + usize::try_from(more).unwrap_or(most).min(most)
    }

    pub(crate) fn take(self: &Arc<Self>) -> Slot {
        self.held.fetch_add(1, Ordering::Relaxed);
        Slot(self.clone())
    }

    /// Takes an attempt's time into the average.
    pub(crate) fn observe(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX / 2);
        let pace = self.pace.load(Ordering::Relaxed);
        // A lost update of an average is none that matters.
        let next = pace - pace / INERTIA + micros.min(u32::MAX / 2) / INERTIA;
        self.pace.store(next, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_attempts_let_a_worker_hold_more_and_slow_ones_do_not() {
        let slots = Slots::new(100);
        assert_eq!(slots.limit(), 100);
        for _ in 0..5_000 {
            slots.observe(Duration::from_micros(50));
        }
        assert_eq!(slots.limit(), 800);
        for _ in 0..500 {
            slots.observe(Duration::from_secs(1));
        }
        assert!((100..=103).contains(&slots.limit()), "{}", slots.limit());
    }

    #[tokio::test]
    async fn a_slot_is_free_again_when_it_is_dropped() {
        let slots = Slots::new(1);
        let slot = slots.take();
        assert_eq!(slots.free_now(), 0);
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.free().await }
        });
        tokio::task::yield_now().await;
        drop(slot);
        assert_eq!(waiting.await.unwrap(), 1);
    }
}
