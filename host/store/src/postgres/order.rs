//! A worker gets a lease on whatever waits: the claim without a broker.
//!
//! [`Outlook`] says where tasks wait. Lanes are looked at from the most urgent priority down.
//! Within a priority tenants take turns in proportion to their weights: how many tasks each is to
//! give is worked out here, the tasks themselves are taken by one statement that skips what others
//! are taking. A tenant that had fewer leaves its turns to the others in another round.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use sqlx::{Connection, PgConnection, Row};
use taskforge_domain::{
    AgeingTurns, ClaimedTask, Lane, LaneLimits, Priority, QueuePolicy, TaskId, TaskType, TenantId,
    Timestamp, WorkerId, is_overdue,
};

use super::{
    claim::{lapsed, readable, returning_claimed},
    fault::Attempted,
    outlook::Outlook,
    param::time,
    row,
};
use crate::{Claimed, StoreError};

/// Takes the oldest tasks of some lanes of one priority: from each tenant at most its quota, of
/// each type at most what its cap leaves, of each lane at most what the worker can use; for a lapsed
/// worker none. Of what was paused meanwhile
/// none either: a task that was enqueued after that never starts. Tasks that others are taking are
/// passed over. Those that were found are locked, so that nothing needs to be asked again when they
/// are taken.
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

/// A claim in order.
pub(super) struct Order<'a> {
    pub(super) worker: WorkerId,
    pub(super) now: Timestamp,
    pub(super) types: &'a [TaskType],
    pub(super) lanes: &'a LaneLimits,
    pub(super) limit: u32,
    pub(super) policy: &'a QueuePolicy,
}

impl Order<'_> {
    fn serves(&self, name: &TaskType) -> bool {
        self.types.contains(name) && !self.policy.is_paused(name)
    }
}

/// Carries it out.
pub(super) async fn run(
    connection: &mut PgConnection,
    outlook: &mut Outlook,
    ageing: &mut AgeingTurns,
    order: &Order<'_>,
) -> Attempted<Claimed> {
    let aged = ageing.of_next(order.types, order.limit as usize) as u64;
    let claimed = look_and_take(connection, outlook, order, aged).await?;
    ageing.given(order.types, claimed.tasks.len());
    Ok(claimed)
}

async fn look_and_take(
    connection: &mut PgConnection,
    outlook: &mut Outlook,
    order: &Order<'_>,
    aged: u64,
) -> Attempted<Claimed> {
    if order.limit == 0 || !order.types.iter().any(|name| order.serves(name)) {
        return Ok(Claimed::default());
    }
    let begin = Instant::now();
    let lanes = outlook.lanes(connection, order.now).await?;
    let claimed = take_from(connection, order, lanes, aged).await?;
    if !claimed.tasks.is_empty() {
        return Ok(claimed);
    }
    match outlook.look_again(connection, begin).await? {
        Some(lanes) => take_from(connection, order, lanes, aged).await,
        None => Ok(claimed),
    }
}

async fn take_from(
    connection: &mut PgConnection,
    order: &Order<'_>,
    lanes: Vec<(Lane, TaskId)>,
    aged: u64,
) -> Attempted<Claimed> {
    let mut levels: BTreeMap<Reverse<Priority>, Vec<(Lane, TaskId)>> = BTreeMap::new();
    for (lane, head) in lanes {
        if order.serves(&lane.task_type) {
            levels.entry(Reverse(lane.priority)).or_default().push((lane, head));
        }
    }
    if levels.is_empty() {
        return Ok(Claimed::default());
    }
    let asked: Vec<Lane> = levels.values().flatten().map(|(lane, _)| lane.clone()).collect();
    let mut permits = Permits::new(order.lanes);
    let tasks = if sqlx::query_scalar(HAS_CAPS).fetch_one(&mut *connection).await? {
        let mut transaction = connection.begin().await?;
        permits.lock(&mut transaction, &asked).await?;
        let tasks = take_levels(&mut transaction, order, levels, aged, &mut permits, true).await?;
        transaction.commit().await?;
        tasks
    } else {
        // Each statement of its own: a claim is not all or nothing, and fewer round trips are
        // quicker.
        take_levels(connection, order, levels, aged, &mut permits, false).await?
    };
    // Others may have taken what waited; or nothing is for this worker any more.
    if tasks.is_empty() && !lapsed(connection, &[order.worker]).await?.is_empty() {
        return Err(StoreError::Lapsed.into());
    }
    Ok(Claimed {
        tasks,
        over_cap: Vec::new(),
        at_cap: asked.iter().any(|lane| permits.is_at_cap(lane)),
    })
}

async fn take_levels(
    connection: &mut PgConnection,
    order: &Order<'_>,
    levels: BTreeMap<Reverse<Priority>, Vec<(Lane, TaskId)>>,
    aged: u64,
    permits: &mut Permits,
    in_transaction: bool,
) -> Attempted<Vec<ClaimedTask>> {
    let mut overdue = Vec::new();
    if aged > 0
        && let Some((priority, lanes)) = overdue_level(&levels, order.now, permits)
    {
        let level = Level::new(lanes.clone(), order.policy);
        overdue = level.take(connection, order, priority, aged, permits).await?;
    }
    let mut claimed = Vec::new();
    for (Reverse(priority), lanes) in levels {
        let taken = overdue.len() + claimed.len();
        let left = u64::from(order.limit).saturating_sub(taken as u64);
        if left == 0 {
            break;
        }
        let level = Level::new(lanes, order.policy);
        match level.take(connection, order, priority, left, permits).await {
            Ok(tasks) => claimed.extend(tasks),
            // What was taken without a transaction is taken; the caller must get it.
            Err(fault) if taken > 0 && !in_transaction => {
                tracing::warn!(error = %fault, "a claim was cut short");
                break;
            }
            Err(fault) => return Err(fault),
        }
    }
    claimed.extend(overdue);
    Ok(claimed)
}

/// The priority that holds the oldest task that may run, if that one is overdue and others go
/// before it.
fn overdue_level<'a>(
    levels: &'a BTreeMap<Reverse<Priority>, Vec<(Lane, TaskId)>>,
    now: Timestamp,
    permits: &Permits,
) -> Option<(Priority, &'a Vec<(Lane, TaskId)>)> {
    let oldest = |lanes: &[(Lane, TaskId)]| {
        let open = lanes.iter().filter(|(lane, _)| permits.has(lane));
        open.map(|(_, head)| *head).min()
    };
    let (head, Reverse(priority), lanes) = levels
        .iter()
        .filter_map(|(priority, lanes)| Some((oldest(lanes)?, *priority, lanes)))
        .min_by_key(|(head, ..)| *head)?;
    // The most urgent go first anyway.
    let is_first = levels.keys().next() == Some(&Reverse(priority));
    (!is_first && is_overdue(head, now)).then_some((priority, lanes))
}

/// What is left under caps, and of what the worker can use. What has no limit is not in it.
struct Permits {
    lanes: LaneLimits,
    types: HashMap<TaskType, u64>,
    tenants: HashMap<TenantId, u64>,
}

impl Permits {
    fn new(lanes: &LaneLimits) -> Self {
        Self { lanes: lanes.clone(), types: HashMap::new(), tenants: HashMap::new() }
    }

    /// Counts what is left under caps for these lanes, and locks the caps until the end of the
    /// transaction.
    async fn lock(&mut self, connection: &mut PgConnection, lanes: &[Lane]) -> Attempted<()> {
        let types: BTreeSet<_> = lanes.iter().map(|lane| lane.task_type.as_str()).collect();
        let tenants: BTreeSet<_> = lanes.iter().map(|lane| lane.tenant.as_str()).collect();
        let query = sqlx::query(PERMITS)
            .bind(types.into_iter().collect::<Vec<_>>())
            .bind(tenants.into_iter().collect::<Vec<_>>());
        for row in query.fetch_all(connection).await? {
            let left = row.try_get::<i64, _>(2)?.unsigned_abs();
            match row.try_get::<Option<&str>, _>(0)? {
                Some(_) => self.types.insert(row::word(&row, 0)?, left).map(drop),
                None => self.tenants.insert(row::word(&row, 1)?, left).map(drop),
            };
        }
        Ok(())
    }

    fn of_type(&self, name: &TaskType) -> u64 {
        self.types.get(name).copied().unwrap_or(u64::MAX)
    }

    fn of_tenant(&self, name: &TenantId) -> u64 {
        self.tenants.get(name).copied().unwrap_or(u64::MAX)
    }

    fn is_at_cap(&self, lane: &Lane) -> bool {
        self.of_type(&lane.task_type) == 0 || self.of_tenant(&lane.tenant) == 0
    }

    fn has(&self, lane: &Lane) -> bool {
        !self.is_at_cap(lane) && self.lanes.of(&lane.task_type, &lane.tenant) > 0
    }

    fn take(&mut self, task: &ClaimedTask) {
        self.lanes.take(&task.task_type, &task.tenant);
        let of_type = self.types.get_mut(&task.task_type);
        let of_tenant = self.tenants.get_mut(&task.tenant);
        for left in of_type.into_iter().chain(of_tenant) {
            *left = left.saturating_sub(1);
        }
    }
}

/// The tenants that wait in one priority.
struct Level {
    tenants: BTreeMap<TenantId, Waiting>,
}

struct Waiting {
    /// Of its oldest task, which decides between tenants whose turn it is at once.
    head: TaskId,
    weight: f64,
    /// The types of its lanes, and where each lane begins.
    types: Vec<(TaskType, TaskId)>,
    /// What it has given so far.
    given: u64,
    /// What it is to give in this round.
    quota: u64,
}

/// Of a tenant of weight 3 the third task has the turn that the first has of a tenant of weight 1.
fn turn(number: u64, weight: f64) -> f64 {
    // Exact below 2^52 tasks.
    number as f64 / weight
}

impl Level {
    fn new(lanes: Vec<(Lane, TaskId)>, policy: &QueuePolicy) -> Self {
        let mut tenants: BTreeMap<TenantId, Waiting> = BTreeMap::new();
        for (lane, head) in lanes {
            let weight = f64::from(policy.weight(&lane.tenant).get());
            let waiting = tenants.entry(lane.tenant).or_insert_with(|| Waiting {
                head,
                weight,
                types: Vec::new(),
                given: 0,
                quota: 0,
            });
            waiting.head = waiting.head.min(head);
            waiting.types.push((lane.task_type, head));
        }
        Self { tenants }
    }

    /// Takes at most `left` tasks, in rounds, until nobody has more to give.
    async fn take(
        mut self,
        connection: &mut PgConnection,
        order: &Order<'_>,
        priority: Priority,
        mut left: u64,
        permits: &mut Permits,
    ) -> Attempted<Vec<ClaimedTask>> {
        let mut taken: Vec<(f64, ClaimedTask)> = Vec::new();
        while left > 0 {
            for (tenant, waiting) in &mut self.tenants {
                waiting.types.retain(|(name, _)| {
                    permits.of_type(name) > 0 && permits.lanes.of(name, tenant) > 0
                });
            }
            self.tenants.retain(|tenant, waiting| {
                !waiting.types.is_empty() && permits.of_tenant(tenant) > 0
            });
            self.share_out(left, permits);
            let got = self.round(connection, order, priority, permits).await?;
            if got.is_empty() {
                break;
            }
            left = left.saturating_sub(got.len() as u64);
            let mut given: HashMap<TenantId, u64> = HashMap::new();
            for task in got {
                permits.take(&task);
                let number = given.entry(task.tenant.clone()).or_default();
                *number += 1;
                if let Some(waiting) = self.tenants.get(&task.tenant) {
                    taken.push((turn(waiting.given + *number, waiting.weight), task));
                }
            }
            self.tenants.retain(|tenant, waiting| {
                let number = given.get(tenant).copied().unwrap_or(0);
                waiting.given += number;
                // Who gave less than asked for has no more, unless a limit held some of it back.
                let is_limited = waiting.types.iter().any(|(name, _)| {
                    permits.types.contains_key(name) || permits.lanes.concern(name)
                });
                number > 0 && (number == waiting.quota || is_limited)
            });
        }
        taken.sort_by(|(a, one), (b, other)| {
            a.partial_cmp(b).unwrap_or(Ordering::Equal).then_with(|| one.id.cmp(&other.id))
        });
        Ok(taken.into_iter().map(|(_, task)| task).collect())
    }

    /// Deals out `left` turns, as if every tenant had tasks without end.
    fn share_out(&mut self, left: u64, permits: &Permits) {
        let most: Vec<_> = self.tenants.keys().map(|tenant| permits.of_tenant(tenant)).collect();
        let mut waiting: Vec<_> = self.tenants.values_mut().zip(most).collect();
        for (waiting, _) in &mut waiting {
            waiting.quota = 0;
        }
        for _ in 0..left {
            let next = waiting.iter_mut().filter(|(waiting, most)| waiting.quota < *most).min_by(
                |(one, _), (other, _)| {
                    turn(one.given + one.quota + 1, one.weight)
                        .partial_cmp(&turn(other.given + other.quota + 1, other.weight))
                        .unwrap_or(Ordering::Equal)
                        .then_with(|| one.head.cmp(&other.head))
                },
            );
            match next {
                Some((waiting, _)) => waiting.quota += 1,
                None => break,
            }
        }
    }

    /// One statement: the quotas of all tenants. In the order of ids.
    async fn round(
        &self,
        connection: &mut PgConnection,
        order: &Order<'_>,
        priority: Priority,
        permits: &Permits,
    ) -> Attempted<Vec<ClaimedTask>> {
        let (mut tenants, mut types, mut heads) = (Vec::new(), Vec::new(), Vec::new());
        let (mut quotas, mut left, mut most) = (Vec::new(), Vec::new(), Vec::new());
        for (tenant, waiting) in self.tenants.iter().filter(|(_, waiting)| waiting.quota > 0) {
            for (name, head) in &waiting.types {
                heads.push(*head.as_uuid());
                tenants.push(tenant.as_str());
                types.push(name.as_str());
                quotas.push(i64::try_from(waiting.quota).unwrap_or(i64::MAX));
                left.push(i64::try_from(permits.of_type(name)).unwrap_or(i64::MAX));
                most.push(i64::try_from(permits.lanes.of(name, tenant)).unwrap_or(i64::MAX));
            }
        }
        if tenants.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(TAKE)
            .bind(tenants)
            .bind(types)
            .bind(quotas)
            .bind(left)
            .bind(heads)
            .bind(i16::from(priority.get()))
            .bind(order.worker.as_uuid())
            .bind(time(order.now))
            .bind(most)
            .fetch_all(connection)
            .await?;
        let mut tasks = readable(&rows);
        tasks.sort_by_key(|task| task.id);
        Ok(tasks)
    }
}
