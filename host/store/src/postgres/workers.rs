//! Workers announce themselves, and prove with a heartbeat that they live.

use async_trait::async_trait;
use sqlx::{PgConnection, Row as _};
use taskforge_domain::{Clock, RunLease, TaskId, Timestamp, WorkerId};

use super::{
    clock::{self, Asked},
    connect::{Connections, on},
    fault::{Attempted, Repeat},
    param::{millis, text, time},
    row, sweep,
};
use crate::{LapsedTask, LeaseConnection, StoreResult, WorkerRecord};

/// A repeat leaves the first as it is.
const REGISTER: &str = "
    insert into workers (id, host, pid, started_at, lease_ms, heartbeat_at) values ($1, $2, $3, $4, $5, $6)
    on conflict (id) do nothing";

/// A heartbeat renews a lease that holds; time never runs backwards in it. One that comes too late
/// lapses the worker for good, whatever its clock says next. Answers with whether the lease holds;
/// with nothing if nobody knows the worker.
const HEARTBEAT: &str = "
    update workers
    set heartbeat_at = case when heartbeat_at >= $2 - lease_ms * 1000 then greatest(heartbeat_at, $2) else heartbeat_at end,
        lapsed_at = case when heartbeat_at < $2 - lease_ms * 1000 then $2 end
    where id = $1 and lapsed_at is null
    returning lapsed_at is null, (extract(epoch from clock_timestamp()) * 1000000)::bigint";

/// Times of before the database's clock was set forward prove nobody's silence: every lease begins
/// anew. One that was set back leaves heartbeats of a time to come, which lapse nobody; to put them
/// back would lapse whoever has not noticed it yet.
const RENEW_ALL: &str =
    "update workers set heartbeat_at = $1 where lapsed_at is null and heartbeat_at < $1";

/// Nor may a term of the sweep last until the time of before, which no term is long enough for.
const END_TERM: &str = "update leadership set expires_at = $1 where expires_at > $1 + 60000000";

const REMOVE: &str = "delete from workers where id = $1";

/// Those that do not run under the lease that is named.
const LOST_LEASES: &str = "
    select held.id from unnest($1::uuid[], $2::bigint[]) as held (id, run_lease)
    where not exists (select 1 from tasks
                      where tasks.id = held.id and tasks.run_lease = held.run_lease and tasks.state = 'running')";

const HELD: &str =
    concat!(sweep::select_lapsed!(), " from tasks where state = 'running' and worker = $1");

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[LOST_LEASES, HELD];

/// A hundred years: far enough, and no sum with a time leaves the column's range.
const LONGEST_LEASE_MS: i64 = 100 * 365 * 24 * 3600 * 1000;

pub(super) async fn register(
    connection: &mut PgConnection,
    worker: &WorkerRecord,
    now: Timestamp,
) -> Attempted<()> {
    sqlx::query(REGISTER)
        .bind(worker.id.as_uuid())
        .bind(text(&worker.host))
        .bind(i64::from(worker.pid))
        .bind(time(worker.started_at))
        .bind(millis(worker.lease).min(LONGEST_LEASE_MS))
        .bind(time(now))
        .execute(connection)
        .await?;
    Ok(())
}

/// Renews a worker's lease, and compares the clocks. So a process that judges leases notices within
/// a second that the database's clock was set.
pub(super) async fn heartbeat(
    connections: &Connections,
    clock: &Clock,
    worker: WorkerId,
    now: Timestamp,
) -> StoreResult<bool> {
    let asked = Asked::now(clock);
    let beat = on!(connections, Repeat::Safe, |connection| beat(connection, worker, now))?;
    let Some((holds, there)) = beat else {
        return Ok(false);
    };
    if let Some(ahead) = asked.set_by(there) {
        clock::follow(connections, clock, &asked, ahead).await?;
    }
    Ok(holds)
}

/// Whether the lease holds, and the database's time. `None`: nobody knows the worker.
async fn beat(
    connection: &mut PgConnection,
    worker: WorkerId,
    now: Timestamp,
) -> Attempted<Option<(bool, Timestamp)>> {
    let beat = sqlx::query(HEARTBEAT)
        .bind(worker.as_uuid())
        .bind(time(now))
        .fetch_optional(connection)
        .await?;
    beat.map(|row| Ok((row.try_get(0)?, row::time(&row, 1)?))).transpose()
}

/// Puts right what a clock that was set makes of leases and of the sweeper's term; `now` is its new
/// time.
pub(super) async fn renew_all(connection: &mut PgConnection, now: Timestamp) -> Attempted<()> {
    for statement in [RENEW_ALL, END_TERM] {
        sqlx::query(statement).bind(time(now)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Where a worker's heartbeats go.
pub(super) struct Leases {
    pub(super) connections: Connections,
    pub(super) clock: Clock,
}

#[async_trait]
impl LeaseConnection for Leases {
    async fn heartbeat(&mut self, worker: WorkerId, now: Timestamp) -> StoreResult<bool> {
        heartbeat(&self.connections, &self.clock, worker, now).await
    }

    async fn close(self: Box<Self>) {
        self.connections.close().await;
    }
}

pub(super) async fn remove(connection: &mut PgConnection, worker: WorkerId) -> Attempted<()> {
    sqlx::query(REMOVE).bind(worker.as_uuid()).execute(connection).await?;
    Ok(())
}

pub(super) async fn lost_leases(
    connection: &mut PgConnection,
    held: &[(TaskId, RunLease)],
) -> Attempted<Vec<TaskId>> {
    let rows = sqlx::query(LOST_LEASES)
        .bind(held.iter().map(|(id, _)| *id.as_uuid()).collect::<Vec<_>>())
        .bind(held.iter().map(|(_, lease)| lease.0).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| row::task_id(row, 0)).collect()
}

pub(super) async fn held(
    connection: &mut PgConnection,
    worker: WorkerId,
) -> Attempted<Vec<LapsedTask>> {
    let rows = sqlx::query(HELD).bind(worker.as_uuid()).fetch_all(connection).await?;
    rows.iter().map(sweep::read_lapsed).collect()
}
