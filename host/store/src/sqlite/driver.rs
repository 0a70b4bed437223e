//! What the code in `sql/` needs to know of SQLite: how [`crate::sql`] says it is used.

use serde::Serialize;
use sqlx::Connection as _;
pub(super) use sqlx::{
    Sqlite as Database, SqliteConnection as Connection, SqliteTransaction as Transaction,
    sqlite::SqliteRow as Row,
};
use taskforge_domain::TaskState;
use uuid::Uuid;

pub(super) use super::{
    SqliteStore as Driver,
    writer::{read, run, run as run_once},
};
use super::{
    param::{Hex, id, json},
    row::running_columns,
};
use crate::{StoreError, StoreResult, TaskFilter};

/// What a statement comes to.
pub(super) type Attempted<T> = StoreResult<T>;
pub(super) type Fault = StoreError;

/// What a statement fails with when this crate refuses it.
pub(super) const fn fault(error: StoreError) -> Fault {
    error
}

/// Begins a transaction that writes. The database's lock is taken here, not halfway through.
pub(super) async fn begin(connection: &mut Connection) -> Attempted<Transaction<'_>> {
    Ok(connection.begin_with("begin immediate").await?)
}

/// Begins a transaction in which every read is of one moment.
pub(super) async fn snapshot(connection: &mut Connection) -> Attempted<Transaction<'_>> {
    Ok(connection.begin().await?)
}

/// A whole number.
pub(super) fn integer(row: &Row, column: usize) -> Attempted<i64> {
    Ok(sqlx::Row::try_get(row, column)?)
}

/// A parameter for [`any_id`].
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> String {
    json(&ids.into_iter().map(id).collect::<Vec<_>>())
}

/// A parameter for [`any_id`] where the column has bytes.
pub(super) fn blobs<'a>(blobs: impl IntoIterator<Item = &'a [u8]>) -> String {
    json(&blobs.into_iter().map(Hex).collect::<Vec<_>>())
}

/// A parameter for [`ANY`].
pub(super) fn values<T: Serialize>(values: impl IntoIterator<Item = T>) -> String {
    json(&values.into_iter().collect::<Vec<_>>())
}

/// Before and after a parameter: that a column has one of its values.
pub(super) const ANY: (&str, &str) = (" in (select value from jsonb_each(", "))");
/// The same of ids and bytes.
pub(super) const ANY_ID: (&str, &str) = (" in (select unhex(value) from jsonb_each(", "))");
/// Before and after a query: that a column has one of its values.
pub(super) const AMONG: (&str, &str) = (" in (", ")");

macro_rules! any_id {
    ($parameter:literal) => {
        concat!(" in (select unhex(value) from jsonb_each(", $parameter, "))")
    };
}
macro_rules! among {
    ($query:expr) => {
        concat!(" in (", $query, ")")
    };
}
/// The greatest of some ids.
macro_rules! max_id {
    ($column:literal) => {
        concat!("max(", $column, ")")
    };
}
/// Nobody else writes within a transaction, so nothing has to be locked.
macro_rules! for_update {
    () => {
        ""
    };
}
macro_rules! for_update_skip_locked {
    () => {
        ""
    };
}
/// The table of tasks where the planner has to find those that run.
macro_rules! running_tasks {
    () => {
        "tasks indexed by tasks_running"
    };
}
/// The columns of a task.
macro_rules! select_task {
    () => {
        "select tasks.id, tenant, task_type, state, priority, attempt, max_retries, retry_base_ms, retry_cap_ms,
                task_inputs.input, attempts.output, error_kind, error_message, progress, progress_note,
                iif(state = 'running', tasks.worker, null) as worker, tasks.run_lease, created_at, run_at,
                tasks.started_at, tasks.finished_at, lapses
         from tasks
         join task_inputs on task_inputs.task_id = tasks.id
         left join attempts on attempts.task_id = tasks.id and attempts.run_lease = tasks.run_lease
                           and tasks.state = 'completed'"
    };
}
pub(super) use {
    among, any_id, for_update, for_update_skip_locked, max_id, running_tasks, select_task,
};

/// From indexes alone, each of which holds one state and has the type in it; what runs is few. The
/// inner groups are those that the index has side by side, so that nothing is sorted but their
/// sums.
pub(super) const COUNTS: &str = "
    select task_type, 'scheduled', count(*), null from tasks indexed by tasks_scheduled_types
    where state = 'scheduled' group by task_type
    union all
    select task_type, 'pending', sum(some), min(oldest) from (
        select task_type, count(*) as some, min(id) as oldest from tasks indexed by tasks_lanes
        where state = 'pending' group by tenant, task_type)
    group by task_type
    union all
    select task_type, 'running', count(*), null from tasks indexed by tasks_running
    where state = 'running' group by task_type
    union all
    select task_type, 'failed', sum(some), null from (
        select task_type, count(*) as some from tasks indexed by tasks_dead
        where state = 'failed' group by tenant, error_fingerprint, task_type)
    group by task_type";

/// Gives tasks another input.
pub(super) const SET_INPUT: &str =
    "update task_inputs set input = $2 where task_id in (select unhex(value) from jsonb_each($1))";

/// What hangs by a task goes with it.
pub(super) const DELETE_DEPENDENTS: &[&str] = &[
    "delete from task_inputs where task_id in (select unhex(value) from jsonb_each($1))",
    "delete from attempts where task_id in (select unhex(value) from jsonb_each($1))",
    "delete from events where task_id in (select unhex(value) from jsonb_each($1))",
];

/// Where the tasks of a state are found, or of all states. The words are ours, not a caller's: an
/// index that holds only some states can be used only by a statement that spells them out.
pub(super) fn tasks_of(state: Option<TaskState>, filter: &TaskFilter) -> String {
    match state {
        None => "tasks not indexed where true".into(),
        // Not in the order of ids, but only those that match.
        Some(TaskState::Failed) if !filter.fingerprints.is_empty() => DEAD.into(),
        Some(state @ (TaskState::Scheduled | TaskState::Failed | TaskState::Cancelled)) => format!(
            "tasks indexed by tasks_rare where state in ('scheduled', 'failed', 'cancelled') and state = '{state}'"
        ),
        Some(TaskState::Pending) => "tasks indexed by tasks_lanes where state = 'pending'".into(),
        // As many as there are permits in the process.
        Some(TaskState::Running) => "tasks indexed by tasks_running where state = 'running'".into(),
        Some(TaskState::Completed) => "tasks not indexed where state = 'completed'".into(),
    }
}

/// Where dead letters are counted: side by side in the order of their groups.
pub(super) const DEAD: &str = "tasks indexed by tasks_dead where state = 'failed'";

/// A tenant's lanes, found by jumps as [`super::lanes`] does it: in between comes the tenant,
/// twice; then a page of the tasks of each lane, which are found in the one before the last.
pub(super) const TENANT_LANES: [&str; 5] = [
    "with recursive heads (id) as (
        select * from (select id from tasks indexed by tasks_lanes where state = 'pending' and tenant = ",
    " order by task_type, priority limit 1)
        union all
        select (select next.id from tasks as next indexed by tasks_lanes
                where next.state = 'pending'
                  and (next.task_type, next.priority, next.id)
                      > (+head.task_type, +head.priority, x'ffffffffffffffffffffffffffffffffff')
                  and next.tenant = ",
    "
                order by next.task_type, next.priority, next.id limit 1)
        from heads cross join tasks as head on head.id = heads.id)
    select unhex(page.value) as id
    from heads cross join tasks as lane on lane.id = heads.id
    cross join json_each((select json_group_array(hex(id)) from (",
    "tasks indexed by tasks_lanes
     where tasks.state = 'pending' and tasks.task_type = lane.task_type and tasks.priority = lane.priority",
    "))) as page",
];

/// A vacancy, one's own term, or one whose time is up. Only a change of leader begins a new term. A
/// clock that goes back does not shorten one.
pub(super) const LEAD: &str = "
    update leadership
    set term = term + (leader is not $1), leader = $1, until = iif(leader is $1, max(until, $3), $3)
    where leader is null or leader = $1 or until <= $2
    returning term";

pub(super) const RESIGN: &str = "update leadership set leader = null where term = $1";

/// The latest term, unless its leader resigned.
pub(super) const HOLD: &str = "select 1 from leadership where term = $1 and leader is not null";

/// Running tasks whose worker has lapsed or is gone. `left join` keeps the small side, what runs,
/// outside.
pub(super) const LAPSED: &str = concat!(
    "select ",
    running_columns!(),
    " from tasks indexed by tasks_running
     left join workers on workers.id = tasks.worker
     where tasks.state = 'running' and (workers.id is null or workers.lapsed_at is not null)
     limit $1"
);
