//! What a person does: cancel, retry, prune.

use super::*;
use crate::{Page, TaskFilter};
use taskforge_domain::EventKind;

pub async fn a_waiting_task_can_be_cancelled(world: World) {
    for state in [TaskState::Scheduled, TaskState::Pending] {
        let before = world.task_in(state).await;
        let CancelOutcome::Cancelled(task) = world.cancel(before.id).await else {
            panic!("{state}")
        };
        let history = world.history(before.id).await;
        assert_eq!(*task, history.task);
        assert_eq!(
            (task.state, task.finished_at, task.worker),
            (TaskState::Cancelled, Some(at(3)), None)
        );
        let events: Vec<_> =
            history.events.iter().map(|event| (event.kind, event.run_lease, event.at)).collect();
        assert_eq!(events, [(EventKind::Cancelled, RunLease(0), at(3))]);
        assert!(world.claim_as(world.worker, &[before.id], 4).await.is_empty());
    }
    assert!(world.promote(at(1000), 10).await.is_empty());
}

pub async fn a_running_task_can_be_cancelled(world: World) {
    let claimed = world.running().await;
    let CancelOutcome::WasRunning(task) = world.cancel(claimed.id).await else { panic!() };
    assert_eq!(*task, world.get(claimed.id).await);
    assert_eq!(
        (task.state, task.run_lease, task.worker, task.started_at, task.finished_at),
        (TaskState::Cancelled, claimed.run_lease, None, Some(at(1)), Some(at(3)))
    );
    let held = [(claimed.id, claimed.run_lease)];
    assert_eq!(world.store.lost_leases(&held).await.unwrap(), [claimed.id]);
}

pub async fn what_has_ended_cannot_be_cancelled(world: World) {
    for state in [TaskState::Completed, TaskState::Failed, TaskState::Cancelled] {
        let before = world.task_in(state).await;
        let history = world.history(before.id).await;
        assert_eq!(world.cancel(before.id).await, CancelOutcome::AlreadyFinished(Box::new(before)));
        assert_eq!(world.history(history.task.id).await, history);
    }
    assert_eq!(world.cancel(TaskId::generate()).await, CancelOutcome::NotFound);
}

pub async fn a_dead_letter_can_be_run_again(world: World) {
    let dead = world.task_in(TaskState::Failed).await;
    let RetryOutcome::Requeued(task) = world.retry(dead.id).await else { panic!() };
    let history = world.history(dead.id).await;
    assert_eq!(*task, history.task);
    assert_eq!(
        (task.state, task.attempt, task.run_lease, task.run_at, task.finished_at, task.error),
        (TaskState::Pending, 0, RunLease(1), at(4), None, dead.error)
    );
    assert_eq!(history.attempts.len(), 1, "its history stays");
    let events: Vec<_> =
        history.events.iter().map(|event| (event.kind, event.run_lease, event.at)).collect();
    assert_eq!(events, [(EventKind::Requeued, RunLease(1), at(4))]);
    let again = world.claim(dead.id).await;
    assert_eq!((again.attempt, again.run_lease), (1, RunLease(2)));
    world.end(&again, Next::Complete).await;
    assert_eq!(world.get(dead.id).await.error, None);
}

pub async fn a_cancelled_task_can_be_run_again(world: World) {
    let claimed = world.running().await;
    world.cancel(claimed.id).await;
    assert!(matches!(world.retry(claimed.id).await, RetryOutcome::Requeued(_)));
    let kinds: Vec<_> =
        world.history(claimed.id).await.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Cancelled, EventKind::Requeued]);
    assert_eq!(world.claim(claimed.id).await.run_lease, RunLease(2));
}

pub async fn only_failed_and_cancelled_tasks_can_be_run_again(world: World) {
    for state in
        [TaskState::Scheduled, TaskState::Pending, TaskState::Running, TaskState::Completed]
    {
        let before = world.task_in(state).await;
        let id = before.id;
        assert_eq!(world.retry(id).await, RetryOutcome::NotRetryable(Box::new(before.clone())));
        assert_eq!(world.get(id).await, before);
        assert!(world.history(id).await.events.is_empty());
    }
    assert_eq!(world.retry(TaskId::generate()).await, RetryOutcome::NotFound);
}

pub async fn prune_takes_the_oldest_first_with_all_that_hangs_by_them(world: World) {
    let mut ids = Vec::new();
    for state in
        [TaskState::Failed, TaskState::Completed, TaskState::Cancelled, TaskState::Completed]
    {
        ids.push(world.task_in(state).await.id);
    }
    let prune =
        async |limit| world.store.prune(&tenant(), &TaskFilter::default(), limit).await.unwrap();
    assert_eq!(prune(0).await, 0);
    assert_eq!(prune(3).await, 3);
    for id in &ids[..3] {
        assert_eq!(world.store.history(&tenant(), *id).await.unwrap(), None);
    }
    assert_eq!(world.get(ids[3]).await.state, TaskState::Completed);
    // Nothing of the old one is left to appear in a new task of the same id.
    world.add(NewTask { id: ids[0], input: json(serde_json::json!("new")), ..new_task() }).await;
    let history = world.history(ids[0]).await;
    assert_eq!(
        (history.attempts.len(), history.events.len(), history.task.input.as_str()),
        (0, 0, "\"new\"")
    );
    assert_eq!(prune(10).await, 1);
    assert_eq!(prune(10).await, 0);
}

pub async fn prune_never_takes_what_has_not_ended(world: World) {
    let mut alive = Vec::new();
    for state in TaskState::ALL {
        let task = world.task_in(state).await;
        if !state.is_terminal() {
            alive.push(task);
        }
    }
    let greedy = TaskFilter { states: TaskState::ALL.into(), ..TaskFilter::default() };
    let alive_only = TaskFilter {
        states: alive.iter().map(|task| task.state).collect(),
        ..TaskFilter::default()
    };
    assert_eq!(world.store.prune(&tenant(), &alive_only, 100).await.unwrap(), 0);
    assert_eq!(world.store.prune(&tenant(), &greedy, 100).await.unwrap(), 3);
    assert_eq!(world.store.prune(&tenant(), &TaskFilter::default(), 100).await.unwrap(), 0);
    for task in alive {
        assert_eq!(world.get(task.id).await, task);
    }
}

pub async fn prune_keeps_to_its_filter(world: World) {
    let failed = world.task_in(TaskState::Failed).await;
    let completed = world.task_in(TaskState::Completed).await;
    let prune = async |filter| world.store.prune(&tenant(), &filter, 100).await.unwrap();
    let none = TaskFilter { types: vec![kind("other")], ..TaskFilter::default() };
    assert_eq!(prune(none).await, 0);
    let other = TenantId::new("other").unwrap();
    assert_eq!(world.store.prune(&other, &TaskFilter::default(), 100).await.unwrap(), 0);
    let before = TaskFilter { created_before: Some(at(0)), ..TaskFilter::default() };
    assert_eq!(prune(before).await, 0);
    let dead = TaskFilter { states: vec![TaskState::Failed], ..TaskFilter::default() };
    assert_eq!(prune(dead).await, 1);
    assert_eq!(world.store.task(&tenant(), failed.id).await.unwrap(), None);
    let page = Page { after: None, limit: 10 };
    assert_eq!(
        world.store.tasks(&tenant(), &TaskFilter::default(), page).await.unwrap(),
        [completed]
    );
}
