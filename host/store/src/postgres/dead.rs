//! Dead letters: seen by kind, and given another chance.

use sqlx::{Connection, PgConnection, QueryBuilder, Row};
use taskforge_domain::{EventKind, Fingerprint, Json, RunLease, TaskState, TenantId, Timestamp};

use super::{
    event::{self, NewEvent},
    fault::Attempted,
    list::{self, Direction},
    operate::REQUEUED,
    param::time,
    row,
};
use crate::{DeadLetterGroup, LanedTask, TaskFilter};

/// The filter narrowed to dead letters; `None` if it names only other states.
fn only_dead(filter: &TaskFilter) -> Option<TaskFilter> {
    let names_them = filter.states.is_empty() || filter.states.contains(&TaskState::Failed);
    names_them.then(|| TaskFilter { states: vec![TaskState::Failed], ..filter.clone() })
}

/// `failed` becomes `pending`, as a retry does it, for the oldest that match.
pub(super) async fn requeue(
    connection: &mut PgConnection,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
    input: Option<&Json>,
    now: Timestamp,
) -> Attempted<Vec<LanedTask>> {
    let Some(filter) = only_dead(filter) else {
        return Ok(Vec::new());
    };
    let mut transaction = connection.begin().await?;
    let mut statement = QueryBuilder::new(
        "update tasks set state = 'pending', attempt = 0, lapses = 0, finished_at = null, worker = null, run_at = ",
    );
    statement.push_bind(time(now));
    if let Some(input) = input {
        statement.push(", input = ").push_bind(input.as_str());
    }
    statement.push(" where id = any (array(");
    list::push_ids(&mut statement, tenant, &filter, Direction::OldestFirst, None, limit);
    statement.push(")) and state = 'failed' returning id, tenant, task_type, priority, run_lease");
    let rows = statement.build().fetch_all(&mut *transaction).await?;
    let mut moved = rows
        .iter()
        .map(|row| Ok((row::laned(row)?, RunLease(row.try_get(4)?))))
        .collect::<Attempted<Vec<_>>>()?;
    moved.sort_by_key(|(task, _)| task.id);
    let events: Vec<_> = moved
        .iter()
        .map(|(task, run_lease)| NewEvent {
            task: task.id,
            at: time(now),
            kind: EventKind::Requeued,
            run_lease: *run_lease,
            detail: REQUEUED,
        })
        .collect();
    event::insert(&mut transaction, &events).await?;
    transaction.commit().await?;
    Ok(moved.into_iter().map(|(task, _)| task).collect())
}

/// Groups by type and fingerprint. Those of one fingerprint have one kind, and the newest one's
/// message stands for all.
pub(super) async fn groups(
    connection: &mut PgConnection,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
) -> Attempted<Vec<DeadLetterGroup>> {
    let Some(filter) = only_dead(filter) else {
        return Ok(Vec::new());
    };
    let mut statement = QueryBuilder::new(
        "select dead.error_fingerprint, dead.task_type, example.error_kind, example.error_message, example.id, dead.count, dead.first,
                dead.last
         from (select task_type, error_fingerprint, count(*) as count, max(id::text)::uuid as newest, min(finished_at) as first,
                      max(finished_at) as last
               from tasks where state = 'failed'",
    );
    list::push_conditions(&mut statement, tenant, &filter, Direction::NewestFirst, None);
    statement.push(
        " group by task_type, error_fingerprint
          order by count(*) desc, max(finished_at) desc, task_type, error_fingerprint limit ",
    );
    statement.push_bind(i64::from(limit));
    statement.push(
        ") as dead join tasks as example on example.id = dead.newest
         order by dead.count desc, dead.last desc, dead.task_type, dead.error_fingerprint",
    );
    let rows = statement.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(DeadLetterGroup {
                fingerprint: Fingerprint::from_i64(row.try_get(0)?),
                task_type: row::word(row, 1)?,
                kind: row::word(row, 2)?,
                example: row::get(row, 3)?,
                newest: row::task_id(row, 4)?,
                count: row.try_get::<i64, _>(5)?.unsigned_abs(),
                first_failed_at: row::time(row, 6)?,
                last_failed_at: row::time(row, 7)?,
            })
        })
        .collect()
}
