//! Where tasks wait.

use sqlx::SqliteConnection;
use taskforge_domain::{Lane, TaskId};
use uuid::Uuid;

use super::row;
use crate::{QueuedTask, StoreError, StoreResult};

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
        limit $1)
    select tasks.id, tenant, task_type, priority from heads cross join tasks on tasks.id = heads.id";

/// As one value: a broker asks for thousands, and each row of an answer would cross from the
/// database's thread by itself.
const PENDING: &str = "
    select json_group_array(hex(id)) from (
        select id from tasks indexed by tasks_lanes
        where state = 'pending' and tenant = $1 and task_type = $2 and priority = $3 and id > $4
        order by id limit $5)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[LANES, PENDING];

pub(super) async fn lanes(connection: &mut SqliteConnection, limit: u32) -> StoreResult<Vec<Lane>> {
    let heads = heads(connection, limit).await?;
    Ok(heads.into_iter().map(|head| head.lane).collect())
}

/// The oldest task of each lane.
pub(super) async fn heads(
    connection: &mut SqliteConnection,
    limit: u32,
) -> StoreResult<Vec<QueuedTask>> {
    let rows = sqlx::query(LANES).bind(limit).fetch_all(connection).await?;
    rows.iter().map(row::laned).collect()
}

pub(super) async fn pending(
    connection: &mut SqliteConnection,
    lane: &Lane,
    after: Option<TaskId>,
    limit: u32,
) -> StoreResult<Vec<TaskId>> {
    let ids: String = sqlx::query_scalar(PENDING)
        .bind(lane.tenant.as_str())
        .bind(lane.task_type.as_str())
        .bind(lane.priority.get())
        .bind(after.as_ref().map_or(BEFORE_ALL, |id| id.as_uuid().as_bytes()))
        .bind(limit)
        .fetch_one(connection)
        .await?;
    read_ids(&ids)
}

/// The empty blob sorts before every id.
pub(super) const BEFORE_ALL: &[u8] = &[];

/// Many ids that a statement gave as one JSON array, in order.
pub(super) fn read_ids(array: &str) -> StoreResult<Vec<TaskId>> {
    let ids: Vec<Uuid> = serde_json::from_str(array)
        .map_err(|error| StoreError::Corrupt(format!("a list of ids: {error}")))?;
    let mut ids: Vec<_> = ids.into_iter().map(TaskId::from_uuid).collect();
    ids.sort_unstable();
    Ok(ids)
}
