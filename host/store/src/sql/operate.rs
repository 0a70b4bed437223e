//! What a person does: cancel, retry, prune.

use sqlx::QueryBuilder;
use taskforge_domain::{EventKind, RunLease, Task, TaskId, TaskState, TenantId, Timestamp};
use uuid::Uuid;

use super::{
    bulk::insert_events,
    driver::{Attempted, Connection, DELETE_DEPENDENTS, Row, begin, fault, ids},
    list::{self, Direction},
    param::time,
    read, row,
};
use crate::{CancelOutcome, RetryOutcome, StoreError, TaskFilter, event::NewEvent};

/// Any state that is not final becomes `cancelled`. A running task keeps its worker, for the record
/// of the attempt that is yet to come.
const CANCEL: &str = "
    update tasks set state = 'cancelled', finished_at = $3, progress = null, progress_note = null
    where tenant = $1 and id = $2 and state in ('scheduled', 'pending', 'running')
    returning run_lease, worker is not null";

/// `failed` and `cancelled` become `pending` with all attempts to come and no lapses. The lease
/// number stays, so that an attempt that is still under way somewhere is not taken for a new one;
/// so does the last error, until an attempt ends better.
const RETRY: &str = "
    update tasks set state = 'pending', attempt = 0, lapses = 0, run_at = $3, finished_at = null, worker = null
    where tenant = $1 and id = $2 and state in ('failed', 'cancelled')
    returning run_lease";

pub(super) const REQUEUED: &str = "to be run again, with fresh attempts";

pub(super) async fn cancel(
    connection: &mut Connection,
    tenant: &TenantId,
    id: TaskId,
    now: Timestamp,
) -> Attempted<CancelOutcome> {
    let mut transaction = begin(connection).await?;
    let Some(moved) = move_one(&mut transaction, CANCEL, tenant, id, now).await? else {
        let task = read::task(&mut transaction, tenant, id).await?;
        return Ok(task.map_or(CancelOutcome::NotFound, |task| {
            CancelOutcome::AlreadyFinished(Box::new(task))
        }));
    };
    let (run_lease, ran) = (RunLease(row::get(&moved, 0)?), row::get(&moved, 1)?);
    let event = NewEvent {
        task: id,
        at: now,
        kind: EventKind::Cancelled,
        run_lease,
        detail: if ran { "cancelled while it ran" } else { "cancelled while it waited" },
    };
    insert_events(&mut transaction, &[event]).await?;
    let task = Box::new(reread(&mut transaction, tenant, id).await?);
    transaction.commit().await?;
    Ok(if ran { CancelOutcome::WasRunning(task) } else { CancelOutcome::Cancelled(task) })
}

pub(super) async fn retry(
    connection: &mut Connection,
    tenant: &TenantId,
    id: TaskId,
    now: Timestamp,
) -> Attempted<RetryOutcome> {
    let mut transaction = begin(connection).await?;
    let Some(moved) = move_one(&mut transaction, RETRY, tenant, id, now).await? else {
        let task = read::task(&mut transaction, tenant, id).await?;
        return Ok(
            task.map_or(RetryOutcome::NotFound, |task| RetryOutcome::NotRetryable(Box::new(task)))
        );
    };
    let event = NewEvent {
        task: id,
        at: now,
        kind: EventKind::Requeued,
        run_lease: RunLease(row::get(&moved, 0)?),
        detail: REQUEUED,
    };
    insert_events(&mut transaction, &[event]).await?;
    let task = Box::new(reread(&mut transaction, tenant, id).await?);
    transaction.commit().await?;
    Ok(RetryOutcome::Requeued(task))
}

async fn move_one(
    connection: &mut Connection,
    statement: &'static str,
    tenant: &TenantId,
    id: TaskId,
    now: Timestamp,
) -> Attempted<Option<Row>> {
    let query = sqlx::query(statement).bind(tenant.as_str()).bind(id.as_uuid()).bind(time(now));
    Ok(query.fetch_optional(connection).await?)
}

async fn reread(connection: &mut Connection, tenant: &TenantId, id: TaskId) -> Attempted<Task> {
    let task = read::task(connection, tenant, id).await?;
    task.ok_or_else(|| {
        let why = format!("task {id} is gone from the transaction that changed it");
        fault(StoreError::Corrupt(why))
    })
}

/// Deletes the oldest tasks that match and have ended. What has not ended is not even a candidate.
pub(super) async fn prune(
    connection: &mut Connection,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
) -> Attempted<u64> {
    let Some(filter) = list::narrowed(filter, TaskState::is_terminal) else {
        return Ok(0);
    };
    let mut transaction = begin(connection).await?;
    let mut statement = QueryBuilder::new("delete from tasks where id");
    list::push_among(&mut statement, tenant, &filter, Direction::OldestFirst, None, limit);
    statement.push(" and state in ('completed', 'failed', 'cancelled') returning id");
    let gone = statement.build_query_scalar().fetch_all(&mut *transaction).await?;
    delete_dependents(&mut transaction, &gone).await?;
    transaction.commit().await?;
    Ok(gone.len() as u64)
}

/// Deletes what hangs by tasks that are gone.
pub(super) async fn delete_dependents(connection: &mut Connection, gone: &[Uuid]) -> Attempted<()> {
    if !gone.is_empty() {
        for statement in DELETE_DEPENDENTS {
            sqlx::query(*statement).bind(ids(gone)).execute(&mut *connection).await?;
        }
    }
    Ok(())
}
