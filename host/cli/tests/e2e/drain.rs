//! SIGTERM finishes what runs, hands back the rest, and exits with 0.

use serde_json::json;
use taskforge_testing::wait::wait_until;

use crate::server::Server;

#[tokio::test]
async fn sigterm_lets_running_tasks_finish_and_keeps_the_waiting_ones() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(data.path(), |command| {
        command.args(["--concurrency", "2"]);
    });
    let tasks: Vec<_> =
        (0..60).map(|_| json!({ "task_type": "fibonacci", "input": { "n": 300_000 } })).collect();
    let (status, answer) =
        server.try_post("/tasks/batch", &json!({ "tasks": tasks })).await.unwrap();
    assert_eq!(status, 201);
    server.signal("TERM");
    assert!(server.wait_for_exit().await.success());

    let server = Server::start(data.path());
    for id in answer["ids"].as_array().unwrap() {
        let task = server.ended(id.as_str().unwrap()).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("completed"), &json!(1)), "{task}");
    }
}

#[tokio::test]
async fn what_outlives_the_grace_period_is_handed_back_uncounted() {
    let data = tempfile::tempdir().unwrap();
    let hostile = taskforge_testing::guests::path("hostile");
    let plugins = hostile.parent().unwrap();
    let start = |data: &std::path::Path| {
        Server::start_with(data, |command| {
            command.args(["--drain-grace", "200ms", "--plugins"]).arg(plugins);
        })
    };
    let mut server = start(data.path());
    let id = server.submit("hostile", json!({ "attack": "sleep", "ms": 8_000 })).await;
    wait_until("it runs", async || {
        server.get(&format!("/tasks/{id}")).await["status"] == "running"
    })
    .await;
    server.signal("TERM");
    assert!(server.wait_for_exit().await.success());

    let server = start(data.path());
    let task = server.ended(&id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("completed"), &json!(1)), "{task}");
    let log = server.get(&format!("/tasks/{id}/logs")).await;
    assert!(log.to_string().contains("handed"), "{log}");
}
