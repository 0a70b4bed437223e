//! What has ended is forgotten: because a person says so, or because it is old.

use std::time::Duration;

use sqlx::{QueryBuilder, Row, SqliteConnection, SqlitePool, SqliteTransaction};
use taskforge_domain::{TaskId, TenantId, Timestamp};

use super::{
    lead,
    list::{self, Direction},
    param::{id_array, task_id, time_before},
    row,
};
use crate::{StoreResult, TaskFilter, Term, Upkeep};

/// What hangs by a task goes with it.
const DELETE_INPUTS: &str =
    "delete from task_inputs where task_id in (select unhex(value) from json_each(?1))";
const DELETE_ATTEMPTS: &str =
    "delete from attempts where task_id in (select unhex(value) from json_each(?1))";
const DELETE_EVENTS: &str =
    "delete from events where task_id in (select unhex(value) from json_each(?1))";

/// A stretch of the tasks in the order of ids: those that ended before the limit in time, the end
/// of the stretch, its length, and whether it reaches tasks that are too young to have ended before
/// that limit.
const WALK: &str = "
    with stretch as (select id, created_at, finished_at from tasks not indexed where id > ?1 order by id limit ?3)
    select (select json_group_array(hex(id)) from (select id from stretch where finished_at < ?2 order by id limit ?4)),
           max(id), count(*), coalesce(max(created_at) >= ?2, 0)
    from stretch";

/// Only what has ended has a `finished_at`; a task that was run again since the walk has none.
const DELETE_OLD: &str = "
    delete from tasks
    where id in (select unhex(value) from json_each(?1)) and state in ('completed', 'failed', 'cancelled')
      and finished_at < ?2
    returning id";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] =
    &[DELETE_INPUTS, DELETE_ATTEMPTS, DELETE_EVENTS, WALK, DELETE_OLD];

/// Tasks looked at in one upkeep, which is some milliseconds of a reader's time.
const STRETCH: u32 = 10_000;
/// Tasks deleted in one upkeep, which is some milliseconds of the writer's time.
const PORTION: u32 = 1_000;

/// Deletes the oldest tasks that match and have ended. What has not ended is not even a candidate.
pub(super) async fn prune(
    mut transaction: SqliteTransaction<'_>,
    tenant: &TenantId,
    filter: &TaskFilter,
    limit: u32,
) -> StoreResult<u64> {
    let Some(filter) = list::narrowed(filter, |state| state.is_terminal()) else {
        return Ok(0);
    };
    let mut statement = QueryBuilder::new("delete from tasks where id in (");
    list::push_ids(&mut statement, tenant, &filter, Direction::OldestFirst, None, limit);
    statement.push(") and state in ('completed', 'failed', 'cancelled') returning id");
    let gone = statement.build().fetch_all(&mut *transaction).await?;
    let gone = gone.iter().map(|gone| row::task_id(gone, 0));
    let count =
        delete_what_hangs_by(&mut transaction, &gone.collect::<StoreResult<Vec<_>>>()?).await?;
    transaction.commit().await?;
    Ok(count)
}

async fn delete_what_hangs_by(
    connection: &mut SqliteConnection,
    gone: &[TaskId],
) -> StoreResult<u64> {
    if !gone.is_empty() {
        let array = id_array(gone);
        for statement in [DELETE_INPUTS, DELETE_ATTEMPTS, DELETE_EVENTS] {
            sqlx::query(statement).bind(array.clone()).execute(&mut *connection).await?;
        }
    }
    Ok(gone.len() as u64)
}

/// Where the next walk for old tasks begins.
///
/// No index has the tasks by the time of their end, because it would be one more tree for every
/// task to touch. Ids are in the order of creation, so what is old stands at the front; but so does
/// what has waited for long, and a walk that always began at the front would pass it every time. So
/// it goes on where the last one stopped, and turns back when it meets the young. Lost with the
/// process, which costs a walk.
#[derive(Debug, Default)]
pub(super) struct Walk {
    after: Option<TaskId>,
}

/// What a walk has found.
pub(super) struct Stretch {
    old: String,
    next: Walk,
}

impl Walk {
    /// Looks at a stretch, without keeping the writer from its work.
    pub(super) async fn look(
        &self,
        readers: &SqlitePool,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<Stretch> {
        let row = sqlx::query(WALK)
            // The empty blob sorts before every id.
            .bind(self.after.map(task_id).unwrap_or_default())
            .bind(time_before(now, retention))
            .bind(STRETCH)
            .bind(PORTION)
            .fetch_one(readers)
            .await?;
        let old: String = row.try_get(0)?;
        let (length, meets_the_young) = (row.try_get::<u32, _>(2)?, row.try_get::<bool, _>(3)?);
        let found = row::ids(&old)?;
        let after = if found.len() as u64 == u64::from(PORTION) {
            found.last().copied()
        } else if length < STRETCH || meets_the_young {
            None
        } else {
            Some(row::task_id(&row, 1)?)
        };
        Ok(Stretch { old, next: Self { after } })
    }
}

impl Stretch {
    /// Forgets what was found, and says where to go on.
    pub(super) async fn forget(
        self,
        mut transaction: SqliteTransaction<'_>,
        term: Option<Term>,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<(Upkeep, Walk)> {
        if let Some(term) = term {
            lead::fence(&mut transaction, term).await?;
        }
        let gone = sqlx::query(DELETE_OLD)
            .bind(self.old)
            .bind(time_before(now, retention))
            .fetch_all(&mut *transaction)
            .await?;
        let gone = gone.iter().map(|gone| row::task_id(gone, 0));
        let tasks_deleted =
            delete_what_hangs_by(&mut transaction, &gone.collect::<StoreResult<Vec<_>>>()?).await?;
        transaction.commit().await?;
        let upkeep = Upkeep { tasks_deleted, ..Upkeep::default() };
        Ok((upkeep, self.next))
    }
}
