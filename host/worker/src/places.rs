//! How many tasks a worker holds, and which of them run: its places, shared out among lanes.
//!
//! A place is what an attempt takes while it runs. There are as many as the operator says, in any mixture of lanes (a lane is a tenant's tasks
//! of one type), and a few more in reserve. When all the usual ones are taken, a lane gets places of the reserve only in a small share of it.
//! So one lane that fills a worker with attempts that take their time (they wait for a slow server, or sleep) does not keep out another type:
//! its tasks find a place, and as the slow attempts end, their places go around among all lanes that want one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use taskforge_domain::{TaskType, TenantId};
use taskforge_runtime::{Effort, Threads};
use tokio::sync::{Notify, oneshot};

/// How long a task may be expected to wait for a place after it was claimed; and how long an attempt runs before it counts as slow.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// How long a task waits while its lane is stuck before it is for another worker.
const BLOCKED: Duration = Duration::from_millis(100);

/// The most that is held for quick attempts, in multiples of the places that they can have.
const MOST: usize = 8;

/// How much a single attempt moves the average of all, as a divisor.
const INERTIA: u32 = 64;

/// How much a single attempt moves the average of its lane, as a divisor.
const LANE_INERTIA: u32 = 8;

/// Of the usual places, this part is there in addition, in reserve.
const RESERVE: usize = 4;

/// Of the reserve, this part is for one lane.
const SHARE: usize = 4;

/// Lanes of which it is known what they take of the processors. Each is some hundred bytes.
const MAX_KNOWN: usize = 4_096;

type LaneKey = (TenantId, TaskType);

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

#[derive(Debug)]
struct State {
    held: usize,
    running: usize,
    /// Of those that run.
    slow: usize,
    /// Tasks that wait for their code.
    aside: usize,
    /// Average time of an attempt.
    pace: Duration,
    /// Those of which something runs or waits.
    lanes: HashMap<LaneKey, Lane>,
    /// Those of which something waits, in the order in which they get places.
    turns: VecDeque<LaneKey>,
    /// What an attempt of a lane takes on average.
    efforts: HashMap<LaneKey, Effort>,
    tickets: u64,
}

#[derive(Debug, Default)]
struct Lane {
    running: usize,
    slow: usize,
    aside: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Place>)>,
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.aside == 0 && self.waiting.is_empty()
    }
}

/// One held task; no longer held when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Places>);

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    lane: LaneKey,
    is_slow: bool,
}

/// A task that waits for its code, and wants no place yet; no longer when it is dropped.
pub(crate) struct Aside<'a> {
    places: &'a Places,
    lane: LaneKey,
}

/// Somebody who waits for a place; no longer when it is dropped.
struct Waiting<'a> {
    places: &'a Arc<Places>,
    lane: &'a LaneKey,
    ticket: u64,
}

impl Places {
    /// So many attempts in any mixture, and in all no more than the sandbox has instances.
    pub(crate) fn new(concurrency: usize, instances: usize) -> Arc<Self> {
        let all = places(concurrency).min(instances);
        let reserve = all / (RESERVE + 1);
        Arc::new(Self {
            usual: all - reserve,
            reserve,
            state: Mutex::new(State {
                held: 0,
                running: 0,
                slow: 0,
                aside: 0,
                // Slow, until attempts have shown otherwise.
                pace: Duration::from_secs(2_000),
                lanes: HashMap::new(),
                turns: VecDeque::new(),
                efforts: HashMap::new(),
                tickets: 0,
            }),
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
        let usual = self.usual.saturating_sub(state.slow);
        // The reserve is counted on only for those whom slow attempts would keep out.
        let places = if state.slow == 0 {
            usual
        } else {
            usual.max(
                self.reserve
                    .min((self.usual + self.reserve).saturating_sub(state.slow)),
            )
        };
        let pace = state.pace.as_micros().max(1);
        let most = places * (MOST - 1);
        let more = usize::try_from(places as u128 * PATIENCE.as_micros() / pace).unwrap_or(most);
        // What cannot begin is held for nothing: it is handed back soon, or waits for its code.
        let stuck: usize = state
            .turns
            .iter()
            .filter_map(|key| state.lanes.get(key))
            .filter(|lane| self.is_stuck(state, lane))
            .map(|lane| lane.waiting.len())
            .sum();
        state.slow + places + more.min(most) + stuck + state.aside
    }

    /// What one lane may have of the reserve.
    const fn share(&self) -> usize {
        self.reserve.div_ceil(SHARE)
    }

    /// Whether a lane that has so many can have another place.
    const fn is_open(&self, all_running: usize, lane_running: usize) -> bool {
        all_running < self.usual || (all_running < self.usual + self.reserve && lane_running < self.share())
    }

    /// Whether a lane can have no place before a slow attempt ends: neither a usual one nor one of its share of the reserve.
    fn is_stuck(&self, state: &State, lane: &Lane) -> bool {
        let reserve_is_slow = lane.slow >= self.share() || state.slow >= self.usual + self.reserve;
        state.slow >= self.usual && reserve_is_slow && !self.is_open(state.running, lane.running)
    }

    /// The types that are not worth claiming: their lanes are stuck, or their code is not here yet.
    pub(crate) fn closed(&self) -> Vec<TaskType> {
        let state = self.lock();
        if state.slow < self.usual && state.aside == 0 {
            return Vec::new();
        }
        let lanes = state.lanes.iter();
        let closed = lanes.filter(|(_, lane)| lane.aside > 0 || self.is_stuck(&state, lane));
        closed.map(|((_, task_type), _)| task_type.clone()).collect()
    }

    /// Counts a task that waits for its code, which does not keep others from being claimed.
    pub(crate) fn set_aside(&self, tenant: &TenantId, task_type: &TaskType) -> Aside<'_> {
        let lane = (tenant.clone(), task_type.clone());
        {
            let mut state = self.lock();
            state.aside += 1;
            state.lanes.entry(lane.clone()).or_default().aside += 1;
        }
        self.freed.notify_one();
        Aside { places: self, lane }
    }

    /// Holds a task.
    pub(crate) fn hold(self: &Arc<Self>) -> Slot {
        self.lock().held += 1;
        Slot(self.clone())
    }

    /// Waits for a place. `None`: the lane is stuck, so the task is better off on another worker.
    pub(crate) async fn enter(self: &Arc<Self>, tenant: &TenantId, task_type: &TaskType) -> Option<Place> {
        let lane = (tenant.clone(), task_type.clone());
        let (ticket, mut place) = match self.try_enter(&lane) {
            Ok(place) => return Some(place),
            Err(waits) => waits,
        };
        let _waiting = Waiting {
            places: self,
            lane: &lane,
            ticket,
        };
        loop {
            match tokio::time::timeout(BLOCKED, &mut place).await {
                Ok(place) => return place.ok(),
                Err(_) => {
                    let state = self.lock();
                    let lane = state.lanes.get(&lane)?;
                    if self.is_stuck(&state, lane) {
                        return None;
                    }
                }
            }
        }
    }

    fn try_enter(self: &Arc<Self>, key: &LaneKey) -> Result<Place, (u64, oneshot::Receiver<Place>)> {
        let mut state = self.lock();
        let state = &mut *state;
        let lane = state.lanes.entry(key.clone()).or_default();
        // Nobody is overtaken: who waits could not have this place.
        if lane.waiting.is_empty() && self.is_open(state.running, lane.running) {
            lane.running += 1;
            state.running += 1;
            return Ok(self.place(key.clone()));
        }
        state.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        if lane.waiting.is_empty() {
            state.turns.push_back(key.clone());
        }
        lane.waiting.push_back((state.tickets, sender));
        if state.slow > 0 {
            // It may be held for nothing, so that there is more room than before.
            self.freed.notify_one();
        }
        Err((state.tickets, receiver))
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
            if !self.is_open(state.running, lane.running) {
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
            if let Some(lane) = state.lanes.get_mut(key) {
                lane.running -= 1;
                lane.slow -= usize::from(was_slow);
                if lane.is_idle() {
                    state.lanes.remove(key);
                }
            }
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

impl Place {
    /// Where the attempt is to begin, by what the lane's attempts before it were like.
    pub(crate) fn threads(&self) -> Threads {
        let state = self.places.lock();
        state
            .efforts
            .get(&self.lane)
            .map_or_else(Threads::default, Effort::threads)
    }

    /// The attempt has taken longer than [`PATIENCE`].
    pub(crate) fn mark_slow(&mut self) {
        if std::mem::replace(&mut self.is_slow, true) {
            return;
        }
        {
            let mut state = self.places.lock();
            state.slow += 1;
            if let Some(lane) = state.lanes.get_mut(&self.lane) {
                lane.slow += 1;
            }
        }
        // There may be more room for others than before.
        self.places.freed.notify_one();
    }

    /// Takes what an attempt took into the averages.
    pub(crate) fn observe(&self, time: Duration, effort: Effort) {
        let mut state = self.places.lock();
        // Slow ones count by their number; a few of them shall not hide for long that the others are quick.
        state.pace = average(state.pace, time.min(4 * PATIENCE), INERTIA);
        if let Some(known) = state.efforts.get_mut(&self.lane) {
            known.computed = average(known.computed, effort.computed, LANE_INERTIA);
            known.longest = average(known.longest, effort.longest, LANE_INERTIA);
        } else {
            if state.efforts.len() >= MAX_KNOWN {
                state.efforts.clear();
            }
            state.efforts.insert(self.lane.clone(), effort);
        }
    }
}

fn average(known: Duration, time: Duration, inertia: u32) -> Duration {
    known - known / inertia + time / inertia
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave(&self.lane, self.is_slow);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().held -= 1;
        self.0.freed.notify_one();
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.places.lock();
            state.aside -= 1;
            if let Some(lane) = state.lanes.get_mut(&self.lane) {
                lane.aside -= 1;
                if lane.is_idle() {
                    state.lanes.remove(&self.lane);
                }
            }
        }
        self.places.freed.notify_one();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        if let Some(lane) = state.lanes.get_mut(self.lane) {
            lane.waiting.retain(|(ticket, _)| *ticket != self.ticket);
            if lane.waiting.is_empty() {
                if lane.is_idle() {
                    state.lanes.remove(self.lane);
                }
                state.turns.retain(|key| key != self.lane);
            }
        }
    }
}

#[cfg(test)]
mod tests;
