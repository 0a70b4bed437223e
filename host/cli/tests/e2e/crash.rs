//! Kill -9 at any moment loses no acknowledged task.

use std::{collections::HashSet, time::Duration};

use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_task() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged = HashSet::new();
    // Killed in mid-enqueue and in mid-run, at a different moment each time.
    for round in 0..4_u64 {
        let server = Server::start(data.path());
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
                    Some((201, answer)) => acknowledged.extend(
                        answer["ids"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|id| id.as_str().unwrap().to_owned()),
                    ),
                    Some((status, answer)) => panic!("{status}: {answer}"),
                    None => break,
                }
            }
        };
        // The load ends by itself when the server is gone; here it is cut off at the moment of the kill.
        let cut = tokio::time::timeout(Duration::from_millis(150 + 130 * round), load).await;
        assert!(cut.is_err(), "the server died before it was killed");
        server.kill();
    }
    assert!(
        acknowledged.len() > 200,
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
