//! Everything at once.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{Page, TaskFilter};

const TASKS: usize = 2000;

/// Clients enqueue one by one and in small batches, workers claim by ids and in order and complete,
/// fail, hand back and repeat themselves, somebody cancels and retries, a sweeper promotes. At the
/// end every task that was acknowledged has ended once.
pub async fn in_a_storm_nothing_is_lost_or_doubled(world: World) {
    let world = Arc::new(world);
    let committed = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8_usize)
        .map(|n| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while acknowledged.len() < TASKS / 8 {
                    let size =
                        (1 + acknowledged.len() % (3 * n + 1)).min(TASKS / 8 - acknowledged.len());
                    acknowledged.extend(world.add_many(size).await);
                    let last = acknowledged[acknowledged.len() - 1];
                    if acknowledged.len() % 10 == 0 {
                        world.cancel(last).await;
                        world.retry(last).await;
                    }
                }
                acknowledged
            })
        })
        .collect();
    let workers: Vec<_> = (0..6_usize)
        .map(|n| {
            let (world, committed) = (Arc::clone(&world), Arc::clone(&committed));
            tokio::spawn(work(world, n, committed))
        })
        .collect();

    let mut acknowledged = HashSet::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    assert_eq!(acknowledged.len(), TASKS);
    for worker in workers {
        tokio::time::timeout(Duration::from_secs(60), worker)
            .await
            .expect("tasks are stuck")
            .unwrap();
    }
    assert_eq!(committed.load(Ordering::Relaxed), TASKS, "each task is completed once");
    let page = Page { after: None, limit: u32::try_from(2 * TASKS).unwrap() };
    let tasks = world.store.tasks(&tenant(), &TaskFilter::default(), page).await.unwrap();
    assert_eq!(tasks.len(), TASKS);
    for task in tasks {
        assert!(acknowledged.contains(&task.id));
        assert_eq!(
            (task.state, task.result.is_some()),
            (TaskState::Completed, true),
            "{}",
            task.id
        );
    }
}

async fn work(world: Arc<World>, n: usize, committed: Arc<AtomicUsize>) {
    let worker = WorkerId::generate();
    world.register(worker, 0).await;
    let mut round = n;
    while committed.load(Ordering::Relaxed) < TASKS {
        round += 1;
        world.promote(at(100), 50).await;
        let claimed = if round.is_multiple_of(2) {
            let by = ClaimBy::Order {
                types: &[kind("work")],
                lanes: LaneLimits::none(),
                limit: 20,
                policy: &QueuePolicy::default(),
            };
            world.store.claim(ClaimRequest { worker, by, now: at(1) }).await.unwrap().tasks
        } else {
            let ids = world.store.pending(&world.lane(), None, 30).await.unwrap();
            world.claim_as(worker, &ids, 1).await
        };
        let ends: Vec<_> = claimed
            .iter()
            .enumerate()
            .map(|(k, task)| {
                // An attempt may be cancelled and its task retried meanwhile; then its end is
                // stale.
                let next = match (round + k) % 7 {
                    0 if task.run_lease.0 < 4 => Next::RetryAt(at(50)),
                    1 if task.run_lease.0 < 4 => Next::HandBack,
                    _ => Next::Complete,
                };
                ended(task, worker, next, 2)
            })
            .collect();
        let commits = world.store.complete(&ends).await.unwrap();
        if round.is_multiple_of(5) {
            world.store.complete(&ends).await.unwrap();
        }
        let completed = ends
            .iter()
            .zip(commits)
            .filter(|(end, commit)| end.next == Next::Complete && *commit == Commit::Committed);
        committed.fetch_add(completed.count(), Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}
