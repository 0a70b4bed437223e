//! What time does: tasks fall due, workers fall silent.

use std::{collections::HashMap, time::Duration};

use taskforge_domain::{TaskId, Timestamp};

use super::{
    bulk::{insert_events, resolve},
    driver::{Attempted, Connection, LAPSED, among, for_update_skip_locked},
    lead,
    param::{time, time_before},
    row,
};
use crate::{LapsedTask, QueuedTask, Resolution, StoreResult, Term, lapse::ResolvedLapse};

/// `scheduled` becomes `pending` when its time has come, the earliest first. What somebody else is
/// just changing can wait for the next sweep.
const PROMOTE_DUE: &str = concat!(
    "update tasks set state = 'pending' where state = 'scheduled' and id",
    among!(concat!(
        "select id from tasks where state = 'scheduled' and run_at <= $1 order by run_at limit $2",
        for_update_skip_locked!()
    )),
    " returning id, tenant, task_type, priority, run_at"
);

const NEXT_DUE: &str = "select run_at from tasks where state = 'scheduled' order by run_at limit 1";

/// Workers that lapsed long ago and hold nothing. A worker that is not known is refused as well.
const FORGET_WORKERS: &str = "
    delete from workers
    where lapsed_at < $1
      and not exists (select 1 from tasks where tasks.state = 'running' and tasks.worker = workers.id)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[PROMOTE_DUE, NEXT_DUE, FORGET_WORKERS, LAPSED];

/// How long a lapsed worker is remembered: long enough for a person to find out what happened.
const MEMORY: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn promote_due(
    connection: &mut Connection,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> Attempted<Vec<QueuedTask>> {
    let mut transaction = lead::begin(connection, Some(term)).await?;
    let rows = sqlx::query(PROMOTE_DUE)
        .bind(time(now))
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let due = rows.iter().map(|row| Ok((row::time(row, 4)?, row::laned(row)?)));
    let mut due = due.collect::<Attempted<Vec<_>>>()?;
    due.sort_by_key(|(run_at, task)| (*run_at, task.id));
    Ok(due.into_iter().map(|(_, task)| task).collect())
}

pub(super) async fn next_due(connection: &mut Connection) -> Attempted<Option<Timestamp>> {
    let next = sqlx::query(NEXT_DUE).fetch_optional(connection).await?;
    next.map(|row| row::time(&row, 0)).transpose()
}

/// Running tasks whose worker has lapsed or is gone, in the transaction that has just found out who
/// lapsed.
pub(super) async fn of_lapsed_workers(
    connection: &mut Connection,
    now: Timestamp,
    limit: u32,
) -> Attempted<Vec<LapsedTask>> {
    sqlx::query(FORGET_WORKERS).bind(time_before(now, MEMORY)).execute(&mut *connection).await?;
    let rows = sqlx::query(LAPSED).bind(i64::from(limit)).fetch_all(connection).await?;
    rows.iter().map(row::running).collect()
}

/// Fails without writing when a resolution is none that a sweeper may give.
pub(super) async fn resolve_lapsed(
    connection: &mut Connection,
    term: Option<Term>,
    resolutions: &[Resolution],
    now: Timestamp,
) -> Attempted<Vec<TaskId>> {
    let resolved = resolutions.iter().map(|resolution| ResolvedLapse::of(resolution, now));
    let resolved = resolved.collect::<StoreResult<Vec<_>>>()?;
    let mut transaction = lead::begin(connection, term).await?;
    let moved = resolve(&mut transaction, &resolved).await?;
    let by_id: HashMap<_, _> = resolved.iter().map(|each| (each.id, each)).collect();
    let of_moved = moved.iter().filter_map(|id| by_id.get(id));
    let events: Vec<_> = of_moved.map(|resolution| resolution.event(now)).collect();
    insert_events(&mut transaction, &events).await?;
    transaction.commit().await?;
    Ok(moved)
}
