//! Workers prove with a heartbeat that they live.

use async_trait::async_trait;
use sqlx::{PgConnection, Row as _};
use taskforge_domain::{Clock, Timestamp, WorkerId};

use super::{
    clock::{self, Asked},
    connect::{Connections, on},
    fault::{Attempted, Repeat},
    lead,
    param::time,
    row, sweep,
};
use crate::{LapsedTask, LeaseConnection, StoreResult, Term};

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

/// The sweeper's look and the refusal of the next heartbeat are one: whoever is listed below is
/// marked here, in the same transaction.
const LAPSE_WORKERS: &str = "
    update workers set lapsed_at = $1 where lapsed_at is null and heartbeat_at < $1 - lease_ms * 1000";

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

/// Running tasks of workers that are silent or gone.
pub(super) async fn lapsed(
    connection: &mut PgConnection,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> Attempted<Vec<LapsedTask>> {
    let mut transaction = lead::begin(connection, Some(term)).await?;
    sqlx::query(LAPSE_WORKERS).bind(time(now)).execute(&mut *transaction).await?;
    let lapsed = sweep::of_lapsed_workers(&mut transaction, now, limit).await?;
    transaction.commit().await?;
    Ok(lapsed)
}
