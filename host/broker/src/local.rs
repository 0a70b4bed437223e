//! The broker inside one process.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use taskforge_domain::TaskType;
use tokio::sync::{Notify, broadcast};

use crate::{Broker, BrokerResult, Hint, Signal, Signals, Want, queue::Queue};

/// Signals that a slow subscriber may be behind before it is told that it missed some.
const SIGNALS: usize = 16_384;

/// A queue of hints behind a lock, and a list of who waits for them.
///
/// # Waking
/// Each waiting [`Broker::pop`] is an entry in a list, first come first, and is woken through a [`Notify`] of its own. A push wakes at
/// most one waiter for each new hint, and only waiters that want what is queued. Whoever was woken wakes the next one that can be served
/// once it has looked for itself, and does so too if it is dropped before it looked. So as long as a hint is queued that somebody waits
/// for, somebody is awake, and no wake-up is lost, whichever types the waiters want and whichever of them gives up.
#[derive(Debug)]
pub struct LocalBroker {
    state: Mutex<State>,
    signals: broadcast::Sender<Signal>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    complete: bool,
}

#[derive(Debug)]
struct Waiter {
    key: u64,
    types: Arc<[TaskType]>,
    wake: Arc<Notify>,
    /// Woken, and has not looked yet.
    woken: bool,
}

impl State {
    /// Wakes at most `most` waiters that can be served.
    fn wake(&mut self, most: usize) {
        let queue = &self.queue;
        let asleep = self
            .waiters
            .iter_mut()
            .filter(|waiter| !waiter.woken && queue.has(&waiter.types));
        for waiter in asleep.take(most) {
            waiter.woken = true;
            waiter.wake.notify_one();
        }
    }
}

impl LocalBroker {
    /// How long a hint waits before it is overdue: long against a burst, short against a person's patience.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// An empty broker, which is not complete.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            queue: Queue::new(Self::PATIENCE),
            waiters: VecDeque::new(),
            next_waiter: 0,
            complete: false,
        };
        Self {
            state: Mutex::new(state),
            signals: broadcast::Sender::new(SIGNALS),
        }
    }

    /// Never held across a wait. A panic while it was held leaves at worst a hint lost or twice, which hints may be.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LocalBroker {
    fn default() -> Self {
        Self::new()
    }
}

/// A place among the waiters; given up when it is dropped.
struct Place<'a> {
    broker: &'a LocalBroker,
    key: u64,
}

impl Place<'_> {
    /// Looks for hints after a wake-up, and passes the wake-up on.
    fn look(&self, types: &[TaskType], max: usize) -> Vec<Hint> {
        let mut state = self.broker.state();
        let hints = state.queue.pop(types, max, Instant::now());
        if let Some(waiter) = state.waiters.iter_mut().find(|waiter| waiter.key == self.key) {
            waiter.woken = false;
        }
        if !hints.is_empty() {
            // It leaves with these, so the next wake-up is not for it.
            state.waiters.retain(|waiter| waiter.key != self.key);
        }
        state.wake(1);
        hints
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.broker.state();
        if let Some(at) = state.waiters.iter().position(|waiter| waiter.key == self.key)
            && state.waiters.remove(at).is_some_and(|waiter| waiter.woken)
        {
            state.wake(1);
        }
    }
}

#[async_trait]
impl Broker for LocalBroker {
    async fn push(&self, hints: &[Hint]) -> BrokerResult<()> {
        let now = Instant::now();
        let mut state = self.state();
        let mut fresh = 0;
        for hint in hints {
            fresh += usize::from(state.queue.push(hint, now));
        }
        state.wake(fresh);
        Ok(())
    }

    async fn pop(&self, want: Want<'_>) -> BrokerResult<Vec<Hint>> {
        let wake = Arc::new(Notify::new());
        let place = {
            let mut state = self.state();
            let hints = state.queue.pop(want.types, want.max, Instant::now());
            if !hints.is_empty() || want.wait.is_zero() || want.max == 0 {
                return Ok(hints);
            }
            state.next_waiter += 1;
            let key = state.next_waiter;
            let waiter = Waiter {
                key,
                types: want.types.into(),
                wake: Arc::clone(&wake),
                woken: false,
            };
            state.waiters.push_back(waiter);
            Place { broker: self, key }
        };
        let sleep = tokio::time::sleep(want.wait);
        tokio::pin!(sleep);
        // Cancellation point: hints are only taken between waits, and are returned at once.
        loop {
            let over = tokio::select! {
                () = wake.notified() => false,
                () = &mut sleep => true,
            };
            let hints = place.look(want.types, want.max);
            if over || !hints.is_empty() {
                return Ok(hints);
            }
        }
    }

    async fn depth(&self) -> BrokerResult<u64> {
        Ok(self.state().queue.len() as u64)
    }

    async fn is_complete(&self) -> BrokerResult<bool> {
        Ok(self.state().complete)
    }

    async fn mark_complete(&self) -> BrokerResult<()> {
        self.state().complete = true;
        Ok(())
    }

    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        for signal in signals {
            // It fails when nobody listens, which is no failure.
            self.signals.send(signal.clone()).ok();
        }
        Ok(())
    }

    fn subscribe(&self) -> Signals {
        self.signals.subscribe()
    }
}

#[cfg(test)]
mod tests;
