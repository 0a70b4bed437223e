//! What happens to a task outside an attempt.

use sqlx::SqliteConnection;
use taskforge_domain::{EventKind, RunLease, TaskId};

use super::param::{RowText, arrays};
use crate::StoreResult;

/// Events are only ever added; their order is the order of insertion.
const INSERT: &str = "
    insert into events (task_id, at, kind, run_lease, detail)
    select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4 from jsonb_each(?1) order by key";

/// A row for [`insert`]; `at` in microseconds since the Unix epoch.
pub(super) fn row(
    task: TaskId,
    at: i64,
    kind: EventKind,
    run_lease: RunLease,
    detail: &str,
) -> String {
    RowText::new()
        .id(task.as_uuid())
        .int(at)
        .text(kind.as_str())
        .int(run_lease.0)
        .text(detail)
        .finish()
}

/// Adds events in the caller's transaction.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    rows: impl IntoIterator<Item = String>,
) -> StoreResult<()> {
    let rows: Vec<_> = rows.into_iter().collect();
    for array in arrays(rows.iter().map(String::as_str)) {
        sqlx::query(INSERT).bind(array).execute(&mut *connection).await?;
    }
    Ok(())
}
