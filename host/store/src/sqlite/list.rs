//! Which tasks match a filter.
//!
//! The statement is put together from fixed words; every value is a bound parameter. Each state that a filter names is a branch of
//! its own with the index that suits it, because no one index keeps all states in the order of ids without costing every task two
//! more writes. A branch yields at most a page, so the merge of all of them is small.

use sqlx::{QueryBuilder, Sqlite};
use taskforge_domain::{Priority, TaskId, TaskState, TenantId};

use super::param::{task_id, time, word_array};
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
    let named = if filter.states.is_empty() {
        &TaskState::ALL[..]
    } else {
        &filter.states
    };
    let states: Vec<_> = named
        .iter()
        .copied()
        .filter(|state| state.is_terminal())
        .collect();
    (!states.is_empty()).then(|| TaskFilter {
        states,
        ..filter.clone()
    })
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
    let mut branches: Vec<String> = Vec::new();
    for state in TaskState::ALL {
        if filter.states.contains(&state) {
            branches.extend(sources(state));
        }
    }
    if branches.is_empty() {
        // A walk along the primary key.
        branches.push("tasks not indexed where true".into());
    }
    out.push("select id from (");
    for (n, source) in branches.into_iter().enumerate() {
        out.push(if n == 0 {
            "select * from (select id from "
        } else {
            " union all select * from (select id from "
        });
        out.push(source);
        push_conditions(out, tenant, filter, direction, after);
        out.push(direction.order()).push_bind(i64::from(limit)).push(")");
    }
    out.push(")").push(direction.order()).push_bind(i64::from(limit));
}

/// Where the tasks of a state are found. The words are ours, not a caller's: an index that holds only some states can be used
/// only by a statement that spells them out.
fn sources(state: TaskState) -> Vec<String> {
    match state {
        TaskState::Scheduled | TaskState::Failed | TaskState::Cancelled => vec![format!(
            "tasks indexed by tasks_rare where state in ('scheduled', 'failed', 'cancelled') and state = '{state}'"
        )],
        // Its index is by priority first, so each priority is a range in the order of ids.
        TaskState::Pending => (Priority::MIN.get()..=Priority::MAX.get())
            .map(|priority| {
                format!("tasks indexed by tasks_pending where state = 'pending' and priority = {priority}")
            })
            .collect(),
        // As many as there are slots in the fleet.
        TaskState::Running => vec!["tasks indexed by tasks_running where state = 'running'".into()],
        TaskState::Completed => vec!["tasks not indexed where state = 'completed'".into()],
    }
}

fn push_conditions(
    out: &mut QueryBuilder<Sqlite>,
    tenant: &TenantId,
    filter: &TaskFilter,
    direction: Direction,
    after: Option<TaskId>,
) {
    out.push(" and tenant = ").push_bind(tenant.as_str().to_owned());
    if let Some(after) = after {
        out.push(if direction == Direction::NewestFirst {
            " and id < "
        } else {
            " and id > "
        });
        out.push_bind(task_id(after));
    }
    if !filter.types.is_empty() {
        let types = word_array(filter.types.iter().map(|name| name.as_str()));
        out.push(" and task_type in (select value from json_each(")
            .push_bind(types)
            .push("))");
    }
    if !filter.error_kinds.is_empty() {
        let kinds = word_array(filter.error_kinds.iter().map(|kind| kind.as_str()));
        out.push(" and error_kind in (select value from json_each(")
            .push_bind(kinds)
            .push("))");
    }
    if let Some(from) = filter.created_from {
        out.push(" and created_at >= ").push_bind(time(from));
    }
    if let Some(before) = filter.created_before {
        out.push(" and created_at < ").push_bind(time(before));
    }
}
