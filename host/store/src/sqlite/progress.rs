//! A running attempt says how far it is.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use taskforge_domain::TaskId;

use super::param::{arrays, id, json, text};
use crate::{ProgressReport, StoreResult, report};

/// Only the lease that runs may report.
const REPORT: &str = "
    update tasks set progress = report.fraction, progress_note = report.note
    from (select unhex(value ->> 0) as id, value ->> 1 as run_lease, value ->> 2 as fraction, value ->> 3 as note
          from jsonb_each($1)) as report
    where tasks.id = report.id and tasks.run_lease = report.run_lease and tasks.state = 'running'";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[REPORT];

/// A report on its way in.
pub(super) struct ProgressRow {
    id: TaskId,
    row: String,
}

impl ProgressRow {
    pub(super) fn new(report: &ProgressReport) -> Self {
        let (fraction, note) = report::columns(report);
        let note = note.as_deref().map(text);
        let row = json(&(id(report.id.as_uuid()), report.run_lease.0, fraction, note));
        Self { id: report.id, row }
    }
}

/// Records reports in the caller's transaction; of several for one task, the last.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    rows: &[&ProgressRow],
) -> StoreResult<()> {
    let latest: HashMap<_, _> = rows.iter().map(|row| (row.id, row.row.as_str())).collect();
    for array in arrays(latest.into_values()) {
        sqlx::query(REPORT).bind(array).execute(&mut *connection).await?;
    }
    Ok(())
}
