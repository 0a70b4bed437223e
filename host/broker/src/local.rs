//! The broker inside one process.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use taskforge_domain::{Clock, Lane, LaneLimits, QueuePolicy, TaskId, TaskType};
use tokio::sync::{Notify, broadcast};

use crate::{
    Broker, BrokerResult, Mode, Popped, QueuedTask, ShortLane, Signal, Signals, Want,
    queue::{AGEING_AFTER, LANE_CAPACITY, Queue},
};

/// Signals by which a slow subscriber may lag before it misses some.
pub(crate) const SIGNALS: usize = 16_384;

/// A queue of hints behind a lock, and a list of the pops that wait for them.
///
/// # Waking
/// Each waiting [`Broker::pop`] is an entry in a list, first come first, and is woken through a
/// [`Notify`] of its own. A push wakes at most one waiter for each new hint, and only waiters that
/// it can serve. A woken waiter looks, and then wakes the next one that can be served; it does that
/// too if it is dropped before it looked. So while a hint is queued that a waiter can take, some
/// waiter is awake, and no wake-up is lost, whichever of them gives up.
#[derive(Debug)]
pub struct LocalBroker {
    state: Mutex<State>,
    clock: Clock,
    signals: broadcast::Sender<Signal>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
}

#[derive(Debug)]
struct Waiter {
    key: u64,
    types: Arc<[TaskType]>,
    lanes: LaneLimits,
    wake: Arc<Notify>,
    /// Whether it was woken and has not looked yet.
    woken: bool,
}

impl State {
    fn look(&mut self, want: &Want<'_>, now: u64) -> Popped {
        let hints = self.queue.pop(want.types, want.lanes, want.max, now);
        Popped { hints, look_in_store: self.queue.look_in_store(want.types) }
    }

    /// Wakes at most `most` waiters that can be served.
    fn wake(&mut self, most: usize, now: u64) {
        let offers = self.queue.offers(now);
        let queue = &self.queue;
        let asleep = self.waiters.iter_mut().filter(|waiter| {
            if waiter.woken || waiter.lanes.is_none() {
                return !waiter.woken && queue.has(&waiter.types, &offers);
            }
            let mut both = waiter.lanes.clone();
            both.and(&offers);
            queue.has(&waiter.types, &both)
        });
        for waiter in asleep.take(most) {
            waiter.woken = true;
            waiter.wake.notify_one();
        }
    }
}

impl LocalBroker {
    /// An empty broker, which is not complete.
    #[must_use]
    pub fn new() -> Self {
        Self::with(AGEING_AFTER, LANE_CAPACITY)
    }

    /// The same broker, which judges the age of tasks by the store's clock.
    #[must_use]
    pub fn on_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// An empty broker in which a hint is overdue once its task is older than `ageing_after`, and a
    /// lane holds `capacity` hints.
    #[must_use]
    pub fn with(ageing_after: Duration, capacity: usize) -> Self {
        let state = State {
            queue: Queue::new(ageing_after, capacity),
            waiters: VecDeque::new(),
            next_waiter: 0,
        };
        Self {
            state: Mutex::new(state),
            clock: Clock::default(),
            signals: broadcast::Sender::new(SIGNALS),
        }
    }

    fn now(&self) -> u64 {
        millis_of(&self.clock)
    }

    /// Never held across a wait. A panic while it is held leaves at worst a hint lost or doubled,
    /// which a hint may be.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LocalBroker {
    fn default() -> Self {
        Self::new()
    }
}

/// The time as task ids tell it: milliseconds since 1970.
pub(crate) fn millis_of(clock: &Clock) -> u64 {
    u64::try_from(clock.now().as_millisecond()).unwrap_or(0)
}

/// An entry in the list of waiters, which its drop removes.
struct Waiting<'a> {
    broker: &'a LocalBroker,
    key: u64,
}

impl Waiting<'_> {
    /// Looks for hints after a wake-up, and passes the wake-up on.
    fn look(&self, want: &Want<'_>) -> Popped {
        let now = self.broker.now();
        let mut state = self.broker.state();
        let popped = state.look(want, now);
        if let Some(waiter) = state.waiters.iter_mut().find(|waiter| waiter.key == self.key) {
            waiter.woken = false;
        }
        if !popped.hints.is_empty() {
            // It returns with these, so the next wake-up goes to another.
            state.waiters.retain(|waiter| waiter.key != self.key);
        }
        state.wake(1, now);
        popped
    }

    /// When the next lane of these types comes back from aside, which wakes nobody.
    fn lane_back_in(&self, types: &[TaskType]) -> Option<Duration> {
        let back_in = self.broker.state().queue.back_in(types, self.broker.now());
        back_in.map(Duration::from_millis)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.broker.state();
        if let Some(at) = state.waiters.iter().position(|waiter| waiter.key == self.key)
            && state.waiters.remove(at).is_some_and(|waiter| waiter.woken)
        {
            state.wake(1, self.broker.now());
        }
    }
}

#[async_trait]
impl Broker for LocalBroker {
    async fn push(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        let mut state = self.state();
        let mut fresh = 0;
        for hint in hints {
            fresh += usize::from(state.queue.push(hint));
        }
        state.wake(fresh, self.now());
        Ok(())
    }

    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped> {
        let wake = Arc::new(Notify::new());
        let (waiting, wait) = {
            let now = self.now();
            let mut state = self.state();
            let popped = state.look(&want, now);
            if !popped.hints.is_empty() || want.wait.is_zero() || want.max == 0 {
                return Ok(popped);
            }
            state.next_waiter += 1;
            let key = state.next_waiter;
            let (types, lanes) = (want.types.into(), want.lanes.clone());
            let waiter = Waiter { key, types, lanes, wake: Arc::clone(&wake), woken: false };
            state.waiters.push_back(waiter);
            let waiting = Waiting { broker: self, key };
            (waiting, popped.wait(want.wait))
        };
        let sleep = tokio::time::sleep(wait);
        tokio::pin!(sleep);
        // Cancellation point: hints are only taken between waits, and are returned at once.
        loop {
            let back = waiting.lane_back_in(want.types);
            let over = tokio::select! {
                () = wake.notified() => false,
                () = &mut sleep => true,
                () = tokio::time::sleep(back.unwrap_or_default()), if back.is_some() => false,
            };
            let popped = waiting.look(&want);
            if over || !popped.hints.is_empty() {
                return Ok(popped);
            }
        }
    }

    /// Wakes nobody: the caller is about to pop again, and waits for the lanes then.
    async fn set_aside(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        let now = self.now();
        self.state().queue.set_aside(hints, now);
        Ok(())
    }

    async fn depth(&self) -> BrokerResult<u64> {
        Ok(self.state().queue.len() as u64)
    }

    async fn is_complete(&self) -> BrokerResult<bool> {
        Ok(self.state().queue.is_complete())
    }

    async fn mark_complete(&self) -> BrokerResult<()> {
        self.state().queue.mark_complete();
        Ok(())
    }

    async fn short_lanes(&self) -> BrokerResult<Vec<ShortLane>> {
        Ok(self.state().queue.short_lanes())
    }

    async fn refill(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> BrokerResult<()> {
        let mut state = self.state();
        let fresh = state.queue.refill(lane, after, tasks, is_all);
        state.wake(fresh, self.now());
        Ok(())
    }

    async fn set_policy(&self, policy: &QueuePolicy) -> BrokerResult<()> {
        let mut state = self.state();
        state.queue.set_policy(policy);
        state.wake(usize::MAX, self.now());
        Ok(())
    }

    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        for signal in signals {
            // Fails without subscribers, which does not matter.
            self.signals.send(signal.clone()).ok();
        }
        Ok(())
    }

    fn subscribe(&self) -> Signals {
        self.signals.subscribe()
    }

    fn mode(&self) -> Mode {
        Mode::Local
    }
}

#[cfg(test)]
mod tests;
