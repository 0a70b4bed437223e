//! What a person does: cancel, retry, prune.

use sqlx::{QueryBuilder, Row, SqliteConnection, SqliteTransaction};
use taskforge_domain::{EventKind, RunLease, Task, TaskId, TenantId, Timestamp};

use super::{
    event,
    list::{self, Direction},
    param::{id_array, task_id, time},
    read, row,
};
use crate::{CancelOutcome, RetryOutcome, StoreError, StoreResult, TaskFilter};

/// Any state that is not final becomes `cancelled`. A running task keeps its worker, for the record of the attempt that is yet to come.
const CANCEL: &str = "
    update tasks set state = 'cancelled', finished_at = ?3, progress = null, progress_note = null
    where tenant = ?1 and id = ?2 and state in ('scheduled', 'pending', 'running')
    returning run_lease, worker is not null";

/// `failed` and `cancelled` become `pending` with all attempts to come. The lease number stays, so that an attempt that is
/// still under way somewhere is not taken for a new one; so does the last error, until an attempt ends better.
const RETRY: &str = "
    update tasks set state = 'pending', attempt = 0, run_at = ?3, finished_at = null, worker = null
    where tenant = ?1 and id = ?2 and state in ('failed', 'cancelled')
    returning run_lease";

/// What hangs by a task goes with it.
const DELETE_INPUTS: &str =
    "delete from task_inputs where task_id in (select unhex(value) from json_each(?1))";
const DELETE_ATTEMPTS: &str =
    "delete from attempts where task_id in (select unhex(value) from json_each(?1))";
const DELETE_EVENTS: &str = "delete from events where task_id in (select unhex(value) from json_each(?1))";

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
    let detail = if ran {
        "cancelled while it ran"
    } else {
        "cancelled while it waited"
    };
    event::insert(
        &mut transaction,
        [event::row(id, time(now), EventKind::Cancelled, run_lease, detail)],
    )
    .await?;
    let task = Box::new(reread(&mut transaction, tenant, id).await?);
    transaction.commit().await?;
    Ok(if ran {
        CancelOutcome::WasRunning(task)
    } else {
        CancelOutcome::Cancelled(task)
    })
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
        return Ok(task.map_or(RetryOutcome::NotFound, |task| {
            RetryOutcome::NotRetryable(Box::new(task))
        }));
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
    let query = sqlx::query(statement)
        .bind(tenant.as_str().to_owned())
        .bind(task_id(id))
        .bind(time(now));
    Ok(query.fetch_optional(connection).await?)
}

async fn reread(connection: &mut SqliteConnection, tenant: &TenantId, id: TaskId) -> StoreResult<Task> {
    let task = read::task(connection, tenant, id).await?;
    task.ok_or_else(|| StoreError::Corrupt(format!("task {id} is gone from the transaction that changed it")))
}

/// Deletes the oldest tasks that match and have ended. What has not ended is not even a candidate.
pub(super) async fn prune(
    mut transaction: SqliteTransaction<'_>,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
) -> StoreResult<u64> {
    let Some(filter) = list::only_ended(filter) else {
        return Ok(0);
    };
    let mut statement = QueryBuilder::new("delete from tasks where id in (");
    list::push_ids(
        &mut statement,
        tenant,
        &filter,
        Direction::OldestFirst,
        None,
        limit,
    );
    statement.push(") and state in ('completed', 'failed', 'cancelled') returning id");
    let gone = statement.build().fetch_all(&mut *transaction).await?;
    let ids = gone
        .iter()
        .map(|gone| row::task_id(gone, 0))
        .collect::<StoreResult<Vec<_>>>()?;
    if !ids.is_empty() {
        let array = id_array(&ids);
        for statement in [DELETE_INPUTS, DELETE_ATTEMPTS, DELETE_EVENTS] {
            sqlx::query(statement)
                .bind(array.clone())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
    Ok(ids.len() as u64)
}
