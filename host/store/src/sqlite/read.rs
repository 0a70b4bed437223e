//! The read side: a task, a page, a history, the counts.

use sqlx::{QueryBuilder, Row, Sqlite, SqliteExecutor, SqlitePool, sqlite::SqliteRow};
use taskforge_domain::{
    Attempt, Event, Failure, FailureKind, LogLine, Outcome, Progress, RunLease, Task, TaskError,
    TaskId, TaskState, TenantId, Usage,
};

use super::{
    list::{self, Direction},
    param::task_id,
    row,
};
use crate::{Counts, History, Page, StoreResult, TaskFilter, report};

/// What [`read_task`] reads. A completed task's result is the output of the attempt that completed
/// it.
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

/// A task of another tenant is not there.
const TASK: &str = concat!(select_task!(), " where tenant = ?1 and tasks.id = ?2");

/// By lease, which is the order in time.
const ATTEMPTS: &str = "
    select task_id, run_lease, number, worker, plugin_version, plugin_digest, started_at, finished_at, failure_kind,
           failure_message, retry_after_ms, output, fuel, peak_memory, wall_micros, host_calls, http_requests, http_bytes, logs
    from attempts where task_id = ?1 order by run_lease";

/// In the order in which they were written.
const EVENTS: &str =
    "select at, kind, run_lease, detail from events where task_id = ?1 order by seq";

/// From indexes alone, each of which holds one state and has the type in it; what runs is few. The
/// inner groups are those that the index has side by side, so that nothing is sorted but their
/// sums.
const COUNTS: &str = "
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

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[TASK, ATTEMPTS, EVENTS, COUNTS];

pub(super) async fn task<'e>(
    executor: impl SqliteExecutor<'e>,
    tenant: &TenantId,
    id: TaskId,
) -> StoreResult<Option<Task>> {
    let query = sqlx::query(TASK).bind(tenant.as_str().to_owned()).bind(task_id(id));
    query.fetch_optional(executor).await?.as_ref().map(read_task).transpose()
}

pub(super) async fn page(
    readers: &SqlitePool,
    tenant: &TenantId,
    filter: &TaskFilter,
    page: Page,
) -> StoreResult<Vec<Task>> {
    let after = page.after.map(|cursor| cursor.0);
    let mut statement: QueryBuilder<Sqlite> =
        QueryBuilder::new(concat!(select_task!(), " where tasks.id in ("));
    list::push_ids(&mut statement, tenant, filter, Direction::NewestFirst, after, page.limit);
    statement.push(") order by tasks.id desc");
    statement.build().fetch_all(readers).await?.iter().map(read_task).collect()
}

pub(super) async fn history(
    readers: &SqlitePool,
    tenant: &TenantId,
    id: TaskId,
) -> StoreResult<Option<History>> {
    // One transaction, so that the three reads are of one moment.
    let mut snapshot = readers.begin().await?;
    let row = sqlx::query(TASK).bind(tenant.as_str().to_owned()).bind(task_id(id));
    let Some(row) = row.fetch_optional(&mut *snapshot).await? else {
        return Ok(None);
    };
    let attempts = sqlx::query(ATTEMPTS).bind(task_id(id)).fetch_all(&mut *snapshot).await?;
    let events = sqlx::query(EVENTS).bind(task_id(id)).fetch_all(&mut *snapshot).await?;
    Ok(Some(History {
        task: read_task(&row)?,
        attempts: attempts.iter().map(read_attempt).collect::<StoreResult<_>>()?,
        events: events.iter().map(read_event).collect::<StoreResult<_>>()?,
        log: read_report(&row)?.1,
    }))
}

pub(super) async fn counts(readers: &SqlitePool) -> StoreResult<Counts> {
    let rows = sqlx::query(COUNTS).fetch_all(readers).await?;
    let by_type =
        rows.iter().map(|row| Ok((row::word(row, 0)?, row::word(row, 1)?, row::number(row, 2)?)));
    let mut oldest_pending = Vec::new();
    for row in &rows {
        if row.try_get::<Option<&[u8]>, _>(3)?.is_some() {
            oldest_pending.push((row::word(row, 0)?, row::task_id(row, 3)?));
        }
    }
    Ok(Counts { by_type: by_type.collect::<StoreResult<_>>()?, oldest_pending })
}

fn read_task(row: &SqliteRow) -> StoreResult<Task> {
    let error = row::optional_word::<FailureKind>(row, 11)?;
    let error = match error {
        Some(kind) => Some(TaskError { kind, message: row::text(row, 12)? }),
        None => None,
    };
    let (progress, _) = read_report(row)?;
    let state: TaskState = row::word(row, 3)?;
    Ok(Task {
        id: row::task_id(row, 0)?,
        tenant: row::word(row, 1)?,
        task_type: row::word(row, 2)?,
        state,
        priority: row::priority(row, 4)?,
        attempt: row::number(row, 5)?,
        lapses: row::number(row, 21)?,
        retry: row::retry(row, 6)?,
        input: row::json(row, 9)?,
        result: row::optional_json(row, 10)?,
        error,
        progress,
        worker: match state {
            TaskState::Running => Some(row::worker_id(row, 15)?),
            _ => None,
        },
        run_lease: RunLease(row.try_get(16)?),
        created_at: row::time(row, 17)?,
        run_at: row::time(row, 18)?,
        started_at: row::optional_time(row, 19)?,
        finished_at: row::optional_time(row, 20)?,
    })
}

/// What the running attempt has said.
fn read_report(row: &SqliteRow) -> StoreResult<(Option<Progress>, Vec<LogLine>)> {
    Ok(report::read(row.try_get(13)?, row::optional_text(row, 14)?))
}

fn read_attempt(row: &SqliteRow) -> StoreResult<Attempt> {
    let outcome = match row::optional_word(row, 8)? {
        None => Outcome::Completed(row::json(row, 11)?),
        Some(kind) => {
            let retry_after: Option<i64> = row.try_get(10)?;
            Outcome::Failed(Failure {
                kind,
                message: row::text(row, 9)?,
                retry_after: retry_after
                    .map(|ms| std::time::Duration::from_millis(ms.unsigned_abs())),
            })
        }
    };
    let logs: Vec<LogLine> = match row::optional_text(row, 18)? {
        Some(lines) => {
            serde_json::from_str(&lines).map_err(|error| row::corrupt(row, 18, error))?
        }
        None => Vec::new(),
    };
    Ok(Attempt {
        task: row::task_id(row, 0)?,
        run_lease: RunLease(row.try_get(1)?),
        number: row::number(row, 2)?,
        worker: row::worker_id(row, 3)?,
        plugin_version: row::text(row, 4)?,
        plugin_digest: row::digest(row, 5)?,
        started_at: row::time(row, 6)?,
        finished_at: row::time(row, 7)?,
        outcome,
        usage: Usage {
            fuel: row::number(row, 12)?,
            peak_memory: row::number(row, 13)?,
            wall_micros: row::number(row, 14)?,
            host_calls: row::number(row, 15)?,
            http_requests: row::number(row, 16)?,
            http_bytes: row::number(row, 17)?,
        },
        logs,
    })
}

fn read_event(row: &SqliteRow) -> StoreResult<Event> {
    Ok(Event {
        at: row::time(row, 0)?,
        kind: row::word(row, 1)?,
        run_lease: RunLease(row.try_get(2)?),
        detail: row::text(row, 3)?,
    })
}
