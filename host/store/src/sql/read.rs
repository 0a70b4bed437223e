//! The read side: a task, a page, a history, the counts.

use sqlx::QueryBuilder;
use taskforge_domain::{
    Attempt, Event, Failure, FailureKind, LogLine, Outcome, Progress, RunLease, Task, TaskError,
    TaskId, TaskState, TenantId, Usage,
};

use super::{
    driver::{self, Attempted, COUNTS, Connection, Row, select_task},
    list::{self, Direction},
    row,
};
use crate::{Counts, History, Page, TaskFilter, report};

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

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[TASK, ATTEMPTS, EVENTS, COUNTS];

pub(super) async fn task(
    connection: &mut Connection,
    tenant: &TenantId,
    id: TaskId,
) -> Attempted<Option<Task>> {
    let query = sqlx::query(TASK).bind(tenant.as_str()).bind(id.as_uuid());
    query.fetch_optional(connection).await?.as_ref().map(read_task).transpose()
}

pub(super) async fn page(
    connection: &mut Connection,
    tenant: &TenantId,
    filter: &TaskFilter,
    page: Page,
) -> Attempted<Vec<Task>> {
    let after = page.after.map(|cursor| cursor.0);
    let mut statement = QueryBuilder::new(concat!(select_task!(), " where tasks.id"));
    list::push_among(&mut statement, tenant, filter, Direction::NewestFirst, after, page.limit);
    statement.push(" order by tasks.id desc");
    statement.build().fetch_all(connection).await?.iter().map(read_task).collect()
}

pub(super) async fn history(
    connection: &mut Connection,
    tenant: &TenantId,
    id: TaskId,
) -> Attempted<Option<History>> {
    // One snapshot, so that the three reads are of one moment.
    let mut snapshot = driver::snapshot(connection).await?;
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

pub(super) async fn counts(connection: &mut Connection) -> Attempted<Counts> {
    let rows = sqlx::query(COUNTS).fetch_all(connection).await?;
    let by_type =
        rows.iter().map(|row| Ok((row::word(row, 0)?, row::word(row, 1)?, row::number(row, 2)?)));
    let mut oldest_pending = Vec::new();
    for row in &rows {
        if let Some(id) = row::get(row, 3)? {
            oldest_pending.push((row::word(row, 0)?, TaskId::from_uuid(id)));
        }
    }
    Ok(Counts { by_type: by_type.collect::<Attempted<_>>()?, oldest_pending })
}

fn read_task(row: &Row) -> Attempted<Task> {
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
        run_lease: RunLease(row::get(row, 16)?),
        created_at: row::time(row, 17)?,
        run_at: row::time(row, 18)?,
        started_at: row::optional_time(row, 19)?,
        finished_at: row::optional_time(row, 20)?,
    })
}

/// What the running attempt has said.
fn read_report(row: &Row) -> Attempted<(Option<Progress>, Vec<LogLine>)> {
    Ok(report::read(row::get(row, 13)?, row::get(row, 14)?))
}

fn read_attempt(row: &Row) -> Attempted<Attempt> {
    let outcome = match row::optional_word(row, 8)? {
        None => Outcome::Completed(row::json(row, 11)?),
        Some(kind) => {
            let retry_after: Option<i64> = row::get(row, 10)?;
            Outcome::Failed(Failure {
                kind,
                message: row::get(row, 9)?,
                retry_after: retry_after
                    .map(|ms| std::time::Duration::from_millis(ms.unsigned_abs())),
            })
        }
    };
    let logs: Vec<LogLine> = match row::get::<Option<&str>>(row, 18)? {
        Some(lines) => serde_json::from_str(lines).map_err(|error| row::corrupt(row, 18, error))?,
        None => Vec::new(),
    };
    Ok(Attempt {
        task: row::task_id(row, 0)?,
        run_lease: RunLease(row::get(row, 1)?),
        number: row::number(row, 2)?,
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

fn read_event(row: &Row) -> Attempted<Event> {
    Ok(Event {
        at: row::time(row, 0)?,
        kind: row::word(row, 1)?,
        run_lease: RunLease(row::get(row, 2)?),
        detail: row::get(row, 3)?,
    })
}
