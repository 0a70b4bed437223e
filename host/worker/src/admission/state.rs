//! What is known of a worker's lanes, and what follows from it.

use std::{
    collections::{HashMap, VecDeque},
    ops::{Index, IndexMut},
    sync::Arc,
    time::Duration,
};

use taskforge_domain::{TaskType, TenantId};
use tokio::sync::oneshot;

use super::{Fetch, LaneKey, SLOW};

/// Tasks in flight for each permit, at most.
const PREFETCH: usize = 8;

/// A lane gets this part of the overflow, and this part is for quick lanes only.
const SHARE: usize = 4;

/// How much one attempt moves the average over all, as a divisor.
const INERTIA: u32 = 64;

/// How much one attempt moves the average of its lane, as a divisor.
const LANE_INERTIA: u32 = 8;

/// An attempt counts as no longer than this in the average of its lane, so that one of an hour is
/// forgotten after some quick ones.
const LONGEST: Duration = Duration::from_secs(2);

/// Lanes whose service time is known. Each takes some hundred bytes.
const MAX_KNOWN: usize = 4_096;

/// Lanes that a fetch names because they are quick while only quick ones get a permit.
const MAX_NAMED: usize = 256;

/// How many permits there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Those in any mixture.
    pub(super) usual: usize,
    /// And those in the overflow.
    pub(super) overflow: usize,
}

/// How far a task in flight has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for its plugin's code.
    Preparing,
    /// Waits for a permit, or is on its way there.
    Claimed,
    /// Holds a permit.
    Running,
    /// Holds a permit, and has done so for [`SLOW`].
    Slow,
    /// Waits for its commit.
    Ending,
}

/// Tasks in flight by stage.
#[derive(Debug, Default, Clone, Copy)]
struct Counts([usize; 5]);

impl Index<Stage> for Counts {
    type Output = usize;

    fn index(&self, stage: Stage) -> &usize {
        &self.0[stage as usize]
    }
}

impl IndexMut<Stage> for Counts {
    fn index_mut(&mut self, stage: Stage) -> &mut usize {
        &mut self.0[stage as usize]
    }
}

impl Counts {
    fn all(&self) -> usize {
        self.0.iter().sum()
    }

    /// Permits that are held.
    fn running(&self) -> usize {
        self[Stage::Running] + self[Stage::Slow]
    }

    fn shift(&mut self, from: Option<Stage>, to: Option<Stage>) {
        if let Some(from) = from {
            self[from] -= 1;
        }
        if let Some(to) = to {
            self[to] += 1;
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) size: Size,
    /// Over all lanes.
    counts: Counts,
    /// Lanes with tasks in flight.
    lanes: HashMap<Arc<LaneKey>, Lane>,
    /// Lanes of which tasks wait, in the order in which they get permits.
    turns: VecDeque<Arc<LaneKey>>,
    /// The moving average of service time over all lanes.
    service_time: Duration,
    /// And of each lane.
    known: HashMap<Arc<LaneKey>, Duration>,
    /// The claiming loop waits until no more tasks than this are in flight.
    pub(super) wake_at: Option<usize>,
}

#[derive(Debug, Default)]
struct Lane {
    counts: Counts,
    /// Those that wait for a permit, or have gone in the meantime.
    waiting: VecDeque<oneshot::Sender<()>>,
    /// `None`: not known yet.
    service_time: Option<Duration>,
}

impl Lane {
    fn is_slow_on_average(&self) -> bool {
        self.service_time.is_some_and(|time| time > SLOW)
    }

    fn is_quick(&self) -> bool {
        self.service_time.is_some_and(|time| time <= SLOW)
    }

    /// How many of its attempts will end within [`SLOW`].
    fn ends(&self, most: usize) -> usize {
        let Some(time) = self.service_time else { return 0 };
        // Of a lane that is quick on average, what is slow now may never end.
        let running = match self.is_quick() {
            true => self.counts[Stage::Running],
            false => self.counts.running(),
        };
        let time = time.as_micros().max(1);
        // To the nearest.
        let ends = (running as u128 * SLOW.as_micros() + time / 2) / time;
        usize::try_from(ends).unwrap_or(most).min(most)
    }
}

impl State {
    pub(super) fn new(size: Size) -> Self {
        Self {
            size,
            counts: Counts::default(),
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            // Slow, until attempts have shown otherwise.
            service_time: Duration::from_secs(2_000),
            known: HashMap::new(),
            wake_at: None,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.counts.all()
    }

    /// What one lane may have of the overflow.
    fn share(&self) -> usize {
        self.size.overflow.div_ceil(SHARE)
    }

    /// All the permits that a lane may get while others hold the rest.
    fn reach(&self, lane: &Lane) -> usize {
        let is_open = lane.is_quick() || self.counts[Stage::Slow] < self.size.usual;
        let kept = if is_open { 0 } else { self.size.overflow / SHARE };
        self.size.usual + self.size.overflow - kept
    }

    /// How many more permits a lane can get: usual ones, or else of its share of the overflow.
    fn open(&self, lane: &Lane) -> usize {
        let running = self.counts.running();
        let share = self.share().saturating_sub(lane.counts.running());
        let overflow = share.min(self.reach(lane).saturating_sub(running));
        self.size.usual.saturating_sub(running).max(overflow)
    }

    /// Whether what else a lane can get depends on when its slow attempts end.
    fn is_slow(&self, lane: &Lane) -> bool {
        lane.is_slow_on_average() || lane.counts[Stage::Slow] >= self.share().max(1)
    }

    /// Whether slow attempts hold all the permits that a lane could get.
    fn blocks(&self, lane: &Lane) -> bool {
        let slow = self.counts[Stage::Slow];
        let has_share = lane.counts[Stage::Slow] >= self.share();
        slow >= self.size.usual && (has_share || slow >= self.reach(lane)) && self.open(lane) == 0
    }

    pub(super) fn is_blocked(&self, key: &LaneKey) -> bool {
        self.lanes.get(key).is_some_and(|lane| self.blocks(lane))
    }

    /// Permits that slow attempts hold, or any attempts of lanes that are slow on average.
    fn slow_permits(&self) -> usize {
        let of_lane = |lane: &Lane| match lane.is_slow_on_average() {
            true => lane.counts.running(),
            false => lane.counts[Stage::Slow],
        };
        self.lanes.values().map(of_lane).sum()
    }

    /// The most tasks of quick lanes in flight.
    pub(super) fn limit(&self) -> usize {
        let slow = self.slow_permits();
        let Size { usual, overflow } = self.size;
        // The overflow is counted on only for those whom slow attempts would keep out.
        let permits = match slow {
            0 => usual,
            _ => usual
                .saturating_sub(slow)
                .max(overflow.min((usual + overflow).saturating_sub(slow))),
        };
        let most = permits * (PREFETCH - 1);
        let average = self.service_time.as_micros().max(1);
        let ahead = usize::try_from(permits as u128 * SLOW.as_micros() / average);
        permits + ahead.unwrap_or(most).min(most)
    }

    /// What is worth claiming now.
    pub(super) fn fetch(&self) -> Fetch {
        let mut fetch = Fetch::default();
        let mut quick = 0;
        // Of all slow lanes: what they have room for each, and all together.
        let (mut room, mut open, mut ends, mut waiting) = (0, 0, 0, 0);
        for (key, lane) in &self.lanes {
            let (tenant, task_type) = &**key;
            if lane.counts[Stage::Preparing] > 0 && !fetch.not_ready.contains(task_type) {
                fetch.not_ready.insert(task_type.clone());
            }
            if self.is_slow(lane) {
                let (will_end, can_begin) =
                    (lane.ends(self.size.usual * PREFETCH), self.open(lane));
                // What cannot be committed keeps more from being claimed.
                let before = lane.counts[Stage::Claimed] + lane.counts[Stage::Ending];
                let mut most = (will_end + can_begin).saturating_sub(before);
                // Few claims of many tasks cost less than many of few.
                if 2 * most < will_end {
                    most = 0;
                }
                fetch.lanes.name(task_type, tenant, most);
                (room, open) = (room + most, open.max(can_begin));
                (ends, waiting) = (ends + will_end, waiting + before);
            } else {
                quick +=
                    lane.counts.all() - lane.counts[Stage::Slow] - lane.counts[Stage::Preparing];
            }
        }
        let mut others = self.limit().saturating_sub(quick);
        if others == 0 && room > 0 {
            fetch.lanes.only_named();
        } else if self.blocks(&Lane::default()) {
            fetch.lanes.only_named();
            if !self.name_quick(&mut fetch) {
                others = 0;
            }
        }
        // Both count on the same permits.
        fetch.max = others.max(room.min((open + ends).saturating_sub(waiting)));
        fetch
    }

    /// Names quick lanes, other ones each time if there are too many. `false`: there is none.
    fn name_quick(&self, fetch: &mut Fetch) -> bool {
        let start = fastrand::usize(..self.known.len().max(1));
        let all = self.known.iter().skip(start).chain(self.known.iter().take(start));
        let is_quick = |key: &LaneKey| self.lanes.get(key).is_none_or(|lane| !self.is_slow(lane));
        let quick = all.filter(|(key, time)| **time <= SLOW && is_quick(key));
        let mut named = false;
        for (key, _) in quick.take(MAX_NAMED) {
            fetch.lanes.name(&key.1, &key.0, usize::MAX);
            named = true;
        }
        named
    }

    /// A task was claimed.
    pub(super) fn claimed(&mut self, tenant: &TenantId, task_type: &TaskType) -> Arc<LaneKey> {
        let key = (tenant.clone(), task_type.clone());
        let key = match self.lanes.get_key_value(&key) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(key),
        };
        self.change(&key, None, Some(Stage::Claimed));
        key
    }

    /// A claimed task gets a permit now, or a receiver that resolves when one is granted.
    pub(super) fn start(
        &mut self,
        key: &Arc<LaneKey>,
        from: Stage,
    ) -> Option<oneshot::Receiver<()>> {
        let lane = self.lanes.get(key)?;
        // Nobody is overtaken: who waits could not have this permit.
        if lane.waiting.is_empty() && self.open(lane) > 0 {
            self.change(key, Some(from), Some(Stage::Running));
            return None;
        }
        self.change(key, Some(from), Some(Stage::Claimed));
        let lane = self.lanes.get_mut(key)?;
        if lane.waiting.is_empty() {
            self.turns.push_back(Arc::clone(key));
        }
        let (sender, receiver) = oneshot::channel();
        lane.waiting.push_back(sender);
        Some(receiver)
    }

    /// A task goes on to another stage, or has ended. Says whether the claiming loop is to look.
    pub(super) fn shift(&mut self, key: &Arc<LaneKey>, from: Stage, to: Option<Stage>) -> bool {
        self.change(key, Some(from), to);
        let holds = |stage| matches!(stage, Stage::Running | Stage::Slow);
        if holds(from) && !to.is_some_and(holds) {
            self.give();
        }
        let is_other_room = matches!(to, Some(Stage::Slow | Stage::Preparing));
        self.wake_at.is_some_and(|most| is_other_room || self.in_flight() <= most)
    }

    /// Whether nothing is in flight and nobody waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.all() == 0 && self.lanes.is_empty() && self.turns.is_empty()
    }

    fn change(&mut self, key: &Arc<LaneKey>, from: Option<Stage>, to: Option<Stage>) {
        self.counts.shift(from, to);
        let known = &self.known;
        let lane = self
            .lanes
            .entry(Arc::clone(key))
            .or_insert_with(|| Lane { service_time: known.get(key).copied(), ..Lane::default() });
        lane.counts.shift(from, to);
        if lane.counts.all() == 0 {
            // Whoever waited has gone.
            if !lane.waiting.is_empty() {
                self.turns.retain(|other| other != key);
            }
            self.lanes.remove(key);
        }
    }

    /// Gives free permits to those who wait, in turns among the lanes.
    fn give(&mut self) {
        let mut passed = 0;
        while passed < self.turns.len()
            && self.counts.running() < self.size.usual + self.size.overflow
        {
            let Some(key) = self.turns.pop_front() else { return };
            let Some(lane) = self.lanes.get(&key) else { continue };
            if self.open(lane) == 0 {
                passed += 1;
                self.turns.push_back(key);
                continue;
            }
            passed = 0;
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            // A task that has given up cannot be granted one, and the next has its turn.
            let given = std::iter::from_fn(|| lane.waiting.pop_front())
                .any(|waiting| waiting.send(()).is_ok());
            if !lane.waiting.is_empty() {
                self.turns.push_back(Arc::clone(&key));
            }
            if given {
                self.change(&key, Some(Stage::Claimed), Some(Stage::Running));
            }
        }
    }

    /// Takes the service time of an attempt into the averages.
    pub(super) fn observe(&mut self, key: &Arc<LaneKey>, time: Duration) {
        // A few slow attempts, which count by their number, shall not hide for long that the others
        // are quick.
        self.service_time = average(self.service_time, time.min(4 * SLOW), INERTIA);
        let time = time.min(LONGEST);
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(key) {
            self.known.clear();
        }
        let known = self.known.entry(Arc::clone(key)).or_insert(time);
        *known = average(*known, time, LANE_INERTIA);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.service_time = Some(*known);
        }
    }
}

fn average(known: Duration, time: Duration, inertia: u32) -> Duration {
    known - known / inertia + time / inertia
}
