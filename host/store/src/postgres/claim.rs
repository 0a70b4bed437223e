//! A worker gets a lease on the tasks that it names.

use std::collections::{BTreeMap, btree_map::Entry};

use sqlx::{PgConnection, Row, postgres::PgRow};
use taskforge_domain::{ClaimedTask, RunLease, TaskId, Timestamp, WorkerId};
use uuid::Uuid;

use super::{
    fault::Attempted,
    param::{range, time},
    row,
};
use crate::{StoreError, StoreResult};

/// What [`read`] reads.
macro_rules! returning_claimed {
    () => {
        " returning tasks.id, tasks.tenant, tasks.task_type, tasks.priority, tasks.attempt, tasks.run_lease, tasks.max_retries,
                    tasks.retry_base_ms, tasks.retry_cap_ms, tasks.started_at, tasks.input"
    };
}
pub(super) use returning_claimed;

/// `pending` becomes `running`, under a lease number that the task never had before. A worker that was found lapsed gets nothing, because
/// what it got would be taken away again at once.
///
/// The ids are named twice: once for the index, which goes through them in order (so that two claims never wait for each other in a
/// circle), once for the rows that come with them. `coalesce` hides the state from the planner, which would otherwise find the index of
/// pending tasks shorter in a partition that is still empty, and keep to that plan when a million tasks wait there.
pub(super) const TAKE: &str = concat!(
    "update tasks
     set state = 'running', worker = wanted.worker, started_at = wanted.now, run_lease = tasks.run_lease + 1,
         attempt = tasks.attempt + 1
     from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as wanted (id, worker, now)
     where tasks.id = any ($1) and tasks.id between $4 and $5 and tasks.id = wanted.id and coalesce(tasks.state, '') = 'pending'
       and wanted.worker <> all (array(select workers.id from workers where workers.id = any ($2) and lapsed_at is not null))",
    returning_claimed!()
);

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

/// Carries out claims, all at once. Each gets its tasks in the order of its ids; of two claims for one task
/// the first gets it. A claim of a lapsed worker fails by itself.
pub(super) async fn run(
    connection: &mut PgConnection,
    claims: &[Claim],
) -> Attempted<Vec<StoreResult<Vec<ClaimedTask>>>> {
    // Where a task goes: to which claim, and its place there.
    let mut places: BTreeMap<Uuid, (usize, usize)> = BTreeMap::new();
    for (n, claim) in claims.iter().enumerate() {
        for (place, id) in claim.ids.iter().enumerate() {
            if let Entry::Vacant(entry) = places.entry(*id.as_uuid()) {
                entry.insert((n, place));
            }
        }
    }
    let mut taken: Vec<_> = claims.iter().map(|_| Vec::new()).collect();
    let wanted: Vec<_> = places.iter().map(|(id, (n, _))| (*id, &claims[*n])).collect();
    for some in wanted.chunks(CHUNK) {
        let ids: Vec<Uuid> = some.iter().map(|(id, _)| *id).collect();
        let (first, last) = range(&ids);
        let rows = sqlx::query(TAKE)
            .bind(&ids)
            .bind(
                some.iter()
                    .map(|(_, claim)| *claim.worker.as_uuid())
                    .collect::<Vec<_>>(),
            )
            .bind(some.iter().map(|(_, claim)| time(claim.now)).collect::<Vec<_>>())
            .bind(first)
            .bind(last)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let task = read(row)?;
            if let Some((n, place)) = places.get(task.id.as_uuid()) {
                taken[*n].push((*place, task));
            }
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
    let in_order = claims.iter().zip(taken).map(|(claim, mut tasks)| {
        if tasks.is_empty() && lapsed.contains(&claim.worker) {
            return Err(StoreError::Lapsed);
        }
        tasks.sort_by_key(|(place, _)| *place);
        Ok(tasks.into_iter().map(|(_, task)| task).collect())
    });
    Ok(in_order.collect())
}

/// Of these workers, those that were found lapsed.
pub(super) async fn lapsed(connection: &mut PgConnection, workers: &[WorkerId]) -> Attempted<Vec<WorkerId>> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = workers.iter().map(|worker| *worker.as_uuid()).collect();
    let lapsed: Vec<Uuid> = sqlx::query_scalar(LAPSED).bind(ids).fetch_all(connection).await?;
    Ok(lapsed.into_iter().map(WorkerId::from_uuid).collect())
}

pub(super) fn read(row: &PgRow) -> Attempted<ClaimedTask> {
    Ok(ClaimedTask {
        id: row::task_id(row, 0)?,
        tenant: row::word(row, 1)?,
        task_type: row::word(row, 2)?,
        priority: row::priority(row, 3)?,
        attempt: row::small_number(row, 4)?,
        run_lease: RunLease(row.try_get(5)?),
        retry: row::retry(row, 6)?,
        started_at: row::time(row, 9)?,
        input: row::json(row, 10)?,
    })
}
