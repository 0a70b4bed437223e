//! A worker gets a lease on the tasks that it names.

use std::collections::{HashMap, hash_map::Entry};

use sqlx::{PgConnection, Row, postgres::PgRow};
use taskforge_domain::{ClaimedTask, RunLease, TaskId, Timestamp, WorkerId};
use uuid::Uuid;

use super::{
    fault::Attempted,
    param::{range, time},
    row,
};
use crate::{Claimed, StoreError, StoreResult};

/// What [`read`] reads.
macro_rules! returning_claimed {
    () => {
        " returning tasks.id, tasks.tenant, tasks.task_type, tasks.priority, tasks.attempt, tasks.run_lease, tasks.max_retries,
                    tasks.retry_base_ms, tasks.retry_cap_ms, tasks.started_at, tasks.input"
    };
}
pub(super) use returning_claimed;

/// `pending` becomes `running`, under a lease number that the task never had before. A worker that
/// was found lapsed gets nothing, because what it got would be taken away again at once.
///
/// What has no permit of a cap is left out before anything is taken; the function locks the caps
/// first.
///
/// The ids are named twice: once for the index, which goes through them in order (so that two
/// claims never wait for each other in a circle), once for the rows that come with them. `coalesce`
/// hides the state from the planner, which would otherwise find the index of pending tasks shorter
/// in a partition that is still empty, and keep to that plan when a million tasks wait there.
pub(super) const TAKE: &str = concat!(
    "with wanted as materialized (
         select * from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as wanted (id, worker, now)
         where id not in (select taskforge_over_caps($1, $4, $5))
           and worker <> all (array(
               select workers.id from workers where workers.id = any ($2) and lapsed_at is not null))
     )
     update tasks
     set state = 'running', worker = wanted.worker, started_at = wanted.now, run_lease = tasks.run_lease + 1,
         attempt = tasks.attempt + 1
     from wanted
     where tasks.id = any ($1) and tasks.id between $4 and $5 and tasks.id = wanted.id
       and coalesce(tasks.state, '') = 'pending'",
    returning_claimed!()
);

/// Of these tasks, those that wait.
pub(super) const PENDING: &str = "
    select id from tasks
    where id = any ($1) and id between $2 and $3 and coalesce(state, '') = 'pending'";

/// Of these workers, those that were found lapsed.
const LAPSED: &str = "select id from workers where id = any ($1) and lapsed_at is not null";

/// A claim by ids on its way in.
pub(super) struct Claim {
    pub(super) worker: WorkerId,
    pub(super) now: Timestamp,
    pub(super) ids: Vec<TaskId>,
}

/// The most tasks in one statement: their inputs come back in one answer.
const CHUNK: usize = 4096;

/// Carries out claims, all at once. Each gets its tasks in the order of its ids; of two claims for
/// one task the first gets it. A claim of a lapsed worker fails by itself.
pub(super) async fn run(
    connection: &mut PgConnection,
    claims: &[Claim],
) -> Attempted<Vec<StoreResult<Claimed>>> {
    // Where a task goes: to which claim, and its place there.
    let mut places: HashMap<Uuid, (usize, usize)> = HashMap::new();
    // As they were named, for this is the order in which they get the permits of a cap.
    let mut wanted = Vec::new();
    for (n, claim) in claims.iter().enumerate() {
        for (place, id) in claim.ids.iter().enumerate() {
            if let Entry::Vacant(entry) = places.entry(*id.as_uuid()) {
                entry.insert((n, place));
                wanted.push((*id.as_uuid(), claim));
            }
        }
    }
    let mut taken: Vec<_> = claims.iter().map(|_| Vec::new()).collect();
    for some in wanted.chunks(CHUNK) {
        let ids: Vec<Uuid> = some.iter().map(|(id, _)| *id).collect();
        let (first, last) = range(&ids);
        let rows = sqlx::query(TAKE)
            .bind(&ids)
            .bind(some.iter().map(|(_, claim)| *claim.worker.as_uuid()).collect::<Vec<_>>())
            .bind(some.iter().map(|(_, claim)| time(claim.now)).collect::<Vec<_>>())
            .bind(first)
            .bind(last)
            .fetch_all(&mut *connection)
            .await?;
        for task in readable(&rows) {
            if let Some((n, place)) = places.remove(task.id.as_uuid()) {
                taken[n].push((place, task));
            }
        }
    }
    let mut over_cap: Vec<_> = claims.iter().map(|_| Vec::new()).collect();
    for id in still_pending(connection, &places).await {
        if let Some((n, _)) = places.get(id.as_uuid()) {
            over_cap[*n].push(id);
        }
    }
    // Rare: what a hint names is taken, or was cancelled, or its worker gets nothing any more.
    let empty = claims.iter().zip(&taken).filter(|(_, tasks)| tasks.is_empty());
    let empty: Vec<_> = empty.map(|(claim, _)| claim.worker).collect();
    // The tasks are taken already: what fails here must not hide them.
    let lapsed = lapsed(connection, &empty).await.unwrap_or_else(|fault| {
        tracing::debug!(error = %fault, "whether a worker has lapsed was not found out");
        Vec::new()
    });
    let answers = claims.iter().zip(taken.into_iter().zip(over_cap));
    let in_order = answers.map(|(claim, (mut tasks, over_cap))| {
        if tasks.is_empty() && lapsed.contains(&claim.worker) {
            return Err(StoreError::Lapsed);
        }
        tasks.sort_by_key(|(place, _)| *place);
        Ok(Claimed {
            tasks: tasks.into_iter().map(|(_, task)| task).collect(),
            at_cap: !over_cap.is_empty(),
            over_cap,
        })
    });
    Ok(in_order.collect())
}

/// Of tasks that were not taken, those that wait nevertheless: a cap is reached. One that has come
/// back to the queue in between passes for such, and is tried again in a moment like them.
async fn still_pending(
    connection: &mut PgConnection,
    missing: &HashMap<Uuid, (usize, usize)>,
) -> Vec<TaskId> {
    if missing.is_empty() {
        return Vec::new();
    }
    let ids: Vec<_> = missing.keys().copied().collect();
    let (first, last) = range(&ids);
    let query = sqlx::query_scalar(PENDING).bind(ids).bind(first).bind(last);
    let pending: Vec<Uuid> = query.fetch_all(connection).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "which tasks are over a cap was not found out");
        Vec::new()
    });
    pending.into_iter().map(TaskId::from_uuid).collect()
}

/// Of these workers, those that were found lapsed.
pub(super) async fn lapsed(
    connection: &mut PgConnection,
    workers: &[WorkerId],
) -> Attempted<Vec<WorkerId>> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = workers.iter().map(|worker| *worker.as_uuid()).collect();
    let lapsed: Vec<Uuid> = sqlx::query_scalar(LAPSED).bind(ids).fetch_all(connection).await?;
    Ok(lapsed.into_iter().map(WorkerId::from_uuid).collect())
}

/// The tasks that were taken. One that cannot be read is taken too, so its neighbours must be run
/// whatever it is; its worker finds it among what it holds and does not run, and hands it back.
pub(super) fn readable(rows: &[PgRow]) -> Vec<ClaimedTask> {
    let read = rows.iter().filter_map(|row| match read(row) {
        Ok(task) => Some(task),
        Err(fault) => {
            let id = row.try_get::<Uuid, _>(0).unwrap_or_default();
            tracing::error!(task.id = %id, error = %fault, "a claimed task cannot be read");
            None
        }
    });
    read.collect()
}

fn read(row: &PgRow) -> Attempted<ClaimedTask> {
    Ok(ClaimedTask {
        id: row::task_id(row, 0)?,
        tenant: row::word(row, 1)?,
        task_type: row::word(row, 2)?,
        priority: row::priority(row, 3)?,
        attempt: row::number(row, 4)?,
        run_lease: RunLease(row.try_get(5)?),
        retry: row::retry(row, 6)?,
        started_at: row::time(row, 9)?,
        input: row::json(row, 10)?,
    })
}
