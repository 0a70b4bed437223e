//! A worker gets a lease.

use std::collections::HashSet;

use super::*;
use taskforge_domain::{Priority, RetryPolicy};

pub async fn a_claim_gives_a_lease(world: World) {
    let new = NewTask {
        priority: Priority::MIN,
        retry: RetryPolicy {
            max_retries: 9,
            ..RetryPolicy::default()
        },
        ..new_task()
    };
    let id = world.add(new.clone()).await;
    let now: Timestamp = "2026-03-01T00:00:00.000001999Z".parse().unwrap();
    let request = ClaimRequest {
        worker: world.worker,
        by: ClaimBy::Ids(&[id]),
        now,
    };
    let claimed = world.store.claim(request).await.unwrap();
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
        (
            task.state,
            task.worker,
            task.attempt,
            task.run_lease,
            task.started_at,
            task.finished_at
        ),
        (
            TaskState::Running,
            Some(world.worker),
            1,
            RunLease(1),
            Some(started_at),
            None
        )
    );
}

pub async fn a_claim_takes_nothing_but_pending_tasks(world: World) {
    let mut ids = vec![TaskId::generate()];
    for state in TaskState::ALL {
        ids.push(world.task_in(state).await.id);
    }
    let claimed = world.claim_as(world.worker, &ids, 10).await;
    let pending = ids[1 + TaskState::ALL
        .iter()
        .position(|state| *state == TaskState::Pending)
        .unwrap()];
    assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), [pending]);
    assert!(
        world
            .claim_as(world.worker, &[pending, pending], 10)
            .await
            .is_empty()
    );
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
        tasks.push(NewTask {
            priority: Priority::new(level).unwrap(),
            ..new_task()
        });
    }
    // The order of ids decides, not that of arrival.
    let mut arriving = tasks.clone();
    arriving.reverse();
    world.store.enqueue(&arriving).await.unwrap();
    let ids = [2, 4, 6, 0, 3, 5, 1].map(|n: usize| tasks[n].id);
    assert_eq!(world.claim_order(&["work"], 3).await, ids[..3]);
    assert_eq!(world.claim_order(&["work"], 100).await, ids[3..]);
}

pub async fn without_hints_only_served_types_are_taken(world: World) {
    let mut ids = Vec::new();
    for name in ["x", "y", "z", "x"] {
        ids.push(
            world
                .add(NewTask {
                    task_type: kind(name),
                    ..new_task()
                })
                .await,
        );
    }
    assert_eq!(
        world.claim_order(&["x", "z", "none"], 100).await,
        [ids[0], ids[2], ids[3]]
    );
    assert_eq!(world.get(ids[1]).await.state, TaskState::Pending);
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
                            limit: 25,
                            policy: &QueuePolicy::default(),
                        };
                        world
                            .store
                            .claim(ClaimRequest {
                                worker,
                                by,
                                now: at(1),
                            })
                            .await
                            .unwrap()
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
    assert!(world.claim_as(world.worker, &[id], 12).await.is_empty());
    assert!(world.claim_order(&["work"], 10).await.is_empty());
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
