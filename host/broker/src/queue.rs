//! Who goes first.
//!
//! The rules, in the order in which they decide:
//!
//! 1. **Priority.** A hint of a higher priority goes before one of a lower.
//! 2. **Ageing.** A hint that has waited longer than its patience is *overdue*. Of the pops that ask for the same types, every
//!    [`AGED_SHARE`]th takes from the priority that holds the longest waiting overdue hint among those types, instead of the
//!    highest. So under an endless stream of priority 5, a hint of priority 1 with `n` older overdue ones before it goes after its patience
//!    and at most `AGED_SHARE · (n + 1)` pops more (with `t` tenants in its priority: `AGED_SHARE · (n + 1) · t`), and a mountain
//!    of old unimportant hints takes no more than that share from the urgent ones.
//! 3. **Tenants** within a priority take turns, one hint each, so that a tenant with a million hints delays its own. A turn is a number
//!    that grows by one with each hint taken; the lowest goes first. A tenant that comes (back) starts behind the
//!    current turn: it neither saves turns up while it is away nor gains any by coming and going.
//! 4. **First in, first out** within a tenant and priority, across types.
//!
//! Nothing here waits, locks or reads a clock. A pop costs `O(types · log tenants)`.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use taskforge_domain::{Priority, TaskId, TaskType, TenantId};

use crate::Hint;

/// One pop in this many goes to overdue hints, while there are any.
pub const AGED_SHARE: u32 = 4;

/// How many sets of types have their own count of pops. A fleet has a few; the bound is for one that reloads plugins for months.
const MAX_COUNTERS: usize = 256;

const LEVELS: usize = Priority::MAX.get() as usize;

/// The queue of one broker; see the [module](self) for its rules.
#[derive(Debug)]
pub struct Queue {
    /// Lowest priority first.
    levels: [Level; LEVELS],
    queued: HashSet<TaskId>,
    /// Numbers hints in the order in which they came.
    sequence: u64,
    patience: Duration,
    /// Pops since the last one that was the overdue's, by the types that were asked for: workers that serve other types must
    /// not use up each other's share.
    pops: HashMap<Vec<TaskType>, u32>,
}

#[derive(Debug, Default)]
struct Level {
    /// The turn of the tenant that was served last.
    turn: u64,
    tenants: HashMap<TenantId, Share>,
    lanes: HashMap<TaskType, Lane>,
}

/// A tenant's place in a level. It exists while the tenant has hints there.
#[derive(Debug)]
struct Share {
    turn: u64,
    hints: usize,
}

/// The hints of one type in a level.
#[derive(Debug, Default)]
struct Lane {
    tenants: HashMap<TenantId, Line>,
    /// By turn, then by how long the first hint waits. A turn may be out of date, because it grows in the other lanes too; it
    /// is put right when it comes first, which suffices because turns only grow.
    turns: BTreeSet<(u64, u64, TenantId)>,
    /// By how long the first hint waits.
    heads: BTreeSet<(u64, TenantId)>,
}

/// The hints of one type and tenant in a level; never empty between calls.
#[derive(Debug, Default)]
struct Line {
    /// The turn that this line's entry in [`Lane::turns`] carries.
    turn: u64,
    hints: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: TaskId,
    sequence: u64,
    since: Instant,
}

impl Queue {
    /// An empty queue. A hint is overdue once it has waited for `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            levels: Default::default(),
            queued: HashSet::new(),
            sequence: 0,
            patience,
            pops: HashMap::new(),
        }
    }

    /// Adds a hint. `false`: its task is queued already, and stays where it is.
    pub fn push(&mut self, hint: &Hint, now: Instant) -> bool {
        if !self.queued.insert(hint.id) {
            return false;
        }
        self.sequence += 1;
        let waiting = Waiting {
            id: hint.id,
            sequence: self.sequence,
            since: now,
        };
        self.levels[level_of(hint.priority)].push(&hint.tenant, &hint.task_type, waiting);
        true
    }

    /// Takes at most `max` hints of these types.
    pub fn pop(&mut self, types: &[TaskType], max: usize, now: Instant) -> Vec<Hint> {
        let mut hints = Vec::new();
        if max == 0 || !self.has(types) {
            return hints;
        }
        let mut key = types.to_vec();
        key.sort_unstable();
        if self.pops.len() >= MAX_COUNTERS && !self.pops.contains_key(&key) {
            self.pops.clear();
        }
        let mut pops = self.pops.get(&key).copied().unwrap_or(0);
        while hints.len() < max {
            pops += 1;
            let Some(hint) = self.pop_one(types, now, pops >= AGED_SHARE) else {
                break;
            };
            if pops >= AGED_SHARE {
                pops = 0;
            }
            hints.push(hint);
        }
        self.pops.insert(key, pops);
        hints
    }

    fn pop_one(&mut self, types: &[TaskType], now: Instant, for_the_overdue: bool) -> Option<Hint> {
        let overdue = if for_the_overdue {
            self.overdue_level(types, now)
        } else {
            None
        };
        let level = overdue.or_else(|| (0..LEVELS).rev().find(|level| self.levels[*level].has(types)))?;
        let (id, tenant, task_type) = self.levels[level].pop(types)?;
        self.queued.remove(&id);
        Some(Hint {
            id,
            tenant,
            task_type,
            priority: priority_of(level),
        })
    }

    /// The level that holds the longest waiting hint of these types, if that one is overdue.
    fn overdue_level(&self, types: &[TaskType], now: Instant) -> Option<usize> {
        let oldest = (0..LEVELS).filter_map(|level| Some((self.levels[level].oldest(types)?, level)));
        let (oldest, level) = oldest.min_by_key(|(oldest, _)| oldest.sequence)?;
        (now.saturating_duration_since(oldest.since) >= self.patience).then_some(level)
    }

    /// Whether there is a hint of one of these types.
    #[must_use]
    pub fn has(&self, types: &[TaskType]) -> bool {
        self.levels.iter().any(|level| level.has(types))
    }

    /// How many hints are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Whether none is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
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

impl Level {
    fn push(&mut self, tenant: &TenantId, task_type: &TaskType, waiting: Waiting) {
        let behind = self.turn + 1;
        let share = self.tenants.entry(tenant.clone()).or_insert(Share {
            turn: behind,
            hints: 0,
        });
        share.hints += 1;
        let lane = self.lanes.entry(task_type.clone()).or_default();
        let line = lane.tenants.entry(tenant.clone()).or_default();
        if line.hints.is_empty() {
            line.turn = share.turn;
            lane.turns.insert((share.turn, waiting.sequence, tenant.clone()));
            lane.heads.insert((waiting.sequence, tenant.clone()));
        }
        line.hints.push_back(waiting);
    }

    fn has(&self, types: &[TaskType]) -> bool {
        types.iter().any(|name| self.lanes.contains_key(name))
    }

    fn oldest(&self, types: &[TaskType]) -> Option<&Waiting> {
        types
            .iter()
            .filter_map(|name| self.lanes.get(name)?.oldest())
            .min_by_key(|waiting| waiting.sequence)
    }

    /// Takes the next hint of these types: that of the tenant whose turn it is, and of that tenant the oldest.
    fn pop(&mut self, types: &[TaskType]) -> Option<(TaskId, TenantId, TaskType)> {
        let mut tenant: Option<(u64, u64, TenantId)> = None;
        for name in types {
            let Some(lane) = self.lanes.get_mut(name) else {
                continue;
            };
            let Some(first) = lane.next(&self.tenants) else {
                continue;
            };
            if tenant.as_ref().is_none_or(|best| first < best) {
                tenant = Some(first.clone());
            }
        }
        let (turn, _, tenant) = tenant?;
        let (_, name) = types
            .iter()
            .filter_map(|name| Some((self.lanes.get(name)?.head_of(&tenant)?, name)))
            .min_by_key(|(sequence, _)| *sequence)?;

        let lane = self.lanes.get_mut(name)?;
        let id = lane.take(&tenant, turn + 1)?;
        if lane.tenants.is_empty() {
            self.lanes.remove(name);
        }
        self.turn = turn;
        let share = self.tenants.get_mut(&tenant)?;
        share.turn = turn + 1;
        share.hints -= 1;
        if share.hints == 0 {
            self.tenants.remove(&tenant);
        }
        Some((id, tenant, name.clone()))
    }
}

impl Lane {
    fn oldest(&self) -> Option<&Waiting> {
        let (_, tenant) = self.heads.first()?;
        self.tenants.get(tenant)?.hints.front()
    }

    fn head_of(&self, tenant: &TenantId) -> Option<u64> {
        self.tenants
            .get(tenant)?
            .hints
            .front()
            .map(|waiting| waiting.sequence)
    }

    /// The tenant whose turn it is here, after out-of-date turns were put right.
    fn next(&mut self, shares: &HashMap<TenantId, Share>) -> Option<&(u64, u64, TenantId)> {
        loop {
            let (turn, _, tenant) = self.turns.first()?;
            let now = shares.get(tenant)?.turn;
            if *turn == now {
                return self.turns.first();
            }
            let (_, sequence, tenant) = self.turns.pop_first()?;
            self.tenants.get_mut(&tenant)?.turn = now;
            self.turns.insert((now, sequence, tenant));
        }
    }

    /// Takes a tenant's first hint, and moves the tenant to its new turn or out.
    fn take(&mut self, tenant: &TenantId, turn: u64) -> Option<TaskId> {
        let line = self.tenants.get_mut(tenant)?;
        let taken = line.hints.pop_front()?;
        self.turns.remove(&(line.turn, taken.sequence, tenant.clone()));
        self.heads.remove(&(taken.sequence, tenant.clone()));
        match line.hints.front() {
            Some(next) => {
                line.turn = turn;
                self.turns.insert((turn, next.sequence, tenant.clone()));
                self.heads.insert((next.sequence, tenant.clone()));
            }
            None => {
                self.tenants.remove(tenant);
            }
        }
        Some(taken.id)
    }
}

#[cfg(test)]
mod tests;
