//! What time does: tasks fall due, workers fall silent. And what a broker needs to find its way
//! back.

use std::{collections::HashMap, time::Duration};

use sqlx::{Connection, PgConnection, Row, postgres::PgRow};
use taskforge_domain::{
    EventKind, FailureKind, Fingerprint, Lane, Next, RunLease, TaskId, TaskState, Timestamp,
};
use uuid::Uuid;

use super::{
    event::{self, NewEvent},
    fault::Attempted,
    lead,
    param::{text, time, time_before},
    row,
};
use crate::{LanedTask, LapsedTask, StoreError, StoreResult, Term, Verdict};

/// `scheduled` becomes `pending` when its time has come, the earliest first. What somebody else is
/// just changing can wait for the next sweep.
const PROMOTE_DUE: &str = "
    update tasks set state = 'pending'
    where state = 'scheduled'
      and id = any (array(select id from tasks where state = 'scheduled' and run_at <= $1 order by run_at limit $2
                          for update skip locked))
    returning id, tenant, task_type, priority, run_at";

const NEXT_DUE: &str = "select run_at from tasks where state = 'scheduled' order by run_at limit 1";

/// The sweeper's look and the refusal of the next heartbeat are one: whoever is listed below is
/// marked here, in the same transaction.
const LAPSE_WORKERS: &str = "
    update workers set lapsed_at = $1 where lapsed_at is null and heartbeat_at < $1 - lease_ms * 1000";

/// Workers that lapsed long ago and hold nothing. A worker that is not known is refused as well.
const FORGET_WORKERS: &str = "
    delete from workers
    where lapsed_at < $1
      and not exists (select 1 from tasks where tasks.state = 'running' and tasks.worker = workers.id)";

/// What [`read_lapsed`] reads.
macro_rules! select_lapsed {
    () => {
        "select tasks.id, tasks.run_lease, tasks.attempt, tasks.max_retries, tasks.retry_base_ms, tasks.retry_cap_ms, tasks.worker, \
         tasks.tenant, tasks.task_type, tasks.priority, tasks.lapses"
    };
}
pub(super) use select_lapsed;

/// Running tasks whose worker has lapsed or is gone: those in the gaps between the workers that
/// live. What those have run is never looked at, be it alive or the dead entries of a busy day, and
/// that is nearly all.
const LAPSED: &str = concat!(
    "with alive as (
         select id from workers where lapsed_at is null
     ), gap as (
         select coalesce(lag(id) over (order by id), '00000000-0000-0000-0000-000000000000') as low, id as high from alive
         union all
         select coalesce((select id from alive order by id desc limit 1), '00000000-0000-0000-0000-000000000000'),
                'ffffffff-ffff-ffff-ffff-ffffffffffff'
     ) ",
    select_lapsed!(),
    " from gap cross join lateral (
         select * from tasks where state = 'running' and worker > gap.low and worker < gap.high limit $1) as tasks
     limit $1"
);

/// The arrows out of `running` that a sweeper may take, for the lease that lapsed and no other. The
/// attempt is taken back. A task that is handed back has not lapsed, and keeps the error that it
/// had.
const RESOLVE_LAPSED: &str = "
    update tasks
    set state = verdict.state,
        attempt = tasks.attempt - 1,
        lapses = tasks.lapses + (verdict.state <> 'pending')::integer,
        run_at = coalesce(verdict.run_at, tasks.run_at),
        finished_at = verdict.finished_at,
        worker = null,
        error_kind = coalesce(verdict.error_kind, tasks.error_kind),
        error_message = coalesce(verdict.error_message, tasks.error_message),
        error_fingerprint = coalesce(verdict.error_fingerprint, tasks.error_fingerprint),
        progress = null,
        progress_note = null
    from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[])
         as verdict (id, run_lease, state, run_at, finished_at, error_kind, error_message, error_fingerprint)
    where tasks.id = verdict.id and tasks.run_lease = verdict.run_lease and tasks.state = 'running'
    returning tasks.id";

/// A range of the index.
const PENDING: &str = "
    select id from tasks
    where state = 'pending' and tenant = $1 and task_type = $2 and priority = $3 and id > $4
    order by id limit $5";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] =
    &[PROMOTE_DUE, NEXT_DUE, FORGET_WORKERS, LAPSED, RESOLVE_LAPSED, PENDING];

/// How long a lapsed worker is remembered: long enough for a person to find out what happened.
const MEMORY: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn promote_due(
    connection: &mut PgConnection,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> Attempted<Vec<LanedTask>> {
    let mut transaction = lead::begin(connection, term).await?;
    let rows = sqlx::query(PROMOTE_DUE)
        .bind(time(now))
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let due = rows.iter().map(|row| Ok((row.try_get::<i64, _>(4)?, row::laned(row)?)));
    let mut due = due.collect::<Attempted<Vec<_>>>()?;
    due.sort_by_key(|(run_at, task)| (*run_at, task.id));
    Ok(due.into_iter().map(|(_, task)| task).collect())
}

pub(super) async fn next_due(connection: &mut PgConnection) -> Attempted<Option<Timestamp>> {
    match sqlx::query(NEXT_DUE).fetch_optional(connection).await? {
        Some(row) => row::time(&row, 0).map(Some),
        None => Ok(None),
    }
}

pub(super) async fn lapsed(
    connection: &mut PgConnection,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> Attempted<Vec<LapsedTask>> {
    let mut transaction = lead::begin(connection, term).await?;
    sqlx::query(LAPSE_WORKERS).bind(time(now)).execute(&mut *transaction).await?;
    sqlx::query(FORGET_WORKERS).bind(time_before(now, MEMORY)).execute(&mut *transaction).await?;
    let rows = sqlx::query(LAPSED).bind(i64::from(limit)).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    rows.iter().map(read_lapsed).collect()
}

pub(super) fn read_lapsed(row: &PgRow) -> Attempted<LapsedTask> {
    Ok(LapsedTask {
        id: row::task_id(row, 0)?,
        lane: row::lane(row, 7)?,
        run_lease: RunLease(row.try_get(1)?),
        attempt: row::small_number(row, 2)?,
        lapses: row::tiny_number(row, 10)?,
        retry: row::retry(row, 3)?,
        worker: row::worker_id(row, 6)?,
    })
}

/// A verdict as a row.
pub(super) struct Sentence {
    id: Uuid,
    run_lease: i64,
    state: TaskState,
    run_at: Option<i64>,
    finished_at: Option<i64>,
    /// A lapse is an error; the detail says more.
    is_lapse: bool,
    detail: String,
}

impl Sentence {
    /// Fails when the verdict is none that a sweeper may give.
    pub(super) fn new(verdict: &Verdict, now: Timestamp) -> StoreResult<Self> {
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
        Ok(Self {
            id: *verdict.id.as_uuid(),
            run_lease: verdict.run_lease.0,
            state,
            run_at,
            finished_at: state.is_terminal().then(|| time(now)),
            is_lapse: state != TaskState::Pending,
            detail: text(&verdict.detail).into_owned(),
        })
    }
}

pub(super) async fn resolve_lapsed(
    connection: &mut PgConnection,
    term: Option<Term>,
    sentences: &[Sentence],
    now: Timestamp,
) -> Attempted<Vec<TaskId>> {
    let mut transaction = match term {
        Some(term) => lead::begin(connection, term).await?,
        None => connection.begin().await?,
    };
    macro_rules! column {
        ($verdict:ident => $value:expr) => {
            sentences.iter().map(|$verdict| $value).collect::<Vec<_>>()
        };
    }
    let kind = FailureKind::LeaseLapsed;
    let moved: Vec<Uuid> = sqlx::query_scalar(RESOLVE_LAPSED)
        .bind(column!(verdict => verdict.id))
        .bind(column!(verdict => verdict.run_lease))
        .bind(column!(verdict => verdict.state.as_str()))
        .bind(column!(verdict => verdict.run_at))
        .bind(column!(verdict => verdict.finished_at))
        .bind(column!(verdict => verdict.is_lapse.then_some(kind.as_str())))
        .bind(column!(verdict => verdict.is_lapse.then_some(verdict.detail.as_str())))
        .bind(column!(verdict => verdict.is_lapse.then(|| Fingerprint::of(kind, &verdict.detail).to_i64())))
        .fetch_all(&mut *transaction)
        .await?;
    let by_id: HashMap<_, _> = sentences.iter().map(|verdict| (verdict.id, verdict)).collect();
    let events: Vec<_> = moved
        .iter()
        .filter_map(|id| by_id.get(id))
        .map(|verdict| NewEvent {
            task: TaskId::from_uuid(verdict.id),
            at: time(now),
            kind: if verdict.is_lapse { EventKind::Lapsed } else { EventKind::HandedBack },
            run_lease: RunLease(verdict.run_lease),
            detail: &verdict.detail,
        })
        .collect();
    event::insert(&mut transaction, &events).await?;
    transaction.commit().await?;
    Ok(moved.into_iter().map(TaskId::from_uuid).collect())
}

pub(super) async fn pending(
    connection: &mut PgConnection,
    lane: &Lane,
    after: Option<TaskId>,
    limit: u32,
) -> Attempted<Vec<TaskId>> {
    let rows = sqlx::query(PENDING)
        .bind(lane.tenant.as_str())
        .bind(lane.task_type.as_str())
        .bind(i16::from(lane.priority.get()))
        .bind(after.map_or(Uuid::nil(), |id| *id.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| row::task_id(row, 0)).collect()
}
