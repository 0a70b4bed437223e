//! Which tasks match a filter.
//!
//! The statement is put together from fixed words; every value is a bound parameter. Each state
//! that a filter names is a branch of its own with the index that suits it, because no one index
//! keeps all states in the order of ids without costing every task two more writes. A branch yields
//! at most a page, so the merge of all of them is small.

use sqlx::{QueryBuilder, Sqlite};
use taskforge_domain::{TaskId, TaskState, TenantId};

use super::param::{RowText, id_array, task_id, time, word_array};
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

/// Appends a query for the ids of at most `limit` tasks that match, beyond `after`.
pub(super) fn push_ids(
    out: &mut QueryBuilder<Sqlite>,
    tenant: &TenantId,
    filter: &TaskFilter,
    direction: Direction,
    after: Option<TaskId>,
    limit: u32,
) {
    let mut branches: Vec<Branch> = Vec::new();
    if filter.ids.is_empty() {
        let named = TaskState::ALL.into_iter().filter(|state| filter.states.contains(state));
        branches.extend(named.map(|state| branch(state, filter)));
    }
    if branches.is_empty() {
        // A walk along the primary key, or straight to the ids.
        branches.push(Branch::Rows(TASKS));
    }
    out.push("select id from (");
    for (n, branch) in branches.into_iter().enumerate() {
        out.push(if n == 0 { "select * from (" } else { " union all select * from (" });
        let push_rows = |out: &mut QueryBuilder<Sqlite>, source: &str| {
            out.push("select id from ").push(source);
            push_conditions(out, tenant, filter);
            push_cursor(out, direction, after);
            out.push(direction.order()).push_bind(i64::from(limit));
        };
        match branch {
            Branch::Rows(source) => push_rows(out, source),
            Branch::Lanes => {
                out.push(TENANT_LANES_BEFORE).push_bind(tenant.as_str().to_owned());
                out.push(TENANT_LANES).push_bind(tenant.as_str().to_owned());
                out.push(TENANT_LANES_AFTER);
                push_rows(out, LANE_TASKS);
                out.push("))) as page").push(direction.order()).push_bind(i64::from(limit));
            }
        }
        out.push(")");
    }
    out.push(")").push(direction.order()).push_bind(i64::from(limit));
}

/// Where the tasks of a state are found.
enum Branch {
    /// In the order of ids. The words are ours, not a caller's: an index that holds only some
    /// states can be used only by a statement that spells them out.
    Rows(&'static str),
    /// In each lane of the tenant, and there in the order of ids.
    Lanes,
}

const TASKS: &str = "tasks not indexed where true";

fn branch(state: TaskState, filter: &TaskFilter) -> Branch {
    match state {
        TaskState::Pending => Branch::Lanes,
        TaskState::Scheduled => Branch::Rows(
            "tasks indexed by tasks_rare where state in ('scheduled', 'failed', 'cancelled') and state = 'scheduled'",
        ),
        TaskState::Cancelled => Branch::Rows(
            "tasks indexed by tasks_rare where state in ('scheduled', 'failed', 'cancelled') and state = 'cancelled'",
        ),
        TaskState::Failed if filter.fingerprints.is_empty() => Branch::Rows(
            "tasks indexed by tasks_rare where state in ('scheduled', 'failed', 'cancelled') and state = 'failed'",
        ),
        // Not in the order of ids, but only those that match.
        TaskState::Failed => Branch::Rows(DEAD),
        // As many as there are slots in the fleet.
        TaskState::Running => {
            Branch::Rows("tasks indexed by tasks_running where state = 'running'")
        }
        TaskState::Completed => Branch::Rows("tasks not indexed where state = 'completed'"),
    }
}

const DEAD: &str = "tasks indexed by tasks_dead where state = 'failed'";

/// Where dead letters are counted.
pub(super) fn dead_source(filter: &TaskFilter) -> &'static str {
    if filter.ids.is_empty() { DEAD } else { TASKS }
}

/// Jumps from lane to lane of one tenant, as [`super::lanes`] does, and takes a page of each.
const TENANT_LANES_BEFORE: &str = "
    with recursive heads (id) as (
        select * from (select id from tasks indexed by tasks_lanes where state = 'pending' and tenant = ";
const TENANT_LANES: &str = " order by task_type, priority limit 1)
        union all
        select (select next.id from tasks as next indexed by tasks_lanes
                where next.state = 'pending'
                  and (next.task_type, next.priority, next.id)
                      > (+head.task_type, +head.priority, x'ffffffffffffffffffffffffffffffffff')
                  and next.tenant = ";
const TENANT_LANES_AFTER: &str = "
                order by next.task_type, next.priority, next.id limit 1)
        from heads cross join tasks as head on head.id = heads.id)
    select unhex(page.value) as id
    from heads cross join tasks as lane on lane.id = heads.id
    cross join json_each((select json_group_array(hex(id)) from (";
const LANE_TASKS: &str = "tasks indexed by tasks_lanes
    where tasks.state = 'pending' and tasks.task_type = lane.task_type and tasks.priority = lane.priority";

/// Appends what the filter asks of a task. Columns are named with their table, because a lane
/// stands beside it.
pub(super) fn push_conditions(
    out: &mut QueryBuilder<Sqlite>,
    tenant: &TenantId,
    filter: &TaskFilter,
) {
    out.push(" and tasks.tenant = ").push_bind(tenant.as_str().to_owned());
    if !filter.ids.is_empty() {
        out.push(" and tasks.id in (select unhex(value) from json_each(")
            .push_bind(id_array(&filter.ids))
            .push("))");
        // Otherwise each branch is of one state.
        if !filter.states.is_empty() {
            push_one_of(out, "state", word_array(filter.states.iter().map(|state| state.as_str())));
        }
    }
    if !filter.types.is_empty() {
        push_one_of(out, "task_type", word_array(filter.types.iter().map(|name| name.as_str())));
    }
    if !filter.error_kinds.is_empty() {
        push_one_of(
            out,
            "error_kind",
            word_array(filter.error_kinds.iter().map(|kind| kind.as_str())),
        );
    }
    if !filter.fingerprints.is_empty() {
        let numbers = filter
            .fingerprints
            .iter()
            .fold(RowText::new(), |row, fingerprint| row.int(fingerprint.to_i64()));
        push_one_of(out, "error_fingerprint", numbers.finish());
    }
    let bounds = [
        (" and tasks.created_at >= ", filter.created_from),
        (" and tasks.created_at < ", filter.created_before),
        (" and tasks.finished_at >= ", filter.finished_from),
        (" and tasks.finished_at < ", filter.finished_before),
    ];
    for (bound, at) in bounds {
        if let Some(at) = at {
            out.push(bound).push_bind(time(at));
        }
    }
}

fn push_one_of(out: &mut QueryBuilder<Sqlite>, column: &str, array: String) {
    out.push(" and tasks.").push(column);
    out.push(" in (select value from json_each(").push_bind(array).push("))");
}

fn push_cursor(out: &mut QueryBuilder<Sqlite>, direction: Direction, after: Option<TaskId>) {
    if let Some(after) = after {
        out.push(match direction {
            Direction::NewestFirst => " and tasks.id < ",
            Direction::OldestFirst => " and tasks.id > ",
        });
        out.push_bind(task_id(after));
    }
}
