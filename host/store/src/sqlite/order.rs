//! A worker gets a lease on whatever waits: the claim without a broker.
//!
//! A [`Plan`] says how many tasks each lane gives. They are read here, and chosen as far as the
//! caps of their types allow.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sqlx::SqliteConnection;
use taskforge_domain::{
    AgeingTurns, Lane, LaneLimits, QueuePolicy, TaskId, TaskType, TenantId, Timestamp,
};
use uuid::Uuid;

use super::{
    lanes::{BEFORE_ALL, heads},
    param::{Hex, arrays, count, id, json},
};
use crate::{
    QueuedTask, StoreError, StoreResult,
    turns::{Order, Permits, Plan, Quota, Round},
};

/// The heads of lanes, each beyond the last one that was looked at.
const HEADS: &str = "
    select json_group_array(json((
        select json_group_array(hex(id)) from (
            select id from tasks indexed by tasks_lanes
            where state = 'pending' and tenant = asked.value ->> 0 and task_type = asked.value ->> 1
              and priority = asked.value ->> 2 and id > unhex(asked.value ->> 3)
            order by id limit $2))))
    from jsonb_each($1) as asked";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[HEADS];

/// The most lanes that one claim looks at. So many types and tenants wait in no embedded store.
const LANES: u32 = 100_000;

/// Whose turn it is between what is urgent and what is overdue; all claims of a store share it.
#[derive(Default)]
pub(super) struct Ageing(Mutex<AgeingTurns>);

impl Ageing {
    /// Never held across a wait.
    fn lock(&self) -> MutexGuard<'_, AgeingTurns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim by order on its way in.
pub(super) struct OrderOp {
    types: Vec<TaskType>,
    lanes: LaneLimits,
    policy: QueuePolicy,
    limit: usize,
    ageing: Arc<Ageing>,
}

impl OrderOp {
    pub(super) fn new(
        types: &[TaskType],
        lanes: &LaneLimits,
        limit: u32,
        policy: &QueuePolicy,
        ageing: &Arc<Ageing>,
    ) -> Self {
        Self {
            types: types.to_vec(),
            lanes: lanes.clone(),
            policy: policy.clone(),
            limit: limit as usize,
            ageing: Arc::clone(ageing),
        }
    }

    /// The tasks to take, in order, and whether a cap keeps others waiting. What is picked is
    /// pending in the caller's transaction, and its permits are taken.
    pub(super) async fn pick(
        &self,
        connection: &mut SqliteConnection,
        now: Timestamp,
        permits: &mut Permits,
    ) -> StoreResult<(Vec<TaskId>, bool)> {
        let Self { types, lanes, policy, limit, .. } = self;
        let aged = self.ageing.lock().of_next(types, *limit);
        let order = Order { types, lanes, policy, limit: *limit, now };
        if order.is_idle() {
            return Ok((Vec::new(), false));
        }
        let heads = order.served(heads(connection, LANES).await?);
        let mut plan = Plan::new(&order, aged, heads, permits);
        let mut lasts = HashMap::new();
        while let Some(round) = plan.next_round() {
            plan.fetched(pick_round(connection, &round, &mut lasts).await?);
        }
        let (picked, is_at_cap) = plan.finish();
        Ok((picked.into_iter().map(|task| task.id).collect(), is_at_cap))
    }

    /// The claim got so many tasks.
    pub(super) fn given(&self, count: usize) {
        self.ageing.lock().given(&self.types, count);
    }
}

/// Picks the tasks of a round, each lane's beyond the last that was picked from it.
async fn pick_round(
    connection: &mut SqliteConnection,
    round: &Round,
    lasts: &mut HashMap<Lane, TaskId>,
) -> StoreResult<Vec<QueuedTask>> {
    let mut by_length: BTreeMap<u64, Vec<&Quota>> = BTreeMap::new();
    for quota in &round.lanes {
        let length = quota.of_tenant.min(quota.of_type).min(quota.of_lane);
        by_length.entry(length).or_default().push(quota);
    }
    let mut candidates = Vec::new();
    for (length, lanes) in by_length {
        candidates.extend(read_heads(connection, &lanes, length, lasts).await?);
    }
    candidates.sort_unstable_by_key(|(id, _)| *id);
    // The oldest of each tenant, and of those the ones whose turn in their tenant is first.
    let mut of_tenants: HashMap<&TenantId, u64> = HashMap::new();
    let mut in_turn = Vec::new();
    for (id, quota) in candidates {
        let number = of_tenants.entry(&quota.lane.tenant).or_default();
        *number += 1;
        if *number <= quota.of_tenant {
            in_turn.push((*number, id, quota));
        }
    }
    in_turn.sort_unstable_by_key(|(number, id, _)| (*number, *id));
    let mut of_types: HashMap<&TaskType, u64> = HashMap::new();
    let mut picked = Vec::new();
    for (_, id, quota) in in_turn {
        let number = of_types.entry(&quota.lane.task_type).or_default();
        *number += 1;
        if *number <= quota.of_type {
            lasts.insert(quota.lane.clone(), id);
            picked.push(QueuedTask { id, lane: quota.lane.clone() });
        }
    }
    Ok(picked)
}

/// The next tasks of some lanes, at most `length` of each.
async fn read_heads<'a>(
    connection: &mut SqliteConnection,
    lanes: &[&'a Quota],
    length: u64,
    lasts: &HashMap<Lane, TaskId>,
) -> StoreResult<Vec<(TaskId, &'a Quota)>> {
    let rows = lanes.iter().map(|Quota { lane, .. }| {
        let Lane { tenant, task_type, priority } = lane;
        // The empty blob sorts before every id.
        let last = lasts.get(lane).map_or(Hex(BEFORE_ALL), |last| id(last.as_uuid()));
        json(&(tenant.as_str(), task_type.as_str(), priority.get(), last))
    });
    let mut read: Vec<Vec<Uuid>> = Vec::new();
    for array in arrays(rows) {
        let heads: String = sqlx::query_scalar(HEADS)
            .bind(array)
            .bind(count(length))
            .fetch_one(&mut *connection)
            .await?;
        let heads: Vec<Vec<Uuid>> = serde_json::from_str(&heads)
            .map_err(|error| StoreError::Corrupt(format!("the heads of lanes: {error}")))?;
        read.extend(heads);
    }
    let of_lane = |(quota, ids): (&&'a Quota, Vec<Uuid>)| {
        let quota = *quota;
        ids.into_iter().map(move |id| (TaskId::from_uuid(id), quota))
    };
    Ok(lanes.iter().zip(read).flat_map(of_lane).collect())
}
