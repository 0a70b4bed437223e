//! How many tasks a worker holds, and which of them run: its places, shared out among lanes.
//!
//! A place is what an attempt takes while it runs. There are as many as the operator says, in any mixture of lanes (a lane is a tenant's tasks
//! of one type), and a few more in reserve. When all the usual ones are taken, a lane gets places of the reserve only in a small share of it.
//! So one lane that fills a worker with attempts that take their time (they wait for a slow server, or sleep) does not keep out another type:
//! its tasks find a place, and as the slow attempts end, their places go around among all lanes that want one. The last places of the reserve
//! are for lanes of which it is known that they are quick, so that many slow lanes do not keep these out either.

mod held;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use taskforge_domain::{TaskType, TenantId};
use tokio::sync::{Notify, oneshot};

pub(crate) use held::{Place, Slot};
use state::{Lane, LaneKey, State};

/// How long a task may be expected to wait for a place after it was claimed; and how long an attempt runs before it counts as slow.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// The most that is held for quick attempts, in multiples of the places that they can have.
const MOST: usize = 8;

/// Of the usual places, this part is there in addition, in reserve.
const RESERVE: usize = 4;

/// Of the reserve, this part is for one lane.
const SHARE: usize = 4;

/// Of the reserve, this part is for lanes that are quick.
const KEPT: usize = 4;

/// The places that a worker needs for so many attempts in any mixture, with the reserve.
#[must_use]
pub const fn places(concurrency: usize) -> usize {
    concurrency + concurrency / RESERVE
}

/// The places of a worker, and the tasks that it holds, from their claim to their commit.
///
/// At least as many tasks are held as may run at once. More while attempts are quick: a claim and a commit cost the database a fixed share of
/// time besides that of their rows (as much as some hundred of them), so tasks that take microseconds must be claimed and committed in
/// hundreds, and there must be some to run in the meantime. But what is claimed here is not run elsewhere, so no more is held than can be
/// expected to begin within some milliseconds; and what slow attempts occupy is not counted on.
#[derive(Debug)]
pub(crate) struct Places {
    usual: usize,
    reserve: usize,
    state: Mutex<State>,
    freed: Notify,
}

/// What is not worth claiming, or only in part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// Types of which nothing can begin soon.
    pub(crate) closed: Vec<TaskType>,
    /// Types whose slow attempts leave them fewer places than there are for others.
    pub(crate) tight: Vec<TaskType>,
    /// So many tasks of the tight types can begin soon; at least 1 if there are any.
    pub(crate) room: usize,
}

impl Places {
    /// So many attempts in any mixture, and in all no more than the sandbox has instances.
    pub(crate) fn new(concurrency: usize, instances: usize) -> Arc<Self> {
        let all = places(concurrency).min(instances);
        let reserve = all / (RESERVE + 1);
        Arc::new(Self {
            usual: all - reserve,
            reserve,
            state: Mutex::new(State::new()),
            freed: Notify::new(),
        })
    }

    /// How many places there are in any mixture, and how many more in reserve.
    pub(crate) const fn size(&self) -> (usize, usize) {
        (self.usual, self.reserve)
    }

    /// Waits until something is freed, or may have been since the last such wait. Only one caller may wait here or in [`Self::free`].
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Waits until a task can be taken; says how many. Only one caller may wait, who also is the only one that takes.
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
        let state = self.lock();
        self.limit_of(&state).saturating_sub(state.held)
    }

    /// How many may be held.
    pub(crate) fn limit(&self) -> usize {
        self.limit_of(&self.lock())
    }

    fn limit_of(&self, state: &State) -> usize {
        let (mut slow, mut behind) = (0, 0);
        for lane in state.lanes.values() {
            slow += if lane.is_known_as_slow() {
                lane.running
            } else {
                lane.slow
            };
            // What waits behind slow attempts of its own lane keeps nobody else out.
            if self.is_slow(lane) {
                behind += lane.waiting.len();
            }
        }
        let usual = self.usual.saturating_sub(slow);
        // The reserve is counted on only for those whom slow attempts would keep out.
        let places = if slow == 0 {
            usual
        } else {
            usual.max(self.reserve.min((self.usual + self.reserve).saturating_sub(slow)))
        };
        let pace = state.pace.as_micros().max(1);
        let most = places * (MOST - 1);
        let more = usize::try_from(places as u128 * PATIENCE.as_micros() / pace).unwrap_or(most);
        slow + places + more.min(most) + behind + state.aside
    }

    /// What one lane may have of the reserve.
    const fn share(&self) -> usize {
        self.reserve.div_ceil(SHARE)
    }

    /// Whether what else a lane can have depends on when its slow attempts end.
    fn is_slow(&self, lane: &Lane) -> bool {
        lane.slow >= self.share().max(1) || lane.is_known_as_slow()
    }

    /// Whether a lane can have another place.
    fn is_open(&self, all_running: usize, lane: &Lane) -> bool {
        all_running < self.usual || (lane.running < self.share() && all_running < self.reach(lane))
    }

    /// So many places are there for a lane and all others together.
    fn reach(&self, lane: &Lane) -> usize {
        let kept = if lane.is_known_as_quick() {
            0
        } else {
            self.reserve / KEPT
        };
        self.usual + self.reserve - kept
    }

    /// Whether a lane can have no place before a slow attempt ends: neither a usual one nor one of its share of the reserve.
    fn is_stuck(&self, state: &State, lane: &Lane) -> bool {
        let reserve_is_slow = lane.slow >= self.share() || state.slow >= self.reach(lane);
        state.slow >= self.usual && reserve_is_slow && !self.is_open(state.running, lane)
    }

    /// How many more tasks of a slow lane may be claimed: as many as find a usual place, and as many as probably will while a task may wait.
    /// Nothing as long as it would be little beside what waits already: few claims of many cost less than many of few.
    fn room_of(&self, state: &State, lane: &Lane) -> usize {
        let ends = lane.time.map_or(0, |time| {
            let pace = time.as_micros().max(1);
            usize::try_from(self.usual as u128 * PATIENCE.as_micros() / pace).unwrap_or(usize::MAX)
        });
        let ends = ends.min(self.usual * (MOST - 1));
        let room = (self.usual.saturating_sub(state.running) + ends)
            .saturating_sub(lane.waiting.len() + lane.coming);
        if 2 * room >= ends { room } else { 0 }
    }

    /// What is not worth claiming: types of which a lane is slow and has no room, is stuck, or waits for its code.
    pub(crate) fn crowd(&self) -> Crowd {
        let state = self.lock();
        let mut crowd = Crowd::default();
        let mut room = usize::MAX;
        for (key, lane) in &state.lanes {
            let lane_room = self.is_slow(lane).then(|| self.room_of(&state, lane));
            if lane.aside > 0 || lane_room == Some(0) || (lane_room.is_none() && self.is_stuck(&state, lane))
            {
                crowd.closed.push(key.1.clone());
            } else if let Some(lane_room) = lane_room {
                crowd.tight.push(key.1.clone());
                room = room.min(lane_room);
            }
        }
        crowd.tight.retain(|name| !crowd.closed.contains(name));
        crowd.room = if crowd.tight.is_empty() { 0 } else { room };
        crowd
    }

    /// Holds a task.
    pub(crate) fn hold(self: &Arc<Self>, tenant: &TenantId, task_type: &TaskType) -> Slot {
        let lane = (tenant.clone(), task_type.clone());
        let mut state = self.lock();
        state.held += 1;
        state.lane(&lane).coming += 1;
        Slot {
            places: self.clone(),
            lane,
            is_coming: true,
        }
    }

    fn try_enter(self: &Arc<Self>, key: &LaneKey) -> Result<Place, (u64, oneshot::Receiver<Place>)> {
        let mut state = self.lock();
        let running = state.running;
        let lane = state.lane(key);
        // Nobody is overtaken: who waits could not have this place.
        if lane.waiting.is_empty() && self.is_open(running, lane) {
            lane.running += 1;
            state.running += 1;
            return Ok(self.place(key.clone()));
        }
        state.tickets += 1;
        let (ticket, (sender, receiver)) = (state.tickets, oneshot::channel());
        let lane = state.lane(key);
        lane.waiting.push_back((ticket, sender));
        if lane.waiting.len() == 1 {
            state.turns.push_back(key.clone());
        }
        if state.slow > 0 {
            // It may be held for nothing, so that there is more room than before.
            self.freed.notify_one();
        }
        Err((ticket, receiver))
    }

    fn place(self: &Arc<Self>, lane: LaneKey) -> Place {
        Place {
            places: self.clone(),
            lane,
            is_slow: false,
        }
    }

    /// Gives free places to those who wait, in turns among the lanes.
    fn give(&self, state: &mut State) -> Vec<(LaneKey, oneshot::Sender<Place>)> {
        let mut given = Vec::new();
        let mut passed = 0;
        while passed < state.turns.len() {
            let Some(key) = state.turns.pop_front() else { break };
            let Some(lane) = state.lanes.get(&key).filter(|lane| !lane.waiting.is_empty()) else {
                continue;
            };
            if !self.is_open(state.running, lane) {
                passed += 1;
                state.turns.push_back(key);
                continue;
            }
            passed = 0;
            if let Some(lane) = state.lanes.get_mut(&key)
                && let Some((_, waiter)) = lane.waiting.pop_front()
            {
                lane.running += 1;
                state.running += 1;
                given.push((key.clone(), waiter));
                if !lane.waiting.is_empty() {
                    state.turns.push_back(key);
                }
            }
        }
        given
    }

    fn leave(self: &Arc<Self>, key: &LaneKey, was_slow: bool) {
        let given = {
            let mut state = self.lock();
            state.running -= 1;
            state.slow -= usize::from(was_slow);
            state.change(key, |lane| {
                lane.running -= 1;
                lane.slow -= usize::from(was_slow);
            });
            self.give(&mut state)
        };
        for (lane, waiter) in given {
            // Who has gone in the meantime gives the place back by dropping it, which must not happen under the lock.
            drop(waiter.send(self.place(lane)));
        }
        self.freed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
