//! What the attempts of versions used.

use taskforge_domain::{VersionId, VersionUsage};

use super::{
    driver::{Attempted, Connection},
    row,
};
use crate::plugins::Metric;

const OF_VERSION: &str = "
    select metric, bucket, cast(sum(count) as bigint), max(max) from plugin_usage
    where version = $1 and (cast($2 as bigint) is null or phase = $2)
    group by metric, bucket";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[OF_VERSION];

pub(super) async fn of_version(
    connection: &mut Connection,
    version: VersionId,
    phase: Option<i64>,
) -> Attempted<VersionUsage> {
    let rows =
        sqlx::query(OF_VERSION).bind(version.as_uuid()).bind(phase).fetch_all(connection).await?;
    let mut usage = VersionUsage::default();
    for row in &rows {
        let metric: Metric = row::word(row, 0)?;
        metric.add(&mut usage, row::number(row, 1)?, row::number(row, 2)?, row::number(row, 3)?);
    }
    Ok(usage)
}
