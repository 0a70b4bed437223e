//! Which tasks match a filter.
//!
//! The statement is put together from fixed words; every value is a bound parameter. Each state
//! that a filter names is a branch of its own with the index that suits it, because no one index
//! keeps all states in the order of ids without costing every task two more writes. A branch yields
//! at most a page, so the merge of all of them is small.

use sqlx::{Postgres, QueryBuilder};
use taskforge_domain::{Fingerprint, TaskId, TaskState, TenantId};

use super::param::time;
use crate::TaskFilter;

/// Which end of the list comes first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    NewestFirst,
    OldestFirst,
}

impl Direction {
    const fn order(self) -> &'static str {
        match self {
            Self::NewestFirst => " order by id desc limit ",
            Self::OldestFirst => " order by id limit ",
        }
    }
}

/// The filter narrowed to states that have ended; `None` if it names only others.
pub(super) fn only_ended(filter: &TaskFilter) -> Option<TaskFilter> {
    let named = if filter.states.is_empty() { &TaskState::ALL[..] } else { &filter.states };
    let states: Vec<_> = named.iter().copied().filter(|state| state.is_terminal()).collect();
    (!states.is_empty()).then(|| TaskFilter { states, ..filter.clone() })
}

/// Appends a query for the ids of at most `limit` tasks that match, beyond `after`.
pub(super) fn push_ids(
    out: &mut QueryBuilder<Postgres>,
    tenant: &TenantId,
    filter: &TaskFilter,
    direction: Direction,
    after: Option<TaskId>,
    limit: u32,
) {
    let mut branches: Vec<Option<TaskState>> = TaskState::ALL
        .into_iter()
        .filter(|state| filter.states.contains(state))
        .map(Some)
        .collect();
    if branches.is_empty() {
        // A walk along the primary key.
        branches.push(None);
    }
    out.push("select id from (");
    for (n, state) in branches.into_iter().enumerate() {
        out.push(if n == 0 { "(" } else { " union all (" });
        if state == Some(TaskState::Pending) {
            push_lanes(out, tenant, filter, direction, after, limit);
        } else {
            out.push("select id from tasks where ");
            match state {
                Some(state) => out.push(format_args!("state = '{state}'")),
                None => out.push("true"),
            };
            push_conditions(out, tenant, filter, direction, after);
        }
        out.push(direction.order()).push_bind(i64::from(limit)).push(")");
    }
    out.push(") as matching").push(direction.order()).push_bind(i64::from(limit));
}

/// The pending tasks: their index is by lane first, so each lane is a range in the order of ids.
/// There are few lanes, and there may be a million tasks in each.
fn push_lanes(
    out: &mut QueryBuilder<Postgres>,
    tenant: &TenantId,
    filter: &TaskFilter,
    direction: Direction,
    after: Option<TaskId>,
    limit: u32,
) {
    out.push("with recursive lane as ((select task_type, priority from tasks where state = 'pending' and tenant = ")
        .push_bind(tenant.as_str())
        .push(
            " order by task_type, priority limit 1)
              union all
              select next.* from lane cross join lateral (
                  select task_type, priority from tasks where state = 'pending' and tenant = ",
        )
        .push_bind(tenant.as_str())
        .push(
            " and (task_type, priority) > (lane.task_type, lane.priority) order by task_type, priority limit 1) as next)
              select found.id from lane cross join lateral (
                  select id from tasks
                  where state = 'pending' and task_type = lane.task_type and priority = lane.priority",
        );
    push_conditions(out, tenant, filter, direction, after);
    out.push(direction.order()).push_bind(i64::from(limit)).push(") as found");
}

/// Appends everything but the states.
pub(super) fn push_conditions(
    out: &mut QueryBuilder<Postgres>,
    tenant: &TenantId,
    filter: &TaskFilter,
    direction: Direction,
    after: Option<TaskId>,
) {
    out.push(" and tenant = ").push_bind(tenant.as_str());
    if let Some(after) = after {
        out.push(if direction == Direction::NewestFirst { " and id < " } else { " and id > " });
        out.push_bind(*after.as_uuid());
    }
    if !filter.ids.is_empty() {
        let ids: Vec<_> = filter.ids.iter().map(|id| *id.as_uuid()).collect();
        out.push(" and id = any (").push_bind(ids).push(")");
    }
    if !filter.types.is_empty() {
        let types: Vec<_> = filter.types.iter().map(|name| name.as_str()).collect();
        out.push(" and task_type = any (").push_bind(types).push(")");
    }
    if !filter.error_kinds.is_empty() {
        let kinds: Vec<_> = filter.error_kinds.iter().map(|kind| kind.as_str()).collect();
        out.push(" and error_kind = any (").push_bind(kinds).push(")");
    }
    if !filter.fingerprints.is_empty() {
        let fingerprints: Vec<_> =
            filter.fingerprints.iter().copied().map(Fingerprint::to_i64).collect();
        out.push(" and error_fingerprint = any (").push_bind(fingerprints).push(")");
    }
    for (condition, bound) in [
        (" and created_at >= ", filter.created_from),
        (" and created_at < ", filter.created_before),
        (" and finished_at >= ", filter.finished_from),
        (" and finished_at < ", filter.finished_before),
    ] {
        if let Some(bound) = bound {
            out.push(condition).push_bind(time(bound));
        }
    }
}
