//! Which tasks match a filter.
//!
//! The statement is put together from fixed words; every value is a bound parameter. Each state
//! that a filter names is a branch of its own with the index that suits it, because no one index
//! keeps all states in the order of ids without costing every task two more writes. A branch yields
//! at most a page, so the merge of all of them is small.

use sqlx::QueryBuilder;
use taskforge_domain::{Fingerprint, TaskId, TaskState, TenantId};

use super::{
    driver::{AMONG, ANY, ANY_ID, Database, TENANT_LANES, ids, tasks_of, values},
    param::time,
};
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

/// The filter narrowed to some states; `None` if it names only others.
pub(super) fn narrowed(filter: &TaskFilter, to: fn(TaskState) -> bool) -> Option<TaskFilter> {
    let named = if filter.states.is_empty() { &TaskState::ALL[..] } else { &filter.states };
    let states: Vec<_> = named.iter().copied().filter(|state| to(*state)).collect();
    (!states.is_empty()).then(|| TaskFilter { states, ..filter.clone() })
}

/// Appends that a column has the id of one of at most `limit` tasks that match, beyond `after`.
pub(super) fn push_among(
    out: &mut QueryBuilder<Database>,
    tenant: &TenantId,
    filter: &TaskFilter,
    direction: Direction,
    after: Option<TaskId>,
    limit: u32,
) {
    let push_page = |out: &mut QueryBuilder<Database>| {
        out.push(direction.order()).push_bind(i64::from(limit));
    };
    let push_tasks = |out: &mut QueryBuilder<Database>, source: &str| {
        out.push("select id from ").push(source);
        push_conditions(out, tenant, filter);
        if let Some(after) = after {
            out.push(match direction {
                Direction::NewestFirst => " and tasks.id < ",
                Direction::OldestFirst => " and tasks.id > ",
            });
            out.push_bind(*after.as_uuid());
        }
        push_page(out);
    };
    let named = TaskState::ALL.into_iter().filter(|state| filter.states.contains(state));
    let mut states: Vec<_> = named.map(Some).collect();
    if states.is_empty() || !filter.ids.is_empty() {
        // A walk along the primary key, or straight to the ids.
        states = vec![None];
    }
    out.push(AMONG.0).push("select id from (");
    for (n, state) in states.into_iter().enumerate() {
        out.push(if n == 0 { "select * from (" } else { " union all select * from (" });
        if state == Some(TaskState::Pending) {
            // Their index is by lane first, so each lane is a range in the order of ids. There are
            // few lanes, and there may be a million tasks in each.
            let [first, next, each, tasks, end] = TENANT_LANES;
            out.push(first).push_bind(tenant.as_str());
            out.push(next).push_bind(tenant.as_str()).push(each);
            push_tasks(out, tasks);
            out.push(end);
            push_page(out);
        } else {
            push_tasks(out, &tasks_of(state, filter));
        }
        out.push(") as branch");
    }
    out.push(") as matching");
    push_page(out);
    out.push(AMONG.1);
}

/// Appends what the filter asks of a task; of its state only if the filter has ids, because each
/// branch is of one state otherwise. Columns are named with their table, because a lane stands
/// beside it.
pub(super) fn push_conditions(
    out: &mut QueryBuilder<Database>,
    tenant: &TenantId,
    filter: &TaskFilter,
) {
    out.push(" and tasks.tenant = ").push_bind(tenant.as_str());
    if !filter.ids.is_empty() {
        let ids = ids(filter.ids.iter().map(TaskId::as_uuid));
        out.push(" and tasks.id").push(ANY_ID.0).push_bind(ids).push(ANY_ID.1);
        if !filter.states.is_empty() {
            let states = values(filter.states.iter().map(|state| state.as_str()));
            out.push(" and tasks.state").push(ANY.0).push_bind(states).push(ANY.1);
        }
    }
    if !filter.types.is_empty() {
        let types = values(filter.types.iter().map(|name| name.as_str()));
        out.push(" and tasks.task_type").push(ANY.0).push_bind(types).push(ANY.1);
    }
    if !filter.error_kinds.is_empty() {
        let kinds = values(filter.error_kinds.iter().map(|kind| kind.as_str()));
        out.push(" and tasks.error_kind").push(ANY.0).push_bind(kinds).push(ANY.1);
    }
    if !filter.fingerprints.is_empty() {
        let fingerprints = values(filter.fingerprints.iter().copied().map(Fingerprint::to_i64));
        out.push(" and tasks.error_fingerprint").push(ANY.0).push_bind(fingerprints).push(ANY.1);
    }
    for (condition, bound) in [
        (" and tasks.created_at >= ", filter.created_from),
        (" and tasks.created_at < ", filter.created_before),
        (" and tasks.finished_at >= ", filter.finished_from),
        (" and tasks.finished_at < ", filter.finished_before),
    ] {
        if let Some(bound) = bound {
            out.push(condition).push_bind(time(bound));
        }
    }
}
