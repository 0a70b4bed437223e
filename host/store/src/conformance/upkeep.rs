//! What is old is forgotten, and nothing else.
//!
//! How exactly a store forgets is its own affair (some drop a week at once), so these rules say
//! only what must stay.

use super::*;

const YEAR: i64 = 365 * 24 * 3600;
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Far beyond the ids' time and the rules' time: everything is old by then.
const LATER: i64 = 20 * YEAR;

async fn keep_up(world: &World, now: i64) {
    for _ in 0..5 {
        world.store.upkeep(Some(world.term), at(now), RETENTION).await.unwrap();
    }
}

pub async fn upkeep_never_forgets_what_has_not_ended(world: World) {
    let mut alive = Vec::new();
    for state in TaskState::ALL {
        let task = world.task_in(state).await;
        if !state.is_terminal() {
            alive.push(world.history(task.id).await);
        }
    }
    // One with a past: an attempt that failed, and an event.
    let failed = world.task_in(TaskState::Failed).await;
    world.retry(failed.id).await;
    let requeued = world.history(failed.id).await;
    assert_eq!((requeued.attempts.len(), requeued.events.len()), (1, 1));
    alive.push(requeued);
    keep_up(&world, LATER).await;
    for history in &alive {
        assert_eq!(world.history(history.task.id).await, *history);
    }
    // They live on as if nothing had been.
    for history in alive {
        let id = history.task.id;
        match history.task.state {
            TaskState::Scheduled => assert_eq!(world.promote(at(LATER), 10).await.len(), 1),
            TaskState::Running => {
                let held = world.store.claimed_by(world.worker).await.unwrap();
                assert_eq!(held.iter().map(|task| task.id).collect::<Vec<_>>(), [id]);
                assert!(world.resolve(id, history.task.run_lease, Next::HandBack).await);
            }
            _ => {}
        }
        let claimed = world.claim(id).await;
        assert_eq!(claimed.run_lease, RunLease(history.task.run_lease.0 + 1));
        assert_eq!(world.end(&claimed, Next::Complete).await, Commit::Committed);
        assert_eq!(world.get(id).await.state, TaskState::Completed);
    }
}

pub async fn upkeep_never_forgets_what_ended_recently(world: World) {
    let mut recent = Vec::new();
    for next in [Next::Complete, Next::DeadLetter] {
        let task = world.running().await;
        let end = ended(&task, world.worker, next, LATER - 60);
        assert_eq!(world.complete(end).await, Commit::Committed);
        recent.push(world.history(task.id).await);
    }
    let waiting = world.add(new_task()).await;
    world.store.cancel(&tenant(), waiting, at(LATER - 60)).await.unwrap();
    recent.push(world.history(waiting).await);
    keep_up(&world, LATER).await;
    for history in recent {
        assert_eq!(world.history(history.task.id).await, history);
    }
}

pub async fn a_store_takes_tasks_after_upkeep(world: World) {
    for now in [0, 1, LATER, 2] {
        keep_up(&world, now).await;
        world.task_in(TaskState::Completed).await;
        world.task_in(TaskState::Failed).await;
    }
}
