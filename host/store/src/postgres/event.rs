//! What happens to a task outside an attempt.

use sqlx::PgConnection;
use taskforge_domain::{EventKind, RunLease, TaskId};

use super::{fault::Attempted, param::text};

/// Events are only ever added; their order is the order of insertion.
const INSERT: &str = "
    insert into events (task_id, at, kind, run_lease, detail)
    select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[])";

/// An event on its way in.
pub(super) struct NewEvent<'a> {
    pub(super) task: TaskId,
    /// In microseconds since the Unix epoch.
    pub(super) at: i64,
    pub(super) kind: EventKind,
    pub(super) run_lease: RunLease,
    pub(super) detail: &'a str,
}

/// Adds events in the caller's transaction.
pub(super) async fn insert(
    connection: &mut PgConnection,
    events: &[NewEvent<'_>],
) -> Attempted<()> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT)
        .bind(events.iter().map(|event| *event.task.as_uuid()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.at).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.run_lease.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| text(event.detail)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
