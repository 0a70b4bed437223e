//! The hints of one priority.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Excluded, Unbounded},
};

use taskforge_domain::{LaneLimits, TaskId, TaskType, TenantId};

use super::born;

#[derive(Debug, Default)]
pub(super) struct Level {
    /// The highest turn that was served.
    turn: u64,
    tenants: HashMap<TenantId, Share>,
    types: HashMap<TaskType, TypeLine>,
}

/// A tenant's turn in a level. It exists while the tenant has hints there.
#[derive(Debug)]
struct Share {
    turn: u64,
    /// Types of which the tenant has hints here.
    lines: usize,
}

/// The hints of one type in a level.
#[derive(Debug, Default)]
struct TypeLine {
    tenants: HashMap<TenantId, Line>,
    /// Tenants by turn. An entry may be out of date, because serving another type moves the
    /// tenant's turn too. It is corrected when it comes first, which suffices because turns only
    /// grow.
    turns: BTreeSet<(u64, TenantId)>,
    /// Tenants by the millisecond of their first hint.
    heads: BTreeSet<(u64, TenantId)>,
}

/// The hints of one lane; never empty between calls.
#[derive(Debug, Default)]
struct Line {
    /// The turn that this line's entry in [`TypeLine::turns`] carries.
    turn: u64,
    hints: BTreeSet<TaskId>,
}

impl Level {
    /// Adds a hint. `false`: it is here already.
    pub(super) fn push(
        &mut self,
        tenant: &TenantId,
        task_type: &TaskType,
        id: TaskId,
        cost: u64,
    ) -> bool {
        let types = self.types.entry(task_type.clone()).or_default();
        if let Some(line) = types.tenants.get_mut(tenant) {
            let first = line.hints.first().copied();
            if !line.hints.insert(id) {
                return false;
            }
            if let Some(first) = first.filter(|first| id < *first) {
                types.heads.remove(&(born(first), tenant.clone()));
                types.heads.insert((born(id), tenant.clone()));
            }
            return true;
        }
        let behind = self.turn + cost;
        let share = self.tenants.entry(tenant.clone()).or_insert(Share { turn: behind, lines: 0 });
        share.lines += 1;
        let line = Line { turn: share.turn, hints: BTreeSet::from([id]) };
        types.turns.insert((share.turn, tenant.clone()));
        types.heads.insert((born(id), tenant.clone()));
        types.tenants.insert(tenant.clone(), line);
        true
    }

    /// Whether a hint of this type can be taken.
    pub(super) fn has(&self, task_type: &TaskType, offers: &LaneLimits) -> bool {
        self.types.get(task_type).is_some_and(|line| {
            !offers.concern(task_type)
                || line.tenants.keys().any(|tenant| offers.of(task_type, tenant) > 0)
        })
    }

    /// How many hints a lane has.
    pub(super) fn len(&self, tenant: &TenantId, task_type: &TaskType) -> usize {
        self.line(tenant, task_type).map_or(0, |line| line.hints.len())
    }

    /// The last hint of a lane.
    pub(super) fn last(&self, tenant: &TenantId, task_type: &TaskType) -> Option<TaskId> {
        self.line(tenant, task_type)?.hints.last().copied()
    }

    fn line(&self, tenant: &TenantId, task_type: &TaskType) -> Option<&Line> {
        self.types.get(task_type)?.tenants.get(tenant)
    }

    /// When the oldest task of these types was created.
    pub(super) fn oldest(&self, types: &[TaskType], offers: &LaneLimits) -> Option<u64> {
        let heads = types.iter().filter_map(|name| {
            let mut heads = self.types.get(name)?.heads.iter();
            heads.find(|(_, tenant)| offers.of(name, tenant) > 0)
        });
        heads.map(|(since, _)| *since).min()
    }

    /// Whether this holds for the time of any type's oldest task.
    pub(super) fn any_head(&self, types: &[TaskType], holds: impl Fn(u64) -> bool) -> bool {
        types
            .iter()
            .filter_map(|name| self.types.get(name)?.heads.first())
            .any(|(since, _)| holds(*since))
    }

    /// The tenant of these types whose turn comes first.
    pub(super) fn next(&mut self, types: &[TaskType], offers: &LaneLimits) -> Option<TenantId> {
        let turns = types.iter().filter_map(|name| {
            let line = self.types.get_mut(name)?;
            line.next(&self.tenants, |tenant| offers.of(name, tenant) > 0)
        });
        turns.min().map(|(_, tenant)| tenant)
    }

    /// Takes a tenant's oldest hint of these types, and moves its turn on.
    pub(super) fn pop(
        &mut self,
        tenant: &TenantId,
        types: &[TaskType],
        cost: u64,
        offers: &LaneLimits,
    ) -> Option<(TaskId, TaskType)> {
        let (_, name) = types
            .iter()
            .filter(|name| offers.of(name, tenant) > 0)
            .filter_map(|name| Some((self.line(tenant, name)?.hints.first()?, name)))
            .min_by_key(|(id, _)| *id)?;
        let share = self.tenants.get_mut(tenant)?;
        self.turn = self.turn.max(share.turn);
        share.turn += cost;
        let id = self.remove(tenant, name, BTreeSet::pop_first)?;
        Some((id, name.clone()))
    }

    /// Removes the last hint of a lane.
    pub(super) fn remove_last(
        &mut self,
        tenant: &TenantId,
        task_type: &TaskType,
    ) -> Option<TaskId> {
        self.remove(tenant, task_type, BTreeSet::pop_last)
    }

    fn remove(
        &mut self,
        tenant: &TenantId,
        task_type: &TaskType,
        from: fn(&mut BTreeSet<TaskId>) -> Option<TaskId>,
    ) -> Option<TaskId> {
        let types = self.types.get_mut(task_type)?;
        let line = types.tenants.get_mut(tenant)?;
        let first = line.hints.first().copied()?;
        let removed = from(&mut line.hints)?;
        if line.hints.first() != Some(&first) {
            types.heads.remove(&(born(first), tenant.clone()));
            if let Some(next) = line.hints.first() {
                types.heads.insert((born(*next), tenant.clone()));
            }
        }
        if line.hints.is_empty() {
            types.turns.remove(&(line.turn, tenant.clone()));
            types.tenants.remove(tenant);
            if types.tenants.is_empty() {
                self.types.remove(task_type);
            }
            self.leave(tenant);
        }
        Some(removed)
    }

    /// A tenant has no more hints of one type.
    fn leave(&mut self, tenant: &TenantId) {
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.lines -= 1;
            if share.lines == 0 {
                self.tenants.remove(tenant);
            }
        }
    }

    /// A lane is back from aside: its tenant must not have saved up turns meanwhile.
    pub(super) fn catch_up(&mut self, tenant: &TenantId, task_type: &TaskType) {
        if self.line(tenant, task_type).is_some()
            && let Some(share) = self.tenants.get_mut(tenant)
        {
            share.turn = share.turn.max(self.turn);
        }
    }

    /// Whether its tables are empty.
    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        self.types.is_empty() && self.tenants.is_empty()
    }
}

impl TypeLine {
    /// The open tenant whose turn comes first. Corrects out-of-date turns on the way.
    fn next(
        &mut self,
        shares: &HashMap<TenantId, Share>,
        is_open: impl Fn(&TenantId) -> bool,
    ) -> Option<(u64, TenantId)> {
        let mut passed_over = None;
        loop {
            let entry = match &passed_over {
                None => self.turns.first(),
                Some(last) => self.turns.range((Excluded(last), Unbounded)).next(),
            };
            let (turn, tenant) = entry?.clone();
            let now = shares.get(&tenant)?.turn;
            if !is_open(&tenant) {
                passed_over = Some((turn, tenant));
            } else if turn == now {
                return Some((turn, tenant));
            } else {
                self.turns.remove(&(turn, tenant.clone()));
                self.tenants.get_mut(&tenant)?.turn = now;
                self.turns.insert((now, tenant));
            }
        }
    }
}
