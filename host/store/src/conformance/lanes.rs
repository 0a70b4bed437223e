//! Where tasks wait and run: what a broker is filled from, and what a worker and a cap are checked
//! against.

use std::collections::BTreeSet;

use super::*;
use taskforge_domain::Priority;

fn lane(tenant: &str, name: &str, level: u8) -> Lane {
    Lane {
        tenant: TenantId::new(tenant).unwrap(),
        task_type: kind(name),
        priority: Priority::new(level).unwrap(),
    }
}

async fn add_to(world: &World, lane: &Lane) -> TaskId {
    world.add(in_lane(lane)).await
}

pub async fn lanes_are_where_tasks_wait(world: World) {
    let lanes = [
        lane("a", "x", 1),
        lane("a", "x", 5),
        lane("a", "y", 1),
        lane("b", "x", 1),
        // Of which one begins like the other.
        lane("b", "x-2", 1),
        lane("b2", "x", 1),
    ];
    for lane in &lanes {
        for _ in 0..3 {
            add_to(&world, lane).await;
        }
    }
    // What does not wait makes no lane.
    for state in TaskState::ALL.into_iter().filter(|state| *state != TaskState::Pending) {
        world.task_in(state).await;
    }
    let seen = world.store.lanes(100).await.unwrap();
    assert_eq!(seen.len(), lanes.len(), "each once");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), lanes.clone().into_iter().collect());
    let some = world.store.lanes(4).await.unwrap();
    assert_eq!(some.len(), 4);
    assert!(some.iter().all(|lane| lanes.contains(lane)));
    assert!(world.store.lanes(0).await.unwrap().is_empty());
}

pub async fn a_lane_lists_only_its_own_tasks_in_the_order_of_ids(world: World) {
    let mine = lane("a", "x", 3);
    let others = [lane("b", "x", 3), lane("a", "y", 3), lane("a", "x", 2)];
    let mut tasks = Vec::new();
    for _ in 0..25 {
        tasks.push(in_lane(&mine));
        for other in &others {
            add_to(&world, other).await;
        }
    }
    // The order of ids decides, not that of arrival.
    let expected: Vec<_> = tasks.iter().map(|task| task.id).collect();
    tasks.reverse();
    world.store.enqueue(&tasks).await.unwrap();
    world.claim(expected[3]).await;

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = world.store.pending(&mine, after, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(*last);
        assert!(page.len() <= 7);
        seen.extend(page);
    }
    let mut waiting = expected;
    waiting.remove(3);
    assert_eq!(seen, waiting);
    assert!(world.store.pending(&mine, None, 0).await.unwrap().is_empty());
    let empty = world.store.pending(&lane("c", "x", 3), None, 10).await.unwrap();
    assert!(empty.is_empty());
}

pub async fn what_a_worker_holds_is_what_runs_under_its_lease(world: World) {
    let (mine, other) = (world.worker, WorkerId::generate());
    let ids = world.add_many(6).await;
    let claimed = world.claim_as(mine, &ids[..4], 1).await;
    world.claim_as(other, &ids[4..], 1).await;
    world.end(&claimed[0], Next::Complete).await;
    world.cancel(claimed[1].id).await;
    let mut held = world.store.claimed_by(mine).await.unwrap();
    held.sort_by_key(|task| task.id);
    let expected: Vec<_> = claimed[2..]
        .iter()
        .map(|task| crate::LapsedTask {
            id: task.id,
            lane: Lane {
                tenant: task.tenant.clone(),
                task_type: task.task_type.clone(),
                priority: task.priority,
            },
            run_lease: task.run_lease,
            attempt: task.attempt,
            lapses: 0,
            retry: task.retry,
            worker: mine,
        })
        .collect();
    assert_eq!(held, expected);
    assert!(world.store.claimed_by(WorkerId::generate()).await.unwrap().is_empty());
}
