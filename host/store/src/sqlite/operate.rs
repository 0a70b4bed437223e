//! What a person does to one task: cancel, retry.

use sqlx::{Row, SqliteConnection, SqliteTransaction};
use taskforge_domain::{EventKind, RunLease, Task, TaskId, TenantId, Timestamp};

use super::{
    event,
    param::{task_id, time},
    read,
};
use crate::{CancelOutcome, RetryOutcome, StoreError, StoreResult};

/// Any state that is not final becomes `cancelled`. A running task keeps its worker, for the record
/// of the attempt that is yet to come.
const CANCEL: &str = "
    update tasks set state = 'cancelled', finished_at = ?3, progress = null, progress_note = null
    where tenant = ?1 and id = ?2 and state in ('scheduled', 'pending', 'running')
    returning run_lease, worker is not null";

/// `failed` and `cancelled` become `pending` with all attempts to come and no lapses. The lease
/// number stays, so that an attempt that is still under way somewhere is not taken for a new one;
/// so does the last error, until an attempt ends better.
const RETRY: &str = "
    update tasks set state = 'pending', attempt = 0, lapses = 0, run_at = ?3, finished_at = null, worker = null
    where tenant = ?1 and id = ?2 and state in ('failed', 'cancelled')
    returning run_lease";

pub(super) async fn cancel(
    mut transaction: SqliteTransaction<'_>,
    tenant: &TenantId,
    id: TaskId,
    now: Timestamp,
) -> StoreResult<CancelOutcome> {
    let moved = move_one(&mut transaction, CANCEL, tenant, id, now).await?;
    let Some(moved) = moved else {
        let task = read::task(&mut *transaction, tenant, id).await?;
        return Ok(task.map_or(CancelOutcome::NotFound, |task| {
            CancelOutcome::AlreadyFinished(Box::new(task))
        }));
    };
    let (run_lease, ran) = (RunLease(moved.try_get(0)?), moved.try_get::<bool, _>(1)?);
    let detail = if ran { "cancelled while it ran" } else { "cancelled while it waited" };
    event::insert(
        &mut transaction,
        [event::row(id, time(now), EventKind::Cancelled, run_lease, detail)],
    )
    .await?;
    let task = Box::new(reread(&mut transaction, tenant, id).await?);
    transaction.commit().await?;
    Ok(if ran { CancelOutcome::WasRunning(task) } else { CancelOutcome::Cancelled(task) })
}

pub(super) async fn retry(
    mut transaction: SqliteTransaction<'_>,
    tenant: &TenantId,
    id: TaskId,
    now: Timestamp,
) -> StoreResult<RetryOutcome> {
    let moved = move_one(&mut transaction, RETRY, tenant, id, now).await?;
    let Some(moved) = moved else {
        let task = read::task(&mut *transaction, tenant, id).await?;
        return Ok(
            task.map_or(RetryOutcome::NotFound, |task| RetryOutcome::NotRetryable(Box::new(task)))
        );
    };
    let run_lease = RunLease(moved.try_get(0)?);
    let event = event::row(
        id,
        time(now),
        EventKind::Requeued,
        run_lease,
        "to be run again, with fresh attempts",
    );
    event::insert(&mut transaction, [event]).await?;
    let task = Box::new(reread(&mut transaction, tenant, id).await?);
    transaction.commit().await?;
    Ok(RetryOutcome::Requeued(task))
}

async fn move_one(
    connection: &mut SqliteConnection,
    statement: &'static str,
    tenant: &TenantId,
    id: TaskId,
    now: Timestamp,
) -> StoreResult<Option<sqlx::sqlite::SqliteRow>> {
    let query =
        sqlx::query(statement).bind(tenant.as_str().to_owned()).bind(task_id(id)).bind(time(now));
    Ok(query.fetch_optional(connection).await?)
}

async fn reread(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: TaskId,
) -> StoreResult<Task> {
    let task = read::task(connection, tenant, id).await?;
    task.ok_or_else(|| {
        StoreError::Corrupt(format!("task {id} is gone from the transaction that changed it"))
    })
}
