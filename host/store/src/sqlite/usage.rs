//! What the attempts of versions used.

use sqlx::{SqlitePool, SqliteTransaction};
use taskforge_domain::{VersionId, VersionUsage};

use super::{
    param::{RowText, arrays, version_id},
    row,
};
use crate::{
    StoreResult,
    plugins::{Metric, usage_rows},
};

const ADD: &str = "
    insert into plugin_usage (version, phase, metric, bucket, count, max)
    select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    from jsonb_each(?1) where true
    on conflict (version, phase, metric, bucket) do update
    set count = count + excluded.count, max = max(max, excluded.max)";

const OF_VERSION: &str = "
    select metric, bucket, sum(count), max(max) from plugin_usage
    where version = ?1 and (?2 is null or phase = ?2)
    group by metric, bucket";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[ADD, OF_VERSION];

pub(super) async fn add(
    mut transaction: SqliteTransaction<'_>,
    used: &[(VersionId, i64, VersionUsage)],
) -> StoreResult<()> {
    let rows: Vec<_> = usage_rows(used)
        .iter()
        .map(|row| {
            RowText::new()
                .id(row.version.as_uuid())
                .int(row.phase)
                .text(row.metric.as_str())
                .int(i64::from(row.bucket))
                .count(row.count)
                .count(row.max)
                .finish()
        })
        .collect();
    for array in arrays(rows.iter().map(String::as_str)) {
        sqlx::query(ADD).bind(array).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

pub(super) async fn of_version(
    readers: &SqlitePool,
    version: VersionId,
    phase: Option<i64>,
) -> StoreResult<VersionUsage> {
    let rows =
        sqlx::query(OF_VERSION).bind(version_id(version)).bind(phase).fetch_all(readers).await?;
    let mut usage = VersionUsage::default();
    for row in &rows {
        let metric: Metric = row::word(row, 0)?;
        metric.add(&mut usage, row::number(row, 1)?, row::number(row, 2)?, row::number(row, 3)?);
    }
    Ok(usage)
}
