//! Which tasks go first when no broker says so.
//!
//! The most urgent go first. Inside a priority tenants take turns: in each turn a tenant of weight
//! 3 may have its three oldest tasks, one of weight 1 its oldest; within a turn, and for one
//! tenant, the lower id goes first. Nothing is remembered between claims.
//!
//! A turn is planned before it is read: so many turns as would fill the claim if every tenant had
//! enough. Whoever has less leaves room for another round of turns among the rest. So a claim reads
//! about as many entries of the index as it takes, whether a lane holds ten tasks or a million; a
//! sort over all that waits would read them all.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sqlx::SqliteConnection;
use taskforge_domain::{
    AgeingTurns, Lane, LaneLimits, Priority, QueuePolicy, TaskId, TaskType, TenantId, Timestamp,
    is_overdue,
};
use uuid::Uuid;

use super::{
    caps::Permits,
    lanes::heads,
    param::{RowText, arrays},
};
use crate::{StoreError, StoreResult};

/// The heads of lanes, each beyond the last one that was looked at.
const HEADS: &str = "
    select json_group_array(json((
        select json_group_array(hex(id)) from (
            select id from tasks indexed by tasks_lanes
            where state = 'pending' and tenant = asked.value ->> 0 and task_type = asked.value ->> 1
              and priority = asked.value ->> 2 and id > unhex(asked.value ->> 3)
            order by id limit ?2))))
    from jsonb_each(?1) as asked";

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

/// What a claim by order is after.
pub(super) struct Order {
    types: HashSet<TaskType>,
    /// As they were asked for.
    asked: Vec<TaskType>,
    lanes: LaneLimits,
    ageing: Arc<Ageing>,
    limit: usize,
    policy: QueuePolicy,
}

/// A lane on its way through a claim.
struct Source {
    lane: Lane,
    /// The last task that was taken from it.
    last: Option<TaskId>,
    /// The next tasks, as many as its tenant may have in this round.
    heads: Vec<TaskId>,
    /// How many of them were taken.
    taken: usize,
}

/// The tasks that a tenant may have in the next turns.
struct Share {
    weight: usize,
    sources: Vec<Source>,
}

impl Order {
    pub(super) fn new(
        types: &[TaskType],
        lanes: &LaneLimits,
        limit: u32,
        policy: &QueuePolicy,
        ageing: &Arc<Ageing>,
    ) -> Self {
        let served = types.iter().filter(|name| !policy.is_paused(name));
        Self {
            types: served.cloned().collect(),
            asked: types.to_vec(),
            lanes: lanes.clone(),
            ageing: Arc::clone(ageing),
            limit: limit as usize,
            policy: policy.clone(),
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
        let mut picked = Vec::new();
        if self.limit == 0 || self.types.is_empty() {
            return Ok((picked, false));
        }
        permits.limit(&self.lanes);
        let mut asked = Vec::new();
        let mut by_priority: BTreeMap<Reverse<Priority>, BTreeMap<TenantId, Share>> =
            BTreeMap::new();
        // Of what may run.
        let mut oldest: Option<(TaskId, Reverse<Priority>)> = None;
        for head in heads(&mut *connection, LANES).await? {
            let (id, lane) = (head.id, head.lane);
            if !self.types.contains(&lane.task_type) {
                continue;
            }
            asked.push(lane.clone());
            if permits.has(&lane) && oldest.is_none_or(|(oldest, _)| id < oldest) {
                oldest = Some((id, Reverse(lane.priority)));
            }
            let shares = by_priority.entry(Reverse(lane.priority)).or_default();
            let share = shares.entry(lane.tenant.clone()).or_insert_with(|| Share {
                weight: self.policy.weight(&lane.tenant).get() as usize,
                sources: Vec::new(),
            });
            share.sources.push(Source { lane, last: None, heads: Vec::new(), taken: 0 });
        }
        let mut by_priority: BTreeMap<_, Vec<Share>> = by_priority
            .into_iter()
            .map(|(priority, shares)| (priority, shares.into_values().collect()))
            .collect();
        let aged = self.ageing.lock().of_next(&self.asked, self.limit);
        // The most urgent go first anyway.
        let first = by_priority.keys().next().copied();
        let overdue =
            oldest.filter(|(oldest, level)| Some(*level) != first && is_overdue(*oldest, now));
        let mut aged_picks = Vec::new();
        if let Some((_, priority)) = overdue
            && let Some(shares) = by_priority.get_mut(&priority)
        {
            aged_picks = fill(connection, shares, aged, permits).await?;
        }
        for shares in by_priority.values_mut() {
            let left = self.limit - picked.len() - aged_picks.len();
            picked.extend(fill(connection, shares, left, permits).await?);
        }
        picked.extend(aged_picks);
        let is_at_cap = asked.iter().any(|lane| permits.is_at_cap(lane));
        Ok((picked, is_at_cap))
    }

    /// A claim got so many tasks.
    pub(super) fn given(&self, count: usize) {
        self.ageing.lock().given(&self.asked, count);
    }
}

/// At most `limit` tasks of one priority.
async fn fill(
    connection: &mut SqliteConnection,
    shares: &mut Vec<Share>,
    limit: usize,
    permits: &mut Permits,
) -> StoreResult<Vec<TaskId>> {
    let mut picked = Vec::new();
    // Each round fills the claim, or ends with a lane that is empty or has no room.
    while picked.len() < limit {
        shares.retain_mut(|share| {
            share.sources.retain(|source| permits.has(&source.lane));
            !share.sources.is_empty()
        });
        if shares.is_empty() {
            break;
        }
        let left = limit - picked.len();
        picked.extend(round(connection, shares, left, permits).await?);
    }
    Ok(picked)
}

/// As many turns as would give `left` tasks if every tenant had enough. Sources that have no more
/// are removed.
async fn round(
    connection: &mut SqliteConnection,
    shares: &mut [Share],
    left: usize,
    permits: &mut Permits,
) -> StoreResult<Vec<TaskId>> {
    let weights: usize = shares.iter().map(|share| share.weight).sum();
    let turns = left.div_ceil(weights);
    let mut by_quota: BTreeMap<usize, Vec<&mut Source>> = BTreeMap::new();
    for share in &mut *shares {
        let quota = (turns * share.weight).min(left);
        by_quota.entry(quota).or_default().extend(&mut share.sources);
    }
    for (quota, sources) in by_quota {
        read_heads(connection, sources, quota).await?;
    }
    let mut candidates = Vec::new();
    for (owner, share) in shares.iter().enumerate() {
        let quota = (turns * share.weight).min(left);
        let mut oldest: Vec<_> = share
            .sources
            .iter()
            .enumerate()
            .flat_map(|(n, source)| source.heads.iter().map(move |id| (*id, n)))
            .collect();
        oldest.sort_unstable();
        oldest.truncate(quota);
        let turn_of = |(place, (id, source))| (place / share.weight, id, owner, source);
        candidates.extend(oldest.into_iter().enumerate().map(turn_of));
    }
    candidates.sort_unstable();

    let mut picked = Vec::new();
    for (_, id, owner, source) in candidates {
        let source = &mut shares[owner].sources[source];
        if picked.len() < left && permits.take(&source.lane.tenant, &source.lane.task_type) {
            source.last = Some(id);
            source.taken += 1;
            picked.push(id);
        }
    }
    for share in shares {
        let quota = (turns * share.weight).min(left);
        share
            .sources
            .retain(|source| source.heads.len() == quota || source.taken < source.heads.len());
    }
    Ok(picked)
}

async fn read_heads(
    connection: &mut SqliteConnection,
    sources: Vec<&mut Source>,
    quota: usize,
) -> StoreResult<()> {
    let rows = sources.iter().map(|source| {
        let row = RowText::new()
            .text(source.lane.tenant.as_str())
            .text(source.lane.task_type.as_str())
            .int(i64::from(source.lane.priority.get()));
        // The empty blob sorts before every id.
        match source.last {
            Some(id) => row.id(id.as_uuid()).finish(),
            None => row.text("").finish(),
        }
    });
    let rows: Vec<_> = rows.collect();
    let mut heads: Vec<Vec<Uuid>> = Vec::new();
    for array in arrays(rows.iter().map(String::as_str)) {
        let read: String = sqlx::query_scalar(HEADS)
            .bind(array)
            .bind(i64::try_from(quota).unwrap_or(i64::MAX))
            .fetch_one(&mut *connection)
            .await?;
        let read: Vec<Vec<Uuid>> = serde_json::from_str(&read)
            .map_err(|error| StoreError::Corrupt(format!("the heads of lanes: {error}")))?;
        heads.extend(read);
    }
    for (source, heads) in sources.into_iter().zip(heads) {
        source.heads = heads.into_iter().map(TaskId::from_uuid).collect();
        source.taken = 0;
    }
    Ok(())
}
