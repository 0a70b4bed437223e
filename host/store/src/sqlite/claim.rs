//! A worker gets a lease.
//!
//! Two statements: one finds the pending tasks and gives everything about them in one row, one
//! takes them. Whether a hint or the [order](super::order) of the lanes named them makes no
//! difference. `returning` would do with one, but every row of an answer crosses from the
//! database's thread by itself, and that was the larger half of a claim.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use sqlx::SqliteConnection;
use taskforge_domain::{
    ClaimedTask, Json, Priority, RetryPolicy, RunLease, TaskId, TaskType, TenantId, Timestamp,
    WorkerId,
};
use uuid::Uuid;

use super::{
    caps,
    order::{Ageing, OrderOp},
    param::{arrays, id, json, rounded, time},
};
use crate::{ClaimBy, ClaimRequest, Claimed, StoreError, StoreResult, turns::Permits};

/// What [`Found`] reads. An input over 64 kB is left out, so that the answer keeps far from the
/// largest value that SQLite makes.
///
/// Only what is `pending` is found, whatever a hint says. A worker that was found lapsed gets
/// nothing, because what it got would be taken away again at once.
const FIND: &str = "
    select json_group_array(json_array(hex(tasks.id), tenant, task_type, priority, attempt, run_lease, max_retries,
                                       retry_base_ms, retry_cap_ms, iif(octet_length(input) <= 65536, input, null)))
    from jsonb_each($1) as wanted
    cross join tasks on tasks.id = unhex(wanted.value ->> 0)
    cross join task_inputs on task_id = tasks.id
    where state = 'pending'
      and not exists (select 1 from workers
                      where workers.id = unhex(wanted.value ->> 1) and workers.lapsed_at is not null)";

/// `pending` becomes `running`, under a lease number that this task never had before.
const TAKE: &str = "
    update tasks
    set state = 'running', worker = taken.worker, started_at = taken.now, run_lease = run_lease + 1, attempt = attempt + 1
    from (select unhex(value ->> 0) as id, unhex(value ->> 1) as worker, value ->> 2 as now from jsonb_each($1)) as taken
    where tasks.id = taken.id and tasks.state = 'pending'";

/// Whether a worker was found lapsed.
const IS_LAPSED: &str =
    "select exists (select 1 from workers where id = $1 and lapsed_at is not null)";

const INPUT: &str = "select input from task_inputs where task_id = $1";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[FIND, TAKE, INPUT, IS_LAPSED];

/// The most tasks in one answer.
const CHUNK: usize = 1024;

/// A claim on its way in.
pub(super) struct ClaimOp {
    worker: WorkerId,
    now: Timestamp,
    which: Which,
}

enum Which {
    Ids(Vec<TaskId>),
    Order(OrderOp),
}

impl ClaimOp {
    pub(super) fn new(request: &ClaimRequest<'_>, ageing: &Arc<Ageing>) -> Self {
        let which = match request.by {
            ClaimBy::Ids(ids) => Which::Ids(ids.to_vec()),
            ClaimBy::Order { types, lanes, limit, policy } => {
                Which::Order(OrderOp::new(types, lanes, limit, policy, ageing))
            }
        };
        Self { worker: request.worker, now: request.now, which }
    }
}

/// A pending task, in the order of the columns above.
#[derive(Deserialize)]
struct Found(Uuid, TenantId, TaskType, Priority, u32, i64, u32, u64, u64, Option<String>);

impl Found {
    fn read(array: &str) -> StoreResult<Vec<Self>> {
        serde_json::from_str(array)
            .map_err(|error| StoreError::Corrupt(format!("a pending task: {error}")))
    }

    fn id(&self) -> TaskId {
        TaskId::from_uuid(self.0)
    }
}

/// Carries out claims in the caller's transaction, all those by id at once. Each gets its tasks in
/// the order of its ids, or the most urgent first. A claim of a lapsed worker fails by itself.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    ops: &[&ClaimOp],
) -> StoreResult<Vec<StoreResult<Claimed>>> {
    let mut answers: Vec<_> = ops.iter().map(|_| Claimed::default()).collect();
    if ops.is_empty() {
        return Ok(Vec::new());
    }
    let mut permits = caps::count(connection).await?;
    let by_ids = ops.iter().copied().enumerate().filter_map(|(n, op)| match &op.which {
        Which::Ids(ids) => Some((n, op, ids.as_slice())),
        Which::Order(_) => None,
    });
    lease(connection, by_ids.collect(), Some(&mut permits), &mut answers).await?;
    for (n, op) in ops.iter().copied().enumerate() {
        // One after the other: each sees what the one before left, and counts what it took.
        if let Which::Order(order) = &op.which {
            let (ids, at_cap) = order.pick(connection, op.now, &mut permits).await?;
            lease(connection, vec![(n, op, &ids)], None, &mut answers).await?;
            order.given(answers[n].tasks.len());
            answers[n].at_cap = at_cap;
        }
    }
    let mut claimed = Vec::with_capacity(ops.len());
    for (op, answer) in ops.iter().zip(answers) {
        // Rare: what waits is taken, or was cancelled, or the worker gets nothing any more.
        let is_lapsed = answer.tasks.is_empty()
            && sqlx::query_scalar(IS_LAPSED)
                .bind(op.worker.as_uuid())
                .fetch_one(&mut *connection)
                .await?;
        claimed.push(if is_lapsed { Err(StoreError::Lapsed) } else { Ok(answer) });
    }
    Ok(claimed)
}

/// Leases tasks to ops, each to the op and in the order in which it is wanted, which is also the
/// order in which they get permits, if those are to be taken here. `wanted` has the places of ops
/// among the answers.
async fn lease(
    connection: &mut SqliteConnection,
    wanted: Vec<(usize, &ClaimOp, &[TaskId])>,
    mut permits: Option<&mut Permits>,
    answers: &mut [Claimed],
) -> StoreResult<()> {
    // Where a task goes: to which op, and its place there. Of two claims for one task the first
    // gets it.
    let mut places: HashMap<TaskId, (usize, usize, &ClaimOp)> = HashMap::new();
    let mut rows = Vec::new();
    for (n, op, ids) in &wanted {
        for (place, task) in ids.iter().enumerate() {
            if let Entry::Vacant(entry) = places.entry(*task) {
                entry.insert((*n, place, op));
                rows.push(json(&(id(task.as_uuid()), id(op.worker.as_uuid()))));
            }
        }
    }
    for rows in rows.chunks(CHUNK) {
        for array in arrays(rows.iter().map(String::as_str)) {
            let found: String =
                sqlx::query_scalar(FIND).bind(array).fetch_one(&mut *connection).await?;
            let mut allowed = Vec::new();
            for found in Found::read(&found)? {
                let Some((n, _, op)) = places.get(&found.id()) else {
                    continue;
                };
                if permits.as_mut().is_none_or(|permits| permits.take(&found.1, &found.2)) {
                    allowed.push((found, *op));
                } else {
                    answers[*n].over_cap.push(found.id());
                    answers[*n].at_cap = true;
                }
            }
            for task in take(connection, allowed).await? {
                if let Some((n, ..)) = places.get(&task.id) {
                    answers[*n].tasks.push(task);
                }
            }
        }
    }
    for (n, ..) in wanted {
        answers[n].tasks.sort_by_key(|task| places.get(&task.id).map(|(_, place, _)| *place));
    }
    Ok(())
}

/// Takes what was found, each task for the worker of its op.
async fn take(
    connection: &mut SqliteConnection,
    found: Vec<(Found, &ClaimOp)>,
) -> StoreResult<Vec<ClaimedTask>> {
    let rows: Vec<_> = found
        .iter()
        .map(|(found, op)| json(&(id(&found.0), id(op.worker.as_uuid()), time(op.now))))
        .collect();
    let mut taken = 0;
    for array in arrays(rows.iter().map(String::as_str)) {
        taken += sqlx::query(TAKE).bind(array).execute(&mut *connection).await?.rows_affected();
    }
    if taken != rows.len() as u64 {
        return Err(StoreError::Refused(format!(
            "of {} pending tasks {taken} became running",
            rows.len()
        )));
    }
    let mut claimed = Vec::with_capacity(found.len());
    for (found, op) in found {
        let id = found.id();
        let Found(
            _,
            tenant,
            task_type,
            priority,
            attempt,
            run_lease,
            max_retries,
            base_ms,
            cap_ms,
            input,
        ) = found;
        let input = match input {
            Some(input) => input,
            None => {
                sqlx::query_scalar(INPUT).bind(id.as_uuid()).fetch_one(&mut *connection).await?
            }
        };
        claimed.push(ClaimedTask {
            id,
            tenant,
            task_type,
            priority,
            input: Json::parse(input)
                .map_err(|error| StoreError::Corrupt(format!("the input of {id}: {error}")))?,
            attempt: attempt + 1,
            run_lease: RunLease(run_lease + 1),
            retry: RetryPolicy {
                max_retries,
                base: Duration::from_millis(base_ms),
                cap: Duration::from_millis(cap_ms),
            },
            started_at: rounded(op.now),
        });
    }
    Ok(claimed)
}
