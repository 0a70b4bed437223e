//! What is known of a worker's lanes, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use taskforge_domain::{TaskType, TenantId};
use tokio::sync::oneshot;

use super::{Crowd, PATIENCE, held::Place};

/// The most that is held for quick attempts, in multiples of the places that they can have.
const MOST: usize = 8;

/// Of the reserve, this part is for one lane.
const SHARE: usize = 4;

/// Of the reserve, this part is for lanes that are quick.
const KEPT: usize = 4;

/// How much a single attempt moves the average of all, as a divisor.
const INERTIA: u32 = 64;

/// How much a single attempt moves the average of its lane, as a divisor.
const LANE_INERTIA: u32 = 8;

/// A single attempt counts as no longer than this in the average of its lane, so that one of an
/// hour is forgotten after some quick ones.
const LONGEST: Duration = Duration::from_secs(2);

/// Lanes of which it is known what their attempts take. Each is some hundred bytes.
const MAX_KNOWN: usize = 4_096;

pub(super) type LaneKey = (TenantId, TaskType);

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Those in any mixture.
    pub(super) usual: usize,
    /// And those in reserve.
    pub(super) reserve: usize,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) size: Size,
    pub(super) held: usize,
    /// Over all lanes.
    pub(super) sums: Sums,
    /// Average time of an attempt.
    pace: Duration,
    /// Those of which something is held here.
    pub(super) lanes: HashMap<LaneKey, Lane>,
    /// Those of which something waits, in the order in which they get places.
    pub(super) turns: VecDeque<LaneKey>,
    /// What an attempt of a lane takes on average.
    known: HashMap<LaneKey, Duration>,
    /// Those of which a task was sent away, until one of them runs or there is a usual place again.
    refused: HashSet<LaneKey>,
    tickets: u64,
}

/// What a lane, or all of them, make of what is held.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    running: usize,
    /// Of those that run, those that have been slow.
    slow: usize,
    /// Of those that run, those that have been slow or are of a lane that is known for it.
    expected_slow: usize,
    /// Tasks that wait behind slow attempts of their own lane.
    behind: usize,
    /// Tasks that wait for their code.
    aside: usize,
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
    time: Option<Duration>,
}

impl Size {
    /// What one lane may have of the reserve.
    const fn share(self) -> usize {
        self.reserve.div_ceil(SHARE)
    }

    /// So many places are there for a lane and all others together.
    fn reach(self, lane: &Lane) -> usize {
        let is_quick = lane.time.is_some_and(|time| time <= PATIENCE);
        let kept = if is_quick { 0 } else { self.reserve / KEPT };
        self.usual + self.reserve - kept
    }

    /// Whether what else a lane can have depends on when its slow attempts end.
    fn is_slow(self, lane: &Lane) -> bool {
        lane.slow >= self.share().max(1) || lane.is_known_as_slow()
    }

    fn sums(self, lane: &Lane) -> Sums {
        let is_known = lane.is_known_as_slow();
        Sums {
            running: lane.running,
            slow: lane.slow,
            expected_slow: if is_known { lane.running } else { lane.slow },
            behind: if self.is_slow(lane) { lane.waiting.len() } else { 0 },
            aside: lane.aside,
        }
    }
}

impl Lane {
    /// Its attempts are slow as a rule, also those that have just begun.
    fn is_known_as_slow(&self) -> bool {
        self.time.is_some_and(|time| time > PATIENCE)
    }

    fn is_idle(&self) -> bool {
        self.coming == 0 && self.running == 0 && self.aside == 0 && self.waiting.is_empty()
    }
}

impl Sums {
    /// These, in which one lane's were exchanged.
    const fn exchange(self, before: Self, after: Self) -> Self {
        Self {
            running: self.running + after.running - before.running,
            slow: self.slow + after.slow - before.slow,
            expected_slow: self.expected_slow + after.expected_slow - before.expected_slow,
            behind: self.behind + after.behind - before.behind,
            aside: self.aside + after.aside - before.aside,
        }
    }
}

impl State {
    pub(super) fn new(size: Size) -> Self {
        Self {
            size,
            held: 0,
            sums: Sums::default(),
            // Slow, until attempts have shown otherwise.
            pace: Duration::from_secs(2_000),
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            known: HashMap::new(),
            refused: HashSet::new(),
            tickets: 0,
        }
    }

    /// Changes a lane. The only way to do so: it keeps the sums. A lane of which nothing is left is
    /// forgotten.
    pub(super) fn change<R>(&mut self, key: &LaneKey, change: impl FnOnce(&mut Lane) -> R) -> R {
        let known = &self.known;
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| absent(known, key));
        let before = self.size.sums(lane);
        let changed = change(lane);
        self.sums = self.sums.exchange(before, self.size.sums(lane));
        if lane.is_idle() {
            self.lanes.remove(key);
        }
        changed
    }

    /// How many can be taken now.
    pub(super) fn free(&self) -> usize {
        self.limit().saturating_sub(self.held)
    }

    /// How many may be held.
    pub(super) fn limit(&self) -> usize {
        let slow = self.sums.expected_slow;
        let usual = self.size.usual.saturating_sub(slow);
        // The reserve is counted on only for those whom slow attempts would keep out.
        let places = if slow == 0 {
            usual
        } else {
            let left = (self.size.usual + self.size.reserve).saturating_sub(slow);
            usual.max(self.size.reserve.min(left))
        };
        let pace = self.pace.as_micros().max(1);
        let most = places * (MOST - 1);
        let more = usize::try_from(places as u128 * PATIENCE.as_micros() / pace).unwrap_or(most);
        // What waits behind slow attempts of its own lane, or for its code, keeps nobody else out.
        slow + places + more.min(most) + self.sums.behind + self.sums.aside
    }

    /// Whether a lane can have another place.
    fn is_open(&self, lane: &Lane) -> bool {
        self.open_places(lane) > 0
    }

    /// How many more a lane can have: usual ones, or else of its share of the reserve.
    fn open_places(&self, lane: &Lane) -> usize {
        let usual = self.size.usual.saturating_sub(self.sums.running);
        let share = self.size.share().saturating_sub(lane.running);
        usual.max(share.min(self.size.reach(lane).saturating_sub(self.sums.running)))
    }

    /// Whether a lane can have no place before a slow attempt ends: neither a usual one nor one of
    /// its share of the reserve.
    pub(super) fn is_stuck(&self, lane: &Lane) -> bool {
        let slow = self.sums.slow;
        let reserve_is_slow = lane.slow >= self.size.share() || slow >= self.size.reach(lane);
        slow >= self.size.usual && reserve_is_slow && !self.is_open(lane)
    }

    /// How many more tasks of a slow lane may be claimed: as many as find a place, and as many as
    /// probably will while a task may wait. Nothing as long as that is little beside what waits
    /// already: few claims of many cost less than many of few.
    fn room_of(&self, lane: &Lane) -> usize {
        let ends = lane.time.map_or(0, |time| {
            let time = time.as_micros().max(1);
            // Of a lane that is quick as a rule, what is slow now may never end.
            let running =
                if lane.is_known_as_slow() { lane.running } else { lane.running - lane.slow };
            // To the nearest.
            let ends = (running as u128 * PATIENCE.as_micros() + time / 2) / time;
            usize::try_from(ends).unwrap_or(usize::MAX)
        });
        let ends = ends.min(self.size.usual * (MOST - 1));
        let room = (self.open_places(lane) + ends).saturating_sub(lane.waiting.len() + lane.coming);
        if 2 * room >= ends { room } else { 0 }
    }

    /// What is not worth claiming. A type of which one tenant's lane is closed is closed for all:
    /// who asks for a type gets tasks of all. Only if what closes it is a lane that has nothing
    /// here, and others of the type run, these are claimed one by one.
    pub(super) fn crowd(&mut self) -> Crowd {
        if self.sums.expected_slow == 0 && self.sums.aside == 0 && self.refused.is_empty() {
            return Crowd::default();
        }
        if self.sums.running < self.size.usual {
            self.refused.clear();
        }
        let lanes = &self.lanes;
        self.refused.retain(|key| lanes.get(key).is_none_or(|lane| lane.running == 0));
        let mut rooms: BTreeMap<&TaskType, usize> = BTreeMap::new();
        let mut limit = |name, room| {
            let least = rooms.entry(name).or_insert(room);
            *least = room.min(*least);
        };
        let mut run_well = BTreeSet::new();
        for ((_, name), lane) in &self.lanes {
            if lane.aside > 0 {
                limit(name, 0);
            } else if self.size.is_slow(lane) {
                limit(name, self.room_of(lane));
            } else if self.is_stuck(lane) {
                limit(name, 0);
            } else if lane.running > 0 {
                run_well.insert(name);
            }
        }
        for key in &self.refused {
            let room = match self.lanes.get(key) {
                Some(lane) => self.room_of(lane),
                None => self.room_of(&absent(&self.known, key)),
            };
            limit(&key.1, room.max(usize::from(run_well.contains(&key.1))));
        }
        let (closed, tight): (Vec<_>, Vec<_>) = rooms.into_iter().partition(|(_, room)| *room == 0);
        Crowd {
            closed: closed.into_iter().map(|(name, _)| name.clone()).collect(),
            tight: tight.into_iter().map(|(name, room)| (name.clone(), room)).collect(),
        }
    }

    /// A task of the lane was sent away. There may be nothing else of it here, so this is how it is
    /// known to be stuck.
    pub(super) fn refuse(&mut self, key: &LaneKey) {
        if self.refused.len() < MAX_KNOWN {
            self.refused.insert(key.clone());
        }
    }

    /// Takes a place, or gets in line.
    pub(super) fn try_enter(
        &mut self,
        key: &LaneKey,
        is_coming: bool,
    ) -> Result<(), (u64, oneshot::Receiver<Place>)> {
        // Nobody is overtaken: who waits could not have this place.
        let is_open = match self.lanes.get(key) {
            Some(lane) => lane.waiting.is_empty() && self.is_open(lane),
            None => self.is_open(&absent(&self.known, key)),
        };
        if is_open {
            self.change(key, |lane| {
                lane.coming -= usize::from(is_coming);
                lane.running += 1;
            });
            return Ok(());
        }
        self.tickets += 1;
        let (ticket, (sender, receiver)) = (self.tickets, oneshot::channel());
        let is_first = self.change(key, |lane| {
            lane.coming -= usize::from(is_coming);
            lane.waiting.push_back((ticket, sender));
            lane.waiting.len() == 1
        });
        if is_first {
            self.turns.push_back(key.clone());
        }
        Err((ticket, receiver))
    }

    /// Gives free places to those who wait, in turns among the lanes.
    pub(super) fn give(&mut self) -> Vec<(LaneKey, oneshot::Sender<Place>)> {
        let mut given = Vec::new();
        let mut passed = 0;
        while passed < self.turns.len() && self.sums.running < self.size.usual + self.size.reserve {
            let Some(key) = self.turns.pop_front() else { break };
            match self.lanes.get(&key) {
                Some(lane) if lane.waiting.is_empty() => continue,
                Some(lane) if self.is_open(lane) => {}
                Some(_) => {
                    passed += 1;
                    self.turns.push_back(key);
                    continue;
                }
                None => continue,
            }
            passed = 0;
            let (waiter, are_more) = self.change(&key, |lane| {
                lane.running += 1;
                (lane.waiting.pop_front(), !lane.waiting.is_empty())
            });
            given.extend(waiter.map(|(_, waiter)| (key.clone(), waiter)));
            if are_more {
                self.turns.push_back(key);
            }
        }
        given
    }

    /// Somebody does not wait any more.
    pub(super) fn give_up(&mut self, key: &LaneKey, ticket: u64) {
        let waits = self.change(key, |lane| {
            lane.waiting.retain(|(other, _)| *other != ticket);
            !lane.waiting.is_empty()
        });
        if !waits {
            self.turns.retain(|other| other != key);
        }
    }

    /// Takes what an attempt took into the averages.
    pub(super) fn observe(&mut self, key: &LaneKey, time: Duration) {
        // Slow ones count by their number; a few of them shall not hide for long that the others
        // are quick.
        self.pace = average(self.pace, time.min(4 * PATIENCE), INERTIA);
        let time = time.min(LONGEST);
        let time = if let Some(known) = self.known.get_mut(key) {
            *known = average(*known, time, LANE_INERTIA);
            *known
        } else {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(key.clone(), time);
            time
        };
        self.change(key, |lane| lane.time = Some(time));
    }
}

/// A lane of which nothing is held.
fn absent(known: &HashMap<LaneKey, Duration>, key: &LaneKey) -> Lane {
    Lane { time: known.get(key).copied(), ..Lane::default() }
}

fn average(known: Duration, time: Duration, inertia: u32) -> Duration {
    known - known / inertia + time / inertia
}
