//! A task begins to exist.

use super::*;
use crate::{Page, TaskFilter};
use taskforge_domain::{Priority, RetryPolicy};

pub async fn what_goes_in_comes_out(world: World) {
    let created_at: Timestamp = "2026-02-03T04:05:06.123456Z".parse().unwrap();
    let run_at: Timestamp = "2026-02-03T04:05:06.123457Z".parse().unwrap();
    let retry = RetryPolicy {
        max_retries: 7,
        base: Duration::from_millis(1500),
        cap: RetryPolicy::MAX_DELAY,
    };
    let input = json(serde_json::json!({"ä": "\u{0} \u{1F980} \"quoted\" \\ \n", "big": u64::MAX}));
    let task = NewTask {
        id: TaskId::generate(),
        tenant: TenantId::new("acme-2_x").unwrap(),
        task_type: kind("Acme.render_v2-x"),
        input: input.clone(),
        priority: Priority::MAX,
        retry,
        run_at: Some(run_at),
        created_at,
    };
    let expected = Task {
        id: task.id,
        tenant: task.tenant.clone(),
        task_type: task.task_type.clone(),
        state: TaskState::Scheduled,
        priority: Priority::MAX,
        attempt: 0,
        lapses: 0,
        retry,
        input,
        result: None,
        error: None,
        progress: None,
        worker: None,
        run_lease: RunLease(0),
        created_at,
        run_at,
        started_at: None,
        finished_at: None,
    };
    world.add(task).await;
    let read = world.store.task(&expected.tenant, expected.id).await.unwrap();
    assert_eq!(read.as_ref(), Some(&expected));
    let history = world.store.history(&expected.tenant, expected.id).await.unwrap();
    assert_eq!(
        history,
        Some(History { task: expected, attempts: Vec::new(), events: Vec::new(), log: Vec::new() })
    );
}

pub async fn a_repeat_changes_nothing(world: World) {
    let task = new_task();
    let other = NewTask {
        input: json(serde_json::json!("other")),
        priority: Priority::MAX,
        ..task.clone()
    };
    let id = world.add(task).await;
    let first = world.get(id).await;
    world.add(other.clone()).await;
    assert_eq!(world.get(id).await, first);

    let claimed = world.claim(id).await;
    world.add(other.clone()).await;
    assert_eq!(world.get(id).await.state, TaskState::Running);
    world.end(&claimed, Next::Complete).await;
    world.store.enqueue(&[new_task(), other, new_task()]).await.unwrap();
    let task = world.get(id).await;
    assert_eq!((task.state, &task.input), (TaskState::Completed, &first.input));
}

pub async fn an_id_twice_in_a_batch_is_one_task(world: World) {
    let first = new_task();
    let second = NewTask { input: json(serde_json::json!(2)), ..first.clone() };
    world.store.enqueue(&[first.clone(), new_task(), second]).await.unwrap();
    assert_eq!(world.get(first.id).await.input, first.input);
    let page = Page { after: None, limit: 10 };
    assert_eq!(world.store.tasks(&tenant(), &TaskFilter::default(), page).await.unwrap().len(), 2);
}

pub async fn a_megabyte_of_input_survives(world: World) {
    let text = "\u{1F980}\"\\ä\u{1}".repeat((1 << 20) / 9);
    let tasks: Vec<_> = (0..20)
        .map(|n| NewTask { input: json(serde_json::json!({"n": n, "text": text})), ..new_task() })
        .collect();
    world.store.enqueue(&tasks).await.unwrap();
    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
    let claimed = world.claim_as(world.worker, &ids, 1).await;
    assert_eq!(claimed.len(), tasks.len());
    for (task, claimed) in tasks.iter().zip(&claimed) {
        assert_eq!((claimed.id, claimed.input == task.input), (task.id, true));
    }
    assert!(world.get(ids[19]).await.input == tasks[19].input);
}

pub async fn json_text_is_kept_as_it_is(world: World) {
    for text in [
        "{ \"a\" : 1.000, \"a\": 2 }".to_owned(),
        "123456789012345678901234567890.12345678901234567890e400".into(),
        "\"\\u0000\\ud83e\\udd80\\/\"".into(),
        format!("{}{}", "[".repeat(100), "]".repeat(100)),
        "null".into(),
    ] {
        let id =
            world.add(NewTask { input: Json::parse(text.clone()).unwrap(), ..new_task() }).await;
        assert_eq!(world.get(id).await.input.as_str(), text);
        let claimed = world.claim(id).await;
        assert_eq!(claimed.input.as_str(), text);
        let mut end = ended(&claimed, world.worker, Next::Complete, 2);
        end.attempt.outcome = Outcome::Completed(Json::parse(text.clone()).unwrap());
        world.complete(end).await;
        assert_eq!(world.get(id).await.result.unwrap().as_str(), text);
    }
}

pub async fn ten_thousand_tasks_go_in_at_once(world: World) {
    let ids = world.add_many(10_000).await;
    let claimed = world.claim_as(world.worker, &ids, 1).await;
    assert_eq!(claimed.len(), ids.len());
    let ends: Vec<_> =
        claimed.iter().map(|task| ended(task, world.worker, Next::Complete, 2)).collect();
    let commits = world.store.complete(&ends).await.unwrap();
    assert_eq!(commits, vec![Commit::Committed; ids.len()]);
    let counts = world.store.counts().await.unwrap();
    assert_eq!(counts.by_type, [], "what has completed is not counted");
}

pub async fn a_task_for_later_waits_for_its_time(world: World) {
    let id = world.add(NewTask { run_at: Some(at(60)), ..new_task() }).await;
    assert_eq!(world.get(id).await.state, TaskState::Scheduled);
    assert!(world.claim_as(world.worker, &[id], 61).await.is_empty());
    assert!(world.claim_order(&["work"], 10).await.is_empty());
    let now = world.add(NewTask { run_at: Some(at(-60)), ..new_task() }).await;
    let task = world.get(now).await;
    assert_eq!((task.state, task.run_at), (TaskState::Pending, at(-60)));
}

pub async fn nothing_is_nothing(world: World) {
    world.store.enqueue(&[]).await.unwrap();
    assert!(world.claim_as(world.worker, &[], 1).await.is_empty());
    assert!(world.claim_order(&[], 10).await.is_empty());
    assert!(world.claim_order(&["work"], 0).await.is_empty());
    assert!(world.store.complete(&[]).await.unwrap().is_empty());
    world.store.report_progress(&[]).await.unwrap();
    assert!(world.store.resolve_lapsed(None, &[], at(1)).await.unwrap().is_empty());
    assert!(world.store.lost_leases(&[]).await.unwrap().is_empty());
    assert!(world.store.counts().await.unwrap().by_type.is_empty());
    assert_eq!(world.store.next_due().await.unwrap(), None);
}
