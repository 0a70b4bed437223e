//! What runs now, and how to stop it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
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
}

impl StopSwitch {
    /// Asks the attempt to stop.
    pub fn stop(&self, reason: StopReason) {
        // A second reason comes too late to matter.
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

    /// The token that the sandbox watches.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// The attempts that a worker holds a lease for, from claim to commit.
#[derive(Debug, Default)]
pub struct Running {
    attempts: Mutex<HashMap<TaskId, (RunLease, StopSwitch)>>,
}

impl Running {
    /// Enters an attempt. The guard takes it out again.
    #[must_use]
    pub fn enter(self: &Arc<Self>, id: TaskId, run_lease: RunLease) -> RunningGuard {
        let switch = StopSwitch::default();
        self.lock().insert(id, (run_lease, switch.clone()));
        RunningGuard {
            running: self.clone(),
            id,
            run_lease,
            switch,
        }
    }

    /// Stops one task's attempt, if it runs here.
    pub fn stop(&self, id: TaskId, reason: StopReason) {
        if let Some((_, switch)) = self.lock().get(&id) {
            switch.stop(reason);
        }
    }

    /// Stops everything.
    pub fn stop_all(&self, reason: StopReason) {
        for (_, switch) in self.lock().values() {
            switch.stop(reason);
        }
    }

    /// What is held, for asking the store whether it still is.
    #[must_use]
    pub fn held(&self) -> Vec<(TaskId, RunLease)> {
        self.lock()
            .iter()
            .map(|(id, (run_lease, _))| (*id, *run_lease))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, (RunLease, StopSwitch)>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut attempts = self.running.lock();
        // After a lapse the same worker process may hold the same task under a newer lease: that entry is not ours to take.
        if attempts
            .get(&self.id)
            .is_some_and(|(run_lease, _)| *run_lease == self.run_lease)
        {
            attempts.remove(&self.id);
        }
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
        assert_eq!(guard.switch().reason(), Some(StopReason::Cancelled));
        assert!(guard.switch().token().is_cancelled());
    }

    #[test]
    fn an_old_guard_leaves_a_newer_lease_alone() {
        let running = Arc::new(Running::default());
        let id = TaskId::generate();
        let old = running.enter(id, RunLease(1));
        let new = running.enter(id, RunLease(2));
        drop(old);
        assert_eq!(running.held(), [(id, RunLease(2))]);
        drop(new);
        assert!(running.held().is_empty());
    }
}
