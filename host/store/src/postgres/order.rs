//! A worker gets a lease on whatever waits: the claim without a broker.
//!
//! [`Outlook`] says where tasks wait, a [`Plan`] how many each lane gives. A round of it is one
//! statement, which skips what others are taking.

use std::{collections::BTreeSet, time::Instant};

use sqlx::{Connection, PgConnection};
use taskforge_domain::{AgeingTurns, ClaimedTask, WorkerId};

use super::{
    claim::{lapsed, readable, returning_claimed},
    fault::Attempted,
    outlook::Outlook,
    param::{count, time},
    row,
};
use crate::{
    Claimed, QueuedTask, StoreError,
    turns::{Order, Permits, Plan, Round},
};

/// Takes the oldest tasks of some lanes of one priority: from each tenant at most its quota, of
/// each type at most what its cap leaves, of each lane at most what the worker can use; for a
/// lapsed worker none. Of what was paused meanwhile none either: a task that was enqueued after
/// that never starts. Tasks that others are taking are passed over. Those that were found are
/// locked, so that nothing needs to be asked again when they are taken.
pub(super) const TAKE: &str = concat!(
    "with found as materialized (
         select lane.tenant, lane.task_type, lane.quota, lane.permits, next.id
         from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::uuid[], $9::bigint[])
              as lane (tenant, task_type, quota, permits, first, most)
         cross join lateral (
             select id from tasks
             where state = 'pending' and tenant = lane.tenant and task_type = lane.task_type and priority = $6
               and id >= lane.first
             order by id limit least(lane.quota, lane.permits, lane.most) for update skip locked) as next
         where not exists (select 1 from workers where workers.id = $7 and lapsed_at is not null)
           and not exists (select 1 from type_policies where type_policies.task_type = lane.task_type and paused)
     ), fair as (
         select *, row_number() over (partition by tenant order by id) as turn from found
     ), fitting as (
         select *, row_number() over (partition by task_type order by turn, id) as running from fair where turn <= quota
     ), chosen as materialized (
         select id from fitting where running <= permits
     )
     update tasks
     set state = 'running', worker = $7, started_at = $8, run_lease = run_lease + 1, attempt = attempt + 1
     where id = any (array(select id from chosen order by id))
       and id >= (select id from chosen order by id limit 1) and id <= (select id from chosen order by id desc limit 1)",
    returning_claimed!()
);

/// Whether anything may have a cap.
const HAS_CAPS: &str = "select taskforge_may_have_caps()";

/// What is left under the caps of these types and tenants. They are locked until the transaction
/// ends.
const PERMITS: &str = "select task_type, tenant, permits from taskforge_permits($1, $2)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[TAKE];

/// Carries out a claim in order.
pub(super) async fn run(
    connection: &mut PgConnection,
    outlook: &mut Outlook,
    ageing: &mut AgeingTurns,
    worker: WorkerId,
    order: &Order<'_>,
) -> Attempted<Claimed> {
    if order.is_idle() {
        return Ok(Claimed::default());
    }
    let aged = ageing.of_next(order.types, order.limit);
    let begin = Instant::now();
    let lanes = outlook.lanes(connection, order.now).await?;
    let mut claimed = take_from(connection, worker, order, aged, lanes).await?;
    if claimed.tasks.is_empty()
        && let Some(lanes) = outlook.look_again(connection, begin).await?
    {
        claimed = take_from(connection, worker, order, aged, lanes).await?;
    }
    ageing.given(order.types, claimed.tasks.len());
    Ok(claimed)
}

async fn take_from(
    connection: &mut PgConnection,
    worker: WorkerId,
    order: &Order<'_>,
    aged: usize,
    lanes: Vec<QueuedTask>,
) -> Attempted<Claimed> {
    let heads = order.served(lanes);
    if heads.is_empty() {
        return Ok(Claimed::default());
    }
    let (tasks, at_cap) = if sqlx::query_scalar(HAS_CAPS).fetch_one(&mut *connection).await? {
        let mut transaction = connection.begin().await?;
        let mut permits = lock_permits(&mut transaction, &heads).await?;
        let mut plan = Plan::new(order, aged, heads, &mut permits);
        follow(&mut transaction, worker, order, &mut plan).await?;
        transaction.commit().await?;
        plan.finish()
    } else {
        // Each statement of its own: a claim is not all or nothing, and fewer round trips are
        // quicker.
        let mut permits = Permits::default();
        let mut plan = Plan::new(order, aged, heads, &mut permits);
        let followed = follow(connection, worker, order, &mut plan).await;
        let (tasks, at_cap) = plan.finish();
        match followed {
            Err(fault) if tasks.is_empty() => return Err(fault),
            // What was taken without a transaction is taken; the caller must get it.
            Err(fault) => tracing::warn!(error = %fault, "a claim was cut short"),
            Ok(()) => {}
        }
        (tasks, at_cap)
    };
    // Others may have taken what waited; or nothing is for this worker any more.
    if tasks.is_empty() && !lapsed(connection, &[worker]).await?.is_empty() {
        return Err(StoreError::Lapsed.into());
    }
    Ok(Claimed { tasks, over_cap: Vec::new(), at_cap })
}

/// Counts what the caps of these lanes leave, and locks them until the end of the transaction.
async fn lock_permits(connection: &mut PgConnection, heads: &[QueuedTask]) -> Attempted<Permits> {
    let types: BTreeSet<_> = heads.iter().map(|head| head.lane.task_type.as_str()).collect();
    let tenants: BTreeSet<_> = heads.iter().map(|head| head.lane.tenant.as_str()).collect();
    let query = sqlx::query(PERMITS)
        .bind(types.into_iter().collect::<Vec<_>>())
        .bind(tenants.into_iter().collect::<Vec<_>>());
    let mut permits = Permits::default();
    for row in query.fetch_all(connection).await? {
        let left = row::number(&row, 2)?;
        match row::optional_word(&row, 0)? {
            Some(name) => permits.types.insert(name, left),
            None => permits.tenants.insert(row::word(&row, 1)?, left),
        };
    }
    Ok(permits)
}

async fn follow(
    connection: &mut PgConnection,
    worker: WorkerId,
    order: &Order<'_>,
    plan: &mut Plan<'_, ClaimedTask>,
) -> Attempted<()> {
    while let Some(round) = plan.next_round() {
        plan.fetched(take(connection, worker, order, &round).await?);
    }
    Ok(())
}

/// One statement: the quotas of all tenants.
async fn take(
    connection: &mut PgConnection,
    worker: WorkerId,
    order: &Order<'_>,
    round: &Round,
) -> Attempted<Vec<ClaimedTask>> {
    macro_rules! column {
        ($quota:ident => $value:expr) => {
            round.lanes.iter().map(|$quota| $value).collect::<Vec<_>>()
        };
    }
    let rows = sqlx::query(TAKE)
        .bind(column!(quota => quota.lane.tenant.as_str()))
        .bind(column!(quota => quota.lane.task_type.as_str()))
        .bind(column!(quota => count(quota.of_tenant)))
        .bind(column!(quota => count(quota.of_type)))
        .bind(column!(quota => *quota.head.as_uuid()))
        .bind(i16::from(round.priority.get()))
        .bind(worker.as_uuid())
        .bind(time(order.now))
        .bind(column!(quota => count(quota.of_lane)))
        .fetch_all(connection)
        .await?;
    Ok(readable(&rows))
}
