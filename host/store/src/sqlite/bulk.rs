//! Rows by the dozen: they travel as JSON, which `jsonb_each` unfolds.

use sqlx::SqliteConnection;
use taskforge_domain::{RunLease, TaskId};

use super::{
    driver::begin,
    param::{Hex, arrays, count, id, json, text, time},
    row,
};
use crate::{KeySpace, StoreResult, event::NewEvent, lapse::ResolvedLapse, plugins::UsageRow};

/// In the order in which they happened.
const INSERT_EVENTS: &str = "
    insert into events (task_id, at, kind, run_lease, detail)
    select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4 from jsonb_each($1) order by key";

const ADD_USAGE: &str = "
    insert into plugin_usage (version, phase, metric, bucket, count, max)
    select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    from jsonb_each($1) where true
    on conflict (version, phase, metric, bucket) do update
    set count = count + excluded.count, max = max(max, excluded.max)";

const SET_VALUES: &str = "
    insert into plugin_values (tenant, plugin, bucket, key, value)
    select $1, $2, $3, unhex(given.value ->> 0), unhex(given.value ->> 1) from jsonb_each($4) as given where true
    on conflict (tenant, plugin, bucket, key) do update set value = excluded.value";

/// Those that do not run under the lease that is named.
const LOST_LEASES: &str = "
    select unhex(value ->> 0) as id from jsonb_each($1)
    where not exists (select 1 from tasks
                      where tasks.id = unhex(value ->> 0) and tasks.run_lease = value ->> 1 and tasks.state = 'running')";

/// The arrows out of `running` that a sweeper may take, for the lease that lapsed and no other. The
/// attempt is taken back. A task that is handed back has not lapsed, and keeps the error that it
/// had.
const RESOLVE: &str = "
    update tasks
    set state = resolution.state,
        attempt = tasks.attempt - 1,
        lapses = tasks.lapses + (resolution.state <> 'pending'),
        run_at = coalesce(resolution.run_at, tasks.run_at),
        finished_at = resolution.finished_at,
        worker = null,
        error_kind = coalesce(resolution.error_kind, tasks.error_kind),
        error_message = coalesce(resolution.error_message, tasks.error_message),
        error_fingerprint = coalesce(resolution.error_fingerprint, tasks.error_fingerprint),
        progress = null,
        progress_note = null
    from (select unhex(value ->> 0) as id, value ->> 1 as run_lease, value ->> 2 as state, value ->> 3 as run_at,
                 value ->> 4 as finished_at, value ->> 5 as error_kind, value ->> 6 as error_message,
                 value ->> 7 as error_fingerprint
          from jsonb_each($1)) as resolution
    where tasks.id = resolution.id and tasks.run_lease = resolution.run_lease and tasks.state = 'running'
    returning id";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] =
    &[INSERT_EVENTS, ADD_USAGE, SET_VALUES, LOST_LEASES, RESOLVE];

/// Records events in the caller's transaction.
pub(super) async fn insert_events(
    connection: &mut SqliteConnection,
    events: &[NewEvent<'_>],
) -> StoreResult<()> {
    let row = |event: &NewEvent<'_>| {
        let NewEvent { task, at, kind, run_lease, detail } = event;
        json(&(id(task.as_uuid()), time(*at), kind.as_str(), run_lease.0, text(detail)))
    };
    for array in arrays(events.iter().map(row)) {
        sqlx::query(INSERT_EVENTS).bind(array).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Adds what attempts used, all or none.
pub(super) async fn add_usage(
    connection: &mut SqliteConnection,
    rows: &[UsageRow],
) -> StoreResult<()> {
    let row = |row: &UsageRow| {
        let UsageRow { version, phase, metric, bucket, .. } = row;
        let metric = metric.as_str();
        json(&(id(version.as_uuid()), phase, metric, bucket, count(row.count), count(row.max)))
    };
    let mut transaction = begin(connection).await?;
    for array in arrays(rows.iter().map(row)) {
        sqlx::query(ADD_USAGE).bind(array).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Writes values in the caller's transaction.
pub(super) async fn set_values(
    connection: &mut SqliteConnection,
    space: &KeySpace,
    values: &[(&[u8], &[u8])],
) -> StoreResult<()> {
    let row = |(key, value): &(&[u8], &[u8])| json(&(Hex(key), Hex(value)));
    for array in arrays(values.iter().map(row)) {
        sqlx::query(SET_VALUES)
            .bind(space.tenant.as_str())
            .bind(space.plugin.as_str())
            .bind(space.bucket.as_bytes())
            .bind(array)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn lost_leases(
    connection: &mut SqliteConnection,
    held: &[(TaskId, RunLease)],
) -> StoreResult<Vec<TaskId>> {
    let row = |(task, lease): &(TaskId, RunLease)| json(&(id(task.as_uuid()), lease.0));
    let mut lost = Vec::new();
    for array in arrays(held.iter().map(row)) {
        for row in sqlx::query(LOST_LEASES).bind(array).fetch_all(&mut *connection).await? {
            lost.push(row::task_id(&row, 0)?);
        }
    }
    Ok(lost)
}

/// Carries out resolutions on lapsed tasks in the caller's transaction.
pub(super) async fn resolve(
    connection: &mut SqliteConnection,
    resolutions: &[ResolvedLapse],
) -> StoreResult<Vec<TaskId>> {
    let row = |each: &ResolvedLapse| {
        json(&(
            id(each.id.as_uuid()),
            each.run_lease.0,
            each.state.as_str(),
            each.run_at,
            each.finished_at,
            each.error_kind(),
            each.error_message(),
            each.error_fingerprint(),
        ))
    };
    let mut moved = Vec::new();
    for array in arrays(resolutions.iter().map(row)) {
        for row in sqlx::query(RESOLVE).bind(array).fetch_all(&mut *connection).await? {
            moved.push(row::task_id(&row, 0)?);
        }
    }
    Ok(moved)
}
