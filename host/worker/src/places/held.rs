//! What is held of the places, given back when it is dropped.

use std::{sync::Arc, time::Duration};

use taskforge_runtime::{Effort, Threads};

use super::{
    Places,
    state::{Lane, LaneKey},
};

/// How long a task waits while its lane is stuck before it is for another worker.
pub(super) const BLOCKED: Duration = Duration::from_millis(100);

/// One held task; no longer held when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) places: Arc<Places>,
    pub(super) lane: LaneKey,
    /// It is counted as on its way to a place.
    pub(super) is_coming: bool,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) places: Arc<Places>,
    pub(super) lane: LaneKey,
    pub(super) is_slow: bool,
}

/// A task that waits for its code, and wants no place yet; no longer when it is dropped.
pub(crate) struct Aside<'a>(&'a Slot);

/// Somebody who waits for a place; no longer when it is dropped.
pub(super) struct Waiting<'a> {
    pub(super) places: &'a Arc<Places>,
    pub(super) lane: &'a LaneKey,
    pub(super) ticket: u64,
}

impl Slot {
    /// The task waits for its code, which does not keep others from being claimed.
    pub(crate) fn set_aside(&self) -> Aside<'_> {
        {
            let mut state = self.places.lock();
            state.aside += 1;
            state.lane(&self.lane).aside += 1;
        }
        self.places.freed.notify_one();
        Aside(self)
    }

    /// Waits for a place. `None`: the lane is stuck, so the task is better off on another worker.
    pub(crate) async fn enter(&mut self) -> Option<Place> {
        let entered = self.places.try_enter(&self.lane);
        self.arrive();
        let (ticket, mut place) = match entered {
            Ok(place) => return Some(place),
            Err(waits) => waits,
        };
        let _waiting = Waiting {
            places: &self.places,
            lane: &self.lane,
            ticket,
        };
        loop {
            match tokio::time::timeout(BLOCKED, &mut place).await {
                Ok(place) => return place.ok(),
                Err(_) => {
                    let state = self.places.lock();
                    let lane = state.lanes.get(&self.lane)?;
                    if self.places.is_stuck(&state, lane) {
                        return None;
                    }
                }
            }
        }
    }

    /// It is not on its way any more.
    fn arrive(&mut self) {
        if std::mem::replace(&mut self.is_coming, false) {
            let mut state = self.places.lock();
            state.change(&self.lane, |lane| lane.coming -= 1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.arrive();
        self.places.lock().held -= 1;
        self.places.freed.notify_one();
    }
}

impl Place {
    /// Where the attempt is to begin, by what the lane's attempts before it were like.
    pub(crate) fn threads(&self) -> Threads {
        let state = self.places.lock();
        state
            .known
            .get(&self.lane)
            .map_or_else(Threads::default, |known| known.effort.threads())
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
        self.places.lock().observe(&self.lane, time, effort);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave(&self.lane, self.is_slow);
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.0.places.lock();
            state.aside -= 1;
            state.change(&self.0.lane, |lane| lane.aside -= 1);
        }
        self.0.places.freed.notify_one();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.change(self.lane, |lane| {
            lane.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        });
        let waits = |lane: &Lane| !lane.waiting.is_empty();
        if !state.lanes.get(self.lane).is_some_and(waits) {
            state.turns.retain(|key| key != self.lane);
        }
    }
}
