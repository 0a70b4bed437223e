//! What is known of a worker's lanes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use taskforge_domain::{TaskType, TenantId};
use taskforge_runtime::Effort;
use tokio::sync::oneshot;

use super::{PATIENCE, held::Place};

/// How much a single attempt moves the average of all, as a divisor.
const INERTIA: u32 = 64;

/// How much a single attempt moves the average of its lane, as a divisor.
const LANE_INERTIA: u32 = 8;

/// Lanes of which it is known what their attempts take. Each is some hundred bytes.
const MAX_KNOWN: usize = 4_096;

pub(super) type LaneKey = (TenantId, TaskType);

#[derive(Debug)]
pub(super) struct State {
    pub(super) held: usize,
    pub(super) running: usize,
    /// Of those that run.
    pub(super) slow: usize,
    /// Tasks that wait for their code.
    pub(super) aside: usize,
    /// Average time of an attempt.
    pub(super) pace: Duration,
    /// Those of which something runs or waits.
    pub(super) lanes: HashMap<LaneKey, Lane>,
    /// Those of which something waits, in the order in which they get places.
    pub(super) turns: VecDeque<LaneKey>,
    /// What an attempt of a lane takes on average.
    pub(super) known: HashMap<LaneKey, Known>,
    pub(super) tickets: u64,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) time: Duration,
    pub(super) effort: Effort,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Tasks that are held and on their way to a place.
    pub(super) coming: usize,
    pub(super) running: usize,
    /// Of those that run.
    pub(super) slow: usize,
    pub(super) aside: usize,
    pub(super) waiting: VecDeque<(u64, oneshot::Sender<Place>)>,
    /// Average time of an attempt, once it is known.
    pub(super) time: Option<Duration>,
}

impl Lane {
    /// Its attempts are slow as a rule, also those that have just begun.
    pub(super) fn is_known_as_slow(&self) -> bool {
        self.time.is_some_and(|time| time > PATIENCE)
    }

    pub(super) fn is_known_as_quick(&self) -> bool {
        self.time.is_some_and(|time| time <= PATIENCE)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.coming == 0 && self.running == 0 && self.aside == 0 && self.waiting.is_empty()
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            held: 0,
            running: 0,
            slow: 0,
            aside: 0,
            // Slow, until attempts have shown otherwise.
            pace: Duration::from_secs(2_000),
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            known: HashMap::new(),
            tickets: 0,
        }
    }

    /// A lane, which is there from now on.
    pub(super) fn lane(&mut self, key: &LaneKey) -> &mut Lane {
        let known = &self.known;
        self.lanes.entry(key.clone()).or_insert_with(|| Lane {
            time: known.get(key).map(|known| known.time),
            ..Lane::default()
        })
    }

    /// Changes a lane that is there, and forgets it if nothing of it is left.
    pub(super) fn change(&mut self, key: &LaneKey, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(key) {
            change(lane);
            if lane.is_idle() {
                self.lanes.remove(key);
            }
        }
    }

    /// Takes what an attempt took into the averages.
    pub(super) fn observe(&mut self, key: &LaneKey, time: Duration, effort: Effort) {
        // Slow ones count by their number; a few of them shall not hide for long that the others are quick.
        self.pace = average(self.pace, time.min(4 * PATIENCE), INERTIA);
        let now = if let Some(known) = self.known.get_mut(key) {
            known.time = average(known.time, time, LANE_INERTIA);
            known.effort.computed = average(known.effort.computed, effort.computed, LANE_INERTIA);
            known.effort.longest = average(known.effort.longest, effort.longest, LANE_INERTIA);
            known.time
        } else {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(key.clone(), Known { time, effort });
            time
        };
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.time = Some(now);
        }
    }
}

fn average(known: Duration, time: Duration, inertia: u32) -> Duration {
    known - known / inertia + time / inertia
}
