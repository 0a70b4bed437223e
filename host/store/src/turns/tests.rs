use std::time::Duration;

use taskforge_domain::{AGEING_AFTER, TenantPolicy, Weight};
use uuid::Uuid;

use super::*;

/// The `number`th task of all.
fn task(number: u128, tenant: &str, task_type: &str, priority: u8) -> QueuedTask {
    QueuedTask {
        id: TaskId::from_uuid(Uuid::from_u128(number)),
        lane: Lane {
            tenant: TenantId::new(tenant).unwrap(),
            task_type: TaskType::new(task_type).unwrap(),
            priority: Priority::new(priority).unwrap(),
        },
    }
}

fn weights(weights: &[(&str, u32)]) -> QueuePolicy {
    let tenant = |(name, weight): &(&str, u32)| {
        let weight = Weight::new(*weight).unwrap();
        (TenantId::new(name).unwrap(), TenantPolicy { weight, ..TenantPolicy::default() })
    };
    QueuePolicy { tenants: weights.iter().map(tenant).collect(), ..QueuePolicy::default() }
}

/// Fetches as a database would. What waits is in the order of ids.
fn fetch(waiting: &mut Vec<QueuedTask>, round: &Round) -> Vec<QueuedTask> {
    let mut fetched: Vec<QueuedTask> = Vec::new();
    waiting.retain(|task| {
        let count = |fits: fn(&QueuedTask, &QueuedTask) -> bool| {
            fetched.iter().filter(|other| fits(other, task)).count() as u64
        };
        let of_tenant = count(|one, other| one.lane.tenant == other.lane.tenant);
        let of_type = count(|one, other| one.lane.task_type == other.lane.task_type);
        let of_lane = count(|one, other| one.lane == other.lane);
        let quota = round.lanes.iter().find(|quota| quota.lane == task.lane);
        let is_fetched = quota.is_some_and(|quota| {
            of_tenant < quota.of_tenant && of_type < quota.of_type && of_lane < quota.of_lane
        });
        if is_fetched {
            fetched.push(task.clone());
        }
        !is_fetched
    });
    fetched
}

/// Claims from what waits, and says how many rounds it took.
fn claim(
    waiting: &mut Vec<QueuedTask>,
    policy: &QueuePolicy,
    counts: (usize, usize),
    mut permits: Permits,
    now: Timestamp,
) -> (Vec<QueuedTask>, bool, usize) {
    claim_within(waiting, policy, LaneLimits::none(), counts, &mut permits, now)
}

fn claim_within(
    waiting: &mut Vec<QueuedTask>,
    policy: &QueuePolicy,
    lanes: &LaneLimits,
    (limit, aged): (usize, usize),
    permits: &mut Permits,
    now: Timestamp,
) -> (Vec<QueuedTask>, bool, usize) {
    let mut heads: Vec<QueuedTask> = Vec::new();
    for task in &*waiting {
        if heads.iter().all(|head| head.lane != task.lane) {
            heads.push(task.clone());
        }
    }
    let order = Order { types: &[], lanes, policy, limit, now };
    let mut plan = Plan::new(&order, aged, heads, permits);
    let mut rounds = 0;
    while let Some(round) = plan.next_round() {
        plan.fetched(fetch(waiting, &round));
        rounds += 1;
    }
    let (tasks, is_at_cap) = plan.finish();
    (tasks, is_at_cap, rounds)
}

fn tenants(tasks: &[QueuedTask]) -> String {
    tasks.iter().map(|task| task.lane.tenant.as_str()).collect()
}

#[test]
fn tenants_take_turns_by_their_weights_and_one_round_is_enough() {
    let mut waiting: Vec<_> = (0..40)
        .map(|n| task(n, if n < 20 { "a" } else { "b" }, ["x", "y"][n as usize % 2], 1))
        .collect();
    let policy = weights(&[("b", 3)]);
    let claimed = claim(&mut waiting, &policy, (8, 0), Permits::default(), Timestamp::UNIX_EPOCH);
    assert_eq!((tenants(&claimed.0).as_str(), claimed.2), ("bbabbbab", 1));
}

#[test]
fn who_has_less_leaves_its_turns_to_the_others() {
    let mut waiting = vec![task(0, "a", "x", 1), task(1, "b", "x", 1)];
    waiting.extend((2..20).map(|n| task(n, "c", "x", 1)));
    let none = || (Permits::default(), Timestamp::UNIX_EPOCH);
    let ((permits, now), policy) = (none(), QueuePolicy::default());
    let (claimed, _, rounds) = claim(&mut waiting, &policy, (9, 0), permits, now);
    assert_eq!((tenants(&claimed).as_str(), rounds), ("abccccccc", 2));
    let (permits, now) = none();
    let (rest, _, _) = claim(&mut waiting, &policy, (100, 0), permits, now);
    assert_eq!((rest.len(), waiting.len()), (11, 0));
}

#[test]
fn urgency_comes_before_turns_and_every_fourth_is_for_the_overdue() {
    let wait = |n: u128, priority| {
        let made = 1_700_000_000_000_u128 << 80;
        QueuedTask {
            id: TaskId::from_uuid(Uuid::from_u128(made + n)),
            ..task(0, "a", "x", priority)
        }
    };
    let made = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
    let all: Vec<_> = (0..16).map(|n| wait(n, if n < 8 { 1 } else { 5 })).collect();
    let policy = QueuePolicy::default();
    for (now, urgent) in [(made + AGEING_AFTER, 6), (made + Duration::from_secs(1), 8)] {
        let (claimed, _, _) = claim(&mut all.clone(), &policy, (8, 2), Permits::default(), now);
        let is_urgent = |task: &&QueuedTask| task.lane.priority.get() == 5;
        assert_eq!((claimed.len(), claimed.iter().filter(is_urgent).count()), (8, urgent));
        assert!(claimed.iter().is_sorted_by_key(|task| Reverse(task.lane.priority)));
    }
}

#[test]
fn a_cap_is_reached_and_not_passed_and_holds_up_nothing_else() {
    let mut waiting: Vec<_> = (0..30)
        .map(|n| task(n, ["a", "b", "c"][n as usize % 3], ["x", "y"][n as usize / 3 % 2], 1))
        .collect();
    let permits = Permits {
        types: [(TaskType::new("x").unwrap(), 2)].into(),
        tenants: [(TenantId::new("a").unwrap(), 3)].into(),
    };
    let policy = QueuePolicy::default();
    let (claimed, is_at_cap, _) =
        claim(&mut waiting, &policy, (30, 0), permits, Timestamp::UNIX_EPOCH);
    let of = |fits: fn(&QueuedTask) -> bool| claimed.iter().filter(|task| fits(task)).count();
    assert_eq!(of(|task| task.lane.task_type.as_str() == "x"), 2);
    assert_eq!(of(|task| task.lane.tenant.as_str() == "a"), 3);
    assert!(is_at_cap);
    let is_open =
        |task: &QueuedTask| task.lane.task_type.as_str() != "x" && task.lane.tenant.as_str() != "a";
    assert!(!waiting.iter().any(is_open), "what has room was left");
}

#[test]
fn what_was_fetched_stays_when_a_later_round_fails() {
    let mut waiting = vec![task(0, "a", "x", 5)];
    waiting.extend((1..9).map(|n| task(n, "b", "x", 5)));
    let heads = vec![waiting[0].clone(), waiting[1].clone()];
    let policy = QueuePolicy::default();
    let (lanes, now) = (LaneLimits::none(), Timestamp::UNIX_EPOCH);
    let order = Order { types: &[], lanes, policy: &policy, limit: 8, now };
    let mut permits = Permits::default();
    let mut plan = Plan::new(&order, 0, heads, &mut permits);
    let first = plan.next_round().unwrap();
    plan.fetched(fetch(&mut waiting, &first));
    assert!(plan.next_round().is_some(), "there is room for more");
    let (claimed, _) = plan.finish();
    assert_eq!(tenants(&claimed), "abbbb");
}

#[test]
fn a_tenant_that_was_not_asked_yet_is_asked_before_a_lower_priority() {
    let mut waiting = vec![task(0, "d", "x", 5)];
    waiting.extend((1..6).map(|n| task(n, "a", "x", 5)));
    waiting.push(task(6, "a", "x", 1));
    let (permits, now) = (Permits::default(), Timestamp::UNIX_EPOCH);
    let (claimed, _, _) = claim(&mut waiting, &weights(&[("d", 7)]), (2, 0), permits, now);
    assert!(claimed.iter().all(|task| task.lane.priority.get() == 5), "{claimed:?}");
}

#[test]
fn a_tenant_whose_oldest_task_a_cap_withholds_gives_others() {
    let mut waiting = vec![task(0, "a", "x", 5), task(1, "b", "x", 5)];
    waiting.extend((2..5).map(|n| task(n, "b", "y", 5)));
    waiting.push(task(5, "b", "y", 1));
    let types = [(TaskType::new("x").unwrap(), 1)].into();
    let permits = Permits { types, ..Permits::default() };
    let (policy, now) = (QueuePolicy::default(), Timestamp::UNIX_EPOCH);
    let (claimed, is_at_cap, _) = claim(&mut waiting, &policy, (2, 0), permits, now);
    assert_eq!((tenants(&claimed).as_str(), is_at_cap), ("ab", true));
    assert!(claimed.iter().all(|task| task.lane.priority.get() == 5), "{claimed:?}");
}

/// Whatever waits under whatever limits, a claim takes as much as it may, and nothing before what
/// is more urgent.
#[test]
fn no_claim_ends_short_or_passes_over_what_is_more_urgent() {
    for seed in 0..3_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut name = |names: &[&'static str]| names[random.usize(..names.len())];
        let (tenant, kind) = (["a", "b", "c", "d"], ["x", "y", "z"]);
        let mut waiting: Vec<_> = (0..40)
            .map(|n| {
                let priority = name(&["1", "3", "5"]).parse().unwrap();
                task(n, name(&tenant), name(&kind), priority)
            })
            .collect();
        waiting.truncate(random.usize(1..40));
        let mut permits = Permits::default();
        if random.bool() {
            permits.types.insert(TaskType::new("x").unwrap(), random.u64(0..4));
            permits.tenants.insert(TenantId::new("a").unwrap(), random.u64(0..4));
        }
        let mut lanes = LaneLimits::default();
        if random.bool() {
            let (task_type, tenant) = (TaskType::new("y").unwrap(), TenantId::new("b").unwrap());
            lanes.name(&task_type, &tenant, random.usize(0..3));
        }
        let policy = weights(&[("b", 3), ("d", 7)]);
        let limit = random.usize(1..16);
        let now = Timestamp::UNIX_EPOCH;
        let (claimed, _, _) =
            claim_within(&mut waiting, &policy, &lanes, (limit, 0), &mut permits, now);
        for task in &claimed {
            lanes.take(&task.lane.task_type, &task.lane.tenant);
        }
        let least = claimed.iter().map(|task| task.lane.priority).min();
        for left in waiting {
            let lane = &left.lane;
            let has_room = permits.has(lane) && lanes.of(&lane.task_type, &lane.tenant) > 0;
            let is_urgent = claimed.len() < limit || Some(lane.priority) > least;
            assert!(!(has_room && is_urgent), "seed {seed}: {left:?} beside {claimed:?}");
        }
    }
}
