//! An attempt ends.

use std::collections::{HashMap, HashSet};

use sqlx::{Row, SqliteConnection};
use taskforge_domain::{
    Attempt, EventKind, Fingerprint, Json, RunLease, TaskId, TaskState, Timestamp,
};

use super::{
    bulk::insert_events,
    driver::ids,
    param::{Hex, arrays, count, id, json, millis, text, time},
    row,
};
use crate::{Commit, Completion, StoreError, StoreResult, ending::Ending, event::NewEvent};

/// The leases that do not hold, which are few: whether the attempt is on record already (then this
/// is a repeat, and `moved_task` has the first answer), and whether the task was cancelled while
/// this very worker ran it under this lease.
const LOST: &str = "
    select unhex(asked.value ->> 0), asked.value ->> 1, attempts.moved_task,
           coalesce(tasks.state = 'cancelled' and tasks.run_lease = asked.value ->> 1
                    and tasks.worker = unhex(asked.value ->> 2), 0)
    from jsonb_each($1) as asked
    left join tasks on tasks.id = unhex(asked.value ->> 0)
    left join attempts on attempts.task_id = unhex(asked.value ->> 0) and attempts.run_lease = asked.value ->> 1
    where (tasks.state = 'running' and tasks.run_lease = asked.value ->> 1) is not true";

/// The arrows out of `running`, for the lease that is named and no other. A hand-back takes the
/// attempt back; its row keeps the error of the attempt before.
const END: &str = "
    update tasks
    set state = ended.state,
        attempt = tasks.attempt - (ended.state = 'pending'),
        run_at = coalesce(ended.run_at, tasks.run_at),
        finished_at = ended.finished_at,
        worker = null,
        error_kind = iif(ended.state = 'pending', tasks.error_kind, ended.error_kind),
        error_message = iif(ended.state = 'pending', tasks.error_message, ended.error_message),
        error_fingerprint = iif(ended.state = 'pending', tasks.error_fingerprint, ended.error_fingerprint),
        progress = null,
        progress_note = null
    from (select unhex(value ->> 0) as id, value ->> 1 as run_lease, value ->> 2 as state, value ->> 3 as run_at,
                 value ->> 4 as finished_at, value ->> 5 as error_kind, value ->> 6 as error_message,
                 value ->> 7 as error_fingerprint
          from jsonb_each($1)) as ended
    where tasks.id = ended.id and tasks.run_lease = ended.run_lease and tasks.state = 'running'";

/// The attempt that a cancelled task was in is on record, so the task waits for it no longer.
const FORGET_WORKER: &str = "
    update tasks set worker = null
    where state = 'cancelled' and id in (select unhex(value) from json_each($1))";

/// The record of an attempt is never written over.
const INSERT_ATTEMPTS: &str = "
    insert into attempts (task_id, run_lease, number, moved_task, worker, plugin_version, plugin_digest, started_at,
                          finished_at, failure_kind, failure_message, retry_after_ms, fuel, peak_memory, wall_micros,
                          host_calls, http_requests, http_bytes, logs, output)
    select unhex(value ->> 0), value ->> 1, value ->> 2, $2, unhex(value ->> 3), value ->> 4, unhex(value ->> 5),
           value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10,
           value ->> '$[11][0]', value ->> '$[11][1]', value ->> '$[11][2]', value ->> '$[11][3]',
           value ->> 12, value ->> 13, value ->> 14, value ->> 15
    from jsonb_each($1) where true
    on conflict (task_id, run_lease) do nothing";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[LOST, END, FORGET_WORKER, INSERT_ATTEMPTS];

type Key = (TaskId, RunLease);

/// The end of an attempt on its way in.
pub(super) struct CompleteRow {
    key: Key,
    end: String,
    ask: String,
    /// `None` for a hand-back, which leaves an event instead of an attempt: an attempt that does
    /// not count should not be listed.
    attempt: Option<String>,
    finished_at: Timestamp,
}

impl CompleteRow {
    /// Fails when the outcome and what follows it contradict each other.
    pub(super) fn new(completion: &Completion) -> StoreResult<Self> {
        let attempt = &completion.attempt;
        let Ending { state, run_at, is_recorded, logs } = Ending::of(completion)?;
        let task = id(attempt.task.as_uuid());
        let finished_at = time(attempt.finished_at);
        let error = attempt.outcome.failure().filter(|_| state != TaskState::Pending);
        let error = error.map(|error| (error.kind, text(&error.message)));
        let error = error.as_ref();
        let end = (
            &task,
            attempt.run_lease.0,
            state.as_str(),
            run_at,
            state.is_terminal().then_some(finished_at),
            error.map(|(kind, _)| kind.as_str()),
            error.map(|(_, message)| message),
            // Of the message as it is stored, so that it can be made again from the row.
            error.map(|(kind, message)| Fingerprint::of(*kind, message).to_i64()),
        );
        let ask = json(&(&task, attempt.run_lease.0, id(attempt.worker.as_uuid())));
        Ok(Self {
            key: (attempt.task, attempt.run_lease),
            end: json(&end),
            ask,
            attempt: is_recorded.then(|| attempt_row(attempt, logs.as_deref())),
            finished_at: attempt.finished_at,
        })
    }
}

fn attempt_row(attempt: &Attempt, logs: Option<&str>) -> String {
    let failure = attempt.outcome.failure();
    let usage = &attempt.usage;
    json(&(
        id(attempt.task.as_uuid()),
        attempt.run_lease.0,
        attempt.number,
        id(attempt.worker.as_uuid()),
        text(&attempt.plugin_version),
        Hex(attempt.plugin_digest.as_bytes()),
        time(attempt.started_at),
        time(attempt.finished_at),
        failure.map(|failure| failure.kind.as_str()),
        failure.map(|failure| text(&failure.message)),
        failure.and_then(|failure| failure.retry_after).map(millis),
        [usage.fuel, usage.peak_memory, usage.wall_micros, usage.host_calls].map(count),
        usage.http_requests,
        count(usage.http_bytes),
        logs,
        attempt.outcome.result().map(Json::as_str),
    ))
}

/// Ends attempts in the caller's transaction. The answers are in the order of `rows`.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    rows: &[&CompleteRow],
) -> StoreResult<Vec<Commit>> {
    // Two ends of one attempt in one batch are a repeat: the first is carried out and answers for
    // both.
    let mut first = HashSet::with_capacity(rows.len());
    let unique: Vec<_> = rows.iter().copied().filter(|row| first.insert(row.key)).collect();

    let lost = ask_lost(connection, &unique).await?;
    let (held, others): (Vec<_>, Vec<_>) =
        unique.iter().copied().partition(|row| !lost.contains_key(&row.key));
    end(connection, &held).await?;
    let cancelled: Vec<_> = others
        .into_iter()
        .filter(|row| lost.get(&row.key) == Some(&Lost::CancelledUnderIt))
        .collect();
    insert_attempts(connection, &cancelled, false).await?;
    if !cancelled.is_empty() {
        let ids = ids(cancelled.iter().map(|row| row.key.0.as_uuid()));
        sqlx::query(FORGET_WORKER).bind(ids).execute(connection).await?;
    }
    let answer = |row: &CompleteRow| match lost.get(&row.key) {
        None => Commit::Committed,
        Some(Lost::CancelledUnderIt) => Commit::Cancelled,
        Some(Lost::OnRecord(first)) => *first,
        Some(Lost::Stale) => Commit::Stale,
    };
    Ok(rows.iter().copied().map(answer).collect())
}

/// Why a lease does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// The attempt has ended before, and got this answer.
    OnRecord(Commit),
    /// The task was cancelled under this lease.
    CancelledUnderIt,
    /// Anything else: it lapsed, or never was.
    Stale,
}

async fn ask_lost(
    connection: &mut SqliteConnection,
    rows: &[&CompleteRow],
) -> StoreResult<HashMap<Key, Lost>> {
    let mut lost = HashMap::new();
    for array in arrays(rows.iter().map(|row| row.ask.as_str())) {
        for row in sqlx::query(LOST).bind(array).fetch_all(&mut *connection).await? {
            let key = (row::task_id(&row, 0)?, RunLease(row.try_get(1)?));
            let why = match (row.try_get::<Option<bool>, _>(2)?, row.try_get::<bool, _>(3)?) {
                (Some(true), _) => Lost::OnRecord(Commit::Committed),
                (Some(false), _) => Lost::OnRecord(Commit::Cancelled),
                (None, true) => Lost::CancelledUnderIt,
                (None, false) => Lost::Stale,
            };
            lost.insert(key, why);
        }
    }
    Ok(lost)
}

/// Ends attempts whose lease was just seen to hold.
async fn end(connection: &mut SqliteConnection, held: &[&CompleteRow]) -> StoreResult<()> {
    let mut moved = 0;
    for array in arrays(held.iter().map(|row| row.end.as_str())) {
        moved += sqlx::query(END).bind(array).execute(&mut *connection).await?.rows_affected();
    }
    if moved != held.len() as u64 {
        // Nobody else writes within this transaction. Its rollback leaves every task as it was.
        return Err(StoreError::Refused(format!("of {} running tasks {moved} ended", held.len())));
    }
    insert_attempts(connection, held, true).await?;
    let handed_back = held.iter().filter(|row| row.attempt.is_none()).map(|row| NewEvent {
        task: row.key.0,
        at: row.finished_at,
        kind: EventKind::HandedBack,
        run_lease: row.key.1,
        detail: "its worker gave it back before the attempt ended",
    });
    insert_events(connection, &handed_back.collect::<Vec<_>>()).await
}

async fn insert_attempts(
    connection: &mut SqliteConnection,
    rows: &[&CompleteRow],
    moved_task: bool,
) -> StoreResult<()> {
    for array in arrays(rows.iter().filter_map(|row| row.attempt.as_deref())) {
        sqlx::query(INSERT_ATTEMPTS).bind(array).bind(moved_task).execute(&mut *connection).await?;
    }
    Ok(())
}
