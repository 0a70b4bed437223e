//! The read side: a task, a page, a history, the counts.

use sqlx::{Connection, PgConnection, QueryBuilder, Row, postgres::PgRow};
use taskforge_domain::{
    Attempt, Event, Failure, FailureKind, LogLine, Outcome, Progress, RunLease, Task, TaskError,
    TaskId, TaskState, TenantId, Timestamp, Usage,
};

use super::{
    fault::Attempted,
    list::{self, Direction},
    param, row,
};
use crate::{Counts, History, Page, TaskFilter, report};

/// What [`read_task`] reads. A completed task's result is the output of the attempt that completed
/// it.
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

/// A task of another tenant is not there.
const TASK: &str = concat!(select_task!(), " where tenant = $1 and tasks.id = $2");

/// By lease, which is the order in time.
const ATTEMPTS: &str = "
    select task_id, run_lease, number, worker, plugin_version, plugin_digest, started_at, finished_at, failure_kind,
           failure_message, retry_after_ms, output, fuel, peak_memory, wall_micros, host_calls, http_requests, http_bytes, logs
    from attempts where task_id = $1 order by run_lease";

/// In the order in which they were written.
const EVENTS: &str =
    "select at, kind, run_lease, detail from events where task_id = $1 order by seq";

/// Each state from its own index. As text, because this database knows no least UUID; the order is
/// the same. Completed and cancelled tasks have no part in it, so a year of them costs nothing.
pub(super) const COUNTS: &str = "
    select task_type, 'pending', count(*), min(id::text collate \"C\")
    from tasks where state = 'pending' group by task_type
    union all
    select task_type, 'running', count(*), null from tasks where state = 'running' group by task_type
    union all
    select task_type, 'scheduled', count(*), null from tasks where state = 'scheduled' group by task_type
    union all
    select task_type, 'failed', count(*), null from tasks where state = 'failed' group by task_type";

/// Not the time at which a transaction began: that would stand still in a long one.
const TIME: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";

pub(super) async fn time(connection: &mut PgConnection) -> Attempted<Timestamp> {
    row::time(&sqlx::query(TIME).fetch_one(connection).await?, 0)
}

pub(super) async fn task(
    connection: &mut PgConnection,
    tenant: &TenantId,
    id: TaskId,
) -> Attempted<Option<Task>> {
    let query = sqlx::query(TASK).bind(tenant.as_str()).bind(id.as_uuid());
    query.fetch_optional(connection).await?.as_ref().map(read_task).transpose()
}

pub(super) async fn page(
    connection: &mut PgConnection,
    tenant: &TenantId,
    filter: &TaskFilter,
    page: Page,
) -> Attempted<Vec<Task>> {
    let after = page.after.map(|cursor| cursor.0);
    let mut statement = QueryBuilder::new(concat!(select_task!(), " where tasks.id = any (array("));
    list::push_ids(&mut statement, tenant, filter, Direction::NewestFirst, after, page.limit);
    statement.push(")) order by tasks.id desc");
    statement.build().fetch_all(connection).await?.iter().map(read_task).collect()
}

pub(super) async fn history(
    connection: &mut PgConnection,
    tenant: &TenantId,
    id: TaskId,
) -> Attempted<Option<History>> {
    // One snapshot, so that the three reads are of one moment.
    let mut snapshot = connection
        .begin_with("begin transaction isolation level repeatable read, read only")
        .await?;
    let row = sqlx::query(TASK).bind(tenant.as_str()).bind(id.as_uuid());
    let Some(row) = row.fetch_optional(&mut *snapshot).await? else {
        return Ok(None);
    };
    let attempts = sqlx::query(ATTEMPTS).bind(id.as_uuid()).fetch_all(&mut *snapshot).await?;
    let events = sqlx::query(EVENTS).bind(id.as_uuid()).fetch_all(&mut *snapshot).await?;
    snapshot.commit().await?;
    Ok(Some(History {
        task: read_task(&row)?,
        attempts: attempts.iter().map(read_attempt).collect::<Attempted<_>>()?,
        events: events.iter().map(read_event).collect::<Attempted<_>>()?,
        log: read_report(&row)?.1,
    }))
}

pub(super) async fn counts(connection: &mut PgConnection) -> Attempted<Counts> {
    let rows = sqlx::query(COUNTS).fetch_all(connection).await?;
    let by_type =
        rows.iter().map(|row| Ok((row::word(row, 0)?, row::word(row, 1)?, row::number(row, 2)?)));
    let mut oldest_pending = Vec::new();
    for row in &rows {
        if let Some(id) = row::optional_word(row, 3)? {
            oldest_pending.push((row::word(row, 0)?, id));
        }
    }
    Ok(Counts { by_type: by_type.collect::<Attempted<_>>()?, oldest_pending })
}

/// Reads all tasks, or as many as the statement's time allows.
const ENDED_BEFORE: &str = "select count(*) from tasks where finished_at < $1";

pub(super) async fn count_ended_before(
    connection: &mut PgConnection,
    before: Timestamp,
) -> Attempted<u64> {
    let query = sqlx::query(ENDED_BEFORE).bind(param::time(before));
    row::number(&query.fetch_one(connection).await?, 0)
}

fn read_task(row: &PgRow) -> Attempted<Task> {
    let error = row::optional_word::<FailureKind>(row, 11)?;
    let error = match error {
        Some(kind) => Some(TaskError { kind, message: row::get(row, 12)? }),
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
        attempt: row::small_number(row, 5)?,
        lapses: row::tiny_number(row, 21)?,
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
fn read_report(row: &PgRow) -> Attempted<(Option<Progress>, Vec<LogLine>)> {
    Ok(report::read(row.try_get(13)?, row::get(row, 14)?))
}

fn read_attempt(row: &PgRow) -> Attempted<Attempt> {
    let outcome = match row::optional_word(row, 8)? {
        None => Outcome::Completed(row::json(row, 11)?),
        Some(kind) => {
            let retry_after: Option<i64> = row.try_get(10)?;
            Outcome::Failed(Failure {
                kind,
                message: row::get(row, 9)?,
                retry_after: retry_after
                    .map(|ms| std::time::Duration::from_millis(ms.unsigned_abs())),
            })
        }
    };
    let logs: Vec<LogLine> = match row::get::<Option<String>>(row, 18)? {
        Some(lines) => {
            serde_json::from_str(&lines).map_err(|error| row::corrupt(row, 18, error))?
        }
        None => Vec::new(),
    };
    Ok(Attempt {
        task: row::task_id(row, 0)?,
        run_lease: RunLease(row.try_get(1)?),
        number: row::small_number(row, 2)?,
        worker: row::worker_id(row, 3)?,
        plugin_version: row::get(row, 4)?,
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

fn read_event(row: &PgRow) -> Attempted<Event> {
    Ok(Event {
        at: row::time(row, 0)?,
        kind: row::word(row, 1)?,
        run_lease: RunLease(row.try_get(2)?),
        detail: row::get(row, 3)?,
    })
}
