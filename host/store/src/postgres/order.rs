//! A worker gets a lease on whatever waits: the claim without a broker.
//!
//! [`Outlook`] says where tasks wait. Lanes are looked at from the most urgent priority down. Within a priority tenants take turns in proportion to their weights: how many
//! tasks each is to give is worked out here, the tasks themselves are taken by one statement that skips what others are taking. A tenant
//! that had fewer leaves its turns to the others in another round.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use sqlx::{Connection, PgConnection, Row};
use taskforge_domain::{
    AgeingTurns, ClaimedTask, Lane, Priority, QueuePolicy, TaskId, TaskType, TenantId, Timestamp, WorkerId,
    is_overdue,
};

use super::{
    claim::{lapsed, read, returning_claimed},
    fault::Attempted,
    outlook::Outlook,
    param::time,
    row,
};
use crate::StoreError;

/// Takes the oldest tasks of some lanes of one priority: from each tenant at most its quota, of each type at most what its cap leaves; for
/// a lapsed worker none. Of what was paused meanwhile none either: a task that was enqueued after that never starts. Tasks that others are taking are passed over. Those that were found are locked, so that nothing needs to be asked
/// again when they are taken.
pub(super) const TAKE: &str = concat!(
    "with found as materialized (
         select lane.tenant, lane.task_type, lane.quota, lane.room, next.id
         from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::uuid[])
              as lane (tenant, task_type, quota, room, first)
         cross join lateral (
             select id from tasks
             where state = 'pending' and tenant = lane.tenant and task_type = lane.task_type and priority = $6
               and id >= lane.first
             order by id limit least(lane.quota, lane.room) for update skip locked) as next
         where not exists (select 1 from workers where workers.id = $7 and lapsed_at is not null)
           and not exists (select 1 from type_policies where type_policies.task_type = lane.task_type and paused)
     ), fair as (
         select *, row_number() over (partition by tenant order by id) as turn from found
     ), fitting as (
         select *, row_number() over (partition by task_type order by turn, id) as running from fair where turn <= quota
     ), chosen as materialized (
         select id from fitting where running <= room
     )
     update tasks
     set state = 'running', worker = $7, started_at = $8, run_lease = run_lease + 1, attempt = attempt + 1
     where id = any (array(select id from chosen order by id))
       and id >= (select id from chosen order by id limit 1) and id <= (select id from chosen order by id desc limit 1)",
    returning_claimed!()
);

/// What runs of capped types and tenants. Counted under the lock below, so that two claims never share the same room.
pub(super) const RUNNING: &str = "
    select tenant, task_type, count(*) from tasks
    where state = 'running' and (task_type = any ($1) or tenant = any ($2))
    group by tenant, task_type";

/// One claim at a time while there are caps: what one takes, the next must count.
const LOCK_CAPS: &str = "select pg_advisory_xact_lock(hashtextextended('taskforge.caps', 0))";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[TAKE, RUNNING];

/// A claim in order.
pub(super) struct Order<'a> {
    pub(super) worker: WorkerId,
    pub(super) now: Timestamp,
    pub(super) types: &'a [TaskType],
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
) -> Attempted<Vec<ClaimedTask>> {
    let aged = ageing.of_next(order.types, order.limit as usize) as u64;
    let claimed = look_and_take(connection, outlook, order, aged).await?;
    ageing.given(order.types, claimed.len());
    Ok(claimed)
}

async fn look_and_take(
    connection: &mut PgConnection,
    outlook: &mut Outlook,
    order: &Order<'_>,
    aged: u64,
) -> Attempted<Vec<ClaimedTask>> {
    if order.limit == 0 || !order.types.iter().any(|name| order.serves(name)) {
        return Ok(Vec::new());
    }
    let begin = Instant::now();
    let lanes = outlook.lanes(connection, order.now).await?;
    let claimed = take_from(connection, order, lanes, aged).await?;
    if !claimed.is_empty() {
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
) -> Attempted<Vec<ClaimedTask>> {
    let mut levels: BTreeMap<Reverse<Priority>, Vec<(Lane, TaskId)>> = BTreeMap::new();
    for (lane, head) in lanes {
        if order.serves(&lane.task_type) {
            levels
                .entry(Reverse(lane.priority))
                .or_default()
                .push((lane, head));
        }
    }
    if levels.is_empty() {
        return Ok(Vec::new());
    }
    let claimed = if order.policy.must_count() {
        let mut transaction = connection.begin().await?;
        let mut room = Room::counted(&mut transaction, order.policy).await?;
        let claimed = take_levels(&mut transaction, order, levels, aged, &mut room).await?;
        transaction.commit().await?;
        claimed
    } else {
        // Each statement of its own: a claim is not all or nothing, and fewer round trips are quicker.
        let mut room = Room::unlimited(order.policy);
        take_levels(connection, order, levels, aged, &mut room).await?
    };
    // Others may have taken what waited; or nothing is for this worker any more.
    if claimed.is_empty() && !lapsed(connection, &[order.worker]).await?.is_empty() {
        return Err(StoreError::Lapsed.into());
    }
    Ok(claimed)
}

async fn take_levels(
    connection: &mut PgConnection,
    order: &Order<'_>,
    levels: BTreeMap<Reverse<Priority>, Vec<(Lane, TaskId)>>,
    aged: u64,
    room: &mut Room<'_>,
) -> Attempted<Vec<ClaimedTask>> {
    let mut overdue = Vec::new();
    if aged > 0
        && let Some((priority, lanes)) = overdue_level(&levels, order.now, room)
    {
        let level = Level::new(lanes.clone(), order.policy);
        overdue = level.take(connection, order, priority, aged, room).await?;
    }
    let mut claimed = Vec::new();
    for (Reverse(priority), lanes) in levels {
        let taken = overdue.len() + claimed.len();
        let left = u64::from(order.limit).saturating_sub(taken as u64);
        if left == 0 {
            break;
        }
        let level = Level::new(lanes, order.policy);
        match level.take(connection, order, priority, left, room).await {
            Ok(tasks) => claimed.extend(tasks),
            // What was taken without a transaction is taken; the caller must get it.
            Err(fault) if taken > 0 && !order.policy.must_count() => {
                tracing::warn!(error = %fault, "a claim was cut short");
                break;
            }
            Err(fault) => return Err(fault),
        }
    }
    claimed.extend(overdue);
    Ok(claimed)
}

/// The priority that holds the oldest task that may run, if that one is overdue and others go before it.
fn overdue_level<'a>(
    levels: &'a BTreeMap<Reverse<Priority>, Vec<(Lane, TaskId)>>,
    now: Timestamp,
    room: &Room<'_>,
) -> Option<(Priority, &'a Vec<(Lane, TaskId)>)> {
    let fits = |lane: &Lane| room.of_type(&lane.task_type) > 0 && room.of_tenant(&lane.tenant) > 0;
    let oldest = |lanes: &[(Lane, TaskId)]| {
        let open = lanes.iter().filter(|(lane, _)| fits(lane));
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

/// How much more may run under each cap.
struct Room<'a> {
    policy: &'a QueuePolicy,
    types: HashMap<TaskType, u64>,
    tenants: HashMap<TenantId, u64>,
}

impl<'a> Room<'a> {
    fn unlimited(policy: &'a QueuePolicy) -> Self {
        Self {
            policy,
            types: HashMap::new(),
            tenants: HashMap::new(),
        }
    }

    /// Locks the caps until the end of the transaction.
    async fn counted(connection: &mut PgConnection, policy: &'a QueuePolicy) -> Attempted<Self> {
        sqlx::query(LOCK_CAPS).execute(&mut *connection).await?;
        let query = sqlx::query(RUNNING)
            .bind(policy.capped_types().map(TaskType::as_str).collect::<Vec<_>>())
            .bind(policy.capped_tenants().map(TenantId::as_str).collect::<Vec<_>>());
        let mut room = Self::unlimited(policy);
        for row in query.fetch_all(connection).await? {
            let running = row.try_get::<i64, _>(2)?.unsigned_abs();
            *room.tenants.entry(row::word(&row, 0)?).or_default() += running;
            *room.types.entry(row::word(&row, 1)?).or_default() += running;
        }
        Ok(room)
    }

    fn of_type(&self, name: &TaskType) -> u64 {
        left(self.policy.type_cap(name), self.types.get(name))
    }

    fn of_tenant(&self, name: &TenantId) -> u64 {
        left(self.policy.tenant_cap(name), self.tenants.get(name))
    }

    fn fill(&mut self, task: &ClaimedTask) {
        *self.types.entry(task.task_type.clone()).or_default() += 1;
        *self.tenants.entry(task.tenant.clone()).or_default() += 1;
    }
}

fn left(cap: Option<u32>, running: Option<&u64>) -> u64 {
    cap.map_or(u64::MAX, |cap| {
        u64::from(cap).saturating_sub(running.copied().unwrap_or(0))
    })
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
        room: &mut Room<'_>,
    ) -> Attempted<Vec<ClaimedTask>> {
        let mut taken: Vec<(f64, ClaimedTask)> = Vec::new();
        while left > 0 {
            for waiting in self.tenants.values_mut() {
                waiting.types.retain(|(name, _)| room.of_type(name) > 0);
            }
            self.tenants
                .retain(|tenant, waiting| !waiting.types.is_empty() && room.of_tenant(tenant) > 0);
            self.share_out(left, room);
            let got = self.round(connection, order, priority, room).await?;
            if got.is_empty() {
                break;
            }
            left = left.saturating_sub(got.len() as u64);
            let mut given: HashMap<TenantId, u64> = HashMap::new();
            for task in got {
                room.fill(&task);
                let number = given.entry(task.tenant.clone()).or_default();
                *number += 1;
                if let Some(waiting) = self.tenants.get(&task.tenant) {
                    taken.push((turn(waiting.given + *number, waiting.weight), task));
                }
            }
            self.tenants.retain(|tenant, waiting| {
                let number = given.get(tenant).copied().unwrap_or(0);
                waiting.given += number;
                // Who gave less than asked for has no more, unless a cap held some of it back.
                let is_capped = waiting
                    .types
                    .iter()
                    .any(|(name, _)| order.policy.type_cap(name).is_some());
                number > 0 && (number == waiting.quota || is_capped)
            });
        }
        taken.sort_by(|(a, one), (b, other)| {
            a.partial_cmp(b)
                .unwrap_or(Ordering::Equal)
                .then_with(|| one.id.cmp(&other.id))
        });
        Ok(taken.into_iter().map(|(_, task)| task).collect())
    }

    /// Deals out `left` turns, as if every tenant had tasks without end.
    fn share_out(&mut self, left: u64, room: &Room<'_>) {
        let rooms: Vec<_> = self.tenants.keys().map(|tenant| room.of_tenant(tenant)).collect();
        let mut waiting: Vec<_> = self.tenants.values_mut().zip(rooms).collect();
        for (waiting, _) in &mut waiting {
            waiting.quota = 0;
        }
        for _ in 0..left {
            let next = waiting
                .iter_mut()
                .filter(|(waiting, room)| waiting.quota < *room)
                .min_by(|(one, _), (other, _)| {
                    turn(one.given + one.quota + 1, one.weight)
                        .partial_cmp(&turn(other.given + other.quota + 1, other.weight))
                        .unwrap_or(Ordering::Equal)
                        .then_with(|| one.head.cmp(&other.head))
                });
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
        room: &Room<'_>,
    ) -> Attempted<Vec<ClaimedTask>> {
        let (mut tenants, mut types, mut heads) = (Vec::new(), Vec::new(), Vec::new());
        let (mut quotas, mut rooms) = (Vec::new(), Vec::new());
        for (tenant, waiting) in self.tenants.iter().filter(|(_, waiting)| waiting.quota > 0) {
            for (name, head) in &waiting.types {
                heads.push(*head.as_uuid());
                tenants.push(tenant.as_str());
                types.push(name.as_str());
                quotas.push(i64::try_from(waiting.quota).unwrap_or(i64::MAX));
                rooms.push(i64::try_from(room.of_type(name)).unwrap_or(i64::MAX));
            }
        }
        if tenants.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(TAKE)
            .bind(tenants)
            .bind(types)
            .bind(quotas)
            .bind(rooms)
            .bind(heads)
            .bind(i16::from(priority.get()))
            .bind(order.worker.as_uuid())
            .bind(time(order.now))
            .fetch_all(connection)
            .await?;
        let mut tasks = rows.iter().map(read).collect::<Attempted<Vec<_>>>()?;
        tasks.sort_by_key(|task| task.id);
        Ok(tasks)
    }
}
