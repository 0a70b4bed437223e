//! What is held of the places, given back when it is dropped.

use std::{sync::Arc, time::Duration};

use super::{Places, state::LaneKey};

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
        self.places.free_by(|state| state.change(&self.lane, |lane| lane.aside += 1));
        Aside(self)
    }

    /// Waits for a place. `None`: the lane is stuck, so the task is better off on another worker.
    pub(crate) async fn enter(&mut self) -> Option<Place> {
        let is_coming = std::mem::replace(&mut self.is_coming, false);
        let (ticket, mut place) = match self.places.try_enter(&self.lane, is_coming) {
            Ok(place) => return Some(place),
            Err(waits) => waits,
        };
        let _waiting = Waiting { places: &self.places, lane: &self.lane, ticket };
        loop {
            match tokio::time::timeout(BLOCKED, &mut place).await {
                Ok(place) => return place.ok(),
                Err(_) => {
                    let mut state = self.places.lock();
                    let lane = state.lanes.get(&self.lane)?;
                    if state.is_stuck(lane) {
                        state.refuse(&self.lane);
                        return None;
                    }
                }
            }
        }
    }

    /// The task will want no place, or not soon.
    pub(crate) fn turn_away(&mut self) {
        if std::mem::replace(&mut self.is_coming, false) {
            self.places.free_by(|state| state.change(&self.lane, |lane| lane.coming -= 1));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.places.free_by(|state| {
            state.held -= 1;
            if self.is_coming {
                state.change(&self.lane, |lane| lane.coming -= 1);
            }
        });
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        let Self(slot) = self;
        slot.places.free_by(|state| state.change(&slot.lane, |lane| lane.aside -= 1));
    }
}

impl Place {
    /// The attempt has taken longer than [`PATIENCE`](super::PATIENCE).
    pub(crate) fn mark_slow(&mut self) {
        if !std::mem::replace(&mut self.is_slow, true) {
            self.places.free_by(|state| state.change(&self.lane, |lane| lane.slow += 1));
        }
    }

    /// Takes what an attempt took into the averages.
    pub(crate) fn observe(&self, time: Duration) {
        self.places.lock().observe(&self.lane, time);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave(&self.lane, self.is_slow);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.places.lock().give_up(self.lane, self.ticket);
    }
}
