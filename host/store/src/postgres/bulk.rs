//! Rows by the dozen: they travel as arrays, which `unnest` unfolds.

use sqlx::PgConnection;
use taskforge_domain::{RunLease, TaskId};
use uuid::Uuid;

use super::{
    fault::Attempted,
    param::{count, text, time},
    row,
};
use crate::{KeySpace, event::NewEvent, lapse::ResolvedLapse, plugins::UsageRow};

macro_rules! column {
    ($rows:expr, $row:pat => $value:expr) => {
        $rows.iter().map(|$row| $value).collect::<Vec<_>>()
    };
}

/// In the order in which they happened.
const INSERT_EVENTS: &str = "
    insert into events (task_id, at, kind, run_lease, detail)
    select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[])";

/// Rows come in the order of their keys, which is the order of their locks: two who add at once do
/// not wait in a circle.
const ADD_USAGE: &str = "
    insert into plugin_usage (version, phase, metric, bucket, count, max)
    select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::integer[], $5::bigint[], $6::bigint[])
    on conflict (version, phase, metric, bucket) do update
    set count = plugin_usage.count + excluded.count, max = greatest(plugin_usage.max, excluded.max)";

const SET_VALUES: &str = "
    insert into plugin_values (tenant, plugin, bucket, key, value)
    select $1, $2, $3, * from unnest($4::bytea[], $5::bytea[])
    on conflict (tenant, plugin, bucket, key) do update set value = excluded.value";

/// Those that do not run under the lease that is named.
const LOST_LEASES: &str = "
    select held.id from unnest($1::uuid[], $2::bigint[]) as held (id, run_lease)
    where not exists (select 1 from tasks
                      where tasks.id = held.id and tasks.run_lease = held.run_lease and tasks.state = 'running')";

/// The arrows out of `running` that a sweeper may take, for the lease that lapsed and no other. The
/// attempt is taken back. A task that is handed back has not lapsed, and keeps the error that it
/// had.
const RESOLVE: &str = "
    update tasks
    set state = resolution.state,
        attempt = tasks.attempt - 1,
        lapses = tasks.lapses + (resolution.state <> 'pending')::integer,
        run_at = coalesce(resolution.run_at, tasks.run_at),
        finished_at = resolution.finished_at,
        worker = null,
        error_kind = coalesce(resolution.error_kind, tasks.error_kind),
        error_message = coalesce(resolution.error_message, tasks.error_message),
        error_fingerprint = coalesce(resolution.error_fingerprint, tasks.error_fingerprint),
        progress = null,
        progress_note = null
    from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[])
         as resolution (id, run_lease, state, run_at, finished_at, error_kind, error_message, error_fingerprint)
    where tasks.id = resolution.id and tasks.run_lease = resolution.run_lease and tasks.state = 'running'
    returning tasks.id";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[LOST_LEASES, RESOLVE];

/// Records events in the caller's transaction.
pub(super) async fn insert_events(
    connection: &mut PgConnection,
    events: &[NewEvent<'_>],
) -> Attempted<()> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT_EVENTS)
        .bind(column!(events, event => *event.task.as_uuid()))
        .bind(column!(events, event => time(event.at)))
        .bind(column!(events, event => event.kind.as_str()))
        .bind(column!(events, event => event.run_lease.0))
        .bind(column!(events, event => text(event.detail)))
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds what attempts used, all or none.
pub(super) async fn add_usage(connection: &mut PgConnection, rows: &[UsageRow]) -> Attempted<()> {
    sqlx::query(ADD_USAGE)
        .bind(column!(rows, row => *row.version.as_uuid()))
        .bind(column!(rows, row => row.phase))
        .bind(column!(rows, row => row.metric.as_str()))
        .bind(column!(rows, row => i32::from(row.bucket)))
        .bind(column!(rows, row => count(row.count)))
        .bind(column!(rows, row => count(row.max)))
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes values in the caller's transaction.
pub(super) async fn set_values(
    connection: &mut PgConnection,
    space: &KeySpace,
    values: &[(&[u8], &[u8])],
) -> Attempted<()> {
    sqlx::query(SET_VALUES)
        .bind(space.tenant.as_str())
        .bind(space.plugin.as_str())
        .bind(space.bucket.as_bytes())
        .bind(column!(values, (key, _) => *key))
        .bind(column!(values, (_, value) => *value))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn lost_leases(
    connection: &mut PgConnection,
    held: &[(TaskId, RunLease)],
) -> Attempted<Vec<TaskId>> {
    let rows = sqlx::query(LOST_LEASES)
        .bind(column!(held, (id, _) => *id.as_uuid()))
        .bind(column!(held, (_, lease) => lease.0))
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| row::task_id(row, 0)).collect()
}

/// Carries out resolutions on lapsed tasks in the caller's transaction.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    resolutions: &[ResolvedLapse],
) -> Attempted<Vec<TaskId>> {
    let moved: Vec<Uuid> = sqlx::query_scalar(RESOLVE)
        .bind(column!(resolutions, each => *each.id.as_uuid()))
        .bind(column!(resolutions, each => each.run_lease.0))
        .bind(column!(resolutions, each => each.state.as_str()))
        .bind(column!(resolutions, each => each.run_at))
        .bind(column!(resolutions, each => each.finished_at))
        .bind(column!(resolutions, each => each.error_kind()))
        .bind(column!(resolutions, each => each.error_message()))
        .bind(column!(resolutions, each => each.error_fingerprint()))
        .fetch_all(connection)
        .await?;
    Ok(moved.into_iter().map(TaskId::from_uuid).collect())
}
