//! Claims by order, against the rule as a sort over all that waits.

use std::{cmp::Reverse, collections::HashMap};

use super::*;
use crate::ClaimBy;
use taskforge_domain::{LaneLimits, Priority, Weight};

/// Numbers that look random and are the same in every run (a linear congruential generator, Knuth's
/// MMIX constants).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Takes the first `limit` tasks out of `waiting`: by priority, by turn, by the oldest task of the
/// tenant, by id.
fn take_first(waiting: &mut Vec<NewTask>, policy: &QueuePolicy, limit: usize) -> Vec<TaskId> {
    waiting.sort_by_key(|task| (Reverse(task.priority), task.id));
    // Of tenants in a priority: how many tasks were counted, and the first of them.
    let mut places: HashMap<_, (u64, TaskId)> = HashMap::new();
    let turn_of = |task: &NewTask| {
        let (place, head) =
            places.entry((task.priority, task.tenant.clone())).or_insert((0, task.id));
        *place += 1;
        // A multiple of every weight, so that the fractions are whole.
        (*place * 42 / u64::from(policy.weight(&task.tenant).get()), *head)
    };
    let turns: HashMap<_, _> =
        waiting.iter().map(|task| task.id).zip(waiting.iter().map(turn_of)).collect();
    waiting.sort_by_key(|task| (Reverse(task.priority), turns[&task.id], task.id));
    let first = waiting.drain(..limit.min(waiting.len()));
    first.map(|task| task.id).collect()
}

#[tokio::test]
async fn claims_by_order_follow_the_rule_to_the_letter() {
    let (_folder, store) = fresh().await;
    let mut numbers = Numbers(7);
    let types = ["x", "y", "z"].map(|name| TaskType::new(name).unwrap());
    let tenants = ["a", "b", "c", "d", "e"].map(|name| TenantId::new(name).unwrap());
    let mut policy = QueuePolicy::default();
    for (tenant, weight) in tenants.iter().zip([1, 2, 3, 7]) {
        let weight = Weight::new(weight).unwrap();
        let shares = TenantPolicy { weight, ..TenantPolicy::default() };
        policy.tenants.insert(tenant.clone(), shares);
    }
    let mut waiting: Vec<_> = (0..1_500)
        .map(|_| NewTask {
            // The first have many, the last few.
            tenant: tenants[numbers.below(5).min(numbers.below(5))].clone(),
            task_type: types[numbers.below(3)].clone(),
            priority: Priority::new(u8::try_from(1 + numbers.below(3)).unwrap()).unwrap(),
            ..new_task()
        })
        .collect();
    store.enqueue(&waiting).await.unwrap();
    while !waiting.is_empty() {
        let limit = [1, 2, 5, 17, 64, 200][numbers.below(6)];
        let by =
            ClaimBy::Order { types: &types, lanes: LaneLimits::none(), limit, policy: &policy };
        let request = ClaimRequest { worker: WorkerId::generate(), by, now: Timestamp::UNIX_EPOCH };
        let claimed = store.claim(request).await.unwrap().tasks;
        let claimed: Vec<_> = claimed.into_iter().map(|task| task.id).collect();
        assert_eq!(claimed, take_first(&mut waiting, &policy, limit as usize));
    }
}
