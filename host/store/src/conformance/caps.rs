//! Caps: how many attempts of a type or tenant run at once, whoever claims and in whatever way.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    policy::{add, count_of, ids, named, tenant_cap, type_cap},
    registry::{canary, running},
    versions::version,
    *,
};
use crate::{Added, Claimed, Page, TaskFilter};

const TYPES: [&str; 3] = ["x", "y", "z"];

impl World {
    async fn cap_type(&self, name: &str, most: u32) {
        let policy = type_cap(most);
        self.store.set_type_policy(&kind(name), policy).await.unwrap();
    }

    async fn cap_tenant(&self, name: &str, most: u32) {
        let policy = tenant_cap(most);
        self.store.set_tenant_policy(&named(name), policy).await.unwrap();
    }

    async fn claim_by(&self, worker: WorkerId, by: ClaimBy<'_>, now: Timestamp) -> Claimed {
        let request = ClaimRequest { worker, by, now };
        self.store.claim(request).await.unwrap()
    }

    async fn by_ids(&self, ids: &[TaskId]) -> Claimed {
        self.claim_by(self.worker, ClaimBy::Ids(ids), at(1)).await
    }

    async fn by_order(&self, limit: u32) -> Claimed {
        let types = TYPES.map(kind);
        let by = ClaimBy::Order {
            types: &types,
            lanes: LaneLimits::none(),
            limit,
            policy: &QueuePolicy::default(),
        };
        self.claim_by(self.worker, by, at(1)).await
    }

    /// How many run, of a type and of a tenant.
    async fn running_of(&self, tenant: &str, name: &str) -> usize {
        let filter = TaskFilter {
            types: vec![kind(name)],
            states: vec![TaskState::Running],
            ..TaskFilter::default()
        };
        let page = Page { after: None, limit: 1_000 };
        let tasks = self.store.tasks(&named(tenant), &filter, page).await;
        tasks.unwrap().len()
    }
}

pub async fn a_type_cap_holds_for_claims_by_order(world: World) {
    let capped = add(&world, "a", "x", 20).await;
    let others = add(&world, "a", "y", 20).await;
    world.cap_type("x", 5).await;
    // What other workers run counts, however they came by it.
    world.claim_as(WorkerId::generate(), &capped[..2], 1).await;
    let first = world.by_order(10).await;
    assert_eq!(ids(&first.tasks), [&capped[2..5], &others[..7]].concat());
    assert!(first.at_cap && first.over_cap.is_empty());
    assert_eq!(ids(&world.by_order(5).await.tasks), others[7..12]);
    world.end(&first.tasks[0], Next::Complete).await;
    assert_eq!(ids(&world.by_order(1).await.tasks), capped[5..6]);
}

pub async fn a_tenant_cap_holds_for_claims_by_order(world: World) {
    let capped = [add(&world, "a", "x", 3).await, add(&world, "a", "y", 20).await].concat();
    let others = add(&world, "b", "x", 20).await;
    world.cap_tenant("a", 5).await;
    let claimed = world.by_order(30).await.tasks;
    assert_eq!((count_of(&claimed, "a"), count_of(&claimed, "b")), (5, 20));
    for id in capped[..5].iter().chain(&others) {
        assert!(claimed.iter().any(|task| task.id == *id));
    }
    let none = world.by_order(30).await;
    assert!(none.tasks.is_empty() && none.at_cap);
    let free = claimed.iter().find(|task| task.id == capped[0]).unwrap();
    world.end(free, Next::HandBack).await;
    assert_eq!(ids(&world.by_order(30).await.tasks), capped[..1], "it is the oldest again");
}

pub async fn a_cap_holds_for_claims_by_ids(world: World) {
    let typed = add(&world, "a", "x", 6).await;
    let owned = add(&world, "b", "y", 6).await;
    let free = add(&world, "c", "z", 2).await;
    world.cap_type("x", 2).await;
    world.cap_tenant("b", 3).await;
    let gone = typed[0];
    world.store.cancel(&named("a"), gone, at(1)).await.unwrap();
    // As they are named, so they get the permits. What does not wait is not in the way.
    let mut named_first = [&[gone], &typed[3..], &typed[1..3], &owned[..], &free[..]].concat();
    named_first.push(TaskId::generate());
    let claimed = world.by_ids(&named_first).await;
    assert_eq!(ids(&claimed.tasks), [&typed[3..5], &owned[..3], &free[..]].concat());
    let wait = [&typed[5..], &typed[1..3], &owned[3..]].concat();
    let over_cap = |claimed: &Claimed| claimed.over_cap.iter().copied().collect::<HashSet<_>>();
    assert_eq!(over_cap(&claimed), HashSet::from_iter(wait.clone()));
    assert!(claimed.at_cap);
    let again = world.by_ids(&wait).await;
    assert!(again.tasks.is_empty());
    assert_eq!(over_cap(&again), HashSet::from_iter(wait.clone()));
    // What runs is not over a cap; it is somebody's.
    let theirs = world.by_ids(&ids(&claimed.tasks)).await;
    assert_eq!(theirs, Claimed::default());
    world.end(&claimed.tasks[0], Next::Complete).await;
    world.end(&claimed.tasks[2], Next::DeadLetter).await;
    assert_eq!(ids(&world.by_ids(&wait).await.tasks), [typed[5], owned[3]]);
    // A cap that is lifted holds nobody, and one that comes counts what runs already.
    world.store.set_type_policy(&kind("x"), taskforge_domain::TypePolicy::default()).await.unwrap();
    assert_eq!(ids(&world.by_ids(&typed[1..3]).await.tasks), typed[1..3]);
    world.cap_type("y", 3).await;
    world.cap_tenant("b", 100).await;
    assert!(world.by_ids(&owned).await.tasks.is_empty());
}

pub async fn the_lower_of_two_caps_decides(world: World) {
    add(&world, "a", "x", 10).await;
    add(&world, "b", "x", 10).await;
    add(&world, "b", "y", 10).await;
    add(&world, "b", "z", 10).await;
    world.cap_type("x", 6).await;
    world.cap_type("z", 0).await;
    world.cap_tenant("a", 2).await;
    world.cap_tenant("b", 12).await;
    let claimed = world.by_order(100).await.tasks;
    let of = |name| claimed.iter().filter(|task| task.task_type == kind(name)).count();
    assert_eq!((count_of(&claimed, "a"), count_of(&claimed, "b")), (2, 12));
    // What a tenant's cap leaves of a type's is not always used up at once.
    assert!(of("x") <= 6 && of("y") >= 8 && of("z") == 0);
    assert!(world.by_order(100).await.tasks.is_empty());
}

pub async fn what_is_full_holds_up_nothing_else(world: World) {
    world.cap_tenant("full", 0).await;
    world.cap_type("x", 3).await;
    world.cap_type("z", 0).await;
    // More tasks of a full tenant and of a full type than there are permits go before the others.
    let before = [add(&world, "full", "x", 20).await, add(&world, "b", "z", 20).await].concat();
    world.cap_tenant("b", 2).await;
    let others = [add(&world, "c", "x", 2).await, add(&world, "b", "y", 2).await].concat();
    let claimed = world.by_ids(&[&before[..], &others].concat()).await;
    assert_eq!(ids(&claimed.tasks), others);
    assert_eq!(claimed.over_cap.len(), before.len());
    for task in &claimed.tasks {
        world.end(task, Next::HandBack).await;
    }
    let mut ordered = ids(&world.by_order(50).await.tasks);
    ordered.sort_unstable();
    assert_eq!(ordered, others);
}

pub async fn whatever_ends_an_attempt_gives_its_permit_back(world: World) {
    let tasks = add(&world, "default", "x", 9).await;
    world.cap_type("x", 1).await;
    for (n, next) in [
        Next::Complete,
        Next::RetryAt(at(1_000)),
        Next::DeadLetter,
        Next::HandBack,
        Next::Cancelled,
    ]
    .into_iter()
    .enumerate()
    {
        let claimed = world.by_ids(&tasks[n..]).await;
        assert_eq!((ids(&claimed.tasks), claimed.over_cap.len()), (vec![tasks[n]], 8 - n));
        if next == Next::Cancelled {
            // From then on, although its worker has not stopped it yet.
            world.cancel(tasks[n]).await;
            let after = world.by_ids(&tasks[n + 1..]).await;
            assert_eq!(ids(&after.tasks), tasks[n + 1..n + 2]);
            world.end(&after.tasks[0], Next::Complete).await;
        }
        world.end(&claimed.tasks[0], next).await;
    }
    let claimed = world.by_ids(&tasks[6..]).await.tasks;
    assert!(world.by_ids(&tasks[7..]).await.tasks.is_empty());
    let lapsed = world.resolve(tasks[6], claimed[0].run_lease, Next::DeadLetter);
    assert!(lapsed.await);
    assert_eq!(ids(&world.by_ids(&tasks[7..]).await.tasks), tasks[7..8]);
}

pub async fn the_running_versions_of_a_plugin_ask_for_caps(world: World) {
    let mut versions = Vec::new();
    for (number, concurrency) in [("1.0.0", 4), ("2.0.0", 2)] {
        let mut new = version("x", number, 1);
        new.info.limits.concurrency = Some(concurrency);
        assert_eq!(world.add_version(None, &new).await, Added::Stored);
        versions.push(new.id);
    }
    let tasks = add(&world, "a", "x", 10).await;
    // One that runs nowhere asks for nothing.
    let mut claimed = world.by_ids(&tasks[..5]).await.tasks;
    assert_eq!(claimed.len(), 5);
    world.roll_out("x", running(1, versions[0])).await;
    world.end(&claimed.remove(0), Next::Complete).await;
    assert!(world.by_ids(&tasks[5..]).await.tasks.is_empty());
    world.end(&claimed.remove(0), Next::Complete).await;
    assert_eq!(world.by_order(9).await.tasks.len(), 1);
    // The lowest of all counts: lanes know no versions.
    let on_trial =
        taskforge_domain::Rollout { canary: Some(canary(versions[1])), ..running(2, versions[0]) };
    world.roll_out("x", on_trial).await;
    for task in claimed.drain(..2) {
        world.end(&task, Next::Complete).await;
    }
    assert!(world.by_order(9).await.tasks.is_empty());
    world.cap_type("x", 1).await;
    world.end(&claimed[0], Next::Complete).await;
    assert!(world.by_order(9).await.tasks.is_empty());
    world.cap_type("x", 9).await;
    assert_eq!(world.by_order(9).await.tasks.len(), 1);
}

/// What is overdue has every fourth turn, but not a task that may not run.
pub async fn what_waits_at_a_cap_takes_no_aged_turns(world: World) {
    let new = |name: &str, priority| NewTask {
        tenant: named("a"),
        task_type: kind(name),
        priority: taskforge_domain::Priority::new(priority).unwrap(),
        ..new_task()
    };
    world.cap_type("x", 0).await;
    world.add(new("x", 1)).await;
    let aged = world.add(new("y", 2)).await;
    for _ in 0..8 {
        world.add(new("z", 5)).await;
    }
    let later = Timestamp::now() + taskforge_domain::AGEING_AFTER * 2;
    let mut taken = Vec::new();
    for _ in 0..4 {
        let types = TYPES.map(kind);
        let by = ClaimBy::Order {
            types: &types,
            lanes: LaneLimits::none(),
            limit: 1,
            policy: &QueuePolicy::default(),
        };
        taken.extend(ids(&world.claim_by(world.worker, by, later).await.tasks));
    }
    assert!(taken.contains(&aged), "its turn went to one that may not run");
}

/// Caps hold for the whole fleet, so they hold for claims that meet.
pub async fn a_cap_holds_when_many_claim_at_once(world: World) {
    let tasks = add(&world, "a", "x", 100).await;
    world.cap_type("x", 10).await;
    world.cap_tenant("a", 11).await;
    let world = Arc::new(world);
    let claimers: Vec<_> = (0..8)
        .map(|n| {
            let (world, tasks) = (Arc::clone(&world), tasks.clone());
            tokio::spawn(async move {
                let claimed = match n % 2 {
                    0 => world.by_order(4).await,
                    _ => world.by_ids(&tasks[4 * n..4 * n + 4]).await,
                };
                claimed.tasks.len()
            })
        })
        .collect();
    let mut running = 0;
    for claimer in claimers {
        running += claimer.await.unwrap();
    }
    assert!(running <= 10);
    running += world.by_order(100).await.tasks.len();
    assert_eq!(running, 10);
}

/// Workers claim in both ways, end, hand back, are found lapsed and forget what they held, people
/// cancel and retry. Meanwhile somebody looks again and again at what runs.
pub async fn a_cap_of_three_is_never_passed_whatever_happens(world: World) {
    const TASKS: usize = 300;
    let world = Arc::new(world);
    let tasks = Arc::new(add(&world, "default", "x", TASKS).await);
    world.cap_type("x", 3).await;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let most = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..6_u64)
        .map(|seed| {
            let (world, tasks) = (Arc::clone(&world), Arc::clone(&tasks));
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            tokio::spawn(async move {
                let mut state = seed;
                let mut random = |below: usize| {
                    // Knuth's constants for a linear congruential generator.
                    state = state.wrapping_mul(6_364_136_223_846_793_005);
                    state = state.wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as usize % below
                };
                let held: Mutex<Vec<ClaimedTask>> = Mutex::default();
                while !over.load(Ordering::Relaxed) {
                    let claimed = if random(2) == 0 {
                        world.by_order([1, 2, 5][random(3)]).await
                    } else {
                        let named: Vec<_> = (0..5).map(|_| tasks[random(TASKS)]).collect();
                        world.by_ids(&named).await
                    };
                    held.lock().unwrap().extend(claimed.tasks);
                    let Some(task) = held.lock().unwrap().pop() else {
                        continue;
                    };
                    match random(8) {
                        0 => drop(world.end(&task, Next::HandBack).await),
                        1 => {
                            world.cancel(task.id).await;
                            world.retry(task.id).await;
                        }
                        2 => drop(world.resolve(task.id, task.run_lease, Next::HandBack).await),
                        3 => held.lock().unwrap().push(task),
                        _ => {
                            world.end(&task, Next::Complete).await;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    while done.load(Ordering::Relaxed) < TASKS / 2 {
        let running = world.running_of("default", "x").await;
        most.fetch_max(running, Ordering::Relaxed);
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(most.load(Ordering::Relaxed), 3);
}
