//! Which tasks go first when no broker says so.
//!
//! The most urgent go first; of every four tasks one comes from the priority of the oldest overdue
//! one ([`taskforge_domain::ageing`]). Inside a priority tenants take turns in proportion to their
//! weights: of a tenant of weight 3 the third task has the turn that the first has of a tenant of
//! weight 1. Between tenants whose turn it is at once the one with the oldest task goes first, and
//! a tenant's tasks go in the order of their ids. Nothing is remembered between claims.
//!
//! A turn is planned before it is read: [`Plan`] says how many tasks each tenant is to give, as if
//! every tenant had tasks without end, and the database fetches them. A tenant that had fewer
//! leaves its turns to the others in another round. So a claim reads about as many entries of the
//! index as it takes, whether a lane holds ten tasks or a million.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
};

use taskforge_domain::{
    ClaimedTask, Lane, LaneLimits, Priority, QueuePolicy, TaskId, TaskType, TenantId, Timestamp,
    is_overdue,
};

use crate::QueuedTask;

/// What a claim by order is after.
pub(crate) struct Order<'a> {
    pub(crate) types: &'a [TaskType],
    /// What the worker can use of some lanes.
    pub(crate) lanes: &'a LaneLimits,
    pub(crate) policy: &'a QueuePolicy,
    pub(crate) limit: usize,
    pub(crate) now: Timestamp,
}

impl Order<'_> {
    fn serves(&self, name: &TaskType) -> bool {
        self.types.contains(name) && !self.policy.is_paused(name)
    }

    /// Whether it is after nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.limit == 0 || !self.types.iter().any(|name| self.serves(name))
    }

    /// Of lanes and their oldest tasks, those that it may take from.
    pub(crate) fn served(&self, mut lanes: Vec<QueuedTask>) -> Vec<QueuedTask> {
        lanes.retain(|QueuedTask { lane, .. }| {
            self.serves(&lane.task_type) && self.lanes.of(&lane.task_type, &lane.tenant) > 0
        });
        lanes
    }
}

/// What is left under caps. What has none is not in it.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    pub(crate) types: HashMap<TaskType, u64>,
    pub(crate) tenants: HashMap<TenantId, u64>,
}

impl Permits {
    fn of_type(&self, name: &TaskType) -> u64 {
        self.types.get(name).copied().unwrap_or(u64::MAX)
    }

    fn of_tenant(&self, name: &TenantId) -> u64 {
        self.tenants.get(name).copied().unwrap_or(u64::MAX)
    }

    /// Whether one more may run in this lane.
    pub(crate) fn has(&self, lane: &Lane) -> bool {
        self.of_type(&lane.task_type) > 0 && self.of_tenant(&lane.tenant) > 0
    }

    /// Starts one more of a tenant and a type, if the caps allow.
    pub(crate) fn take(&mut self, tenant: &TenantId, task_type: &TaskType) -> bool {
        let allowed = self.of_type(task_type) > 0 && self.of_tenant(tenant) > 0;
        if allowed {
            self.spend(tenant, task_type, 1);
        }
        allowed
    }

    /// So many of a tenant and a type run.
    pub(crate) fn spend(&mut self, tenant: &TenantId, task_type: &TaskType, count: u64) {
        let of_type = self.types.get_mut(task_type);
        let of_tenant = self.tenants.get_mut(tenant);
        for left in of_type.into_iter().chain(of_tenant) {
            *left = left.saturating_sub(count);
        }
    }
}

/// A task that was fetched.
pub(crate) trait Fetched {
    fn id(&self) -> TaskId;
    fn tenant(&self) -> &TenantId;
    fn task_type(&self) -> &TaskType;
}

impl Fetched for ClaimedTask {
    fn id(&self) -> TaskId {
        self.id
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn task_type(&self) -> &TaskType {
        &self.task_type
    }
}

impl Fetched for QueuedTask {
    fn id(&self) -> TaskId {
        self.id
    }

    fn tenant(&self) -> &TenantId {
        &self.lane.tenant
    }

    fn task_type(&self) -> &TaskType {
        &self.lane.task_type
    }
}

/// What to fetch next: of each tenant at most its quota, of each type at most its permits, of each
/// lane at most what the worker can use, the oldest first.
#[derive(Debug)]
pub(crate) struct Round {
    /// Of all its lanes.
    pub(crate) priority: Priority,
    pub(crate) lanes: Vec<Quota>,
}

/// A lane of a [`Round`].
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) lane: Lane,
    /// Its oldest task when the claim began.
    pub(crate) head: TaskId,
    /// How many tasks the tenant gives, over all its lanes.
    pub(crate) of_tenant: u64,
    /// How many more of the type may run.
    pub(crate) of_type: u64,
    /// How many more of the lane the worker can use.
    pub(crate) of_lane: u64,
}

/// Decides which tasks of which lanes a claim takes. Whoever follows it fetches round after round,
/// says what came of each, and has at the end what was fetched, whatever failed meanwhile.
pub(crate) struct Plan<'a, T> {
    policy: &'a QueuePolicy,
    limit: usize,
    room: Room<'a>,
    lanes: Vec<Lane>,
    passes: VecDeque<Pass>,
    level: Option<Level<T>>,
    aged: Vec<T>,
    urgent: Vec<T>,
}

/// What is left under caps, and of what the worker can use.
struct Room<'a> {
    permits: &'a mut Permits,
    limits: LaneLimits,
}

impl Room<'_> {
    /// Whether one more of this lane can be taken.
    fn has(&self, lane: &Lane) -> bool {
        self.permits.has(lane) && self.limits.of(&lane.task_type, &lane.tenant) > 0
    }

    /// Whether a type has a limit besides the turns of its tenants.
    fn is_limited(&self, name: &TaskType) -> bool {
        self.permits.types.contains_key(name) || self.limits.concern(name)
    }

    fn take(&mut self, tenant: &TenantId, task_type: &TaskType) {
        self.permits.spend(tenant, task_type, 1);
        self.limits.take(task_type, tenant);
    }
}

/// The lanes of one priority, from which at most so many tasks are to come.
struct Pass {
    heads: Vec<QueuedTask>,
    most: usize,
    is_aged: bool,
}

impl<'a, T: Fetched> Plan<'a, T> {
    /// Of lanes that the order serves, with their oldest tasks. Of the tasks that it takes, `aged`
    /// are for what is overdue.
    pub(crate) fn new(
        order: &Order<'a>,
        aged: usize,
        heads: Vec<QueuedTask>,
        permits: &'a mut Permits,
    ) -> Self {
        let lanes = heads.iter().map(|head| head.lane.clone()).collect();
        let mut levels: BTreeMap<Reverse<Priority>, Vec<QueuedTask>> = BTreeMap::new();
        for head in heads {
            levels.entry(Reverse(head.lane.priority)).or_default().push(head);
        }
        let room = Room { permits, limits: order.lanes.clone() };
        let overdue = overdue_level(&levels, order.now, &room).filter(|_| aged > 0);
        let aged = overdue.map(|heads| Pass { heads, most: aged, is_aged: true });
        let urgent = levels.into_values();
        let urgent = urgent.map(|heads| Pass { heads, most: order.limit, is_aged: false });
        Self {
            policy: order.policy,
            limit: order.limit,
            room,
            lanes,
            passes: aged.into_iter().chain(urgent).collect(),
            level: None,
            aged: Vec::new(),
            urgent: Vec::new(),
        }
    }

    /// What to fetch next; `None`: enough was fetched, or there is no more.
    pub(crate) fn next_round(&mut self) -> Option<Round> {
        loop {
            if let Some(level) = &mut self.level {
                match level.next_round(&self.room) {
                    Some(round) => return Some(round),
                    None => self.end_level(),
                }
            }
            let left = self.limit.saturating_sub(self.aged.len() + self.urgent.len());
            let pass = self.passes.pop_front().filter(|_| left > 0)?;
            self.level = Some(Level::new(pass, left, self.policy));
        }
    }

    /// What came of the round.
    pub(crate) fn fetched(&mut self, tasks: Vec<T>) {
        if let Some(level) = &mut self.level {
            level.fetched(tasks, &mut self.room);
        }
    }

    fn end_level(&mut self) {
        if let Some(level) = self.level.take() {
            if level.is_aged { &mut self.aged } else { &mut self.urgent }.extend(level.in_order());
        }
    }

    /// All that was fetched, in the order in which it goes, and whether a cap keeps others waiting.
    pub(crate) fn finish(mut self) -> (Vec<T>, bool) {
        self.end_level();
        let is_at_cap = self.lanes.iter().any(|lane| !self.room.permits.has(lane));
        self.urgent.extend(self.aged);
        (self.urgent, is_at_cap)
    }
}

/// The priority that holds the oldest task that may run, if that one is overdue and others go
/// before it.
fn overdue_level(
    levels: &BTreeMap<Reverse<Priority>, Vec<QueuedTask>>,
    now: Timestamp,
    room: &Room<'_>,
) -> Option<Vec<QueuedTask>> {
    let open = levels.values().flatten().filter(|head| room.has(&head.lane));
    let oldest = open.min_by_key(|head| head.id)?;
    let level = Reverse(oldest.lane.priority);
    // The most urgent go first anyway.
    let is_first = levels.keys().next() == Some(&level);
    let is_due = !is_first && is_overdue(oldest.id, now);
    levels.get(&level).filter(|_| is_due).cloned()
}

/// A priority on its way through a claim.
struct Level<T> {
    tenants: BTreeMap<TenantId, Waiting>,
    left: usize,
    is_aged: bool,
    /// Each with its turn and the oldest task of its tenant.
    taken: Vec<(Turn, TaskId, T)>,
}

struct Waiting {
    /// Its oldest task.
    head: TaskId,
    weight: u32,
    /// Its lanes and the oldest task of each.
    lanes: Vec<QueuedTask>,
    /// What it has given so far.
    given: u64,
    /// What it is to give in this round.
    quota: u64,
}

/// When a tenant's tasks go, compared with those of others.
type Turn = u64;

impl Waiting {
    /// The turn of its task of this number, from 1: the number over the weight, in units that keep
    /// any two such fractions apart.
    fn turn(&self, number: u64) -> Turn {
        (number << 24) / u64::from(self.weight)
    }
}

impl<T: Fetched> Level<T> {
    fn new(pass: Pass, left: usize, policy: &QueuePolicy) -> Self {
        let mut tenants: BTreeMap<TenantId, Waiting> = BTreeMap::new();
        for head in pass.heads {
            let waiting = tenants.entry(head.lane.tenant.clone()).or_insert_with(|| Waiting {
                head: head.id,
                weight: policy.weight(&head.lane.tenant).get(),
                lanes: Vec::new(),
                given: 0,
                quota: 0,
            });
            waiting.head = waiting.head.min(head.id);
            waiting.lanes.push(head);
        }
        Self { tenants, left: left.min(pass.most), is_aged: pass.is_aged, taken: Vec::new() }
    }

    fn next_round(&mut self, room: &Room<'_>) -> Option<Round> {
        self.tenants.retain(|_, waiting| {
            waiting.lanes.retain(|head| room.has(&head.lane));
            !waiting.lanes.is_empty()
        });
        self.share_out(room.permits);
        let tenants = self.tenants.values().filter(|waiting| waiting.quota > 0);
        let lanes = tenants.flat_map(|waiting| {
            waiting.lanes.iter().map(|QueuedTask { id, lane }| Quota {
                lane: lane.clone(),
                head: *id,
                of_tenant: waiting.quota,
                of_type: room.permits.of_type(&lane.task_type),
                of_lane: room.limits.of(&lane.task_type, &lane.tenant) as u64,
            })
        });
        let lanes: Vec<_> = lanes.collect();
        let priority = lanes.first()?.lane.priority;
        Some(Round { priority, lanes })
    }

    /// Deals out what is left, as if every tenant had tasks without end.
    fn share_out(&mut self, permits: &Permits) {
        let mut next: BinaryHeap<_> = BinaryHeap::with_capacity(self.tenants.len());
        for (tenant, waiting) in &mut self.tenants {
            waiting.quota = 0;
            next.push(Reverse((waiting.turn(waiting.given + 1), waiting.head, tenant.clone())));
        }
        for _ in 0..self.left {
            let Some(Reverse((_, head, tenant))) = next.pop() else {
                break;
            };
            if let Some(waiting) = self.tenants.get_mut(&tenant) {
                waiting.quota += 1;
                if waiting.quota < permits.of_tenant(&tenant) {
                    let turn = waiting.turn(waiting.given + waiting.quota + 1);
                    next.push(Reverse((turn, head, tenant)));
                }
            }
        }
    }

    fn fetched(&mut self, mut tasks: Vec<T>, room: &mut Room<'_>) {
        // Whoever was asked has no more. So each round takes something or asks fewer.
        if tasks.is_empty() {
            return self.tenants.retain(|_, waiting| waiting.quota == 0);
        }
        tasks.sort_unstable_by_key(Fetched::id);
        self.left = self.left.saturating_sub(tasks.len());
        let mut given: HashMap<TenantId, u64> = HashMap::new();
        for task in tasks {
            room.take(task.tenant(), task.task_type());
            let number = given.entry(task.tenant().clone()).or_default();
            *number += 1;
            if let Some(waiting) = self.tenants.get(task.tenant()) {
                let turn = waiting.turn(waiting.given + *number);
                self.taken.push((turn, waiting.head, task));
            }
        }
        self.tenants.retain(|tenant, waiting| {
            let number = given.get(tenant).copied().unwrap_or(0);
            waiting.given += number;
            // Who gave less than asked for has no more, unless a limit held some of it back.
            let mut lanes = waiting.lanes.iter().map(|head| &head.lane);
            let is_limited = lanes.any(|lane| room.is_limited(&lane.task_type));
            number == waiting.quota || is_limited
        });
    }

    fn in_order(mut self) -> impl Iterator<Item = T> {
        self.taken.sort_by_key(|(turn, head, task)| (*turn, *head, task.id()));
        self.taken.into_iter().map(|(_, _, task)| task)
    }
}

#[cfg(test)]
mod tests;
