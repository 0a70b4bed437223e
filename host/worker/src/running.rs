//! What runs now, and how to stop it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use taskforge_domain::{RunLease, TaskId};
use tokio_util::sync::CancellationToken;

/// Why an attempt is being stopped from outside. It decides what is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled the task. The store knows already; the attempt's record is added.
    Cancelled,
    /// The worker shuts down. The task goes back to the queue, uncounted.
    Draining,
    /// The worker's lease lapsed. Nothing may be written.
    Lapsed,
}

/// A running attempt's stop switch. The first reason counts.
#[derive(Debug, Clone, Default)]
pub struct StopSwitch {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
    lapsed: Arc<AtomicBool>,
}

impl StopSwitch {
    /// Asks the attempt to stop.
    pub fn stop(&self, reason: StopReason) {
        if reason == StopReason::Lapsed {
            self.lapsed.store(true, Ordering::Relaxed);
        }
        // A second reason comes too late to change how the attempt ends.
        let first = self.reason.set(reason).is_ok();
        if first {
            self.token.cancel();
        }
    }

    /// Why it was stopped, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Whether the lease is gone, also when it went after another reason: nothing is left to
    /// commit.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.lapsed.load(Ordering::Relaxed)
    }

    /// The token that the sandbox watches.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// The attempts that a worker holds a lease for, from claim to commit.
#[derive(Debug, Default)]
pub struct Running(Mutex<Attempts>);

#[derive(Debug, Default)]
struct Attempts {
    /// By task and lease: after a lapse or a quick retry the same process may hold a task twice,
    /// and only one of the two is to stop.
    switches: HashMap<(TaskId, RunLease), StopSwitch>,
    /// The worker's lease is gone. A claim may have been under way then, whose attempts come too
    /// late.
    has_lapsed: bool,
}

impl Running {
    /// Enters an attempt, which is stopped at once if the worker's lease has lapsed. The guard
    /// takes it out again.
    #[must_use]
    pub fn enter(self: &Arc<Self>, id: TaskId, run_lease: RunLease) -> RunningGuard {
        let switch = StopSwitch::default();
        let mut attempts = self.lock();
        if attempts.has_lapsed {
            switch.stop(StopReason::Lapsed);
        }
        attempts.switches.insert((id, run_lease), switch.clone());
        RunningGuard { running: self.clone(), id, run_lease, switch }
    }

    /// Stops one attempt, if it runs here.
    pub fn stop(&self, lease: (TaskId, RunLease), reason: StopReason) {
        if let Some(switch) = self.lock().switches.get(&lease) {
            switch.stop(reason);
        }
    }

    /// Stops everything; after a lapse, also what is entered later.
    pub fn stop_all(&self, reason: StopReason) {
        let mut attempts = self.lock();
        attempts.has_lapsed |= reason == StopReason::Lapsed;
        for switch in attempts.switches.values() {
            switch.stop(reason);
        }
    }

    /// The leases of tasks in flight, for asking the store whether they still hold.
    #[must_use]
    pub fn leases(&self) -> Vec<(TaskId, RunLease)> {
        self.lock().switches.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry in [`Running`], for as long as it lives.
#[derive(Debug)]
pub struct RunningGuard {
    running: Arc<Running>,
    id: TaskId,
    run_lease: RunLease,
    switch: StopSwitch,
}

impl RunningGuard {
    /// The attempt's stop switch.
    #[must_use]
    pub fn switch(&self) -> &StopSwitch {
        &self.switch
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.lock().switches.remove(&(self.id, self.run_lease));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_to_stop_counts() {
        let running = Arc::new(Running::default());
        let guard = running.enter(TaskId::generate(), RunLease(1));
        running.stop_all(StopReason::Cancelled);
        running.stop_all(StopReason::Draining);
        assert!(!guard.switch().has_lapsed());
        running.stop_all(StopReason::Lapsed);
        assert!(guard.switch().has_lapsed());
        assert_eq!(guard.switch().reason(), Some(StopReason::Cancelled));
        assert!(guard.switch().token().is_cancelled());
    }

    #[test]
    fn what_is_claimed_after_a_lapse_is_stopped_at_once() {
        let running = Arc::new(Running::default());
        running.stop_all(StopReason::Lapsed);
        let late = running.enter(TaskId::generate(), RunLease(1));
        assert!(late.switch().has_lapsed() && late.switch().token().is_cancelled());
    }

    #[test]
    fn two_leases_on_one_task_are_two_attempts() {
        let running = Arc::new(Running::default());
        let id = TaskId::generate();
        let old = running.enter(id, RunLease(1));
        let new = running.enter(id, RunLease(2));
        running.stop((id, RunLease(1)), StopReason::Cancelled);
        assert_eq!(
            (old.switch().reason(), new.switch().reason()),
            (Some(StopReason::Cancelled), None)
        );
        drop(old);
        assert_eq!(running.leases(), [(id, RunLease(2))]);
        drop(new);
        assert!(running.leases().is_empty());
    }
}
