//! Workers announce themselves, leave, and ask what they hold.

use taskforge_domain::{Timestamp, WorkerId};

use super::{
    driver::{Attempted, Connection, running_tasks},
    param::{millis, text, time},
    row::{self, running_columns},
};
use crate::{LapsedTask, WorkerRecord};

/// A repeat leaves the first as it is.
const REGISTER: &str = "
    insert into workers (id, host, pid, started_at, lease_ms, heartbeat_at) values ($1, $2, $3, $4, $5, $6)
    on conflict (id) do nothing";

const REMOVE: &str = "delete from workers where id = $1";

const HELD: &str = concat!(
    "select ",
    running_columns!(),
    " from ",
    running_tasks!(),
    " where state = 'running' and worker = $1"
);

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[HELD];

/// A hundred years: far enough, and no sum with a time leaves the column's range.
const LONGEST_LEASE_MS: i64 = 100 * 365 * 24 * 3600 * 1000;

/// `false`: it was announced before.
pub(super) async fn register(
    connection: &mut Connection,
    worker: &WorkerRecord,
    now: Timestamp,
) -> Attempted<bool> {
    let registered = sqlx::query(REGISTER)
        .bind(worker.id.as_uuid())
        .bind(text(&worker.host))
        .bind(i64::from(worker.pid))
        .bind(time(worker.started_at))
        .bind(millis(worker.lease).min(LONGEST_LEASE_MS))
        .bind(time(now))
        .execute(connection)
        .await?;
    Ok(registered.rows_affected() == 1)
}

pub(super) async fn remove(connection: &mut Connection, worker: WorkerId) -> Attempted<()> {
    sqlx::query(REMOVE).bind(worker.as_uuid()).execute(connection).await?;
    Ok(())
}

pub(super) async fn claimed_by(
    connection: &mut Connection,
    worker: WorkerId,
) -> Attempted<Vec<LapsedTask>> {
    let rows = sqlx::query(HELD).bind(worker.as_uuid()).fetch_all(connection).await?;
    rows.iter().map(row::running).collect()
}
