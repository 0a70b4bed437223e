//! How many tasks a worker holds, and which of them run: its places, shared out among lanes.
//!
//! A place is what an attempt takes while it runs. There are as many as the operator says, in any
//! mixture of lanes (a lane is a tenant's tasks of one type), and a few more in reserve. When all
//! the usual ones are taken, a lane gets places of the reserve only in a small share of it. So one
//! lane that fills a worker with attempts that take their time (they wait for a slow server, or
//! sleep) does not keep out another type: its tasks find a place, and as the slow attempts end,
//! their places go around among all lanes that want one. The last places of the reserve are for
//! lanes of which it is known that they are quick, so that many slow lanes do not keep these out
//! either.

mod held;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use taskforge_domain::{TaskType, TenantId};
use tokio::sync::{Notify, oneshot};

pub(crate) use held::{Place, Slot};
use state::{LaneKey, Size, State};

/// How long a task may be expected to wait for a place after it was claimed; and how long an
/// attempt runs before it counts as slow.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// Of the usual places, this part is there in addition, in reserve.
const RESERVE: usize = 4;

/// The places that a worker needs for so many attempts in any mixture, with the reserve.
#[must_use]
pub const fn places(concurrency: usize) -> usize {
    concurrency + concurrency / RESERVE
}

/// The places of a worker, and the tasks that it holds, from their claim to their commit.
///
/// At least as many tasks are held as may run at once. More while attempts are quick: a claim and a
/// commit cost the database a fixed share of time besides that of their rows (as much as some
/// hundred of them), so tasks that take microseconds must be claimed and committed in hundreds, and
/// there must be some to run in the meantime. But what is claimed here is not run elsewhere, so no
/// more is held than can be expected to begin within some milliseconds; and what slow attempts
/// occupy is not counted on.
#[derive(Debug)]
pub(crate) struct Places {
    state: Mutex<State>,
    freed: Notify,
}

/// What is not worth claiming, or only in part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// Types of which nothing can begin soon.
    pub(crate) closed: Vec<TaskType>,
    /// Types whose slow attempts leave them only so many places; at least 1.
    pub(crate) tight: Vec<(TaskType, usize)>,
}

impl Places {
    /// So many attempts in any mixture, and in all no more than the sandbox has instances.
    pub(crate) fn new(concurrency: usize, instances: usize) -> Arc<Self> {
        let all = places(concurrency).min(instances);
        let reserve = all / (RESERVE + 1);
        let size = Size { usual: all - reserve, reserve };
        Arc::new(Self { state: Mutex::new(State::new(size)), freed: Notify::new() })
    }

    /// How many places there are in any mixture, and how many more in reserve.
    pub(crate) fn size(&self) -> (usize, usize) {
        let Size { usual, reserve } = self.lock().size;
        (usual, reserve)
    }

    /// Waits until something is freed, or may have been since the last such wait. Only one caller
    /// may wait here or in [`Self::free`].
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Waits until a task can be taken; says how many. Only one caller may wait, who also is the
    /// only one that takes.
    pub(crate) async fn free(&self) -> usize {
        loop {
            // Registered before the look, so that what is freed in between is not missed.
            let freed = self.freed.notified();
            match self.free_now() {
                0 => freed.await,
                free => return free,
            }
        }
    }

    /// How many can be taken now.
    pub(crate) fn free_now(&self) -> usize {
        self.lock().free()
    }

    /// How many may be held.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit()
    }

    /// What is not worth claiming now.
    pub(crate) fn crowd(&self) -> Crowd {
        self.lock().crowd()
    }

    /// Holds a task.
    pub(crate) fn hold(self: &Arc<Self>, tenant: &TenantId, task_type: &TaskType) -> Slot {
        let lane = (tenant.clone(), task_type.clone());
        let mut state = self.lock();
        state.held += 1;
        state.change(&lane, |lane| lane.coming += 1);
        Slot { places: self.clone(), lane, is_coming: true }
    }

    /// Takes a place, or gets in line. `is_coming`: the task was on its way there.
    fn try_enter(
        self: &Arc<Self>,
        key: &LaneKey,
        is_coming: bool,
    ) -> Result<Place, (u64, oneshot::Receiver<Place>)> {
        let (entered, has_more) = {
            let mut state = self.lock();
            let before = state.free();
            let entered = state.try_enter(key, is_coming);
            (entered, state.free() > before)
        };
        if has_more {
            // What waits behind slow attempts of its own lane keeps nobody else out.
            self.freed.notify_one();
        }
        entered.map(|()| self.place(key.clone()))
    }

    fn place(self: &Arc<Self>, lane: LaneKey) -> Place {
        Place { places: self.clone(), lane, is_slow: false }
    }

    fn leave(self: &Arc<Self>, key: &LaneKey, was_slow: bool) {
        let given = self.free_by(|state| {
            state.change(key, |lane| {
                lane.running -= 1;
                lane.slow -= usize::from(was_slow);
            });
            state.give()
        });
        for (lane, waiter) in given {
            // Who has gone in the meantime gives the place back by dropping it, which must not
            // happen under the lock.
            drop(waiter.send(self.place(lane)));
        }
    }

    /// Makes a change after which there may be more room, and says so.
    fn free_by<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let changed = change(&mut self.lock());
        self.freed.notify_one();
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
