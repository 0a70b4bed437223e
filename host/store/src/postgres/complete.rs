//! An attempt ends.

use std::{borrow::Cow, collections::HashMap};

use sqlx::{PgConnection, Postgres, postgres::PgArguments, query::Query};
use taskforge_domain::{Attempt, Failure, Fingerprint, Json, RunLease};
use uuid::Uuid;

use super::{
    fault::Attempted,
    param::{count, millis, range, statements, text, time},
    row,
};
use crate::{Commit, Completion, StoreResult, ending::Ending};

/// The columns of `attempts`, less `moved_task`, as they come in a batch.
macro_rules! attempt_columns {
    () => {
        "task_id, run_lease, number, worker, plugin_version, plugin_digest, started_at, finished_at, failure_kind, failure_message,
         retry_after_ms, fuel, peak_memory, wall_micros, host_calls, http_requests, http_bytes, logs, output"
    };
}

/// The arrays that these columns come in, $1 to $19.
macro_rules! attempt_arrays {
    () => {
        "$1::uuid[], $2::bigint[], $3::integer[], $4::uuid[], $5::text[], $6::bytea[], $7::bigint[], $8::bigint[], $9::text[],
         $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[],
         $18::text[], $19::text[]"
    };
}

/// The arrows out of `running`, for the lease that is named and no other, and the record of the
/// attempt beside them. A hand-back takes the attempt back: it leaves an event instead of a record,
/// and its task keeps the error of the attempt before.
///
/// Answers with the places of those that moved. Everything that a record needs goes through the
/// update's `returning`, so that nothing has to be looked up again. The state is hidden from the
/// planner for the reason that [`claim::TAKE`](super::claim::TAKE) gives.
pub(super) const END: &str = concat!(
    "with moved as (
         update tasks
         set state = ended.state,
             attempt = tasks.attempt - (ended.state = 'pending')::integer,
             run_at = coalesce(ended.run_at, tasks.run_at),
             finished_at = case when ended.state in ('completed', 'failed') then ended.finished_at end,
             worker = null,
             error_kind = case ended.state when 'pending' then tasks.error_kind when 'completed' then null else ended.failure_kind end,
             error_message = case ended.state when 'pending' then tasks.error_message when 'completed' then null
                                              else ended.failure_message end,
             error_fingerprint = case ended.state when 'pending' then tasks.error_fingerprint else ended.fingerprint end,
             progress = null,
             progress_note = null
         from unnest(",
    attempt_arrays!(),
    ", $20::text[], $21::bigint[], $22::bigint[], $23::boolean[]) with ordinality as ended (",
    attempt_columns!(),
    ", state, run_at, fingerprint, is_recorded, place)
         where tasks.id = any ($1) and tasks.id between $24 and $25
           and tasks.id = ended.task_id and tasks.run_lease = ended.run_lease and coalesce(tasks.state, '') = 'running'
         returning ended.*
     ), recorded as (
         insert into attempts (moved_task, ",
    attempt_columns!(),
    ") select true, ",
    attempt_columns!(),
    " from moved where is_recorded
     ), handed_back as (
         insert into events (task_id, at, kind, run_lease, detail)
         select task_id, finished_at, 'handed_back', run_lease, 'its worker gave it back before the attempt ended'
         from moved where not is_recorded
     )
     select array_agg(place) from moved"
);

/// Of those whose lease does not hold: the attempts that are on record already. This is a repeat,
/// and `moved_task` has the first answer.
const ON_RECORD: &str = "
    select ended.place, attempts.moved_task
    from unnest($1::uuid[], $2::bigint[]) with ordinality as ended (task_id, run_lease, place)
    join attempts on attempts.task_id = any ($1) and attempts.task_id between $3 and $4
                 and attempts.task_id = ended.task_id and attempts.run_lease = ended.run_lease";

/// The attempts whose task was cancelled while this very worker ran it under this lease. They are
/// recorded, and their task waits for them no longer. Answers with their places.
const CANCELLED: &str = concat!(
    "with waiting as (
         update tasks set worker = null
         from unnest(",
    attempt_arrays!(),
    ") with ordinality as ended (",
    attempt_columns!(),
    ", place)
         where tasks.id = any ($1) and tasks.id between $20 and $21
           and tasks.id = ended.task_id and tasks.run_lease = ended.run_lease and tasks.worker = ended.worker and coalesce(tasks.state, '') = 'cancelled'
         returning ended.*
     ), recorded as (
         insert into attempts (moved_task, ",
    attempt_columns!(),
    ") select false, ",
    attempt_columns!(),
    " from waiting
     )
     select array_agg(place) from waiting"
);

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[END, ON_RECORD, CANCELLED];

/// The end of an attempt on its way in.
pub(super) struct End {
    attempt: Attempt,
    ending: Ending,
}

impl End {
    /// Fails when the outcome and what follows it contradict each other.
    pub(super) fn new(completion: &Completion) -> StoreResult<Self> {
        Ok(Self { attempt: completion.attempt.clone(), ending: Ending::of(completion)? })
    }

    /// What says which attempt it is, in the order in which tasks are locked.
    fn key(&self) -> (Uuid, RunLease) {
        (*self.attempt.task.as_uuid(), self.attempt.run_lease)
    }

    fn failure(&self) -> Option<&Failure> {
        self.attempt.outcome.failure()
    }

    fn output(&self) -> Option<&str> {
        self.attempt.outcome.result().map(Json::as_str)
    }

    fn bytes(&self) -> usize {
        let said = self.failure().map_or(0, |failure| failure.message.len());
        self.ending.logs.as_ref().map_or(0, String::len)
            + self.output().map_or(0, str::len)
            + 2 * said
    }
}

/// Ends attempts. The answers are in the order of `ends`.
///
/// Not one transaction when some of the leases do not hold: then a second and a third statement ask
/// why. Whoever is interrupted between them repeats the whole, and finds on record what the first
/// has done.
pub(super) async fn run(connection: &mut PgConnection, ends: &[End]) -> Attempted<Vec<Commit>> {
    let mut order: Vec<usize> = (0..ends.len()).collect();
    // Stable: two ends of one attempt in one batch are a repeat. The first is carried out and
    // answers for both.
    order.sort_by_key(|n| ends[*n].key());
    let mut unique: Vec<&End> = order.iter().map(|n| &ends[*n]).collect();
    unique.dedup_by_key(|end| end.key());

    let mut commits = HashMap::with_capacity(unique.len());
    for some in statements(&unique, |end| end.bytes()) {
        for (end, commit) in some.iter().zip(settle(connection, some).await?) {
            commits.insert(end.key(), commit);
        }
    }
    let answer = |end: &End| commits.get(&end.key()).copied().unwrap_or(Commit::Stale);
    Ok(ends.iter().map(answer).collect())
}

async fn settle(connection: &mut PgConnection, ends: &[&End]) -> Attempted<Vec<Commit>> {
    let mut commits = vec![None; ends.len()];
    mark(&mut commits, &end(connection, ends).await?, Commit::Committed);
    if let Some((places, left)) = unsettled(&commits, ends) {
        for (place, moved_task) in on_record(connection, &left).await? {
            let first = if moved_task { Commit::Committed } else { Commit::Cancelled };
            if let Some(n) = places.get(place) {
                commits[*n] = Some(first);
            }
        }
    }
    if let Some((places, left)) = unsettled(&commits, ends) {
        let cancelled = cancelled(connection, &left).await?;
        let cancelled: Vec<_> =
            cancelled.into_iter().filter_map(|place| places.get(place).copied()).collect();
        mark(&mut commits, &cancelled, Commit::Cancelled);
    }
    Ok(commits.into_iter().map(|commit| commit.unwrap_or(Commit::Stale)).collect())
}

fn mark(commits: &mut [Option<Commit>], places: &[usize], commit: Commit) {
    for place in places {
        if let Some(slot) = commits.get_mut(*place) {
            *slot = Some(commit);
        }
    }
}

/// Those that have no answer yet, and their places; `None` if there are none, which is the rule.
fn unsettled<'a>(
    commits: &[Option<Commit>],
    ends: &[&'a End],
) -> Option<(Vec<usize>, Vec<&'a End>)> {
    let open = commits.iter().zip(ends).enumerate().filter(|(_, (commit, _))| commit.is_none());
    let (places, left): (Vec<_>, Vec<_>) = open.map(|(n, (_, end))| (n, *end)).unzip();
    (!left.is_empty()).then_some((places, left))
}

async fn end(connection: &mut PgConnection, ends: &[&End]) -> Attempted<Vec<usize>> {
    let ids: Vec<_> = ends.iter().map(|end| *end.attempt.task.as_uuid()).collect();
    let (first, last) = range(&ids);
    let query = bind_attempts(sqlx::query(END), &ids, ends)
        .bind(ends.iter().map(|end| end.ending.state.as_str()).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.ending.run_at).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.failure().map(fingerprint)).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.ending.is_recorded).collect::<Vec<_>>())
        .bind(first)
        .bind(last);
    places(&query.fetch_one(connection).await?)
}

async fn cancelled(connection: &mut PgConnection, ends: &[&End]) -> Attempted<Vec<usize>> {
    let ids: Vec<_> = ends.iter().map(|end| *end.attempt.task.as_uuid()).collect();
    let (first, last) = range(&ids);
    let query = bind_attempts(sqlx::query(CANCELLED), &ids, ends).bind(first).bind(last);
    places(&query.fetch_one(connection).await?)
}

async fn on_record(connection: &mut PgConnection, ends: &[&End]) -> Attempted<Vec<(usize, bool)>> {
    let ids: Vec<_> = ends.iter().map(|end| *end.attempt.task.as_uuid()).collect();
    let (first, last) = range(&ids);
    let query = sqlx::query(ON_RECORD)
        .bind(&ids)
        .bind(ends.iter().map(|end| end.attempt.run_lease.0).collect::<Vec<_>>())
        .bind(first)
        .bind(last);
    let rows = query.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((from_ordinal(row::get(row, 0)?), row::get(row, 1)?))).collect()
}

/// From an array of ordinals, which count from 1. It is null when there are none.
fn places(row: &sqlx::postgres::PgRow) -> Attempted<Vec<usize>> {
    let ordinals: Option<Vec<i64>> = row::get(row, 0)?;
    Ok(ordinals.unwrap_or_default().into_iter().map(from_ordinal).collect())
}

fn from_ordinal(ordinal: i64) -> usize {
    usize::try_from(ordinal - 1).unwrap_or(usize::MAX)
}

fn fingerprint(failure: &Failure) -> i64 {
    // Of the message as it is stored, so that it can be made again from the row.
    Fingerprint::of(failure.kind, &text(&failure.message)).to_i64()
}

/// Binds $1 to $19.
fn bind_attempts<'q>(
    query: Query<'q, Postgres, PgArguments>,
    ids: &[Uuid],
    ends: &[&End],
) -> Query<'q, Postgres, PgArguments> {
    macro_rules! column {
        ($end:ident => $value:expr) => {
            ends.iter().map(|$end| $value).collect::<Vec<_>>()
        };
    }
    query
        .bind(ids)
        .bind(column!(end => end.attempt.run_lease.0))
        .bind(column!(end => i32::try_from(end.attempt.number).unwrap_or(i32::MAX)))
        .bind(column!(end => *end.attempt.worker.as_uuid()))
        .bind(column!(end => text(&end.attempt.plugin_version)))
        .bind(column!(end => &end.attempt.plugin_digest.as_bytes()[..]))
        .bind(column!(end => time(end.attempt.started_at)))
        .bind(column!(end => time(end.attempt.finished_at)))
        .bind(column!(end => end.failure().map(|failure| failure.kind.as_str())))
        .bind(
            column!(end => end.failure().map(|failure| -> Cow<'_, str> { text(&failure.message) })),
        )
        .bind(column!(end => end.failure().and_then(|failure| failure.retry_after).map(millis)))
        .bind(column!(end => count(end.attempt.usage.fuel)))
        .bind(column!(end => count(end.attempt.usage.peak_memory)))
        .bind(column!(end => count(end.attempt.usage.wall_micros)))
        .bind(column!(end => count(end.attempt.usage.host_calls)))
        .bind(column!(end => i64::from(end.attempt.usage.http_requests)))
        .bind(column!(end => count(end.attempt.usage.http_bytes)))
        .bind(column!(end => end.ending.logs.as_deref()))
        .bind(column!(end => end.output()))
}
