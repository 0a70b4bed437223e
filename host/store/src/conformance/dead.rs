//! Dead letters: which failures are the same failure, and what finds them.

use super::requeue::requeue;
use super::*;
use crate::{DeadLetterGroup, Page, TaskFilter};
use taskforge_domain::Fingerprint;

/// A dead letter of `work` that failed with `message` at second `end`.
pub(super) async fn dead(world: &World, message: &str, end: i64) -> TaskId {
    dead_of(world, "work", FailureKind::Retryable, message, end).await
}

pub(super) async fn dead_of(
    world: &World,
    name: &str,
    why: FailureKind,
    message: &str,
    end: i64,
) -> TaskId {
    let id = world.add(NewTask { task_type: kind(name), ..new_task() }).await;
    let claimed = world.claim(id).await;
    assert_eq!(world.fail(&claimed, why, message, Next::DeadLetter, end).await, Commit::Committed);
    id
}

async fn groups(world: &World, filter: &TaskFilter) -> Vec<DeadLetterGroup> {
    world.store.dead_letters(&tenant(), filter, 100).await.unwrap()
}

async fn list(world: &World, filter: &TaskFilter) -> Vec<TaskId> {
    let page = Page { after: None, limit: 1000 };
    let tasks = world.store.tasks(&tenant(), filter, page).await.unwrap();
    tasks.into_iter().map(|task| task.id).collect()
}

pub(super) fn like(message: &str) -> TaskFilter {
    TaskFilter {
        fingerprints: vec![Fingerprint::of(FailureKind::Retryable, message)],
        ..TaskFilter::default()
    }
}

pub(super) fn finished(from: Option<i64>, before: Option<i64>) -> TaskFilter {
    TaskFilter {
        finished_from: from.map(at),
        finished_before: before.map(at),
        ..TaskFilter::default()
    }
}

pub(super) fn these(ids: &[TaskId]) -> TaskFilter {
    TaskFilter { ids: ids.into(), ..TaskFilter::default() }
}

pub async fn dead_letters_are_grouped_by_type_and_failure(world: World) {
    let slow = [
        dead(&world, "timed out after 3 s", 25).await,
        dead(&world, "timed out after 70 s", 20).await,
        dead(&world, "timed out after 1 s", 22).await,
    ];
    let refused = [dead(&world, "refused", 30).await, dead(&world, "refused", 31).await];
    let of_x = dead_of(&world, "x", FailureKind::Retryable, "timed out after 3 s", 40).await;
    for state in TaskState::ALL.into_iter().filter(|state| *state != TaskState::Failed) {
        world.task_in(state).await;
    }
    // A task that waits for its retry is no dead letter.
    let waiting = world.running().await;
    world.fail(&waiting, FailureKind::Retryable, "refused", Next::RetryAt(at(500)), 9).await;

    let seen = groups(&world, &TaskFilter::default()).await;
    let counts: Vec<_> = seen.iter().map(|group| group.count).collect();
    assert_eq!(counts, [3, 2, 1], "the largest first");
    let fingerprint = Fingerprint::of(FailureKind::Retryable, "timed out after 8 s");
    assert!(
        ["timed out after 3 s", "timed out after 70 s", "timed out after 1 s"]
            .contains(&seen[0].example.as_str())
    );
    let expected = DeadLetterGroup {
        fingerprint,
        task_type: kind("work"),
        kind: FailureKind::Retryable,
        example: seen[0].example.clone(),
        newest: slow[2],
        count: 3,
        first_failed_at: at(20),
        last_failed_at: at(25),
    };
    assert_eq!(seen[0], expected);
    assert_eq!(
        (&seen[1].example[..], seen[1].newest, seen[1].first_failed_at),
        ("refused", refused[1], at(30))
    );
    let expected = DeadLetterGroup {
        fingerprint,
        task_type: kind("x"),
        kind: FailureKind::Retryable,
        example: "timed out after 3 s".into(),
        newest: of_x,
        count: 1,
        first_failed_at: at(40),
        last_failed_at: at(40),
    };
    assert_eq!(seen[2], expected);
    let largest = world.store.dead_letters(&tenant(), &TaskFilter::default(), 1).await.unwrap();
    assert_eq!(largest, seen[..1]);

    // What a group names is what a filter by it finds.
    let of_group = |group: &DeadLetterGroup| TaskFilter {
        types: vec![group.task_type.clone()],
        fingerprints: vec![group.fingerprint],
        states: vec![TaskState::Failed],
        ..TaskFilter::default()
    };
    let mut found = list(&world, &of_group(&seen[0])).await;
    found.reverse();
    assert_eq!(found, slow);
    assert_eq!(requeue(&world, &of_group(&seen[1]), 10).await, refused);
    assert_eq!(groups(&world, &TaskFilter::default()).await.len(), 2);
}

pub async fn groups_keep_to_their_tenant_and_their_filter(world: World) {
    let first = dead(&world, "timed out after 3 s", 20).await;
    dead(&world, "timed out after 4 s", 30).await;
    dead_of(&world, "x", FailureKind::Trap, "trap", 40).await;
    let other = TenantId::new("other").unwrap();
    let theirs = world.store.dead_letters(&other, &TaskFilter::default(), 10).await;
    assert!(theirs.unwrap().is_empty());
    let counts = async |filter: TaskFilter| -> Vec<u64> {
        groups(&world, &filter).await.iter().map(|group| group.count).collect()
    };
    assert_eq!(counts(finished(Some(20), Some(30))).await, [1]);
    assert_eq!(counts(finished(Some(30), None)).await, [1, 1]);
    assert_eq!(counts(these(&[first, TaskId::generate()])).await, [1]);
    assert_eq!(counts(like("timed out after 5 s")).await, [2]);
    let trapped = TaskFilter { error_kinds: vec![FailureKind::Trap], ..TaskFilter::default() };
    assert_eq!(counts(trapped).await, [1]);
    let of_type = TaskFilter {
        types: vec![kind("work")],
        created_before: Some(at(1)),
        ..TaskFilter::default()
    };
    assert_eq!(counts(of_type).await, [2]);
    let others = TaskFilter {
        states: vec![TaskState::Pending, TaskState::Cancelled],
        ..TaskFilter::default()
    };
    assert!(counts(others).await.is_empty(), "only what has failed is a dead letter");
}

pub async fn a_lapse_has_a_fingerprint_too(world: World) {
    let claimed = world.running().await;
    assert!(world.resolve(claimed.id, claimed.run_lease, Next::DeadLetter).await);
    let seen = groups(&world, &TaskFilter::default()).await;
    let fingerprint = Fingerprint::of(FailureKind::LeaseLapsed, "its worker fell silent");
    assert_eq!((seen.len(), seen[0].fingerprint), (1, fingerprint));
    assert_eq!(seen[0].kind, FailureKind::LeaseLapsed);
}

/// The fingerprint goes where the error goes: kept while a task waits and runs again, replaced by
/// the next failure, gone with success.
pub async fn a_fingerprint_lives_as_long_as_its_error(world: World) {
    let task = world.running().await;
    let later = Next::RetryAt(at(3));
    world.fail(&task, FailureKind::Retryable, "refused", later, 2).await;
    assert_eq!(list(&world, &like("refused")).await, [task.id]);
    world.promote(at(3), 10).await;
    let task = world.claim(task.id).await;
    world.end(&task, Next::HandBack).await;
    let task = world.claim(task.id).await;
    assert_eq!(list(&world, &like("refused")).await, [task.id]);
    world.fail(&task, FailureKind::Retryable, "timed out", later, 2).await;
    assert!(list(&world, &like("refused")).await.is_empty());
    assert_eq!(list(&world, &like("timed out")).await, [task.id]);
    world.promote(at(3), 10).await;
    let task = world.claim(task.id).await;
    assert!(world.resolve(task.id, task.run_lease, Next::HandBack).await);
    assert_eq!(list(&world, &like("timed out")).await, [task.id]);
    let task = world.claim(task.id).await;
    world.end(&task, Next::Complete).await;
    assert!(list(&world, &like("timed out")).await.is_empty());
}

pub async fn fingerprints_ids_and_end_times_filter(world: World) {
    let a = dead(&world, "refused by 10.0.0.1", 20).await;
    let b = dead(&world, "refused by 10.0.0.2", 30).await;
    let c = dead(&world, "timed out", 40).await;
    let done = world.task_in(TaskState::Completed).await.id;
    let waiting = world.task_in(TaskState::Pending).await.id;

    assert_eq!(list(&world, &like("refused by 10.0.0.3")).await, [b, a]);
    let either = TaskFilter {
        fingerprints: ["refused by 0.0.0.0", "timed out"]
            .map(|message| Fingerprint::of(FailureKind::Retryable, message))
            .into(),
        ..TaskFilter::default()
    };
    assert_eq!(list(&world, &either).await, [c, b, a]);
    let failed = TaskFilter { states: vec![TaskState::Failed, TaskState::Pending], ..either };
    assert_eq!(list(&world, &failed).await, [c, b, a]);
    assert!(list(&world, &like("unheard of")).await.is_empty());

    assert_eq!(list(&world, &these(&[a, waiting, TaskId::generate(), a])).await, [waiting, a]);
    for states in [vec![TaskState::Pending], vec![TaskState::Pending, TaskState::Completed]] {
        let some = TaskFilter { states, ..these(&[a, waiting]) };
        assert_eq!(list(&world, &some).await, [waiting]);
    }
    assert_eq!(list(&world, &finished(Some(30), None)).await, [c, b]);
    assert_eq!(
        list(&world, &finished(None, Some(30))).await,
        [done, a],
        "what has not ended has no end"
    );
    let some = TaskFilter { states: vec![TaskState::Failed], ..finished(Some(20), Some(40)) };
    assert_eq!(list(&world, &some).await, [b, a]);

    let prune = async |filter| world.store.prune(&tenant(), &filter, 100).await.unwrap();
    assert_eq!(prune(finished(Some(40), None)).await, 1);
    assert_eq!(prune(these(&[waiting, TaskId::generate()])).await, 0);
    assert_eq!(prune(like("refused by 10.0.0.3")).await, 2);
    assert_eq!(list(&world, &TaskFilter::default()).await, [waiting, done]);
    assert_eq!(prune(these(&[waiting, done])).await, 1);
}
