//! The order in which hints are popped.
//!
//! The rules, in the order in which they decide:
//!
//! 1. **Pauses and lanes aside.** Hints of a paused type stay. So do the hints of a lane whose cap
//!    a claim has just found reached, for [`ASIDE`]. Then the lane offers one hint per pop, and
//!    twice as many after each [`ASIDE_STEP`]: many lanes at their caps cost little, and free
//!    permits are found soon.
//! 2. **Priority.** A hint of a higher priority goes before one of a lower priority.
//! 3. **Ageing.** A hint is *overdue* once its task is older than [`AGEING_AFTER`]. Of the hints
//!    popped for the same set of types, every [`AGED_SHARE`]th comes from the priority of the
//!    oldest overdue hint of those types instead of the highest. So under an endless stream of
//!    priority 5, an overdue hint of priority 1 with `n` older ones before it waits for at most
//!    `AGED_SHARE · (n + 1)` hints (with `t` tenants of equal weight in its priority:
//!    `AGED_SHARE · (n + 1) · t`). And any number of old unimportant hints takes no more than that
//!    share from the urgent ones.
//! 4. **Tenants** within a priority take turns by weight, so a tenant with a million hints delays
//!    only its own. A turn is a number that grows by [`TURN`]` / weight` with each hint taken; the
//!    lowest goes first. A tenant that arrives or returns starts behind the current turn: it saves
//!    up no turns while it has no hints or is aside, and gains none by coming and going.
//! 5. **First in, first out** within a tenant and priority, across types: by task id, which is the
//!    order of creation. So a retried task keeps its position, and so does one that the sweeper
//!    found.
//!
//! Nothing here waits, locks or reads a clock. A pop costs `O(types · log tenants)`. The Lua
//! scripts of `redis` keep the same rules, and one suite of tests checks both.

mod aside;
mod level;
mod short;

use std::{collections::HashMap, time::Duration};

pub use taskforge_domain::{AGED_SHARE, AGEING_AFTER};
use taskforge_domain::{Lane, LaneLimits, Priority, QueuePolicy, TaskId, TaskType, TenantId};

use self::{aside::Aside, level::Level, short::Short};
use crate::{QueuedTask, ShortLane};

/// What a hint adds to the turn of a tenant of weight 1. It is divisible by 1 to 16, so that small
/// weights share exactly; the rounding of larger ones is under 0.15 %.
pub const TURN: u64 = 720_720;

/// The hints that a lane holds: some seconds of work for a fleet, and some hundred kilobytes of
/// memory.
pub const LANE_CAPACITY: usize = 16_384;

/// How long a lane offers nothing after a claim found its cap reached.
pub const ASIDE: Duration = Duration::from_millis(10);

/// The time after which such a lane offers twice as many hints as before, beginning with one.
pub const ASIDE_STEP: Duration = Duration::from_millis(4);

/// After so many steps a lane offers more than it can hold.
pub(crate) const ASIDE_STEPS: u32 = LANE_CAPACITY.ilog2() + 1;

/// How many sets of types have their own count of pops. A fleet has a few; the bound is for a
/// process that reloads plugins for months.
pub(crate) const MAX_COUNTERS: usize = 256;

const LEVELS: usize = Priority::MAX.get() as usize;

/// The queue of one broker; see the [module](self) for its rules.
#[derive(Debug)]
pub struct Queue {
    /// Lowest priority first.
    levels: [Level; LEVELS],
    len: usize,
    ageing_after: u64,
    capacity: usize,
    /// Lanes that have overflowed. Of all others every pending task is queued, if the queue is
    /// complete.
    short: HashMap<Lane, Short>,
    complete: bool,
    policy: QueuePolicy,
    aside: Aside,
    /// Hints popped since the last one of the overdue, by the set of types: workers that serve
    /// different types must not use up each other's share.
    pops: HashMap<Vec<TaskType>, u32>,
}

impl Queue {
    /// An empty queue, which is not complete. A hint is overdue once its task is older than
    /// `ageing_after`; a lane holds `capacity` hints.
    #[must_use]
    pub fn new(ageing_after: Duration, capacity: usize) -> Self {
        Self {
            levels: Default::default(),
            len: 0,
            ageing_after: millis(ageing_after),
            capacity: capacity.max(1),
            short: HashMap::new(),
            complete: false,
            policy: QueuePolicy::default(),
            aside: Aside::default(),
            pops: HashMap::new(),
        }
    }

    /// Adds a hint. `false`: it was queued already, or its lane has no room for it and remembers
    /// that.
    pub fn push(&mut self, hint: &QueuedTask) -> bool {
        if let Some(short) = self.short.get_mut(&hint.lane)
            && !short.admits(hint.id)
        {
            return false;
        }
        self.insert(&hint.lane, hint.id)
    }

    /// Adds a hint; a lane that was full drops its last one.
    fn insert(&mut self, lane: &Lane, id: TaskId) -> bool {
        let cost = self.cost(&lane.tenant);
        let level = &mut self.levels[level_of(lane.priority)];
        if !level.push(&lane.tenant, &lane.task_type, id, cost) {
            return false;
        }
        self.len += 1;
        if level.len(&lane.tenant, &lane.task_type) <= self.capacity {
            return true;
        }
        let Some(last) = level.remove_last(&lane.tenant, &lane.task_type) else {
            return true;
        };
        self.len -= 1;
        self.short
            .entry(lane.clone())
            .and_modify(|short| short.lower(last))
            .or_insert_with(|| Short::new(last));
        last != id
    }

    /// Returns hints whose claim found their cap reached; see
    /// [`Broker::set_aside`](crate::Broker::set_aside).
    pub fn set_aside(&mut self, hints: &[QueuedTask], now: u64) {
        for hint in hints {
            self.push(hint);
            self.aside.put(hint, now);
        }
    }

    /// How many hints the lanes that are or were aside may give now.
    pub(crate) fn offers(&mut self, now: u64) -> LaneLimits {
        self.aside.offers(now)
    }

    /// In how many milliseconds the next lane of these types comes back from aside.
    #[must_use]
    pub fn back_in(&self, types: &[TaskType], now: u64) -> Option<u64> {
        self.aside.next(&self.open(types), now)
    }

    /// Takes at most `max` hints of these types, and of each lane no more than its limit. `now` is
    /// in milliseconds since 1970, as are the times in task ids.
    pub fn pop(
        &mut self,
        types: &[TaskType],
        lanes: &LaneLimits,
        max: usize,
        now: u64,
    ) -> Vec<QueuedTask> {
        let mut taken = Vec::new();
        if max == 0 {
            return taken;
        }
        let open = self.open(types);
        let mut offers = self.offers(now);
        for name in &open {
            for (tenant, _) in offers.of_type(name).filter(|(_, left)| *left > 0) {
                for level in &mut self.levels {
                    level.catch_up(tenant, name);
                }
            }
        }
        offers.and(lanes);
        if !self.has(&open, &offers) {
            return taken;
        }
        let mut key = types.to_vec();
        key.sort_unstable();
        if self.pops.len() >= MAX_COUNTERS && !self.pops.contains_key(&key) {
            self.pops.clear();
        }
        let mut pops = self.pops.get(&key).copied().unwrap_or(0);
        while taken.len() < max {
            let for_the_overdue = pops + 1 >= AGED_SHARE;
            let Some(hint) = self.pop_one(&open, now, for_the_overdue, &offers) else {
                break;
            };
            pops = if for_the_overdue { 0 } else { pops + 1 };
            offers.take(&hint.lane.task_type, &hint.lane.tenant);
            taken.push(hint);
        }
        self.pops.insert(key, pops);
        self.len -= taken.len();
        taken
    }

    fn pop_one(
        &mut self,
        types: &[TaskType],
        now: u64,
        for_the_overdue: bool,
        offers: &LaneLimits,
    ) -> Option<QueuedTask> {
        let overdue = if for_the_overdue { self.overdue_level(types, now, offers) } else { None };
        overdue
            .into_iter()
            .chain((0..LEVELS).rev())
            .find_map(|level| self.pop_from(level, types, offers))
    }

    fn pop_from(
        &mut self,
        level: usize,
        types: &[TaskType],
        offers: &LaneLimits,
    ) -> Option<QueuedTask> {
        let tenant = self.levels[level].next(types, offers)?;
        let cost = self.cost(&tenant);
        let (id, task_type) = self.levels[level].pop(&tenant, types, cost, offers)?;
        Some(QueuedTask { id, lane: Lane { tenant, task_type, priority: priority_of(level) } })
    }

    /// The level of the oldest hint of these types that may be given, if that hint is overdue.
    fn overdue_level(&self, types: &[TaskType], now: u64, offers: &LaneLimits) -> Option<usize> {
        let is_overdue = |since: u64| now.saturating_sub(since) >= self.ageing_after;
        if !self.levels.iter().any(|level| level.any_head(types, is_overdue)) {
            return None;
        }
        let (oldest, level) = (0..LEVELS)
            .filter_map(|level| Some((self.levels[level].oldest(types, offers)?, level)))
            .min()?;
        is_overdue(oldest).then_some(level)
    }

    /// Those of these types that are not paused.
    fn open(&self, types: &[TaskType]) -> Vec<TaskType> {
        let open = types.iter().filter(|name| !self.policy.is_paused(name));
        open.cloned().collect()
    }

    fn cost(&self, tenant: &TenantId) -> u64 {
        TURN / u64::from(self.policy.weight(tenant).get())
    }

    /// Whether there is a hint of one of these types to take.
    pub(crate) fn has(&self, types: &[TaskType], offers: &LaneLimits) -> bool {
        types.iter().any(|name| {
            self.levels.iter().any(|level| level.has(name, offers)) && !self.policy.is_paused(name)
        })
    }

    /// Whether the store may hold tasks of these types that could run although their lanes are
    /// empty here.
    #[must_use]
    pub fn look_in_store(&self, types: &[TaskType]) -> bool {
        !self.complete
            || self.short.keys().any(|lane| {
                types.contains(&lane.task_type)
                    && self.levels[level_of(lane.priority)].len(&lane.tenant, &lane.task_type) == 0
                    && !self.policy.is_paused(&lane.task_type)
            })
    }

    /// Sets the policy; see [`Broker::set_policy`](crate::Broker::set_policy).
    pub fn set_policy(&mut self, policy: &QueuePolicy) {
        self.policy = policy.clone();
    }

    /// See [`Broker::short_lanes`](crate::Broker::short_lanes).
    pub fn short_lanes(&mut self) -> Vec<ShortLane> {
        let mut lanes: Vec<_> = self
            .short
            .iter_mut()
            .filter_map(|(lane, short)| {
                let len = self.levels[level_of(lane.priority)].len(&lane.tenant, &lane.task_type);
                (len < self.capacity.div_ceil(2)).then(|| ShortLane {
                    lane: lane.clone(),
                    after: short.begin_refill(),
                    room: self.capacity - len,
                })
            })
            .collect();
        lanes.sort_by_key(|lane| std::cmp::Reverse(lane.room));
        lanes
    }

    /// See [`Broker::refill`](crate::Broker::refill). Answers how many hints are new.
    pub fn refill(
        &mut self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> usize {
        let short = match self.short.remove(lane) {
            // A rebuild begins: the loss may have taken hints from what was known before.
            Some(short) if after.is_none() && !self.complete => {
                short.forget().refilled(after, tasks.last().copied(), is_all)
            }
            Some(short) => short.refilled(after, tasks.last().copied(), is_all),
            // Nothing is unknown here, so these tasks change nothing.
            None if self.complete || is_all => None,
            None => tasks.last().copied().or(after).map(Short::after),
        };
        if let Some(short) = short {
            let level = &mut self.levels[level_of(lane.priority)];
            // Hints pushed since the loss would overtake tasks that are not known yet.
            while level.last(&lane.tenant, &lane.task_type).is_some_and(|id| !short.knows(id)) {
                level.remove_last(&lane.tenant, &lane.task_type);
                self.len -= 1;
            }
            self.short.insert(lane.clone(), short);
        }
        let mut fresh = 0;
        for id in tasks {
            let known = self.short.get(lane).is_none_or(|short| short.knows(*id));
            fresh += usize::from(known && self.insert(lane, *id));
        }
        fresh
    }

    /// Whether every pending task is queued, or its lane known to be short.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says that the queue is complete.
    pub const fn mark_complete(&mut self) {
        self.complete = true;
    }

    /// How many hints are queued.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none is queued.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn level_of(priority: Priority) -> usize {
    usize::from(priority.get() - Priority::MIN.get())
}

fn priority_of(level: usize) -> Priority {
    u8::try_from(level)
        .ok()
        .and_then(|level| Priority::new(Priority::MIN.get() + level).ok())
        .unwrap_or_default()
}

/// When a task was created, in milliseconds since 1970: the first 48 bits of its UUIDv7.
fn born(id: TaskId) -> u64 {
    u64::try_from(id.as_uuid().as_u128() >> 80).unwrap_or(u64::MAX)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
