//! Dead letters: seen in groups, given another chance together.

use sqlx::{QueryBuilder, Row, SqlitePool, SqliteTransaction, sqlite::SqliteRow};
use taskforge_domain::{EventKind, Fingerprint, Json, RunLease, TaskState, TenantId, Timestamp};

use super::{
    event,
    lanes::read_laned,
    list::{self, Direction},
    param::{id_array, time},
    row,
};
use crate::{DeadLetterGroup, LanedTask, StoreResult, TaskFilter};

const EDIT_INPUTS: &str =
    "update task_inputs set input = ?2 where task_id in (select unhex(value) from json_each(?1))";

/// The filter narrowed to dead letters; `None` if it names only other states.
fn only_dead(filter: &TaskFilter) -> Option<TaskFilter> {
    list::narrowed(filter, |state| state == TaskState::Failed)
}

/// `failed` becomes `pending`, as a retry of one does.
pub(super) async fn requeue(
    mut transaction: SqliteTransaction<'_>,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
    input: Option<&Json>,
    now: Timestamp,
) -> StoreResult<Vec<LanedTask>> {
    let Some(filter) = only_dead(filter) else {
        return Ok(Vec::new());
    };
    let mut statement = QueryBuilder::new(
        "update tasks set state = 'pending', attempt = 0, lapses = 0, finished_at = null, run_at = ",
    );
    statement.push_bind(time(now)).push(" where id in (");
    list::push_ids(&mut statement, tenant, &filter, Direction::OldestFirst, None, limit);
    statement.push(") and state = 'failed' returning id, tenant, task_type, priority, run_lease");
    let rows = statement.build().fetch_all(&mut *transaction).await?;
    let read = |row: &SqliteRow| Ok((read_laned(row)?, RunLease(row.try_get(4)?)));
    let mut moved = rows.iter().map(read).collect::<StoreResult<Vec<_>>>()?;
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    moved.sort_by_key(|(task, _)| task.id);
    let detail = match input {
        None => "to be run again, with fresh attempts",
        Some(_) => "to be run again, with fresh attempts and another input",
    };
    if let Some(input) = input {
        sqlx::query(EDIT_INPUTS)
            .bind(id_array(moved.iter().map(|(task, _)| &task.id)))
            .bind(input.as_str().to_owned())
            .execute(&mut *transaction)
            .await?;
    }
    let events = moved
        .iter()
        .map(|(task, lease)| event::row(task.id, time(now), EventKind::Requeued, *lease, detail));
    event::insert(&mut transaction, events).await?;
    transaction.commit().await?;
    Ok(moved.into_iter().map(|(task, _)| task).collect())
}

/// The index has a group's rows side by side, with all that is counted; only the example is read
/// from a task.
pub(super) async fn groups(
    readers: &SqlitePool,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
) -> StoreResult<Vec<DeadLetterGroup>> {
    let Some(filter) = only_dead(filter) else {
        return Ok(Vec::new());
    };
    let mut statement = QueryBuilder::new(
        "select error_fingerprint, task_type, error_kind, newest, letters, first_at, last_at,
                (select error_message from tasks where id = newest)
         from (select error_fingerprint, task_type, error_kind, max(id) as newest, count(*) as letters,
                      min(finished_at) as first_at, max(finished_at) as last_at
               from ",
    );
    statement.push(list::dead_source(&filter));
    list::push_conditions(&mut statement, tenant, &filter);
    statement.push(
        " group by error_fingerprint, task_type, error_kind
          order by letters desc, last_at desc, newest desc limit ",
    );
    statement.push_bind(limit).push(") order by letters desc, last_at desc, newest desc");
    let rows = statement.build().fetch_all(readers).await?;
    rows.iter().map(read_group).collect()
}

fn read_group(row: &SqliteRow) -> StoreResult<DeadLetterGroup> {
    Ok(DeadLetterGroup {
        fingerprint: Fingerprint::from_i64(row.try_get(0)?),
        task_type: row::word(row, 1)?,
        kind: row::word(row, 2)?,
        newest: row::task_id(row, 3)?,
        count: row::number(row, 4)?,
        first_failed_at: row::time(row, 5)?,
        last_failed_at: row::time(row, 6)?,
        example: row::text(row, 7)?,
    })
}
