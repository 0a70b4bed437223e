//! Who goes first.
//!
//! The rules, in the order in which they decide:
//!
//! 1. **Pauses and caps.** Hints of a paused type stay. So do those of a type or a tenant of which as many are taken as may run at once.
//!    What has a cap stays as long as it is not known what runs of it.
//! 2. **Priority.** A hint of a higher priority goes before one of a lower.
//! 3. **Ageing.** A hint whose task is older than its patience is *overdue*. Of the pops that ask for the same types, every
//!    [`AGED_SHARE`]th takes from the priority that holds the oldest overdue hint among those types, instead of the
//!    highest. So under an endless stream of priority 5, a hint of priority 1 with `n` older overdue ones before it goes after its patience
//!    and at most `AGED_SHARE · (n + 1)` pops more (with `t` tenants of equal weight in its priority: `AGED_SHARE · (n + 1) · t`), and a
//!    mountain of old unimportant hints takes no more than that share from the urgent ones.
//! 4. **Tenants** within a priority take turns by weight, so that a tenant with a million hints delays its own. A turn is a number that
//!    grows by [`TURN`]` / weight` with each hint taken; the lowest goes first. A tenant that comes (back) starts behind the current turn: it
//!    neither saves turns up while it is away, or held back by its cap, nor gains any by coming and going.
//! 5. **First in, first out** within a tenant and priority, across types: by task id, which is the order of creation. So a retry, and what the
//!    sweeper finds again, keep their place.
//!
//! Nothing here waits, locks or reads a clock. A pop costs `O(types · log tenants)`. The same rules stand in `redis/*.lua`, and one suite of
//! tests holds both to them.

mod level;
mod running;
mod short;

use std::{collections::HashMap, time::Duration};

pub use taskforge_domain::{AGED_SHARE, AGEING_AFTER};
use taskforge_domain::{Lane, Priority, QueuePolicy, TaskId, TaskType, TenantId};

use self::{
    level::{Gate, Level},
    running::Running,
    short::Short,
};
use crate::{Hint, ShortLane, Taken};

/// What a hint costs a tenant of weight 1. Divisible by 1 to 16, so that small weights share exactly; what rounding takes from the others is
/// under 0.15 %.
pub const TURN: u64 = 720_720;

/// The hints that a lane holds: some seconds of work for a fleet, some hundred kilobytes for the broker.
pub const LANE_CAPACITY: usize = 16_384;

/// How long what was popped counts as running although the store does not say so: its claim may be under way.
pub(crate) const CLAIM_GRACE: Duration = Duration::from_secs(5);

/// How many sets of types have their own count of pops. A fleet has a few; the bound is for one that reloads plugins for months.
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
    /// Lanes that have overflowed. Of every other lane all pending tasks are known, if the queue is complete.
    short: HashMap<Lane, Short>,
    complete: bool,
    policy: QueuePolicy,
    running: Running,
    /// Where tenants that are at their cap have hints. These are out of the turns until there is room, so that nobody steps over them
    /// at every pop.
    parked: HashMap<TenantId, Vec<(usize, TaskType)>>,
    /// Pops since the last one that was the overdue's, by the types that were asked for: workers that serve other types must
    /// not use up each other's share.
    pops: HashMap<Vec<TaskType>, u32>,
}

impl Queue {
    /// An empty queue, which is not complete. A hint is overdue once its task is older than `patience`; a lane holds `capacity` hints.
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
            running: Running::default(),
            parked: HashMap::new(),
            pops: HashMap::new(),
        }
    }

    /// Adds a hint. `false`: it is queued already and stays where it is, or its lane has no room for it and remembers that.
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

    /// Takes at most `max` hints of these types. `now` and the tasks' ages are in milliseconds since 1970.
    pub fn pop(&mut self, types: &[TaskType], max: usize, now: u64) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut open = self.open(types);
        if max == 0 || !self.has(&open) {
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
            let Some(hint) = self.pop_one(&open, now, for_the_overdue) else {
                break;
            };
            pops = if for_the_overdue { 0 } else { pops + 1 };
            let counted = self.running.add(&self.policy, &hint, now);
            if counted && !self.running.type_has_room(&self.policy, &hint.lane.task_type) {
                open.retain(|name| *name != hint.lane.task_type);
            }
            taken.push(Taken { hint, counted });
        }
        self.pops.insert(key, pops);
        self.len -= taken.len();
        taken
    }

    fn pop_one(&mut self, types: &[TaskType], now: u64, for_the_overdue: bool) -> Option<Hint> {
        let overdue = if for_the_overdue {
            self.overdue_level(types, now)
        } else {
            None
        };
        overdue
            .into_iter()
            .chain((0..LEVELS).rev())
            .find_map(|level| self.pop_from(level, types))
    }

    fn pop_from(&mut self, level: usize, types: &[TaskType]) -> Option<Hint> {
        let tenant = self.look(level, |level, gate| level.next(types, gate))?;
        let cost = self.cost(&tenant);
        let (id, task_type) = self.levels[level].pop(&tenant, types, cost)?;
        Some(Hint {
            id,
            lane: Lane {
                tenant,
                task_type,
                priority: priority_of(level),
            },
        })
    }

    /// Looks at a level. Tenants at their cap that stand first are parked on the way.
    fn look<T>(&mut self, level: usize, look: impl FnOnce(&mut Level, &mut Gate<'_>) -> T) -> T {
        let mut gate = Gate {
            is_open: &|tenant| self.running.tenant_has_room(&self.policy, tenant),
            parked: Vec::new(),
        };
        let found = look(&mut self.levels[level], &mut gate);
        for (tenant, task_type) in gate.parked {
            self.parked.entry(tenant).or_default().push((level, task_type));
        }
        found
    }

    /// Gives tenants that have room again their turns back.
    fn unpark(&mut self, tenants: &[TenantId]) {
        for tenant in tenants {
            if self.running.tenant_has_room(&self.policy, tenant) {
                for (level, task_type) in self.parked.remove(tenant).unwrap_or_default() {
                    self.levels[level].unpark(tenant, &task_type);
                }
            }
        }
    }

    fn unpark_all(&mut self) {
        let tenants: Vec<_> = self.parked.keys().cloned().collect();
        self.unpark(&tenants);
    }

    /// The level that holds the oldest hint of these types, if that one is overdue.
    fn overdue_level(&mut self, types: &[TaskType], now: u64) -> Option<usize> {
        let is_overdue = |since: u64| now.saturating_sub(since) >= self.patience;
        if !self.levels.iter().any(|level| level.any_head(types, is_overdue)) {
            return None;
        }
        let (oldest, level) = (0..LEVELS)
            .filter_map(|level| Some((self.look(level, |level, gate| level.oldest(types, gate))?, level)))
            .min()?;
        (now.saturating_sub(oldest) >= self.patience).then_some(level)
    }

    /// Of these types, those that are neither paused nor at their cap.
    fn open(&self, types: &[TaskType]) -> Vec<TaskType> {
        types.iter().filter(|name| self.is_open(name)).cloned().collect()
    }

    fn is_open(&self, task_type: &TaskType) -> bool {
        !self.policy.is_paused(task_type) && self.running.type_has_room(&self.policy, task_type)
    }

    fn cost(&self, tenant: &TenantId) -> u64 {
        TURN / u64::from(self.policy.weight(tenant).get())
    }

    /// Whether there may be a hint of one of these types to take. After a pop that took less than it was asked for: whether there is.
    #[must_use]
    pub fn has(&self, types: &[TaskType]) -> bool {
        types
            .iter()
            .any(|name| self.levels.iter().any(|level| level.has(name)) && self.is_open(name))
    }

    /// Whether the store may hold tasks of these types that could run, while their lanes are empty here.
    #[must_use]
    pub fn look_in_store(&self, types: &[TaskType]) -> bool {
        !self.complete
            || self.short.keys().any(|lane| {
                types.contains(&lane.task_type)
                    && self.levels[level_of(lane.priority)].len(&lane.tenant, &lane.task_type) == 0
                    && !self.policy.is_paused(&lane.task_type)
                    && self.policy.type_cap(&lane.task_type).is_none()
                    && self.policy.tenant_cap(&lane.tenant).is_none()
            })
    }

    /// Gives back the room of hints that were counted.
    pub fn release(&mut self, hints: &[Hint]) {
        for hint in hints {
            self.running.remove(hint);
            self.unpark(std::slice::from_ref(&hint.lane.tenant));
        }
    }

    /// Takes over the policy; see [`Broker::set_policy`](crate::Broker::set_policy).
    pub fn set_policy(&mut self, policy: &QueuePolicy) {
        self.policy = policy.clone();
        self.running.forget_uncapped(policy);
        self.unpark_all();
    }

    /// Puts right what counts as running; see [`Broker::set_running`](crate::Broker::set_running).
    pub fn set_running(&mut self, counted: &QueuePolicy, running: &[Hint], now: u64) -> bool {
        let is_settled = self.running.set(&self.policy, counted, running, now);
        self.unpark_all();
        is_settled
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
    pub fn refill(&mut self, lane: &Lane, after: Option<TaskId>, tasks: &[TaskId], is_all: bool) -> usize {
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
            while level
                .last(&lane.tenant, &lane.task_type)
                .is_some_and(|id| !short.knows(id))
            {
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
