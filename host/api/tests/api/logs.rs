use std::time::Duration;

use serde_json::{Value, json};
use taskforge_domain::{Failure, FailureKind, Next, Outcome};
use taskforge_store::Store;

use crate::harness::{Api, now};

fn events(lines: &Value) -> Vec<&str> {
    lines.as_array().unwrap().iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_log_tells_the_whole_story_in_order() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let (worker, task) = api.claim(id).await;
    let failure = Failure::new(FailureKind::Retryable, "come back later");
    api.end(worker, &task, Outcome::Failed(failure), Next::RetryAt(now())).await;
    let waiting = api.get(&format!("/tasks/{id}/logs")).await.json();
    assert_eq!(events(&waiting), ["accepted", "started", "log", "failed", "waiting"]);
    api.store
        .promote_due(api.term().await, now().checked_add(Duration::from_secs(1)).unwrap(), 10)
        .await
        .unwrap();
    api.complete(id).await;
    let lines = api.get(&format!("/tasks/{id}/logs")).await.json();
    let history =
        ["accepted", "started", "log", "failed", "waiting", "started", "log", "completed"];
    assert_eq!(events(&lines), history, "{lines:#}");
    let line = |index: usize| &lines[index];
    let text = |index: usize| lines[index]["message"].as_str().unwrap();
    assert_eq!((&line(0)["id"], &line(0)["task_id"]), (&json!(1), &json!(id.to_string())));
    assert!(text(1).contains(&worker.to_string()) && text(1).contains("1.2.3"), "{}", text(1));
    assert_eq!((text(2), &line(2)["level"]), ("hello from the guest", &json!("warn")));
    assert!(text(3).contains("retryable") && text(3).contains("come back later"), "{}", text(3));
    assert!(
        text(3).contains("12345 fuel")
            && text(3).contains("1.0 MiB")
            && text(3).contains("1ms 500us"),
        "{}",
        text(3)
    );
    assert_eq!(
        (&line(3)["usage"]["fuel"], &line(3)["attempt"], &line(3)["level"]),
        (&json!(12_345), &json!(1), &json!("error"))
    );
    assert_eq!(&line(7)["attempt"], &json!(2));
    assert!(line(2)["usage"].is_null());
}

#[tokio::test]
async fn what_happened_outside_attempts_is_part_of_the_story() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    for action in ["cancel", "retry"] {
        assert_eq!(api.post_text(&format!("/tasks/{id}/{action}"), "").await.status, 200);
    }
    let (worker, task) = api.claim(id).await;
    let running = api.get(&format!("/tasks/{id}/logs")).await.json();
    assert_eq!(events(&running), ["accepted", "cancelled", "requeued", "started"]);
    api.end(
        worker,
        &task,
        Outcome::Failed(Failure::new(FailureKind::Permanent, "no")),
        Next::DeadLetter,
    )
    .await;
    let failed = api.get(&format!("/tasks/{id}/logs")).await.json();
    assert_eq!(
        events(&failed),
        ["accepted", "cancelled", "requeued", "started", "log", "failed", "dead_letter"]
    );
}

#[tokio::test]
async fn a_task_for_later_says_what_it_waits_for() {
    let api = Api::start().await;
    let id = api.create(json!({"task_type": "echo", "delay": "1h", "max_retries": 0})).await;
    let lines = api.get(&format!("/tasks/{id}/logs")).await.json();
    assert_eq!(events(&lines), ["accepted", "waiting"]);
    assert!(lines[0]["message"].as_str().unwrap().contains("no retries"), "{lines}");
}
