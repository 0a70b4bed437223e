//! A running attempt says how far it is.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    fault::Attempted,
    param::{range, text},
};
use crate::{ProgressReport, report};

/// Only the lease that runs may report.
pub(super) const REPORT: &str = "
    update tasks set progress = report.fraction, progress_note = report.note
    from unnest($1::uuid[], $2::bigint[], $3::double precision[], $4::text[]) as report (id, run_lease, fraction, note)
    where tasks.id = any ($1) and tasks.id between $5 and $6
      and tasks.id = report.id and tasks.run_lease = report.run_lease and coalesce(tasks.state, '') = 'running'";

/// Records reports; of several for one attempt, the last.
pub(super) async fn run(
    connection: &mut PgConnection,
    reports: &[ProgressReport],
) -> Attempted<()> {
    let latest: BTreeMap<_, _> =
        reports.iter().map(|report| ((*report.id.as_uuid(), report.run_lease), report)).collect();
    let ids: Vec<Uuid> = latest.keys().map(|(id, _)| *id).collect();
    let leases: Vec<i64> = latest.keys().map(|(_, lease)| lease.0).collect();
    let columns = latest.values().map(|said| report::columns(said));
    let (fractions, notes): (Vec<f64>, Vec<_>) = columns.unzip();
    let notes: Vec<_> = notes.iter().map(|note| note.as_deref().map(text)).collect();
    let (first, last) = range(&ids);
    sqlx::query(REPORT)
        .bind(&ids)
        .bind(leases)
        .bind(fractions)
        .bind(notes)
        .bind(first)
        .bind(last)
        .execute(connection)
        .await?;
    Ok(())
}
