//! Where tasks wait, as far as a claim in order needs to know it.
//!
//! A task that was claimed leaves a dead entry at the front of its lane, until the vacuum comes;
//! and that comes late, or never while a transaction is held open somewhere. To look for the oldest
//! task of a lane is to walk past all of them: milliseconds for a hundred thousand. So it is
//! remembered how far each lane was found empty, and the next look begins there.
//!
//! What returns to a lane behind that place (a retry that is due, a task of a worker that fell
//! silent) and lanes that are new are found by a full look, which is taken as often as it is cheap:
//! it may use a twentieth of the time, and a third while nothing else is found. In normal times it
//! takes a millisecond, and every claim begins with one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use taskforge_domain::{Lane, TaskId, Timestamp};
use uuid::Uuid;

use super::{
    fault::Attempted,
    param::{first_id, time_before},
    row,
};
use crate::QueuedTask;

/// Every lane in which a task waits, with its oldest task. Jumps from lane to lane along the index,
/// whatever waits in them.
pub(super) const LOOK: &str = "
    with recursive lane as (
        (select tenant, task_type, priority, id from tasks where state = 'pending'
         order by tenant, task_type, priority, id limit 1)
        union all
        select next.* from lane cross join lateral (
            select tenant, task_type, priority, id from tasks
            where state = 'pending'
              and (tenant, task_type, priority) > (lane.tenant, lane.task_type, lane.priority)
            order by tenant, task_type, priority, id limit 1) as next
    )
    select id, tenant, task_type, priority from lane";

/// The oldest task of each of these lanes, beginning at an id.
pub(super) const GLANCE: &str = "
    select head.id, lane.tenant, lane.task_type, lane.priority
    from unnest($1::text[], $2::text[], $3::smallint[], $4::uuid[]) as lane (tenant, task_type, priority, first)
    cross join lateral (
        select id from tasks
        where state = 'pending' and tenant = lane.tenant and task_type = lane.task_type and priority = lane.priority
          and id >= lane.first
        order by id limit 1) as head";

/// A range of the index.
pub(super) const PENDING: &str = "
    select id from tasks
    where state = 'pending' and tenant = $1 and task_type = $2 and priority = $3 and id > $4
    order by id limit $5";

/// A task may be committed this long after its id was made, and in another order than others. One
/// that is later is found by a full look.
const LATE: Duration = Duration::from_secs(2);

/// A lane in which nothing waits is watched for this long: its dead entries are still there.
const MEMORY: Duration = Duration::from_secs(600);

/// The longest that a claim which found nothing waits until it may look again.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// What a process knows of the lanes.
#[derive(Default)]
pub(super) struct Outlook {
    lanes: BTreeMap<Lane, Front>,
    /// When the last full look was over, and how long it took.
    last: Option<(Instant, Duration)>,
}

/// How far a lane is known.
struct Front {
    /// Its oldest task; `None` if there was none.
    head: Option<TaskId>,
    /// When a task was last seen in it.
    seen: Instant,
}

impl Outlook {
    /// The lanes in which tasks wait, with the oldest task of each.
    pub(super) async fn lanes(
        &mut self,
        connection: &mut PgConnection,
        now: Timestamp,
    ) -> Attempted<Vec<QueuedTask>> {
        match self.last {
            Some((at, cost)) if at.elapsed() < cost * 20 => self.glance(connection, now).await,
            _ => self.look(connection).await,
        }
    }

    /// For a claim that found nothing: a full look, unless one was just taken or it is too costly
    /// now.
    pub(super) async fn look_again(
        &mut self,
        connection: &mut PgConnection,
        since: Instant,
    ) -> Attempted<Option<Vec<QueuedTask>>> {
        if let Some((at, cost)) = self.last {
            let wait = (cost * 2).saturating_sub(at.elapsed());
            if at >= since || wait > LONGEST_WAIT {
                return Ok(None);
            }
            tokio::time::sleep(wait).await;
        }
        self.look(connection).await.map(Some)
    }

    async fn look(&mut self, connection: &mut PgConnection) -> Attempted<Vec<QueuedTask>> {
        let begin = Instant::now();
        let found = read(&sqlx::query(LOOK).fetch_all(connection).await?)?;
        self.note(&found, begin);
        self.lanes.retain(|_, front| front.seen.elapsed() < MEMORY);
        self.last = Some((Instant::now(), begin.elapsed()));
        Ok(found)
    }

    async fn glance(
        &mut self,
        connection: &mut PgConnection,
        now: Timestamp,
    ) -> Attempted<Vec<QueuedTask>> {
        let begin = Instant::now();
        let fresh = first_id(time_before(now, LATE));
        let rows = sqlx::query(GLANCE)
            .bind(self.lanes.keys().map(|lane| lane.tenant.as_str()).collect::<Vec<_>>())
            .bind(self.lanes.keys().map(|lane| lane.task_type.as_str()).collect::<Vec<_>>())
            .bind(self.lanes.keys().map(|lane| i16::from(lane.priority.get())).collect::<Vec<_>>())
            .bind(self.lanes.values().map(|front| front.first(fresh)).collect::<Vec<_>>())
            .fetch_all(connection)
            .await?;
        let found = read(&rows)?;
        self.note(&found, begin);
        Ok(found)
    }

    fn note(&mut self, found: &[QueuedTask], seen: Instant) {
        for front in self.lanes.values_mut() {
            front.head = None;
        }
        for QueuedTask { id, lane } in found {
            self.lanes.insert(lane.clone(), Front { head: Some(*id), seen });
        }
    }
}

/// Every lane in which a task waits now, whatever anybody remembers.
pub(super) async fn all(connection: &mut PgConnection) -> Attempted<Vec<Lane>> {
    let found = read(&sqlx::query(LOOK).fetch_all(connection).await?)?;
    Ok(found.into_iter().map(|head| head.lane).collect())
}

/// The oldest tasks of a lane with an id above `after`.
pub(super) async fn pending(
    connection: &mut PgConnection,
    lane: &Lane,
    after: Option<TaskId>,
    limit: u32,
) -> Attempted<Vec<TaskId>> {
    let rows = sqlx::query(PENDING)
        .bind(lane.tenant.as_str())
        .bind(lane.task_type.as_str())
        .bind(i16::from(lane.priority.get()))
        .bind(after.map_or(Uuid::nil(), |id| *id.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| row::task_id(row, 0)).collect()
}

impl Front {
    /// Where the next look at the lane begins. What is younger than `fresh` may yet appear in any
    /// order.
    fn first(&self, fresh: Uuid) -> Uuid {
        self.head.map_or(fresh, |head| fresh.min(*head.as_uuid()))
    }
}

fn read(rows: &[sqlx::postgres::PgRow]) -> Attempted<Vec<QueuedTask>> {
    rows.iter().map(row::laned).collect()
}
