//! What runs of the types and tenants that have caps.

use std::{collections::HashMap, hash::Hash};

use taskforge_domain::{QueuePolicy, TaskId, TaskType, TenantId};

use super::{CLAIM_GRACE, millis};
use crate::Hint;

/// Only what is capped is counted. It is counted by id, so that a release that comes twice or late gives nothing away.
#[derive(Debug, Default)]
pub(super) struct Running {
    types: Counts<TaskType>,
    tenants: Counts<TenantId>,
    /// How often it was said what runs of them since they have a cap, up to [`TRUSTED`].
    told_types: HashMap<TaskType, u8>,
    told_tenants: HashMap<TenantId, u8>,
}

/// What was taken before something had a cap may not be known to the store when it counts for the first time.
const TRUSTED: u8 = 2;

/// The ids that run, and when each was popped; 0 for those that only the store knows of.
type Counts<K> = HashMap<K, HashMap<TaskId, u64>>;

impl Running {
    /// Counts a hint, if its type or tenant has a cap.
    pub(super) fn add(&mut self, policy: &QueuePolicy, hint: &Hint, since: u64) -> bool {
        let lane = &hint.lane;
        let (typed, owned) = (
            policy.type_cap(&lane.task_type).is_some(),
            policy.tenant_cap(&lane.tenant).is_some(),
        );
        if typed {
            add(&mut self.types, &lane.task_type, hint.id, since);
        }
        if owned {
            add(&mut self.tenants, &lane.tenant, hint.id, since);
        }
        typed || owned
    }

    pub(super) fn remove(&mut self, hint: &Hint) {
        remove(&mut self.types, &hint.lane.task_type, hint.id);
        remove(&mut self.tenants, &hint.lane.tenant, hint.id);
    }

    pub(super) fn type_has_room(&self, policy: &QueuePolicy, task_type: &TaskType) -> bool {
        policy.type_cap(task_type).is_none_or(|cap| {
            is_trusted(&self.told_types, task_type) && count(&self.types, task_type) < cap as usize
        })
    }

    pub(super) fn tenant_has_room(&self, policy: &QueuePolicy, tenant: &TenantId) -> bool {
        policy.tenant_cap(tenant).is_none_or(|cap| {
            is_trusted(&self.told_tenants, tenant) && count(&self.tenants, tenant) < cap as usize
        })
    }

    /// What has no cap is not counted. A cap that comes (back) starts with what the store says.
    pub(super) fn forget_uncapped(&mut self, policy: &QueuePolicy) {
        self.types.retain(|name, _| policy.type_cap(name).is_some());
        self.tenants.retain(|name, _| policy.tenant_cap(name).is_some());
        self.told_types.retain(|name, _| policy.type_cap(name).is_some());
        self.told_tenants
            .retain(|name, _| policy.tenant_cap(name).is_some());
    }

    /// Counts these, which run of what has a cap in `counted`, and what was popped a moment ago, and nothing else. Whether what runs is known of
    /// all that has a cap.
    pub(super) fn set(
        &mut self,
        policy: &QueuePolicy,
        counted: &QueuePolicy,
        running: &[Hint],
        now: u64,
    ) -> bool {
        let mut is_settled = true;
        for name in policy.capped_types() {
            is_settled &= tell(&mut self.told_types, name, counted.type_cap(name).is_some());
        }
        for name in policy.capped_tenants() {
            is_settled &= tell(&mut self.told_tenants, name, counted.tenant_cap(name).is_some());
        }
        let recent = now.saturating_sub(millis(CLAIM_GRACE));
        keep_since(&mut self.types, recent);
        keep_since(&mut self.tenants, recent);
        for hint in running {
            self.add(policy, hint, 0);
        }
        is_settled
    }
}

fn is_trusted<K: Eq + Hash>(told: &HashMap<K, u8>, key: &K) -> bool {
    told.get(key).is_some_and(|times| *times >= TRUSTED)
}

/// Takes note that something was counted, or not. Whether it is trusted.
fn tell<K: Clone + Eq + Hash>(told: &mut HashMap<K, u8>, key: &K, is_counted: bool) -> bool {
    let times = told.entry(key.clone()).or_default();
    *times = (*times + u8::from(is_counted)).min(TRUSTED);
    *times >= TRUSTED
}

fn add<K: Clone + Eq + Hash>(counts: &mut Counts<K>, key: &K, id: TaskId, since: u64) {
    let ids = counts.entry(key.clone()).or_default();
    let known = ids.entry(id).or_insert(since);
    *known = (*known).max(since);
}

fn remove<K: Eq + Hash>(counts: &mut Counts<K>, key: &K, id: TaskId) {
    if let Some(ids) = counts.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            counts.remove(key);
        }
    }
}

fn count<K: Eq + Hash>(counts: &Counts<K>, key: &K) -> usize {
    counts.get(key).map_or(0, HashMap::len)
}

fn keep_since<K: Eq + Hash>(counts: &mut Counts<K>, recent: u64) {
    counts.retain(|_, ids| {
        ids.retain(|_, since| *since > recent);
        !ids.is_empty()
    });
}
