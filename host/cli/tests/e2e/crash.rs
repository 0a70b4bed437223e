//! Kill -9 at any moment loses no acknowledged task.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;
use taskforge_testing::wait::wait_until;

use crate::server::Server;

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_task() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged = HashSet::new();
    // Killed in mid-enqueue and in mid-run, at a different moment each time.
    for round in 0..4_u64 {
        let server = Server::start(data.path());
        let batches = AtomicUsize::new(0);
        let load = async {
            for number in 0.. {
                // Some quick, some slow enough to be running when the process dies.
                let tasks: Vec<_> = (0..50)
                    .map(|i| {
                        let n = if i % 10 == 0 { 200_000 } else { number * 7 % 1_000 };
                        json!({ "task_type": "fibonacci", "input": { "n": n }, "max_retries": 10, "retry_cap": "100ms" })
                    })
                    .collect();
                match server.try_post("/tasks/batch", &json!({ "tasks": tasks })).await {
                    Some((201, answer)) => {
                        let ids = answer["ids"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|id| id.as_str().unwrap().to_owned());
                        acknowledged.extend(ids);
                        batches.fetch_add(1, Ordering::SeqCst);
                    }
                    other => panic!("the server died before it was killed: {other:?}"),
                }
            }
        };
        let moment = async {
            wait_until("some batches are acknowledged", async || {
                batches.load(Ordering::SeqCst) >= 3
            })
            .await;
            tokio::time::sleep(Duration::from_millis(37 * round)).await;
        };
        tokio::select! {
            () = load => {}
            () = moment => {}
        }
        server.kill();
    }
    assert!(
        acknowledged.len() >= 4 * 3 * 50,
        "only {} tasks were acknowledged",
        acknowledged.len()
    );

    let server = Server::start(data.path());
    for id in &acknowledged {
        let task = server.ended(id).await;
        assert_eq!(task["status"], "completed", "{task}");
    }
}

#[tokio::test]
async fn a_task_whose_process_dies_each_time_is_a_dead_letter_after_the_third() {
    let data = tempfile::tempdir().unwrap();
    let hostile = taskforge_testing::guests::path("hostile");
    let start = || {
        Server::start_with(data.path(), |command| {
            command.arg("--plugins").arg(hostile.parent().unwrap());
        })
    };
    let server = start();
    let body = json!({ "task_type": "hostile", "input": { "attack": "sleep" }, "max_retries": 0 });
    let (_, task) = server.try_post("/tasks", &body).await.unwrap();
    let id = task["id"].as_str().unwrap().to_owned();
    kill_while_it_runs(server, &id, 0).await;
    // It takes no retries, and survives two deaths of its process, to which each time it is as good
    // as new.
    for lapses in 1..3 {
        kill_while_it_runs(start(), &id, lapses).await;
    }
    let task = start().ended(&id).await;
    assert_eq!(
        (&task["status"], &task["error_kind"]),
        (&json!("failed"), &json!("lease_lapsed")),
        "{task}"
    );
    assert_eq!((&task["attempt"], &task["lapses"]), (&json!(0), &json!(3)), "{task}");
}

async fn kill_while_it_runs(server: Server, id: &str, lapses: u32) {
    wait_until("it runs", async || {
        server.get(&format!("/tasks/{id}")).await["status"] == "running"
    })
    .await;
    let task = server.get(&format!("/tasks/{id}")).await;
    assert_eq!((&task["attempt"], &task["lapses"]), (&json!(1), &json!(lapses)), "{task}");
    server.kill();
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let _first = Server::start(data.path());
    let second = crate::server::taskforge()
        .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&*data.path().to_string_lossy()), "{said}");
}
