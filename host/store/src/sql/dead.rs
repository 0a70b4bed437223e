//! Dead letters: seen by kind, and given another chance.

use sqlx::QueryBuilder;
use taskforge_domain::{EventKind, Fingerprint, Json, RunLease, TaskState, TenantId, Timestamp};

use super::{
    bulk::insert_events,
    driver::{Attempted, Connection, DEAD, Row, SET_INPUT, begin, ids, max_id, tasks_of},
    list::{self, Direction},
    operate::REQUEUED,
    param::time,
    row,
};
use crate::{DeadLetterGroup, QueuedTask, TaskFilter, event::NewEvent};

const REQUEUED_WITH_INPUT: &str = "to be run again, with fresh attempts and another input";

/// The filter narrowed to dead letters; `None` if it names only other states.
fn only_dead(filter: &TaskFilter) -> Option<TaskFilter> {
    list::narrowed(filter, |state| state == TaskState::Failed)
}

/// `failed` becomes `pending`, as a retry does it, for the oldest that match.
pub(super) async fn requeue(
    connection: &mut Connection,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
    input: Option<&Json>,
    now: Timestamp,
) -> Attempted<Vec<QueuedTask>> {
    let Some(filter) = only_dead(filter) else {
        return Ok(Vec::new());
    };
    let mut transaction = begin(connection).await?;
    let mut statement = QueryBuilder::new(
        "update tasks set state = 'pending', attempt = 0, lapses = 0, finished_at = null, worker = null, run_at = ",
    );
    statement.push_bind(time(now)).push(" where id");
    list::push_among(&mut statement, tenant, &filter, Direction::OldestFirst, None, limit);
    statement.push(" and state = 'failed' returning id, tenant, task_type, priority, run_lease");
    let rows = statement.build().fetch_all(&mut *transaction).await?;
    let moved = rows.iter().map(|row| Ok((row::laned(row)?, RunLease(row::get(row, 4)?))));
    let mut moved = moved.collect::<Attempted<Vec<_>>>()?;
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    moved.sort_by_key(|(task, _)| task.id);
    if let Some(input) = input {
        sqlx::query(SET_INPUT)
            .bind(ids(moved.iter().map(|(task, _)| task.id.as_uuid())))
            .bind(input.as_str())
            .execute(&mut *transaction)
            .await?;
    }
    let detail = if input.is_some() { REQUEUED_WITH_INPUT } else { REQUEUED };
    let events: Vec<_> = moved
        .iter()
        .map(|(task, run_lease)| NewEvent {
            task: task.id,
            at: now,
            kind: EventKind::Requeued,
            run_lease: *run_lease,
            detail,
        })
        .collect();
    insert_events(&mut transaction, &events).await?;
    transaction.commit().await?;
    Ok(moved.into_iter().map(|(task, _)| task).collect())
}

/// Groups by type and fingerprint, of which each has one kind. The newest one's message stands for
/// all; only that is read from a task.
pub(super) async fn groups(
    connection: &mut Connection,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
) -> Attempted<Vec<DeadLetterGroup>> {
    let Some(filter) = only_dead(filter) else {
        return Ok(Vec::new());
    };
    let mut statement = QueryBuilder::new(concat!(
        "select error_fingerprint, task_type, error_kind, newest, letters, first_at, last_at,
                (select error_message from tasks where id = newest)
         from (select error_fingerprint, task_type, error_kind, ",
        max_id!("id"),
        " as newest, count(*) as letters, min(finished_at) as first_at, max(finished_at) as last_at
               from "
    ));
    if filter.ids.is_empty() {
        statement.push(DEAD);
    } else {
        statement.push(tasks_of(None, &filter));
    }
    list::push_conditions(&mut statement, tenant, &filter);
    statement.push(
        " group by error_fingerprint, task_type, error_kind
          order by letters desc, last_at desc, newest desc limit ",
    );
    statement.push_bind(i64::from(limit));
    statement.push(") as dead order by letters desc, last_at desc, newest desc");
    let rows = statement.build().fetch_all(connection).await?;
    rows.iter().map(read_group).collect()
}

fn read_group(row: &Row) -> Attempted<DeadLetterGroup> {
    Ok(DeadLetterGroup {
        fingerprint: Fingerprint::from_i64(row::get(row, 0)?),
        task_type: row::word(row, 1)?,
        kind: row::word(row, 2)?,
        newest: row::task_id(row, 3)?,
        count: row::number(row, 4)?,
        first_failed_at: row::time(row, 5)?,
        last_failed_at: row::time(row, 6)?,
        example: row::get(row, 7)?,
    })
}
