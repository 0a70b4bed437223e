//! What operators have said about how a fleet shares itself out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{TaskType, TenantId};

/// How the fleet is shared between task types and tenants. What is not named has the defaults: not
/// paused, no cap, weight 1.
///
/// The store keeps it. Brokers hold copies of the pauses and weights that are seconds old at most;
/// caps are looked at by claims in the store, and by nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueuePolicy {
    /// By task type.
    pub types: BTreeMap<TaskType, TypePolicy>,
    /// By tenant.
    pub tenants: BTreeMap<TenantId, TenantPolicy>,
}

/// The policy of one task type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TypePolicy {
    /// Tasks of this type wait. Those that run go on.
    pub paused: bool,
    /// The most attempts of this type that may run at once in the whole fleet.
    pub max_running: Option<u32>,
}

/// The policy of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TenantPolicy {
    /// Of tenants that wait in the same priority, one of weight 3 is served three times as often as
    /// one of weight 1.
    pub weight: Weight,
    /// The most attempts of this tenant that may run at once in the whole fleet.
    pub max_running: Option<u32>,
}

/// A share of the fleet, 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u32);

/// A weight that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("weight {0} is not between 1 and 1000")]
pub struct InvalidWeight(u32);

impl Weight {
    /// The greatest.
    pub const MAX: Self = Self(1000);

    /// Checks a weight.
    ///
    /// # Errors
    /// When it is not between 1 and 1000.
    pub const fn new(weight: u32) -> Result<Self, InvalidWeight> {
        if weight >= 1 && weight <= Self::MAX.0 {
            Ok(Self(weight))
        } else {
            Err(InvalidWeight(weight))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u32> for Weight {
    type Error = InvalidWeight;
    fn try_from(weight: u32) -> Result<Self, InvalidWeight> {
        Self::new(weight)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl QueuePolicy {
    /// Whether tasks of this type wait for a person.
    #[must_use]
    pub fn is_paused(&self, task_type: &TaskType) -> bool {
        self.types.get(task_type).is_some_and(|policy| policy.paused)
    }

    /// The tenant's share.
    #[must_use]
    pub fn weight(&self, tenant: &TenantId) -> Weight {
        self.tenants.get(tenant).map_or_else(Weight::default, |policy| policy.weight)
    }

    /// How many attempts of this type may run at once.
    #[must_use]
    pub fn type_cap(&self, task_type: &TaskType) -> Option<u32> {
        self.types.get(task_type)?.max_running
    }

    /// How many attempts of this tenant may run at once.
    #[must_use]
    pub fn tenant_cap(&self, tenant: &TenantId) -> Option<u32> {
        self.tenants.get(tenant)?.max_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_has_the_defaults() {
        let mut policy = QueuePolicy::default();
        let (kind, tenant) = (TaskType::new("work").unwrap(), TenantId::default());
        assert!(!policy.is_paused(&kind) && policy.type_cap(&kind).is_none());
        assert_eq!(policy.tenant_cap(&tenant), None);
        assert_eq!(policy.weight(&tenant).get(), 1);
        let capped = TypePolicy { max_running: Some(0), ..TypePolicy::default() };
        policy.types.insert(kind.clone(), capped);
        assert_eq!(policy.type_cap(&kind), Some(0));
    }

    #[test]
    fn weights_are_one_to_a_thousand() {
        assert!(Weight::new(0).is_err() && Weight::new(1001).is_err());
        assert_eq!(serde_json::from_str::<Weight>("1000").unwrap(), Weight::MAX);
        assert!(serde_json::from_str::<Weight>("0").is_err());
    }
}
