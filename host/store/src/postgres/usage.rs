//! What the attempts of versions used.

use sqlx::PgConnection;
use taskforge_domain::{VersionId, VersionUsage};

use super::{
    fault::Attempted,
    param::count,
    row::{self, corrupt},
};
use crate::plugins::{Metric, UsageRow, usage_rows};

/// Rows come in the order of their keys, which is the order of their locks: two who add at once do
/// not wait in a circle.
const ADD: &str = "
    insert into plugin_usage (version, phase, metric, bucket, count, max)
    select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::integer[], $5::bigint[], $6::bigint[])
    on conflict (version, phase, metric, bucket) do update
    set count = plugin_usage.count + excluded.count, max = greatest(plugin_usage.max, excluded.max)";

const OF_VERSION: &str = "
    select metric, bucket, sum(count)::bigint, max(max) from plugin_usage
    where version = $1 and ($2::bigint is null or phase = $2)
    group by metric, bucket";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[OF_VERSION];

pub(super) async fn add(
    connection: &mut PgConnection,
    used: &[(VersionId, i64, VersionUsage)],
) -> Attempted<()> {
    let rows = usage_rows(used);
    if rows.is_empty() {
        return Ok(());
    }
    let all = |of: fn(&UsageRow) -> i64| rows.iter().map(of).collect::<Vec<_>>();
    sqlx::query(ADD)
        .bind(rows.iter().map(|row| *row.version.as_uuid()).collect::<Vec<_>>())
        .bind(all(|row| row.phase))
        .bind(rows.iter().map(|row| row.metric.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i32::from(row.bucket)).collect::<Vec<_>>())
        .bind(all(|row| count(row.count)))
        .bind(all(|row| count(row.max)))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn of_version(
    connection: &mut PgConnection,
    version: VersionId,
    phase: Option<i64>,
) -> Attempted<VersionUsage> {
    let rows =
        sqlx::query(OF_VERSION).bind(version.as_uuid()).bind(phase).fetch_all(connection).await?;
    let mut usage = VersionUsage::default();
    for row in &rows {
        let metric: Metric = row::word(row, 0)?;
        let bucket =
            u16::try_from(row::get::<i32>(row, 1)?).map_err(|error| corrupt(row, 1, error))?;
        metric.add(&mut usage, bucket, row::number(row, 2)?, row::number(row, 3)?);
    }
    Ok(usage)
}
