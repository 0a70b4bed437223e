//! Upkeep to the row: which go, how many at once, and what it costs to pass those that stay.

use super::*;
use crate::conformance::{World, at};
use taskforge_domain::{Next, TaskState};

const RETENTION: Duration = Duration::from_secs(100);

async fn world() -> World {
    World::begin(open().await).await
}

async fn deleted(world: &World, now: i64) -> u64 {
    let upkeep = world.store.upkeep(Some(world.term), at(now), RETENTION).await.unwrap();
    assert_eq!((upkeep.partitions_made, upkeep.partitions_dropped), (0, 0));
    upkeep.tasks_deleted
}

/// Fresh tasks, all of which end at second 2.
async fn add_completed(world: &World, count: usize) -> Vec<TaskId> {
    let ids = world.add_many(count).await;
    let claimed = world.claim_as(world.worker, &ids, 1).await;
    let ends: Vec<_> = claimed
        .iter()
        .map(|task| crate::conformance::ended(task, world.worker, Next::Complete, 2))
        .collect();
    world.store.complete(&ends).await.unwrap();
    ids
}

async fn is_there(world: &World, id: TaskId) -> bool {
    let tenant = TenantId::default();
    world.store.history(&tenant, id).await.unwrap().is_some()
}

#[tokio::test]
async fn what_ended_before_the_limit_goes_with_all_that_hangs_by_it() {
    let world = world().await;
    // They end at second 2, a cancelled one at second 3.
    let mut ids = Vec::new();
    for state in TaskState::ALL {
        ids.push((state, world.task_in(state).await.id));
    }
    assert_eq!(deleted(&world, 102).await, 0, "as old as it may be");
    assert_eq!(deleted(&world, 103).await, 2);
    assert_eq!(deleted(&world, 104).await, 1);
    for (state, id) in &ids {
        assert_eq!(is_there(&world, *id).await, !state.is_terminal(), "{state}");
    }
    assert_eq!(deleted(&world, 1_000_000).await, 0);
}

#[tokio::test]
async fn the_oldest_go_first_a_portion_at_a_time() {
    let world = world().await;
    let ids = add_completed(&world, 2_300).await;
    assert_eq!(deleted(&world, 1000).await, 1000);
    assert!(!is_there(&world, ids[999]).await && is_there(&world, ids[1000]).await);
    assert_eq!(deleted(&world, 1000).await, 1000);
    assert_eq!(deleted(&world, 1000).await, 300);
    assert_eq!(deleted(&world, 1000).await, 0);
}

/// A walk looks at 10,000 tasks.
#[tokio::test]
async fn what_waits_for_long_does_not_hide_what_ended() {
    let world = world().await;
    let waiting = world.add_many(25_000).await;
    let done = add_completed(&world, 5).await;
    assert_eq!(deleted(&world, 1000).await, 0);
    assert_eq!(deleted(&world, 1000).await, 0);
    assert_eq!(deleted(&world, 1000).await, 5, "the walk went on where it stopped");
    assert!(!is_there(&world, done[0]).await && is_there(&world, waiting[24_999]).await);
    // And it turns back.
    let task = world.claim(waiting[7]).await;
    world.end(&task, Next::Complete).await;
    assert_eq!(deleted(&world, 1000).await, 1);
}
