//! How much more may run under the caps, and of what a worker can use.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use taskforge_domain::{Lane, LaneLimits, TaskType, TenantId};

use super::row;
use crate::StoreResult;

const CAPS: &str = "select task_type, tenant, max_running from caps";

/// There are as many running tasks as there are permits for attempts in the process.
const RUNNING: &str = "
    select tenant, task_type, count(*) from tasks indexed by tasks_running
    where state = 'running' group by tenant, task_type";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[CAPS, RUNNING];

/// What is left under caps, and of what the worker of one claim can use. What has no limit is not
/// in it.
pub(super) struct Permits {
    lanes: LaneLimits,
    types: HashMap<TaskType, u32>,
    tenants: HashMap<TenantId, u32>,
}

impl Permits {
    /// Counts them. Exact until the transaction ends, because nobody else writes.
    pub(super) async fn count(connection: &mut SqliteConnection) -> StoreResult<Self> {
        let mut permits =
            Self { lanes: LaneLimits::default(), types: HashMap::new(), tenants: HashMap::new() };
        let caps = sqlx::query(CAPS).fetch_all(&mut *connection).await?;
        if caps.is_empty() {
            return Ok(permits);
        }
        for cap in &caps {
            let most = row::number(cap, 2)?;
            match row::optional_word(cap, 0)? {
                Some(name) => permits.types.insert(name, most),
                None => permits.tenants.insert(row::word(cap, 1)?, most),
            };
        }
        for running in sqlx::query(RUNNING).fetch_all(connection).await? {
            permits.spend(
                &row::word(&running, 0)?,
                &row::word(&running, 1)?,
                row::number(&running, 2)?,
            );
        }
        Ok(permits)
    }

    /// Takes over what the worker of the next claim can use.
    pub(super) fn limit(&mut self, lanes: &LaneLimits) {
        self.lanes = lanes.clone();
    }

    /// Whether one more of this lane can be taken.
    pub(super) fn has(&self, lane: &Lane) -> bool {
        self.allow(&lane.tenant, &lane.task_type)
    }

    /// Whether a cap keeps this lane waiting.
    pub(super) fn is_at_cap(&self, lane: &Lane) -> bool {
        self.types.get(&lane.task_type) == Some(&0) || self.tenants.get(&lane.tenant) == Some(&0)
    }

    /// Starts one more of a tenant and a type, if the limits allow.
    pub(super) fn take(&mut self, tenant: &TenantId, task_type: &TaskType) -> bool {
        let allowed = self.allow(tenant, task_type);
        if allowed {
            self.spend(tenant, task_type, 1);
            self.lanes.take(task_type, tenant);
        }
        allowed
    }

    fn allow(&self, tenant: &TenantId, task_type: &TaskType) -> bool {
        self.types.get(task_type) != Some(&0)
            && self.tenants.get(tenant) != Some(&0)
            && self.lanes.of(task_type, tenant) > 0
    }

    fn spend(&mut self, tenant: &TenantId, task_type: &TaskType, count: u32) {
        let of_type = self.types.get_mut(task_type);
        let of_tenant = self.tenants.get_mut(tenant);
        for left in of_type.into_iter().chain(of_tenant) {
            *left = left.saturating_sub(count);
        }
    }
}
