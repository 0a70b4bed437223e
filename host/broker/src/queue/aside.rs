//! Lanes whose cap a claim found reached.

use std::collections::HashMap;

use taskforge_domain::{LaneLimits, TaskType, TenantId};

use super::{ASIDE, ASIDE_STEP, ASIDE_STEPS, millis};
use crate::QueuedTask;

/// Until when each lane offers nothing, in every priority.
#[derive(Debug, Default)]
pub(super) struct Aside(HashMap<TaskType, HashMap<TenantId, u64>>);

impl Aside {
    /// Puts a hint's lane aside, from now on.
    pub(super) fn put(&mut self, hint: &QueuedTask, now: u64) {
        let tenants = self.0.entry(hint.lane.task_type.clone()).or_default();
        tenants.insert(hint.lane.tenant.clone(), now + millis(ASIDE));
    }

    /// How many hints they may give in one pop. Lanes that may give all again are forgotten.
    pub(super) fn offers(&mut self, now: u64) -> LaneLimits {
        let mut offers = LaneLimits::default();
        self.0.retain(|task_type, tenants| {
            tenants.retain(|tenant, until| {
                let offer = offer(*until, now);
                if let Some(most) = offer {
                    offers.name(task_type, tenant, most);
                }
                offer.is_some()
            });
            !tenants.is_empty()
        });
        offers
    }

    /// In how many milliseconds the next lane of these types may give hints again.
    pub(super) fn next(&self, types: &[TaskType], now: u64) -> Option<u64> {
        let tenants = types.iter().filter_map(|name| self.0.get(name));
        let until = tenants.flat_map(HashMap::values);
        until.filter(|until| **until > now && is_soon(**until, now)).min().map(|until| until - now)
    }
}

/// Whether a lane can have been put aside until then. The clock may have been set back since.
fn is_soon(until: u64, now: u64) -> bool {
    until <= now + millis(ASIDE)
}

/// How many hints a lane that is aside until then may give. `None`: all.
fn offer(until: u64, now: u64) -> Option<usize> {
    let Some(since) = now.checked_sub(until) else {
        return is_soon(until, now).then_some(0);
    };
    let steps = since / millis(ASIDE_STEP);
    (steps < u64::from(ASIDE_STEPS)).then(|| 1 << steps)
}
