//! How much more may run under the caps.

use sqlx::SqliteConnection;

use super::row;
use crate::{StoreResult, turns::Permits};

const CAPS: &str = "select task_type, tenant, max_running from caps";

/// There are as many running tasks as there are permits for attempts in the process.
const RUNNING: &str = "
    select tenant, task_type, count(*) from tasks indexed by tasks_running
    where state = 'running' group by tenant, task_type";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[CAPS, RUNNING];

/// Counts what the caps leave. Exact until the transaction ends, because nobody else writes.
pub(super) async fn count(connection: &mut SqliteConnection) -> StoreResult<Permits> {
    let mut permits = Permits::default();
    let caps = sqlx::query(CAPS).fetch_all(&mut *connection).await?;
    if caps.is_empty() {
        return Ok(permits);
    }
    for cap in &caps {
        let most = row::number(cap, 2)?;
        match row::optional_word(cap, 0)? {
            Some(name) => permits.types.insert(name, most),
            None => permits.tenants.insert(row::word(cap, 1)?, most),
        };
    }
    for running in sqlx::query(RUNNING).fetch_all(connection).await? {
        let (tenant, task_type) = (row::word(&running, 0)?, row::word(&running, 1)?);
        permits.spend(&tenant, &task_type, row::number(&running, 2)?);
    }
    Ok(permits)
}
