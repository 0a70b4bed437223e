//! What time does: tasks fall due, workers fall silent.

use std::{collections::HashMap, time::Duration};

use sqlx::{Row, SqliteConnection, SqlitePool, SqliteTransaction, sqlite::SqliteRow};
use taskforge_domain::{
    EventKind, FailureKind, Fingerprint, Next, RunLease, TaskId, TaskState, Timestamp, WorkerId,
};

use super::{
    beats::Beats,
    event,
    lanes::read_laned,
    lead,
    param::{RowText, arrays, millis, time, time_before, worker_id},
    row,
};
use crate::{LanedTask, LapsedTask, StoreError, StoreResult, Term, Verdict, WorkerRecord};

/// `scheduled` becomes `pending` when its time has come, the earliest first.
const PROMOTE_DUE: &str = "
    update tasks set state = 'pending'
    where state = 'scheduled'
      and id in (select id from tasks where state = 'scheduled' and run_at <= ?1 order by run_at limit ?2)
    returning id, tenant, task_type, priority, run_at";

const NEXT_DUE: &str = "select min(run_at) from tasks where state = 'scheduled'";

/// A repeat leaves the first as it is.
const REGISTER_WORKER: &str = "
    insert into workers (id, host, pid, started_at, heartbeat_at, lease_ms) values (?1, ?2, ?3, ?4, ?5, ?6)
    on conflict (id) do nothing";

/// A heartbeat renews a lease that holds; time never runs backwards in it.
const HEARTBEAT: &str = "
    update workers set heartbeat_at = max(heartbeat_at, ?2)
    where id = ?1 and lapsed_at is null and heartbeat_at + lease_ms * 1000 >= ?2";

/// One that was refused stays refused, whatever the worker's clock says next.
const LAPSE_WORKER: &str = "update workers set lapsed_at = ?2 where id = ?1 and lapsed_at is null";

/// The sweeper's look and the refusal of the next heartbeat are one: whoever is listed below is
/// marked here, in the same transaction.
const LAPSE_WORKERS: &str = "
    update workers set lapsed_at = ?1 where lapsed_at is null and heartbeat_at + lease_ms * 1000 < ?1
    returning id";

/// A heartbeat that was accepted in memory.
const WRITE_BEAT: &str = "
    update workers set heartbeat_at = max(heartbeat_at, ?2) where id = ?1 and lapsed_at is null";

/// Workers that lapsed long ago and hold nothing. A worker that is not known is refused as well.
const FORGET_WORKERS: &str = "
    delete from workers
    where lapsed_at < ?1
      and not exists (select 1 from tasks where tasks.state = 'running' and tasks.worker = workers.id)";

/// Running tasks whose worker has lapsed or is gone. `cross join` keeps the small side, what runs,
/// outside.
const LAPSED: &str = "
    select tasks.id, run_lease, attempt, max_retries, retry_base_ms, retry_cap_ms, worker,
           tenant, task_type, priority, lapses
    from tasks indexed by tasks_running
    left join workers on workers.id = tasks.worker
    where tasks.state = 'running' and (workers.id is null or workers.lapsed_at is not null)
    limit ?1";

/// The arrows out of `running` that a sweeper may take, for the lease that lapsed and no other. The
/// attempt is taken back. A task that is handed back has not lapsed, and keeps the error that it
/// had.
const RESOLVE_LAPSED: &str = "
    update tasks
    set state = verdict.state,
        attempt = tasks.attempt - 1,
        lapses = tasks.lapses + (verdict.state <> 'pending'),
        run_at = coalesce(verdict.run_at, tasks.run_at),
        finished_at = verdict.finished_at,
        worker = null,
        error_kind = coalesce(verdict.error_kind, tasks.error_kind),
        error_message = coalesce(verdict.error_message, tasks.error_message),
        error_fingerprint = coalesce(verdict.error_fingerprint, tasks.error_fingerprint),
        progress = null,
        progress_note = null
    from (select unhex(value ->> 0) as id, value ->> 1 as run_lease, value ->> 2 as state, value ->> 3 as run_at,
                 value ->> 4 as finished_at, value ->> 5 as error_kind, value ->> 6 as error_message,
                 value ->> 7 as error_fingerprint
          from jsonb_each(?1)) as verdict
    where tasks.id = verdict.id and tasks.run_lease = verdict.run_lease and tasks.state = 'running'
    returning id";

/// Those that do not run under the lease that is named.
const LOST_LEASES: &str = "
    select unhex(value ->> 0) as id from jsonb_each(?1)
    where not exists (select 1 from tasks
                      where tasks.id = unhex(value ->> 0) and tasks.run_lease = value ->> 1 and tasks.state = 'running')";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[
    PROMOTE_DUE,
    NEXT_DUE,
    HEARTBEAT,
    LAPSE_WORKER,
    WRITE_BEAT,
    FORGET_WORKERS,
    LAPSED,
    RESOLVE_LAPSED,
    LOST_LEASES,
];

/// How long a lapsed worker is remembered: long enough for a person to find out what happened.
const MEMORY: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn promote_due(
    mut transaction: SqliteTransaction<'_>,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> StoreResult<Vec<LanedTask>> {
    lead::fence(&mut transaction, term).await?;
    let rows =
        sqlx::query(PROMOTE_DUE).bind(time(now)).bind(limit).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    let due = rows.iter().map(|row| Ok((row::time(row, 4)?, read_laned(row)?)));
    let mut due = due.collect::<StoreResult<Vec<_>>>()?;
    due.sort_by_key(|(run_at, task)| (*run_at, task.id));
    Ok(due.into_iter().map(|(_, task)| task).collect())
}

pub(super) async fn next_due(readers: &SqlitePool) -> StoreResult<Option<Timestamp>> {
    row::optional_time(&sqlx::query(NEXT_DUE).fetch_one(readers).await?, 0)
}

/// `false`: it was announced before.
pub(super) async fn register_worker(
    connection: &mut SqliteConnection,
    worker: &WorkerRecord,
    now: Timestamp,
) -> StoreResult<bool> {
    let registered = sqlx::query(REGISTER_WORKER)
        .bind(worker_id(worker.id))
        .bind(worker.host.clone())
        .bind(worker.pid)
        .bind(time(worker.started_at))
        .bind(time(now))
        .bind(millis(worker.lease))
        .execute(connection)
        .await?;
    Ok(registered.rows_affected() == 1)
}

pub(super) async fn heartbeat(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    now: Timestamp,
) -> StoreResult<bool> {
    let query = sqlx::query(HEARTBEAT).bind(worker_id(worker)).bind(time(now));
    if query.execute(&mut *connection).await?.rows_affected() == 1 {
        return Ok(true);
    }
    sqlx::query(LAPSE_WORKER).bind(worker_id(worker)).bind(time(now)).execute(connection).await?;
    Ok(false)
}

pub(super) async fn remove_worker(
    connection: &mut SqliteConnection,
    worker: WorkerId,
) -> StoreResult<()> {
    sqlx::query("delete from workers where id = ?1")
        .bind(worker_id(worker))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn lost_leases(
    readers: &SqlitePool,
    held: &[(TaskId, RunLease)],
) -> StoreResult<Vec<TaskId>> {
    let rows: Vec<_> = held
        .iter()
        .map(|(id, lease)| RowText::new().id(id.as_uuid()).int(lease.0).finish())
        .collect();
    let mut lost = Vec::new();
    for array in arrays(rows.iter().map(String::as_str)) {
        for row in sqlx::query(LOST_LEASES).bind(array).fetch_all(readers).await? {
            lost.push(row::task_id(&row, 0)?);
        }
    }
    Ok(lost)
}

pub(super) async fn lapsed(
    mut transaction: SqliteTransaction<'_>,
    beats: &Beats,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> StoreResult<Vec<LapsedTask>> {
    lead::fence(&mut transaction, term).await?;
    let news = beats.news();
    let mut silent = Vec::new();
    for news in &news {
        let (statement, at) =
            if news.has_lapsed { (LAPSE_WORKER, time(now)) } else { (WRITE_BEAT, news.last) };
        let written = sqlx::query(statement)
            .bind(worker_id(news.worker))
            .bind(at)
            .execute(&mut *transaction)
            .await?;
        if written.rows_affected() == 0 {
            // It has lapsed or is gone, of which a commit may have failed to tell.
            silent.push(news.worker);
        }
    }
    let lapsed = sqlx::query(LAPSE_WORKERS).bind(time(now)).fetch_all(&mut *transaction).await?;
    sqlx::query(FORGET_WORKERS).bind(time_before(now, MEMORY)).execute(&mut *transaction).await?;
    let rows = sqlx::query(LAPSED).bind(limit).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    for row in &lapsed {
        silent.push(row::worker_id(row, 0)?);
    }
    beats.told(&news, &silent);
    rows.iter().map(read_lapsed).collect()
}

/// A running task from eleven columns, in the order of [`LAPSED`].
pub(super) fn read_lapsed(row: &SqliteRow) -> StoreResult<LapsedTask> {
    Ok(LapsedTask {
        id: row::task_id(row, 0)?,
        lane: super::lanes::read_lane(row, 7)?,
        run_lease: RunLease(row.try_get(1)?),
        attempt: row::number(row, 2)?,
        lapses: row::number(row, 10)?,
        retry: row::retry(row, 3)?,
        worker: row::worker_id(row, 6)?,
    })
}

/// Fails without writing when a verdict is none that a sweeper may give.
pub(super) async fn resolve_lapsed(
    mut transaction: SqliteTransaction<'_>,
    term: Option<Term>,
    verdicts: &[Verdict],
    now: Timestamp,
) -> StoreResult<Vec<TaskId>> {
    if let Some(term) = term {
        lead::fence(&mut transaction, term).await?;
    }
    let rows = verdicts
        .iter()
        .map(|verdict| verdict_row(verdict, now))
        .collect::<StoreResult<Vec<_>>>()?;
    let mut moved = Vec::new();
    for array in arrays(rows.iter().map(String::as_str)) {
        for row in sqlx::query(RESOLVE_LAPSED).bind(array).fetch_all(&mut *transaction).await? {
            moved.push(row::task_id(&row, 0)?);
        }
    }
    let by_id: HashMap<_, _> = verdicts.iter().map(|verdict| (verdict.id, verdict)).collect();
    let events = moved.iter().filter_map(|id| by_id.get(id)).map(|verdict| {
        let kind =
            if verdict.next == Next::HandBack { EventKind::HandedBack } else { EventKind::Lapsed };
        event::row(verdict.id, time(now), kind, verdict.run_lease, &verdict.detail)
    });
    event::insert(&mut transaction, events).await?;
    transaction.commit().await?;
    Ok(moved)
}

fn verdict_row(verdict: &Verdict, now: Timestamp) -> StoreResult<String> {
    let (state, run_at) = match verdict.next {
        Next::RetryAt(at) => (TaskState::Scheduled, Some(time(at))),
        Next::DeadLetter => (TaskState::Failed, None),
        Next::HandBack => (TaskState::Pending, None),
        next @ (Next::Complete | Next::Cancelled) => {
            return Err(StoreError::Refused(format!(
                "{next:?} is no verdict on the lapsed task {}",
                verdict.id
            )));
        }
    };
    let lapse = FailureKind::LeaseLapsed;
    let is_lapse = state != TaskState::Pending;
    Ok(RowText::new()
        .id(verdict.id.as_uuid())
        .int(verdict.run_lease.0)
        .text(state.as_str())
        .optional_int(run_at)
        .optional_int(state.is_terminal().then(|| time(now)))
        .optional_text(is_lapse.then_some(lapse.as_str()))
        .optional_text(is_lapse.then_some(verdict.detail.as_str()))
        .optional_int(is_lapse.then(|| Fingerprint::of(lapse, &verdict.detail).to_i64()))
        .finish())
}
