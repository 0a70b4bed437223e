//! Admission control: which tasks a worker claims, and which of them run.
//!
//! A lane is a tenant's tasks of one type.
//!
//! 1. An attempt holds a *permit* while it runs. A worker has as many permits as the operator says
//!    (`concurrency`), in any mixture of lanes, and a quarter more as a shared *overflow*.
//! 2. While the usual permits are taken, a lane gets at most a quarter of the overflow. While slow
//!    attempts hold the usual ones, the overflow's last quarter goes to quick lanes only: those
//!    whose moving average of service time is at most 20 ms.
//! 3. Of quick lanes a worker claims as many tasks as can begin within 20 ms, up to eight for each
//!    permit that no slow attempt holds. Of a slow lane it claims no more than get a permit now or
//!    within 20 ms.
//! 4. Claimed tasks wait in a queue for each lane, and a permit that comes free goes to the lanes
//!    in turns.
//! 5. A task returns to the queue, which does not count as an attempt, after it has waited 100 ms
//!    while slow attempts hold all the permits that its lane could get.
//!
//! So a lane that fills a worker with attempts that wait for a slow server does not keep out
//! another one, nor do many of them keep out quick ones. And a lane of microseconds is claimed and
//! committed in hundreds, because a claim costs the database as much as hundreds of its rows.

mod state;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use taskforge_domain::{ClaimedTask, LaneLimits, TaskType, TenantId};
use tokio::sync::{Notify, oneshot};

use state::{Size, Stage, State};

/// An attempt that has run this long is slow, and so is a lane whose attempts take longer on
/// average. Also how far ahead tasks are claimed.
pub(crate) const SLOW: Duration = Duration::from_millis(20);

/// How long a task waits in a blocked lane before it returns to the queue.
const BLOCKED: Duration = Duration::from_millis(100);

/// How long a fetch waits for more room during a backlog. A claim of half of what a worker may
/// claim costs the database little more than one of a single task.
const GATHER: Duration = Duration::from_millis(8);

/// The overflow is this part of the usual permits.
const OVERFLOW: usize = 4;

/// The permits that a worker needs to run so many attempts in any mixture, with the overflow.
#[must_use]
pub const fn permits(concurrency: usize) -> usize {
    concurrency + concurrency / OVERFLOW
}

/// The lane of a task in flight.
type LaneKey = (TenantId, TaskType);

/// The permits of a worker, and the tasks that it has in flight, from their claim to their commit.
#[derive(Debug)]
pub(crate) struct Admission {
    state: Mutex<State>,
    /// The claiming loop waits here.
    room: Notify,
}

/// What is worth claiming.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// The most tasks in all.
    pub(crate) max: usize,
    /// The most of some lanes.
    pub(crate) lanes: LaneLimits,
    /// Types whose code is not here yet.
    pub(crate) not_ready: HashSet<TaskType>,
}

/// A claimed task, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    admission: Arc<Admission>,
    lane: Arc<LaneKey>,
    stage: Stage,
    /// Resolves when a permit is granted. `None`: the task does not wait for one.
    granted: Option<oneshot::Receiver<()>>,
}

impl Fetch {
    /// Whether something is left out that the next fetch may ask for.
    pub(crate) fn is_limited(&self) -> bool {
        !self.lanes.takes_others()
            || !self.not_ready.is_empty()
            || self.lanes.iter().any(|(_, _, most)| most < self.max)
    }
}

impl Admission {
    /// So many attempts in any mixture, and in all no more than the sandbox has instances.
    pub(crate) fn new(concurrency: usize, instances: usize) -> Arc<Self> {
        let all = permits(concurrency).min(instances);
        let overflow = all / (OVERFLOW + 1);
        let size = Size { usual: all - overflow, overflow };
        Arc::new(Self { state: Mutex::new(State::new(size)), room: Notify::new() })
    }

    /// How many permits there are in any mixture, and how many in the overflow.
    pub(crate) fn size(&self) -> (usize, usize) {
        let Size { usual, overflow } = self.lock().size;
        (usual, overflow)
    }

    /// What is worth claiming, once that is something; during a backlog, once that is half of what
    /// may be claimed, or after [`GATHER`]. Only one caller may wait. Cancel safe.
    pub(crate) async fn fetch(&self, is_backlog: bool) -> Fetch {
        loop {
            let fetch = self.room_for(1).await;
            if !is_backlog {
                return fetch;
            }
            let half = self.lock().limit() / 2;
            let gathered = tokio::time::timeout(GATHER, self.room_for(half)).await;
            let fetch = gathered.unwrap_or_else(|_| self.lock().fetch());
            // Attempts may have turned slow meanwhile.
            if fetch.max > 0 {
                return fetch;
            }
        }
    }

    async fn room_for(&self, least: usize) -> Fetch {
        loop {
            // Registered before the look, so that what comes free in between is not missed.
            let room = self.room.notified();
            {
                let mut state = self.lock();
                let fetch = state.fetch();
                if fetch.max >= least {
                    state.wake_at = None;
                    return fetch;
                }
                state.wake_at = Some(state.in_flight().saturating_sub(least - fetch.max));
            }
            room.await;
        }
    }

    /// Counts a task that was just claimed.
    pub(crate) fn claimed(self: &Arc<Self>, task: &ClaimedTask) -> InFlight {
        let lane = self.lock().claimed(&task.tenant, &task.task_type);
        InFlight { admission: Arc::clone(self), lane, stage: Stage::Claimed, granted: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// The task waits for its code, which does not keep others from being claimed.
    pub(crate) fn wait_for_code(&mut self) {
        self.shift(Some(Stage::Preparing));
    }

    /// Waits for a permit. `false`: its lane is blocked, so the task is better off on another
    /// worker. Cancel safe.
    pub(crate) async fn start(&mut self) -> bool {
        let waiting = self.admission.lock().start(&self.lane, self.stage);
        let Some(waiting) = waiting else {
            self.stage = Stage::Running;
            return true;
        };
        self.stage = Stage::Claimed;
        let granted = self.granted.insert(waiting);
        while tokio::time::timeout(BLOCKED, &mut *granted).await.is_err() {
            let state = self.admission.lock();
            if state.is_blocked(&self.lane) {
                if granted.try_recv().is_err() {
                    return false;
                }
                // A permit came in between.
                break;
            }
        }
        self.granted = None;
        self.stage = Stage::Running;
        true
    }

    /// The attempt has run for [`SLOW`].
    pub(crate) fn mark_slow(&mut self) {
        if self.stage == Stage::Running {
            self.shift(Some(Stage::Slow));
        }
    }

    /// The attempt is over, if there was one, and took this long; its outcome is yet to be
    /// committed.
    pub(crate) fn end(&mut self, service_time: Option<Duration>) {
        if self.stage == Stage::Ending {
            return;
        }
        // What was stopped before it had a permit says nothing about its lane.
        if let Some(time) = service_time
            && matches!(self.stage, Stage::Running | Stage::Slow)
        {
            self.admission.lock().observe(&self.lane, time);
        }
        self.shift(Some(Stage::Ending));
    }

    fn shift(&mut self, to: Option<Stage>) {
        let has_room = {
            let mut state = self.admission.lock();
            // Under the lock, so that a permit is either here already or will not come.
            let mut granted = self.granted.take();
            if granted.as_mut().is_some_and(|granted| granted.try_recv().is_ok()) {
                self.stage = Stage::Running;
            }
            drop(granted);
            state.shift(&self.lane, self.stage, to)
        };
        self.stage = to.unwrap_or(self.stage);
        if has_room {
            self.admission.room.notify_one();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shift(None);
    }
}

#[cfg(test)]
mod tests;
