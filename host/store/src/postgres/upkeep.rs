//! Room for tasks to come, and forgetting what is old.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, PgTransaction};
use taskforge_domain::Timestamp;
use uuid::Uuid;

use super::{
    fault::{Attempted, Kind},
    lead,
    operate::delete_dependents,
    param::{first_id, time, time_before},
    row,
};
use crate::{Term, Upkeep};

/// The partitions of a moment and of the days after it. A day back as well, for tasks whose maker's
/// clock is slow.
const MAKE: &str = "
    select taskforge_make_partitions(to_timestamp($1::bigint / 1e6) - interval '1 day', to_timestamp($1::bigint / 1e6) + interval '14 days')";

/// The oldest partition that ended before a time.
const OLDEST: &str = "
    select extract(epoch from week)::bigint from (
        select taskforge_week(relname) as week from pg_inherits join pg_class on pg_class.oid = inhrelid
        where inhparent = 'tasks'::regclass
    ) as partition
    where week + interval '7 days' <= to_timestamp($1::bigint / 1e6)
    order by week";

/// What must stay of a partition.
const KEPT: &str = "select taskforge_kept(to_timestamp($1::bigint), $2, $3)";

const DROP: &str = "select taskforge_drop_partition(to_timestamp($1::bigint), $2)";

/// Tasks that ended before $1, the oldest first, of ids below $2.
const FORGET: &str = "
    delete from tasks
    where id = any (array(select id from tasks where id < $2 and finished_at < $1 order by id limit $3)) and finished_at < $1
    returning id";

/// The same of the default partition, which holds what was kept when its partition was dropped.
const FORGET_STRAYS: &str = "
    delete from tasks
    where id = any (array(select id from tasks_default where finished_at < $1 order by id limit $2)) and finished_at < $1
    returning id";

/// A partition is locked for as long as what it must leave behind is moved; so many rows are moved
/// in well under a second.
const MOST_MOVED: i32 = 10_000;

/// Rows that are deleted one by one in a call.
const MOST_DELETED: i64 = 10_000;

/// Retention is counted in partitions, so a task is kept for up to a week longer. Below this it
/// must be exact, and tasks are deleted one by one; above, nobody deletes millions of rows to gain
/// some days.
const EXACT_BELOW: Duration = Duration::from_secs(14 * 24 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a look at a whole partition may take. It locks nobody out.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(300);

/// Before partitions are made again that took too long: each try locks everybody out for as long.
const MAKE_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// When partitions took too long to be made.
#[derive(Debug, Default)]
pub(super) struct TookTooLong(Mutex<Option<Instant>>);

impl TookTooLong {
    fn is_recent(&self) -> bool {
        self.lock().is_some_and(|at| at.elapsed() < MAKE_AGAIN_AFTER)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn run(
    connection: &mut PgConnection,
    took_too_long: &TookTooLong,
    term: Option<Term>,
    now: Timestamp,
    retention: Duration,
) -> Attempted<Upkeep> {
    let mut done = Upkeep::default();
    if !took_too_long.is_recent() {
        done.partitions_made = match make(connection, term, now).await {
            Err(fault) if fault.kind() == Kind::Later => {
                *took_too_long.lock() = Some(Instant::now());
                tracing::error!(
                    error = %fault,
                    "partitions of weeks to come were not made; it is tried again in an hour, and what is \
                     forgotten meanwhile is forgotten row by row"
                );
                0
            }
            made => made?,
        };
    }
    let cutoff = cutoff(now, retention);
    if let Some(moved) = drop_oldest(connection, term, now, cutoff).await? {
        done.partitions_dropped = 1;
        done.tasks_moved = moved;
    }
    done.tasks_deleted = forget(connection, term, now, retention).await?;
    Ok(done)
}

/// What ended before this is old. Nothing is older than the epoch, and no retention longer than the
/// calendar.
fn cutoff(now: Timestamp, retention: Duration) -> i64 {
    time_before(now, retention).max(0)
}

/// A change of partitions must not wait long for its locks, because everybody else would wait
/// behind it. There is always another time.
async fn begin(connection: &mut PgConnection, term: Option<Term>) -> Attempted<PgTransaction<'_>> {
    let mut transaction = lead::begin(connection, term).await?;
    sqlx::query("set local lock_timeout = '200ms'").execute(&mut *transaction).await?;
    Ok(transaction)
}

/// What had to wait is no failure of the upkeep.
fn unless_busy<T>(attempted: Attempted<T>, otherwise: T) -> Attempted<T> {
    match attempted {
        Err(fault) if fault.kind() == Kind::Conflict => {
            tracing::warn!(error = %fault, "the tables are in use; their partitions are seen to later");
            Ok(otherwise)
        }
        attempted => attempted,
    }
}

async fn make(connection: &mut PgConnection, term: Option<Term>, now: Timestamp) -> Attempted<u32> {
    // Within the session's time limit, which is below what its caller waits: tables that stay
    // locked after nobody waits any more would stop the fleet. Some millions of rows that came too
    // early for their partition fit into it.
    let mut transaction = begin(connection, term).await?;
    let made: Attempted<i32> = sqlx::query_scalar(MAKE)
        .bind(time(now))
        .fetch_one(&mut *transaction)
        .await
        .map_err(Into::into);
    if made.as_ref().is_err_and(|fault| fault.kind() == Kind::Later) {
        transaction.rollback().await?;
        return made.map(i32::unsigned_abs);
    }
    let Some(made) = unless_busy(made.map(Some), None)? else {
        transaction.rollback().await?;
        return Ok(0);
    };
    transaction.commit().await?;
    Ok(made.unsigned_abs())
}

/// Drops the first partition that is wholly beyond the cutoff and does not keep too much back. Says
/// how many tasks it left behind.
async fn drop_oldest(
    connection: &mut PgConnection,
    term: Option<Term>,
    now: Timestamp,
    cutoff: i64,
) -> Attempted<Option<u64>> {
    // Never one that `make` would make again.
    let oldest: Vec<i64> = sqlx::query_scalar(OLDEST)
        .bind(cutoff.min(time_before(now, DAY)))
        .fetch_all(&mut *connection)
        .await?;
    for week in oldest {
        // Before anything is locked. Its caller waits for longer.
        let mut look = connection.begin().await?;
        sqlx::query("select set_config('statement_timeout', $1, true)")
            .bind(LONGEST_LOOK.as_millis().to_string())
            .execute(&mut *look)
            .await?;
        let kept: Vec<Uuid> = sqlx::query_scalar(KEPT)
            .bind(week)
            .bind(cutoff)
            .bind(MOST_MOVED + 1)
            .fetch_one(&mut *look)
            .await?;
        look.commit().await?;
        if kept.len() > MOST_MOVED as usize {
            continue;
        }
        let mut transaction = begin(connection, term).await?;
        let moved: Attempted<Option<i32>> = sqlx::query_scalar(DROP)
            .bind(week)
            .bind(&kept)
            .fetch_one(&mut *transaction)
            .await
            .map_err(Into::into);
        if let Some(moved) = unless_busy(moved, None)? {
            transaction.commit().await?;
            return Ok(Some(u64::from(moved.unsigned_abs())));
        }
        transaction.rollback().await?;
    }
    Ok(None)
}

/// Deletes one by one what no partition will take along soon: what was left behind by one and,
/// where the retention is short, everything.
async fn forget(
    connection: &mut PgConnection,
    term: Option<Term>,
    now: Timestamp,
    retention: Duration,
) -> Attempted<u64> {
    let cutoff = cutoff(now, retention);
    let mut transaction = begin(connection, term).await?;
    let mut gone: Vec<Uuid> = sqlx::query_scalar(FORGET_STRAYS)
        .bind(cutoff)
        .bind(MOST_DELETED)
        .fetch_all(&mut *transaction)
        .await?;
    if retention < EXACT_BELOW {
        let others: Vec<Uuid> = sqlx::query_scalar(FORGET)
            .bind(cutoff)
            .bind(first_id(cutoff))
            .bind(MOST_DELETED)
            .fetch_all(&mut *transaction)
            .await?;
        gone.extend(others);
    }
    delete_dependents(&mut transaction, &gone).await?;
    transaction.commit().await?;
    Ok(gone.len() as u64)
}

/// Reads all tasks, or as many as the statement's time allows.
const ENDED_BEFORE: &str = "select count(*) from tasks where finished_at < $1";

pub(super) async fn count_ended_before(
    connection: &mut PgConnection,
    before: Timestamp,
) -> Attempted<u64> {
    let query = sqlx::query(ENDED_BEFORE).bind(time(before));
    row::number(&query.fetch_one(connection).await?, 0)
}
