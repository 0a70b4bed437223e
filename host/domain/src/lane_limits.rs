//! How much a worker can use of each lane.

use std::{collections::HashMap, sync::LazyLock};

use crate::{TaskType, TenantId};

/// The most tasks that one fetch may bring of each lane. A lane is a tenant's tasks of one type, in
/// every priority. What is not named has no limit, unless only named lanes are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneLimits {
    by_type: HashMap<TaskType, HashMap<TenantId, usize>>,
    only_named: bool,
}

impl LaneLimits {
    /// No limits.
    #[must_use]
    pub fn none() -> &'static Self {
        static NONE: LazyLock<LaneLimits> = LazyLock::new(LaneLimits::default);
        &NONE
    }

    /// Asks for no lane but those that are named.
    pub const fn only_named(&mut self) {
        self.only_named = true;
    }

    /// Whether lanes that are not named have no limit.
    #[must_use]
    pub const fn takes_others(&self) -> bool {
        !self.only_named
    }

    /// Whether nothing has a limit.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.only_named && self.by_type.is_empty()
    }

    /// Names a lane. Of two limits the lower one counts.
    pub fn name(&mut self, task_type: &TaskType, tenant: &TenantId, most: usize) {
        if !self.by_type.contains_key(task_type) {
            self.by_type.insert(task_type.clone(), HashMap::new());
        }
        let Some(tenants) = self.by_type.get_mut(task_type) else { return };
        match tenants.get_mut(tenant) {
            Some(known) => *known = most.min(*known),
            None => drop(tenants.insert(tenant.clone(), most)),
        }
    }

    /// These limits too: of each lane the lower one counts.
    pub fn and(&mut self, others: &Self) {
        for (task_type, tenants) in &mut self.by_type {
            for (tenant, most) in tenants {
                *most = others.of(task_type, tenant).min(*most);
            }
        }
        for (task_type, tenant, most) in others.iter() {
            self.name(task_type, tenant, most.min(self.of(task_type, tenant)));
        }
        self.only_named |= others.only_named;
    }

    /// How many more a lane may give.
    #[must_use]
    pub fn of(&self, task_type: &TaskType, tenant: &TenantId) -> usize {
        let named = self.by_type.get(task_type).and_then(|tenants| tenants.get(tenant));
        named.copied().unwrap_or(if self.only_named { 0 } else { usize::MAX })
    }

    /// A lane has given one.
    pub fn take(&mut self, task_type: &TaskType, tenant: &TenantId) {
        let tenants = self.by_type.get_mut(task_type);
        if let Some(left) = tenants.and_then(|tenants| tenants.get_mut(tenant)) {
            *left = left.saturating_sub(1);
        }
    }

    /// Whether a lane of this type may not give all it has.
    #[must_use]
    pub fn concern(&self, task_type: &TaskType) -> bool {
        self.only_named || self.by_type.contains_key(task_type)
    }

    /// The named lanes of a type.
    pub fn of_type(&self, task_type: &TaskType) -> impl Iterator<Item = (&TenantId, usize)> {
        let tenants = self.by_type.get(task_type).into_iter().flatten();
        tenants.map(|(tenant, most)| (tenant, *most))
    }

    /// The named lanes.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskType, &TenantId, usize)> {
        self.by_type.iter().flat_map(|(task_type, tenants)| {
            tenants.iter().map(move |(tenant, most)| (task_type, tenant, *most))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_limits_the_lower_one_counts() {
        let [a, b, c] = ["a", "b", "c"].map(|name| TenantId::new(name).unwrap());
        let kind = TaskType::new("t").unwrap();
        let mut one = LaneLimits::default();
        one.name(&kind, &a, 5);
        one.name(&kind, &b, 5);
        let mut two = LaneLimits::default();
        two.name(&kind, &a, 3);
        let of = |limits: &LaneLimits| [&a, &b, &c].map(|tenant| limits.of(&kind, tenant));
        let both = |one: &LaneLimits, two: &LaneLimits| {
            let mut both = one.clone();
            both.and(two);
            of(&both)
        };
        assert_eq!(both(&one, &two), [3, 5, usize::MAX]);
        assert_eq!(both(&two, &one), [3, 5, usize::MAX]);
        two.only_named();
        assert_eq!(both(&one, &two), [3, 0, 0]);
        assert_eq!(both(&two, &one), [3, 0, 0]);
    }
}
