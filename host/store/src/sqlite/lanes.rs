//! Where tasks wait and run.

use sqlx::{SqliteExecutor, SqlitePool, sqlite::SqliteRow};
use taskforge_domain::{Lane, TaskId, WorkerId};

use super::{
    param::{task_id, worker_id},
    row,
    sweep::read_lapsed,
};
use crate::{LanedTask, LapsedTask, StoreResult};

/// Jumps from the head of each lane to the head of the next: as many steps as there are lanes,
/// however many tasks wait in them.
///
/// A jump has to land beyond the lane's last task. SQLite seeks to the first row that is not less
/// and looks on from there, so the comparison goes down to the id, where no id is as great as 17
/// bytes of 255. The `+` takes a column's affinity away; between two columns of text only the first
/// column of the index would be used.
const LANES: &str = "
    with recursive heads (id) as (
        select * from (select id from tasks indexed by tasks_lanes where state = 'pending'
                       order by tenant, task_type, priority limit 1)
        union all
        select (select next.id from tasks as next indexed by tasks_lanes
                where next.state = 'pending'
                  and (next.tenant, next.task_type, next.priority, next.id)
                      > (+head.tenant, +head.task_type, +head.priority, x'ffffffffffffffffffffffffffffffffff')
                order by next.tenant, next.task_type, next.priority, next.id limit 1)
        from heads cross join tasks as head on head.id = heads.id
        limit ?1)
    select tasks.id, tenant, task_type, priority from heads cross join tasks on tasks.id = heads.id";

/// As one value: a broker asks for thousands, and each row of an answer would cross from the
/// database's thread by itself.
const PENDING: &str = "
    select json_group_array(hex(id)) from (
        select id from tasks indexed by tasks_lanes
        where state = 'pending' and tenant = ?1 and task_type = ?2 and priority = ?3 and id > ?4
        order by id limit ?5)";

const HELD: &str = "
    select id, run_lease, attempt, max_retries, retry_base_ms, retry_cap_ms, worker,
           tenant, task_type, priority, lapses
    from tasks indexed by tasks_running
    where state = 'running' and worker = ?1";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[LANES, PENDING, HELD];

pub(super) async fn lanes<'e>(
    executor: impl SqliteExecutor<'e>,
    limit: u32,
) -> StoreResult<Vec<Lane>> {
    let heads = heads(executor, limit).await?;
    Ok(heads.into_iter().map(|head| head.lane).collect())
}

/// The oldest task of each lane.
pub(super) async fn heads<'e>(
    executor: impl SqliteExecutor<'e>,
    limit: u32,
) -> StoreResult<Vec<LanedTask>> {
    let rows = sqlx::query(LANES).bind(limit).fetch_all(executor).await?;
    rows.iter().map(read_laned).collect()
}

pub(super) async fn pending(
    readers: &SqlitePool,
    lane: &Lane,
    after: Option<TaskId>,
    limit: u32,
) -> StoreResult<Vec<TaskId>> {
    let ids: String = sqlx::query_scalar(PENDING)
        .bind(lane.tenant.as_str().to_owned())
        .bind(lane.task_type.as_str().to_owned())
        .bind(lane.priority.get())
        // The empty blob sorts before every id.
        .bind(after.map(task_id).unwrap_or_default())
        .bind(limit)
        .fetch_one(readers)
        .await?;
    row::ids(&ids)
}

pub(super) async fn held(readers: &SqlitePool, worker: WorkerId) -> StoreResult<Vec<LapsedTask>> {
    let query = sqlx::query(HELD).bind(worker_id(worker));
    let rows = query.fetch_all(readers).await?;
    rows.iter().map(read_lapsed).collect()
}

/// A task from four columns: its id and its lane.
pub(super) fn read_laned(row: &SqliteRow) -> StoreResult<LanedTask> {
    Ok(LanedTask { id: row::task_id(row, 0)?, lane: read_lane(row, 1)? })
}

/// A lane from three columns, the first at `column`.
pub(super) fn read_lane(row: &SqliteRow, column: usize) -> StoreResult<Lane> {
    Ok(Lane {
        tenant: row::word(row, column)?,
        task_type: row::word(row, column + 1)?,
        priority: row::priority(row, column + 2)?,
    })
}
