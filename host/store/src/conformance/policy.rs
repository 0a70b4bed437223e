//! How the fleet is shared out, and how claims without hints keep to it.

use super::*;
use taskforge_domain::{LaneLimits, Priority, TenantPolicy, TypePolicy, Weight};

pub(super) fn named(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn paused() -> TypePolicy {
    TypePolicy { paused: true, ..TypePolicy::default() }
}

pub(super) fn type_cap(max_running: u32) -> TypePolicy {
    TypePolicy { max_running: Some(max_running), ..TypePolicy::default() }
}

pub(super) fn tenant_cap(max_running: u32) -> TenantPolicy {
    TenantPolicy { max_running: Some(max_running), ..TenantPolicy::default() }
}

fn weight(weight: u32) -> TenantPolicy {
    TenantPolicy { weight: Weight::new(weight).unwrap(), ..TenantPolicy::default() }
}

/// A policy of these types and these tenants.
fn policy<const T: usize, const N: usize>(
    types: [(&str, TypePolicy); T],
    tenants: [(&str, TenantPolicy); N],
) -> QueuePolicy {
    QueuePolicy {
        types: types.map(|(name, policy)| (kind(name), policy)).into(),
        tenants: tenants.map(|(name, policy)| (named(name), policy)).into(),
    }
}

/// Adds `count` tasks of a tenant and a type, all with ids above those of before.
pub(super) async fn add(world: &World, tenant: &str, name: &str, count: usize) -> Vec<TaskId> {
    let new = || NewTask { tenant: named(tenant), task_type: kind(name), ..new_task() };
    let tasks: Vec<_> = (0..count).map(|_| new()).collect();
    world.store.enqueue(&tasks).await.unwrap();
    tasks.iter().map(|task| task.id).collect()
}

/// Claims by order of all types that these rules use.
async fn claim(world: &World, policy: &QueuePolicy, limit: u32) -> Vec<ClaimedTask> {
    let types = ["x", "y", "z"].map(kind);
    let by = ClaimBy::Order { types: &types, lanes: LaneLimits::none(), limit, policy };
    let request = ClaimRequest { worker: world.worker, by, now: at(1) };
    world.store.claim(request).await.unwrap().tasks
}

pub(super) fn count_of(claimed: &[ClaimedTask], tenant: &str) -> usize {
    claimed.iter().filter(|task| task.tenant == named(tenant)).count()
}

pub(super) fn ids(claimed: &[ClaimedTask]) -> Vec<TaskId> {
    claimed.iter().map(|task| task.id).collect()
}

pub async fn a_policy_reads_back_and_the_default_is_forgotten(world: World) {
    assert_eq!(world.store.policy().await.unwrap(), QueuePolicy::default());
    let set_type =
        async |name, policy| world.store.set_type_policy(&kind(name), policy).await.unwrap();
    let set_tenant = async |name, policy| {
        world.store.set_tenant_policy(&named(name), policy).await.unwrap();
    };
    let both = TypePolicy { paused: true, max_running: Some(u32::MAX) };
    set_type("x", both).await;
    set_type("y", type_cap(5)).await;
    set_type("y", type_cap(0)).await;
    set_tenant("a", weight(1000)).await;
    set_tenant("b", tenant_cap(7)).await;
    let expected =
        policy([("x", both), ("y", type_cap(0))], [("a", weight(1000)), ("b", tenant_cap(7))]);
    assert_eq!(world.store.policy().await.unwrap(), expected);
    set_type("x", TypePolicy::default()).await;
    set_type("none", TypePolicy::default()).await;
    set_tenant("a", TenantPolicy::default()).await;
    let expected = policy([("y", type_cap(0))], [("b", tenant_cap(7))]);
    assert_eq!(world.store.policy().await.unwrap(), expected);
}

pub async fn a_paused_type_is_not_claimed_by_order(world: World) {
    let waiting = add(&world, "a", "x", 50).await;
    let free = add(&world, "a", "y", 3).await;
    let policy = policy([("x", paused())], []);
    assert_eq!(ids(&claim(&world, &policy, 10).await), free);
    assert!(claim(&world, &policy, 10).await.is_empty());
    assert_eq!(ids(&claim(&world, &QueuePolicy::default(), 10).await), waiting[..10]);
}

pub async fn tenants_of_weights_3_and_1_get_3_to_1(world: World) {
    // Neither who came first nor who has more decides.
    add(&world, "light", "x", 40).await;
    add(&world, "heavy", "y", 20).await;
    add(&world, "light", "y", 40).await;
    add(&world, "heavy", "x", 20).await;
    let policy = policy([], [("heavy", weight(3))]);
    for _ in 0..2 {
        let claimed = claim(&world, &policy, 16).await;
        assert_eq!((count_of(&claimed, "heavy"), count_of(&claimed, "light")), (12, 4));
    }
}

pub async fn tenants_of_one_weight_take_turns(world: World) {
    let many = add(&world, "many", "x", 100).await;
    let few = add(&world, "few", "x", 3).await;
    let claimed = claim(&world, &QueuePolicy::default(), 10).await;
    assert_eq!((count_of(&claimed, "many"), count_of(&claimed, "few")), (7, 3));
    assert!(few.iter().all(|id| ids(&claimed).contains(id)));
    assert!(many[..7].iter().all(|id| ids(&claimed).contains(id)), "the oldest");
    // Alone, a tenant gets all there is.
    assert_eq!(ids(&claim(&world, &QueuePolicy::default(), 50).await), many[7..57]);
}

pub async fn urgency_comes_before_turns(world: World) {
    let ordinary = add(&world, "a", "x", 10).await;
    let mut urgent = Vec::new();
    for _ in 0..5 {
        let task = NewTask {
            tenant: named("b"),
            task_type: kind("x"),
            priority: Priority::MAX,
            ..new_task()
        };
        urgent.push(world.add(task).await);
    }
    let policy = policy([], [("a", weight(1000))]);
    let claimed = claim(&world, &policy, 8).await;
    assert_eq!(ids(&claimed), [&urgent[..], &ordinary[..3]].concat());
}

pub async fn a_tenants_oldest_task_goes_first_whatever_its_type(world: World) {
    let mut expected = Vec::new();
    for n in 0..30 {
        expected.extend(add(&world, "a", ["x", "y", "z"][n % 3], 1 + n % 2).await);
    }
    let mut seen = Vec::new();
    for limit in [1, 2, 10, 100] {
        seen.extend(ids(&claim(&world, &QueuePolicy::default(), limit).await));
    }
    assert_eq!(seen, expected);
}
