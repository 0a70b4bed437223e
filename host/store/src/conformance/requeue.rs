//! Another chance for many dead letters at once.

use super::dead::{dead, dead_of, finished, like, these};
use super::*;
use crate::TaskFilter;
use taskforge_domain::EventKind;

pub(super) async fn requeue(world: &World, filter: &TaskFilter, limit: u32) -> Vec<TaskId> {
    let moved = world.store.requeue(&tenant(), filter, limit, None, at(50)).await.unwrap();
    moved.into_iter().map(|task| task.id).collect()
}

pub async fn requeue_moves_dead_letters_only_and_within_its_limit(world: World) {
    let mut others = Vec::new();
    let mut ids = Vec::new();
    for n in 0..6 {
        for state in TaskState::ALL.into_iter().filter(|state| *state != TaskState::Failed) {
            others.push(world.task_in(state).await);
        }
        // The oldest is the one with the lowest id, not the first that failed.
        ids.push(dead(&world, "no", 20 - n).await);
    }
    let all = TaskFilter { states: TaskState::ALL.into(), ..TaskFilter::default() };
    assert!(requeue(&world, &all, 0).await.is_empty());
    assert_eq!(requeue(&world, &all, 4).await, ids[..4]);
    assert_eq!(requeue(&world, &TaskFilter::default(), 100).await, ids[4..]);
    assert!(requeue(&world, &TaskFilter::default(), 100).await.is_empty());
    let cancelled = TaskFilter {
        states: vec![TaskState::Cancelled, TaskState::Completed],
        ..TaskFilter::default()
    };
    assert!(requeue(&world, &cancelled, 100).await.is_empty());
    for task in others {
        assert_eq!(world.get(task.id).await, task);
    }
    for id in ids {
        assert_eq!(world.get(id).await.state, TaskState::Pending);
    }
}

pub async fn what_is_requeued_begins_afresh_with_one_event(world: World) {
    let id = dead(&world, "no", 20).await;
    let before = world.history(id).await;
    let moved =
        world.store.requeue(&tenant(), &TaskFilter::default(), 10, None, at(50)).await.unwrap();
    let lane = world.lane();
    assert_eq!(moved, [QueuedTask { id, lane }]);
    let after = world.history(id).await;
    let expected = Task {
        state: TaskState::Pending,
        attempt: 0,
        lapses: 0,
        run_at: at(50),
        finished_at: None,
        ..before.task.clone()
    };
    assert_eq!(after.task, expected, "its lease number, its error and its input stay");
    assert_eq!(after.attempts, before.attempts);
    let events: Vec<_> =
        after.events.iter().map(|event| (event.kind, event.run_lease, event.at)).collect();
    assert_eq!(events, [(EventKind::Requeued, before.task.run_lease, at(50))]);
    let again = world.claim(id).await;
    assert_eq!((again.attempt, again.run_lease), (1, RunLease(2)));
    assert_eq!(again.input, before.task.input);
}

pub async fn requeue_with_an_edited_input_shows_it_to_the_next_claim(world: World) {
    let edited = [dead(&world, "no", 20).await, dead(&world, "no", 21).await];
    let left = dead(&world, "no", 22).await;
    let input = json(serde_json::json!({"n": 11, "by": "an operator's \"hand\""}));
    let moved =
        world.store.requeue(&tenant(), &these(&edited), 10, Some(&input), at(50)).await.unwrap();
    assert_eq!(moved.iter().map(|task| task.id).collect::<Vec<_>>(), edited);
    for id in edited {
        assert_eq!(world.get(id).await.input, input);
        assert_eq!(world.claim(id).await.input, input);
    }
    assert_eq!(world.get(left).await.input, new_task().input);
}

pub async fn requeue_keeps_to_its_tenant_and_its_filter(world: World) {
    let slow = [
        dead(&world, "timed out after 3 s", 20).await,
        dead(&world, "timed out after 70 s", 21).await,
    ];
    let refused = dead(&world, "refused", 22).await;
    let trapped = dead_of(&world, "x", FailureKind::Trap, "trap", 23).await;
    let other = TenantId::new("other").unwrap();
    let greedy = world.store.requeue(&other, &TaskFilter::default(), 10, None, at(50)).await;
    assert!(greedy.unwrap().is_empty());
    let of_type = TaskFilter {
        types: vec![kind("x")],
        error_kinds: vec![FailureKind::Retryable],
        ..TaskFilter::default()
    };
    assert!(requeue(&world, &of_type, 10).await.is_empty());
    let of_type = TaskFilter { error_kinds: vec![FailureKind::Trap], ..of_type };
    assert_eq!(requeue(&world, &of_type, 10).await, [trapped]);
    assert_eq!(requeue(&world, &like("timed out after 1 s"), 10).await, slow);
    assert!(
        requeue(&world, &finished(Some(23), None), 10).await.is_empty(),
        "requeued: it has not ended"
    );
    assert_eq!(requeue(&world, &finished(Some(22), Some(23)), 10).await, [refused]);
}
