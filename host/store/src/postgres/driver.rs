//! What the code in `sql/` needs to know of PostgreSQL: how [`crate::sql`] says it is used.

use sqlx::Connection as _;
pub(super) use sqlx::{
    PgConnection as Connection, PgTransaction as Transaction, Postgres as Database,
    postgres::PgRow as Row,
};
use taskforge_domain::TaskState;
use uuid::Uuid;

use super::row::running_columns;
pub(super) use super::{
    PostgresStore as Driver,
    connect::{read, run, run_once},
    fault::{Attempted, Fault},
};
use crate::{StoreError, TaskFilter};

/// What a statement fails with when this crate refuses it.
pub(super) fn fault(error: StoreError) -> Fault {
    error.into()
}

/// Begins a transaction that writes.
pub(super) async fn begin(connection: &mut Connection) -> Attempted<Transaction<'_>> {
    Ok(connection.begin().await?)
}

/// Begins a transaction in which every read is of one moment.
pub(super) async fn snapshot(connection: &mut Connection) -> Attempted<Transaction<'_>> {
    let begin = "begin transaction isolation level repeatable read, read only";
    Ok(connection.begin_with(begin).await?)
}

/// A whole number, however wide its column is: the driver reads as many bytes as came.
pub(super) fn integer(row: &Row, column: usize) -> Attempted<i64> {
    Ok(sqlx::Row::try_get_unchecked(row, column)?)
}

/// A parameter for [`any_id`].
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> Vec<Uuid> {
    ids.into_iter().copied().collect()
}

/// A parameter for [`any_id`] where the column has bytes.
pub(super) fn blobs<'a>(blobs: impl IntoIterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    blobs.into_iter().collect()
}

/// A parameter for [`ANY`].
pub(super) fn values<T>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    values.into_iter().collect()
}

/// Before and after a parameter: that a column has one of its values.
pub(super) const ANY: (&str, &str) = (" = any (", ")");
/// The same of ids and bytes.
pub(super) const ANY_ID: (&str, &str) = ANY;
/// Before and after a query: that a column has one of its values. They are found first, so that
/// each is looked up in the index.
pub(super) const AMONG: (&str, &str) = (" = any (array(", "))");

macro_rules! any_id {
    ($parameter:literal) => {
        concat!(" = any (", $parameter, ")")
    };
}
macro_rules! among {
    ($query:expr) => {
        concat!(" = any (array(", $query, "))")
    };
}
/// The greatest of some ids, which this database compares only as text.
macro_rules! max_id {
    ($column:literal) => {
        concat!("max(", $column, "::text)::uuid")
    };
}
/// Locks what a query reads until the transaction ends.
macro_rules! for_update {
    () => {
        " for update"
    };
}
/// The same, without what somebody else has locked.
macro_rules! for_update_skip_locked {
    () => {
        " for update skip locked"
    };
}
/// The table of tasks where the planner has to find those that run.
macro_rules! running_tasks {
    () => {
        "tasks"
    };
}
/// The columns of a task.
macro_rules! select_task {
    () => {
        "select tasks.id, tenant, task_type, state, priority, attempt, max_retries, retry_base_ms, retry_cap_ms, input,
                (select output from attempts
                 where attempts.task_id = tasks.id and attempts.run_lease = tasks.run_lease and tasks.state = 'completed') as output,
                error_kind, error_message, progress, progress_note, case state when 'running' then worker end as worker, run_lease,
                created_at, run_at, started_at, finished_at, lapses
         from tasks"
    };
}
pub(super) use {
    among, any_id, for_update, for_update_skip_locked, max_id, running_tasks, select_task,
};

/// Each state from its own index. As text, because this database knows no least UUID; the order is
/// the same. Completed and cancelled tasks have no part in it, so a year of them costs nothing.
pub(super) const COUNTS: &str = "
    select task_type, 'pending', count(*), min(id::text collate \"C\")::uuid
    from tasks where state = 'pending' group by task_type
    union all
    select task_type, 'running', count(*), null from tasks where state = 'running' group by task_type
    union all
    select task_type, 'scheduled', count(*), null from tasks where state = 'scheduled' group by task_type
    union all
    select task_type, 'failed', count(*), null from tasks where state = 'failed' group by task_type";

/// Gives tasks another input.
pub(super) const SET_INPUT: &str = "update tasks set input = $2 where id = any ($1)";

/// What hangs by a task goes with it.
pub(super) const DELETE_DEPENDENTS: &[&str] = &[
    "delete from attempts where task_id = any ($1)",
    "delete from events where task_id = any ($1)",
];

/// Where the tasks of a state are found, or of all states.
pub(super) fn tasks_of(state: Option<TaskState>, _: &TaskFilter) -> String {
    state
        .map_or_else(|| "tasks where true".into(), |state| format!("tasks where state = '{state}'"))
}

/// Where dead letters are counted.
pub(super) const DEAD: &str = "tasks where state = 'failed'";

/// A tenant's lanes: in between comes the tenant, twice; then a page of the tasks of each lane,
/// which are found in the one before the last.
pub(super) const TENANT_LANES: [&str; 5] = [
    "with recursive lane as ((select task_type, priority from tasks where state = 'pending' and tenant = ",
    " order by task_type, priority limit 1)
      union all
      select next.* from lane cross join lateral (
          select task_type, priority from tasks where state = 'pending' and tenant = ",
    " and (task_type, priority) > (lane.task_type, lane.priority) order by task_type, priority limit 1) as next)
      select found.id from lane cross join lateral (",
    "tasks where state = 'pending' and tasks.task_type = lane.task_type and tasks.priority = lane.priority",
    ") as found",
];

/// Begins a new term if the last is over, prolongs it if it is the caller's own. Answers with
/// nothing while another leads.
pub(super) const LEAD: &str = "
    insert into leadership (name, holder, term, expires_at) values ('sweep', $1, 1, $3)
    on conflict (name) do update
    set holder = excluded.holder,
        expires_at = excluded.expires_at,
        term = leadership.term + (leadership.holder is distinct from excluded.holder)::integer
    where leadership.holder = excluded.holder or leadership.holder is null or leadership.expires_at <= $2
    returning term";

/// The term stays, so that the next one is another.
pub(super) const RESIGN: &str =
    "update leadership set holder = null where name = 'sweep' and term = $1";

/// Holds the term until the end of the transaction: who wants to begin the next one waits for that
/// long. A term ends with a resignation.
pub(super) const HOLD: &str =
    "select 1 from leadership where name = 'sweep' and term = $1 and holder is not null for share";

/// Running tasks whose worker has lapsed or is gone: those in the gaps between the workers that
/// live. What those have run is never looked at, be it alive or the dead entries of a busy day, and
/// that is nearly all.
pub(super) const LAPSED: &str = concat!(
    "with alive as (
         select id from workers where lapsed_at is null
     ), gap as (
         select coalesce(lag(id) over (order by id), '00000000-0000-0000-0000-000000000000') as low, id as high from alive
         union all
         select coalesce((select id from alive order by id desc limit 1), '00000000-0000-0000-0000-000000000000'),
                'ffffffff-ffff-ffff-ffff-ffffffffffff'
     )
     select ",
    running_columns!(),
    " from gap cross join lateral (
         select * from tasks where state = 'running' and worker > gap.low and worker < gap.high limit $1) as tasks
     limit $1"
);
