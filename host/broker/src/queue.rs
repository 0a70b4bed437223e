//! Who goes first.
//!
//! The rules, in the order in which they decide:
//!
//! 1. **Pauses and lanes aside.** Hints of a paused type stay. So do those of a lane of which a
//!    claim has just said that a cap is reached: for [`ASIDE`]. Then the lane offers one hint a
//!    pop, and twice as many after each [`ASIDE_STEP`], so that many lanes at their caps cost
//!    little and free permits are found soon.
//! 2. **Priority.** A hint of a higher priority goes before one of a lower.
//! 3. **Ageing.** A hint whose task is older than its patience is *overdue*. Of the pops that ask
//!    for the same types, every [`AGED_SHARE`]th takes from the priority that holds the oldest
//!    overdue hint among those types, instead of the highest. So under an endless stream of
//!    priority 5, a hint of priority 1 with `n` older overdue ones before it goes after its
//!    patience and at most `AGED_SHARE · (n + 1)` pops more (with `t` tenants of equal weight in
//!    its priority: `AGED_SHARE · (n + 1) · t`), and a mountain of old unimportant hints takes no
//!    more than that share from the urgent ones.
//! 4. **Tenants** within a priority take turns by weight, so that a tenant with a million hints
//!    delays its own. A turn is a number that grows by [`TURN`]` / weight` with each hint taken;
//!    the lowest goes first. A tenant that comes (back) starts behind the current turn: it neither
//!    saves turns up while it is away or aside, nor gains any by coming and going.
//! 5. **First in, first out** within a tenant and priority, across types: by task id, which is the
//!    order of creation. So a retry, and what the sweeper finds again, keep their place.
//!
//! Nothing here waits, locks or reads a clock. A pop costs `O(types · log tenants)`. The same rules
//! stand in `redis/*.lua`, and one suite of tests holds both to them.

mod aside;
mod level;
mod short;

use std::{collections::HashMap, time::Duration};

pub use taskforge_domain::{AGED_SHARE, AGEING_AFTER};
use taskforge_domain::{Lane, LaneLimits, Priority, QueuePolicy, TaskId, TaskType, TenantId};

use self::{aside::Aside, level::Level, short::Short};
use crate::{Hint, ShortLane};

/// What a hint costs a tenant of weight 1. Divisible by 1 to 16, so that small weights share
/// exactly; what rounding takes from the others is under 0.15 %.
pub const TURN: u64 = 720_720;

/// The hints that a lane holds: some seconds of work for a fleet, some hundred kilobytes for the
/// broker.
pub const LANE_CAPACITY: usize = 16_384;

/// How long a lane gives nothing after a claim has said that a cap is reached.
pub const ASIDE: Duration = Duration::from_millis(10);

/// After which time such a lane offers twice as much as before, beginning with one hint.
pub const ASIDE_STEP: Duration = Duration::from_millis(4);

/// After so many steps it offers more than a lane holds.
pub(crate) const ASIDE_STEPS: u32 = LANE_CAPACITY.ilog2() + 1;

/// How many sets of types have their own count of pops. A fleet has a few; the bound is for one
/// that reloads plugins for months.
pub(crate) const MAX_COUNTERS: usize = 256;

const LEVELS: usize = Priority::MAX.get() as usize;

/// The queue of one broker; see the [module](self) for its rules.
#[derive(Debug)]
pub struct Queue {
    /// Lowest priority first.
    levels: [Level; LEVELS],
    len: usize,
    patience: u64,
    capacity: usize,
    /// Lanes that have overflowed. Of every other lane all pending tasks are known, if the queue is
    /// complete.
    short: HashMap<Lane, Short>,
    complete: bool,
    policy: QueuePolicy,
    aside: Aside,
    /// Pops since the last one that was the overdue's, by the types that were asked for: workers
    /// that serve other types must not use up each other's share.
    pops: HashMap<Vec<TaskType>, u32>,
}

impl Queue {
    /// An empty queue, which is not complete. A hint is overdue once its task is older than
    /// `patience`; a lane holds `capacity` hints.
    #[must_use]
    pub fn new(patience: Duration, capacity: usize) -> Self {
        Self {
            levels: Default::default(),
            len: 0,
            patience: millis(patience),
            capacity: capacity.max(1),
            short: HashMap::new(),
            complete: false,
            policy: QueuePolicy::default(),
            aside: Aside::default(),
            pops: HashMap::new(),
        }
    }

    /// Adds a hint. `false`: it is queued already and stays where it is, or its lane has no room
    /// for it and remembers that.
    pub fn push(&mut self, hint: &Hint) -> bool {
        if let Some(short) = self.short.get_mut(&hint.lane)
            && !short.admits(hint.id)
        {
            return false;
        }
        self.insert(&hint.lane, hint.id)
    }

    /// Adds a hint; of a full lane, the last one has to go.
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

    /// Gives hints back of which a claim said that a cap is reached; see
    /// [`Broker::set_aside`](crate::Broker::set_aside).
    pub fn set_aside(&mut self, hints: &[Hint], now: u64) {
        for hint in hints {
            self.push(hint);
            self.aside.put(hint, now);
        }
    }

    /// What lanes that are or were aside may give now.
    pub(crate) fn offers(&mut self, now: u64) -> LaneLimits {
        self.aside.offers(now)
    }

    /// When the next lane of these types gives hints again, in milliseconds from now.
    #[must_use]
    pub fn back_in(&self, types: &[TaskType], now: u64) -> Option<u64> {
        self.aside.next(&self.open(types), now)
    }

    /// Takes at most `max` hints of these types, and of each lane no more than its limit. `now` and
    /// the tasks' ages are in milliseconds since 1970.
    pub fn pop(
        &mut self,
        types: &[TaskType],
        lanes: &LaneLimits,
        max: usize,
        now: u64,
    ) -> Vec<Hint> {
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
    ) -> Option<Hint> {
        let overdue = if for_the_overdue { self.overdue_level(types, now, offers) } else { None };
        overdue
            .into_iter()
            .chain((0..LEVELS).rev())
            .find_map(|level| self.pop_from(level, types, offers))
    }

    fn pop_from(&mut self, level: usize, types: &[TaskType], offers: &LaneLimits) -> Option<Hint> {
        let tenant = self.levels[level].next(types, offers)?;
        let cost = self.cost(&tenant);
        let (id, task_type) = self.levels[level].pop(&tenant, types, cost, offers)?;
        Some(Hint { id, lane: Lane { tenant, task_type, priority: priority_of(level) } })
    }

    /// The level that holds the oldest hint of these types that may be given, if that one is
    /// overdue.
    fn overdue_level(&self, types: &[TaskType], now: u64, offers: &LaneLimits) -> Option<usize> {
        let is_overdue = |since: u64| now.saturating_sub(since) >= self.patience;
        if !self.levels.iter().any(|level| level.any_head(types, is_overdue)) {
            return None;
        }
        let (oldest, level) = (0..LEVELS)
            .filter_map(|level| Some((self.levels[level].oldest(types, offers)?, level)))
            .min()?;
        is_overdue(oldest).then_some(level)
    }

    /// Of these types, those that are not paused.
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

    /// Whether the store may hold tasks of these types that could run, while their lanes are empty
    /// here.
    #[must_use]
    pub fn look_in_store(&self, types: &[TaskType]) -> bool {
        !self.complete
            || self.short.keys().any(|lane| {
                types.contains(&lane.task_type)
                    && self.levels[level_of(lane.priority)].len(&lane.tenant, &lane.task_type) == 0
                    && !self.policy.is_paused(&lane.task_type)
            })
    }

    /// Takes over the policy; see [`Broker::set_policy`](crate::Broker::set_policy).
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
                    after: short.ask(),
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
            // A rebuild begins: hints may be missing from what was known before the loss.
            Some(short) if after.is_none() && !self.complete => {
                short.forget().refilled(after, tasks.last().copied(), is_all)
            }
            Some(short) => short.refilled(after, tasks.last().copied(), is_all),
            // It knows all, so that there are more than these says nothing new.
            None if self.complete || is_all => None,
            None => tasks.last().copied().or(after).map(Short::after),
        };
        if let Some(short) = short {
            let level = &mut self.levels[level_of(lane.priority)];
            // What was pushed since the loss would overtake what was not heard of yet.
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

    /// Whether every pending task is known, or its lane knows that it is short.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says that it is.
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

/// When a task was created, in milliseconds since 1970: the first 48 bits of a UUIDv7.
fn born(id: TaskId) -> u64 {
    u64::try_from(id.as_uuid().as_u128() >> 80).unwrap_or(u64::MAX)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
