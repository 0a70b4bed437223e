//! A worker gets a lease.

use std::collections::HashSet;

use super::*;
use crate::StoreError;
use taskforge_domain::{AGEING_AFTER, LaneLimits, Priority, RetryPolicy};

pub async fn a_claim_gives_a_lease(world: World) {
    let new = NewTask {
        priority: Priority::MIN,
        retry: RetryPolicy { max_retries: 9, ..RetryPolicy::default() },
        ..new_task()
    };
    let id = world.add(new.clone()).await;
    let now: Timestamp = "2026-03-01T00:00:00.000001999Z".parse().unwrap();
    let request = ClaimRequest { worker: world.worker, by: ClaimBy::Ids(&[id]), now };
    let claimed = world.store.claim(request).await.unwrap().tasks;
    let started_at: Timestamp = "2026-03-01T00:00:00.000001Z".parse().unwrap();
    let expected = ClaimedTask {
        id,
        tenant: new.tenant,
        task_type: new.task_type,
        priority: new.priority,
        input: new.input,
        attempt: 1,
        run_lease: RunLease(1),
        retry: new.retry,
        started_at,
    };
    assert_eq!(claimed, [expected]);
    let task = world.get(id).await;
    assert_eq!(
        (task.state, task.worker, task.attempt, task.run_lease, task.started_at, task.finished_at),
        (TaskState::Running, Some(world.worker), 1, RunLease(1), Some(started_at), None)
    );
}

pub async fn a_claim_takes_nothing_but_pending_tasks(world: World) {
    let mut ids = vec![TaskId::generate()];
    for state in TaskState::ALL {
        ids.push(world.task_in(state).await.id);
    }
    let claimed = world.claim_as(world.worker, &ids, 10).await;
    let pending =
        ids[1 + TaskState::ALL.iter().position(|state| *state == TaskState::Pending).unwrap()];
    assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), [pending]);
    assert!(world.claim_as(world.worker, &[pending, pending], 10).await.is_empty());
}

pub async fn leases_grow_and_never_return(world: World) {
    let mut task = world.running().await;
    for lease in 1..=5 {
        assert_eq!(task.run_lease, RunLease(lease));
        match lease {
            1 => assert_eq!(world.end(&task, Next::HandBack).await, Commit::Committed),
            2 => {
                world.end(&task, Next::RetryAt(at(2))).await;
                world.promote(at(2), 10).await;
            }
            3 => assert!(world.resolve(task.id, task.run_lease, Next::HandBack).await),
            _ => {
                world.cancel(task.id).await;
                world.retry(task.id).await;
            }
        }
        task = world.claim(task.id).await;
    }
    assert_eq!(task.attempt, 1, "an operator's retry counts from the beginning");
}

pub async fn without_hints_the_most_urgent_goes_first_and_the_oldest_of_those(world: World) {
    let mut tasks = Vec::new();
    for level in [3, 1, 5, 3, 5, 2, 4] {
        tasks.push(NewTask { priority: Priority::new(level).unwrap(), ..new_task() });
    }
    // The order of ids decides, not that of arrival.
    let mut arriving = tasks.clone();
    arriving.reverse();
    world.store.enqueue(&arriving).await.unwrap();
    let ids = [2, 4, 6, 0, 3, 5, 1].map(|n: usize| tasks[n].id);
    assert_eq!(world.claim_order(&["work"], 3).await, ids[..3]);
    assert_eq!(world.claim_order(&["work"], 100).await, ids[3..]);
}

/// An id that was made at this moment.
fn id_of(made: Timestamp) -> TaskId {
    let millis = u128::try_from(made.as_millisecond()).unwrap();
    let random = TaskId::generate().as_uuid().as_u128() & ((1 << 80) - 1);
    TaskId::from_uuid(uuid::Uuid::from_u128((millis << 80) | random))
}

/// A stream of urgent tasks, and old ones of a low priority: of four claims one is theirs, whether
/// tasks are claimed one by one or many at once.
pub async fn without_hints_what_is_overdue_has_every_fourth_turn(world: World) {
    let now = Timestamp::now();
    let of = |level: u8, made: Timestamp| NewTask {
        id: id_of(made),
        priority: Priority::new(level).unwrap(),
        ..new_task()
    };
    let long_ago = now - AGEING_AFTER - Duration::from_secs(5);
    let old: Vec<_> = (0..6).map(|_| of(1, long_ago)).collect();
    let urgent: Vec<_> = (0..40).map(|_| of(5, now)).collect();
    let waiting: Vec<_> = (0..3).map(|_| of(2, now)).collect();
    for tasks in [&urgent, &old, &waiting] {
        world.store.enqueue(tasks).await.unwrap();
    }
    let claim = async |limit: u32| -> Vec<u8> {
        let types = [kind("work")];
        let claimed = world
            .store
            .claim(ClaimRequest {
                worker: world.worker,
                by: ClaimBy::Order {
                    types: &types,
                    lanes: LaneLimits::none(),
                    limit,
                    policy: &QueuePolicy::default(),
                },
                now,
            })
            .await
            .unwrap();
        claimed.tasks.iter().map(|task| task.priority.get()).collect()
    };
    for n in 1..=8 {
        let expected = if n % 4 == 0 { 1 } else { 5 };
        assert_eq!(claim(1).await, [expected], "claim {n}");
    }
    assert_eq!(claim(2).await, [5, 5]);
    let eight = claim(8).await;
    assert_eq!(eight, [5, 5, 5, 5, 5, 5, 1, 1], "of ten two, and the last two");
    // What is left: two old ones, and what is urgent before what is merely less so.
    let rest = claim(100).await;
    assert_eq!(rest.iter().filter(|level| **level == 5).count(), 40 - 6 - 2 - 6);
    assert_eq!(rest.iter().filter(|level| **level == 1).count(), 2);
    assert_eq!(rest.iter().filter(|level| **level == 2).count(), 3);
    assert_eq!(rest[0], 5);
}

pub async fn without_hints_only_served_types_are_taken(world: World) {
    let mut ids = Vec::new();
    for name in ["x", "y", "z", "x"] {
        ids.push(world.add(NewTask { task_type: kind(name), ..new_task() }).await);
    }
    assert_eq!(world.claim_order(&["x", "z", "none"], 100).await, [ids[0], ids[2], ids[3]]);
    assert_eq!(world.get(ids[1]).await.state, TaskState::Pending);
}

pub async fn of_a_lane_no_more_is_taken_than_a_worker_can_use(world: World) {
    let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
    for tenant in [&a, &b] {
        for priority in [3, 3, 5, 5, 5] {
            let priority = Priority::new(priority).unwrap();
            world.add(NewTask { tenant: tenant.clone(), priority, ..new_task() }).await;
        }
    }
    let types = [kind("work")];
    let claim = async |lanes: &LaneLimits| -> Vec<(String, u8)> {
        let policy = QueuePolicy::default();
        let by = ClaimBy::Order { types: &types, lanes, limit: 6, policy: &policy };
        let request = ClaimRequest { worker: world.worker, by, now: at(1) };
        let claimed = world.store.claim(request).await.unwrap();
        assert!(!claimed.at_cap, "what a worker can use is no cap");
        let of = |task: &ClaimedTask| (task.tenant.as_str().to_owned(), task.priority.get());
        claimed.tasks.iter().map(of).collect()
    };
    let tasks = |tenant: &str, priorities: &[u8]| -> Vec<_> {
        priorities.iter().map(|priority| (tenant.to_owned(), *priority)).collect()
    };
    let mut lanes = LaneLimits::default();
    lanes.name(&types[0], &a, 1);
    let got = claim(&lanes).await;
    assert_eq!(got, [tasks("a", &[5]), tasks("b", &[5, 5, 5, 3, 3])].concat());
    lanes.only_named();
    lanes.name(&types[0], &a, 0);
    assert_eq!(claim(&lanes).await, []);
    let mut lanes = LaneLimits::default();
    lanes.only_named();
    lanes.name(&types[0], &a, usize::MAX);
    world.add(NewTask { tenant: b, ..new_task() }).await;
    assert_eq!(claim(&lanes).await, tasks("a", &[5, 5, 3, 3]));
}

pub async fn two_claimers_never_get_the_same_task(world: World) {
    let ids = world.add_many(400).await;
    let world = Arc::new(world);
    let claimers: Vec<_> = (0..8)
        .map(|n| {
            let (world, mut ids) = (Arc::clone(&world), ids.clone());
            tokio::spawn(async move {
                let worker = WorkerId::generate();
                ids.rotate_left(n * 50);
                let mut got = Vec::new();
                for some in ids.chunks(25) {
                    let claimed = if n % 2 == 0 {
                        world.claim_as(worker, some, 1).await
                    } else {
                        let by = ClaimBy::Order {
                            types: &[kind("work")],
                            lanes: LaneLimits::none(),
                            limit: 25,
                            policy: &QueuePolicy::default(),
                        };
                        world
                            .store
                            .claim(ClaimRequest { worker, by, now: at(1) })
                            .await
                            .unwrap()
                            .tasks
                    };
                    assert!(claimed.iter().all(|task| task.run_lease == RunLease(1)));
                    got.extend(claimed.into_iter().map(|task| task.id));
                }
                got
            })
        })
        .collect();
    let mut all = HashSet::new();
    for claimer in claimers {
        for id in claimer.await.unwrap() {
            assert!(all.insert(id), "{id} was claimed twice");
        }
    }
    assert_eq!(all, ids.into_iter().collect());
}

pub async fn a_lapsed_worker_gets_nothing(world: World) {
    let id = world.add(new_task()).await;
    world.store.lapsed(world.term, at(11), 10).await.unwrap();
    let types = [kind("work")];
    let by_order = ClaimBy::Order {
        types: &types,
        lanes: LaneLimits::none(),
        limit: 10,
        policy: &QueuePolicy::default(),
    };
    // It is told so: the hints that it holds are for others.
    for by in [ClaimBy::Ids(&[id]), by_order] {
        let claimed =
            world.store.claim(ClaimRequest { worker: world.worker, by, now: at(12) }).await;
        assert_eq!(claimed, Err(StoreError::Lapsed));
    }
    let fresh = WorkerId::generate();
    world.register(fresh, 12).await;
    assert_eq!(world.claim_as(fresh, &[id], 12).await.len(), 1);
}

pub async fn claims_come_in_the_order_asked_for(world: World) {
    let mut ids = world.add_many(50).await;
    ids.rotate_left(17);
    ids.swap(3, 40);
    let claimed = world.claim_as(world.worker, &ids, 1).await;
    assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), ids);
}
