//! Heartbeats of the workers in this process.
//!
//! The file has one process, so its workers and the sweeper that judges them are in the same one.
//! Their heartbeats are kept in memory, where they wait for no transaction of anybody, and are
//! written when the sweeper looks for silent workers. What a process that is gone had running, the
//! next one returns anyway.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::SqliteConnection;
use taskforge_domain::{Timestamp, WorkerId};

use super::{
    Shared, lead,
    param::{millis, time},
    row, sweep,
    writer::on_writer,
};
use crate::{LapsedTask, LeaseConnection, StoreResult, Term};

/// A heartbeat renews a lease that holds; time never runs backwards in it.
const HEARTBEAT: &str = "
    update workers set heartbeat_at = max(heartbeat_at, $2)
    where id = $1 and lapsed_at is null and heartbeat_at + lease_ms * 1000 >= $2";

/// One that was refused stays refused, whatever the worker's clock says next.
const LAPSE_WORKER: &str = "update workers set lapsed_at = $2 where id = $1 and lapsed_at is null";

/// The sweeper's look and the refusal of the next heartbeat are one: whoever is listed below is
/// marked here, in the same transaction.
const LAPSE_WORKERS: &str = "
    update workers set lapsed_at = $1 where lapsed_at is null and heartbeat_at + lease_ms * 1000 < $1
    returning id";

/// A heartbeat that was accepted in memory.
const WRITE_BEAT: &str = "
    update workers set heartbeat_at = max(heartbeat_at, $2) where id = $1 and lapsed_at is null";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[HEARTBEAT, LAPSE_WORKER, WRITE_BEAT];

/// The workers that were announced here and have neither left nor been found silent.
#[derive(Debug, Default)]
pub(super) struct Beats(Mutex<HashMap<WorkerId, Beat>>);

#[derive(Debug)]
struct Beat {
    lease_micros: i64,
    last: i64,
    /// The last that the database knows of.
    written: i64,
    /// One came too late, and all that follow.
    has_lapsed: bool,
}

/// What the database is to be told of a worker.
struct News {
    worker: WorkerId,
    last: i64,
    has_lapsed: bool,
}

impl Beats {
    /// A worker that the database did not know before.
    pub(super) fn enter(&self, worker: WorkerId, lease: Duration, now: Timestamp) {
        let beat = Beat {
            lease_micros: millis(lease).saturating_mul(1_000),
            last: time(now),
            written: time(now),
            has_lapsed: false,
        };
        self.lock().insert(worker, beat);
    }

    pub(super) fn remove(&self, worker: WorkerId) {
        self.lock().remove(&worker);
    }

    /// Renews a lease that holds; time never runs backwards in it. `None`: the database knows.
    fn renew(&self, worker: WorkerId, now: Timestamp) -> Option<bool> {
        let (mut beats, now) = (self.lock(), time(now));
        let beat = beats.get_mut(&worker)?;
        beat.has_lapsed |= beat.last.saturating_add(beat.lease_micros) < now;
        if !beat.has_lapsed {
            beat.last = beat.last.max(now);
        }
        Some(!beat.has_lapsed)
    }

    /// What the database does not know yet.
    fn news(&self) -> Vec<News> {
        let beats = self.lock();
        let unknown = beats.iter().filter(|(_, beat)| beat.last > beat.written || beat.has_lapsed);
        let news = unknown.map(|(worker, beat)| News {
            worker: *worker,
            last: beat.last,
            has_lapsed: beat.has_lapsed,
        });
        news.collect()
    }

    /// The database knows it now, and has found these workers silent.
    fn told(&self, news: &[News], silent: &[WorkerId]) {
        let mut beats = self.lock();
        for news in news {
            if news.has_lapsed {
                beats.remove(&news.worker);
            } else if let Some(beat) = beats.get_mut(&news.worker) {
                beat.written = news.last;
            }
        }
        for worker in silent {
            beats.remove(worker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a worker's heartbeats go.
pub(super) struct Leases(pub(super) Arc<Shared>);

#[async_trait]
impl LeaseConnection for Leases {
    async fn heartbeat(&mut self, worker: WorkerId, now: Timestamp) -> StoreResult<bool> {
        match self.0.beats.renew(worker, now) {
            Some(holds) => Ok(holds),
            None => on_writer!(self.0.writer, |writer| heartbeat(writer, worker, now)),
        }
    }

    async fn close(self: Box<Self>) {}
}

/// Renews a lease in the database.
pub(super) async fn heartbeat(
    connection: &mut SqliteConnection,
    worker: WorkerId,
    now: Timestamp,
) -> StoreResult<bool> {
    let query = sqlx::query(HEARTBEAT).bind(worker.as_uuid()).bind(time(now));
    if query.execute(&mut *connection).await?.rows_affected() == 1 {
        return Ok(true);
    }
    sqlx::query(LAPSE_WORKER).bind(worker.as_uuid()).bind(time(now)).execute(connection).await?;
    Ok(false)
}

/// Running tasks of workers that are silent or gone.
pub(super) async fn lapsed(
    connection: &mut SqliteConnection,
    beats: &Beats,
    term: Term,
    now: Timestamp,
    limit: u32,
) -> StoreResult<Vec<LapsedTask>> {
    let mut transaction = lead::begin(connection, Some(term)).await?;
    let news = beats.news();
    let mut silent = Vec::new();
    for news in &news {
        let (statement, at) =
            if news.has_lapsed { (LAPSE_WORKER, time(now)) } else { (WRITE_BEAT, news.last) };
        let written = sqlx::query(statement)
            .bind(news.worker.as_uuid())
            .bind(at)
            .execute(&mut *transaction)
            .await?;
        if written.rows_affected() == 0 {
            // It has lapsed or is gone, of which a commit may have failed to tell.
            silent.push(news.worker);
        }
    }
    for row in sqlx::query(LAPSE_WORKERS).bind(time(now)).fetch_all(&mut *transaction).await? {
        silent.push(row::worker_id(&row, 0)?);
    }
    let lapsed = sweep::of_lapsed_workers(&mut transaction, now, limit).await?;
    transaction.commit().await?;
    beats.told(&news, &silent);
    Ok(lapsed)
}
