//! Lanes whose cap a claim found reached.

use std::collections::HashMap;

use taskforge_domain::{TaskType, TenantId};

use super::{ASIDE, ASIDE_STEP, ASIDE_STEPS, millis};
use crate::Hint;

/// Until when each lane offers nothing, in every priority.
#[derive(Debug, Default)]
pub(super) struct Aside(HashMap<TaskType, HashMap<TenantId, u64>>);

/// How many hints each lane that is or was aside may give in one pop. Others may give all.
#[derive(Debug, Default)]
pub(crate) struct Offers(HashMap<TaskType, HashMap<TenantId, usize>>);

impl Aside {
    /// Puts a hint's lane aside, from now on.
    pub(super) fn put(&mut self, hint: &Hint, now: u64) {
        let tenants = self.0.entry(hint.lane.task_type.clone()).or_default();
        tenants.insert(hint.lane.tenant.clone(), now + millis(ASIDE));
    }

    /// How many hints they may give now. Lanes that may give all again are forgotten.
    pub(super) fn offers(&mut self, now: u64) -> Offers {
        let mut offers = Offers::default();
        self.0.retain(|task_type, tenants| {
            tenants.retain(|_, until| offer(*until, now).is_some());
            if tenants.is_empty() {
                return false;
            }
            let given = tenants
                .iter()
                .filter_map(|(tenant, until)| Some((tenant.clone(), offer(*until, now)?)));
            offers.0.insert(task_type.clone(), given.collect());
            true
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

impl Offers {
    /// How many hints a lane may give.
    pub(super) fn of(&self, task_type: &TaskType, tenant: &TenantId) -> usize {
        let tenants = self.0.get(task_type);
        tenants.and_then(|tenants| tenants.get(tenant)).copied().unwrap_or(usize::MAX)
    }

    /// Whether some lane of this type may not give all its hints.
    pub(super) fn concern(&self, task_type: &TaskType) -> bool {
        self.0.contains_key(task_type)
    }

    /// Counts a hint that a lane has given.
    pub(super) fn take(&mut self, task_type: &TaskType, tenant: &TenantId) {
        let tenants = self.0.get_mut(task_type);
        if let Some(left) = tenants.and_then(|tenants| tenants.get_mut(tenant)) {
            *left = left.saturating_sub(1);
        }
    }

    /// Tenants whose lanes of this type were aside and may give hints again.
    pub(super) fn back(&self, task_type: &TaskType) -> impl Iterator<Item = &TenantId> {
        let tenants = self.0.get(task_type).into_iter().flatten();
        tenants.filter(|(_, left)| **left > 0).map(|(tenant, _)| tenant)
    }
}
