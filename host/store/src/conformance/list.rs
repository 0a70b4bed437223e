//! Lists, filters, pages, counts.

use std::collections::BTreeSet;

use super::*;
use crate::{Cursor, Page, TaskFilter};
use taskforge_domain::Priority;

async fn ids(world: &World, filter: &TaskFilter) -> Vec<TaskId> {
    let page = Page { after: None, limit: 1000 };
    world
        .store
        .tasks(&tenant(), filter, page)
        .await
        .unwrap()
        .into_iter()
        .map(|task| task.id)
        .collect()
}

pub async fn lists_are_newest_first(world: World) {
    let mut added = world.add_many(20).await;
    let completed = world.task_in(TaskState::Completed).await;
    added.push(completed.id);
    added.reverse();
    assert_eq!(ids(&world, &TaskFilter::default()).await, added);
    let one = world
        .store
        .tasks(&tenant(), &TaskFilter::default(), Page { after: None, limit: 1 })
        .await
        .unwrap();
    assert_eq!(one, [completed], "with everything that a single read shows");
    let none = world
        .store
        .tasks(&tenant(), &TaskFilter::default(), Page { after: None, limit: 0 })
        .await
        .unwrap();
    assert!(none.is_empty());
}

pub async fn pages_neither_repeat_nor_skip(world: World) {
    let mut expected = world.add_many(25).await;
    expected.reverse();
    for filter in [
        TaskFilter::default(),
        TaskFilter {
            states: vec![TaskState::Pending, TaskState::Completed],
            ..TaskFilter::default()
        },
    ] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page =
                world.store.tasks(&tenant(), &filter, Page { after, limit: 10 }).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(Cursor(last.id));
            seen.extend(page.iter().map(|task| task.id));
            // New tasks come before the first page; they move nothing.
            world.add_many(3).await;
        }
        assert_eq!(seen[seen.len() - 25..], expected);
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
    }
    // A cursor outlives its task.
    let gone = world.task_in(TaskState::Cancelled).await.id;
    world.store.prune(&tenant(), &TaskFilter::default(), 10).await.unwrap();
    let page = Page { after: Some(Cursor(gone)), limit: 1000 };
    let rest = world.store.tasks(&tenant(), &TaskFilter::default(), page).await.unwrap();
    assert!(!rest.is_empty() && rest.iter().all(|task| task.id < gone));
}

pub async fn filters_narrow(world: World) {
    let x = world.add(NewTask { task_type: kind("x"), created_at: at(10), ..new_task() }).await;
    let y = world.add(NewTask { task_type: kind("y"), created_at: at(20), ..new_task() }).await;
    let failed = world.task_in(TaskState::Failed).await.id;
    let lapsed = world.running().await;
    world.resolve(lapsed.id, lapsed.run_lease, Next::RetryAt(at(60))).await;

    let types = |names: &[&str]| TaskFilter {
        types: names.iter().map(|name| kind(name)).collect(),
        ..TaskFilter::default()
    };
    assert_eq!(ids(&world, &types(&["x"])).await, [x]);
    assert_eq!(ids(&world, &types(&["y", "x", "none"])).await, [y, x]);
    let errors =
        |kinds: &[FailureKind]| TaskFilter { error_kinds: kinds.into(), ..TaskFilter::default() };
    assert_eq!(ids(&world, &errors(&[FailureKind::LeaseLapsed])).await, [lapsed.id]);
    assert_eq!(
        ids(&world, &errors(&[FailureKind::LeaseLapsed, FailureKind::Retryable])).await,
        [lapsed.id, failed]
    );
    assert!(ids(&world, &errors(&[FailureKind::Trap])).await.is_empty());
    let created = |from, before| TaskFilter {
        created_from: Some(at(from)),
        created_before: Some(at(before)),
        ..TaskFilter::default()
    };
    assert_eq!(ids(&world, &created(10, 20)).await, [x]);
    assert_eq!(ids(&world, &created(10, 21)).await, [y, x]);
    assert_eq!(ids(&world, &created(0, 1)).await, [lapsed.id, failed]);
}

pub async fn filters_combine(world: World) {
    let mut expected = Vec::new();
    for n in 0..24 {
        let name = if n % 2 == 0 { "x" } else { "y" };
        let id =
            world.add(NewTask { task_type: kind(name), created_at: at(n), ..new_task() }).await;
        if n % 3 == 0 {
            let task = world.claim(id).await;
            world.end(&task, Next::DeadLetter).await;
        }
        if n % 6 == 0 && n >= 6 {
            expected.insert(0, id);
        }
    }
    let filter = TaskFilter {
        states: vec![TaskState::Failed, TaskState::Completed],
        types: vec![kind("x")],
        error_kinds: vec![FailureKind::Retryable],
        created_from: Some(at(1)),
        ..TaskFilter::default()
    };
    assert_eq!(ids(&world, &filter).await, expected);
    assert!(
        ids(&world, &TaskFilter { error_kinds: vec![FailureKind::Trap], ..filter })
            .await
            .is_empty()
    );
}

pub async fn a_state_filter_finds_all_tasks_of_its_states(world: World) {
    let mut all = Vec::new();
    for level in 1..=5 {
        all.push((
            TaskState::Pending,
            world.add(NewTask { priority: Priority::new(level).unwrap(), ..new_task() }).await,
        ));
        for state in TaskState::ALL {
            all.push((state, world.task_in(state).await.id));
        }
    }
    all.reverse();
    // Every set of states.
    for set in 1_u32..1 << TaskState::ALL.len() {
        let states: Vec<_> = TaskState::ALL
            .into_iter()
            .enumerate()
            .filter(|(n, _)| set >> n & 1 == 1)
            .map(|(_, state)| state)
            .collect();
        let expected: Vec<_> =
            all.iter().filter(|(state, _)| states.contains(state)).map(|(_, id)| *id).collect();
        let doubled = [states.clone(), states.clone()].concat();
        assert_eq!(
            ids(&world, &TaskFilter { states: doubled, ..TaskFilter::default() }).await,
            expected,
            "{states:?}"
        );
    }
}

pub async fn a_task_of_another_tenant_is_not_there(world: World) {
    let mut mine = Vec::new();
    for state in TaskState::ALL {
        mine.push(world.task_in(state).await);
    }
    let other = TenantId::new("other").unwrap();
    let theirs = NewTask { tenant: other.clone(), ..new_task() };
    world.add(theirs.clone()).await;
    assert!(!ids(&world, &TaskFilter::default()).await.contains(&theirs.id));
    for task in &mine {
        assert_eq!(world.store.task(&other, task.id).await.unwrap(), None);
        assert_eq!(world.store.history(&other, task.id).await.unwrap(), None);
        assert_eq!(
            world.store.cancel(&other, task.id, at(9)).await.unwrap(),
            CancelOutcome::NotFound
        );
        assert_eq!(
            world.store.retry(&other, task.id, at(9)).await.unwrap(),
            RetryOutcome::NotFound
        );
    }
    assert_eq!(world.store.prune(&other, &TaskFilter::default(), 100).await.unwrap(), 0);
    for task in mine {
        assert_eq!(world.get(task.id).await, task);
        let filter = TaskFilter { states: vec![task.state], ..TaskFilter::default() };
        let seen =
            world.store.tasks(&other, &filter, Page { after: None, limit: 10 }).await.unwrap();
        assert!(seen.iter().all(|seen| seen.id == theirs.id));
    }
    // Workers serve all tenants.
    assert_eq!(world.claim(theirs.id).await.tenant, other);
}

pub async fn counts_are_by_type_and_state(world: World) {
    let first = world.add_many(3).await[0];
    for state in TaskState::ALL {
        world.task_in(state).await;
    }
    world.task_in(TaskState::Failed).await;
    world
        .add(NewTask {
            task_type: kind("x"),
            tenant: TenantId::new("other").unwrap(),
            ..new_task()
        })
        .await;
    let counts = world.store.counts().await.unwrap();
    let oldest = counts.oldest_pending.iter().find(|(name, _)| *name == kind("work"));
    assert_eq!(oldest, Some(&(kind("work"), first)), "the one that was made first");
    assert_eq!(counts.oldest_pending.len(), 2);
    let mut counts = counts.by_type;
    counts.sort_by_key(|(name, state, _)| (name.clone(), state.as_str()));
    let expected = [
        (kind("work"), TaskState::Failed, 2),
        (kind("work"), TaskState::Pending, 4),
        (kind("work"), TaskState::Running, 1),
        (kind("work"), TaskState::Scheduled, 1),
        (kind("x"), TaskState::Pending, 1),
    ];
    assert_eq!(counts, expected, "there may be a year of those that are not counted");
}
