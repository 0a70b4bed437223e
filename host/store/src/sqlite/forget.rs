//! What ended long ago is forgotten.

use std::time::Duration;

use sqlx::{Row, SqliteConnection};
use taskforge_domain::{TaskId, Timestamp};

use super::{
    lanes::{BEFORE_ALL, read_ids},
    lead, operate,
    param::time_before,
    row,
};
use crate::{StoreResult, Term, Upkeep};

/// A stretch of the tasks in the order of ids: those that ended before the limit in time, the end
/// of the stretch, its length, and whether it reaches tasks that are too young to have ended before
/// that limit.
const WALK: &str = "
    with stretch as (select id, created_at, finished_at from tasks not indexed where id > $1 order by id limit $3)
    select (select json_group_array(hex(id)) from (select id from stretch where finished_at < $2 order by id limit $4)),
           max(id), count(*), coalesce(max(created_at) >= $2, 0)
    from stretch";

/// Only what has ended has a `finished_at`; a task that was run again since the walk has none.
const DELETE_OLD: &str = "
    delete from tasks
    where id in (select unhex(value) from json_each($1)) and state in ('completed', 'failed', 'cancelled')
      and finished_at < $2
    returning id";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[WALK, DELETE_OLD];

/// Tasks looked at in one upkeep, which is some milliseconds of a reader's time.
const STRETCH: u32 = 10_000;
/// Tasks deleted in one upkeep, which is some milliseconds of the writer's time.
const PORTION: u32 = 1_000;

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
        connection: &mut SqliteConnection,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<Stretch> {
        let row = sqlx::query(WALK)
            .bind(self.after.as_ref().map_or(BEFORE_ALL, |id| id.as_uuid().as_bytes()))
            .bind(time_before(now, retention))
            .bind(STRETCH)
            .bind(PORTION)
            .fetch_one(connection)
            .await?;
        let old: String = row.try_get(0)?;
        let (length, meets_the_young) = (row.try_get::<u32, _>(2)?, row.try_get::<bool, _>(3)?);
        let found = read_ids(&old)?;
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
        connection: &mut SqliteConnection,
        term: Option<Term>,
        now: Timestamp,
        retention: Duration,
    ) -> StoreResult<(Upkeep, Walk)> {
        let mut transaction = lead::begin(connection, term).await?;
        let gone = sqlx::query_scalar(DELETE_OLD)
            .bind(self.old)
            .bind(time_before(now, retention))
            .fetch_all(&mut *transaction)
            .await?;
        operate::delete_dependents(&mut transaction, &gone).await?;
        transaction.commit().await?;
        let upkeep = Upkeep { tasks_deleted: gone.len() as u64, ..Upkeep::default() };
        Ok((upkeep, self.next))
    }
}
