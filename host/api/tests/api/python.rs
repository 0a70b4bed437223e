use std::{process::Stdio, time::Duration};

use serde_json::json;
use taskforge_api::ApiKey;
use taskforge_domain::{Json, TaskId, TaskType};
use taskforge_registry::ExternalType;
use tokio::process::{Child, Command};

use crate::harness::{Answer, Api, Setup, TEST_DEADLINE};

const WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/python_worker.py");
const KEY: &str = "correct-horse-battery-staple";

/// Whether there is a Python to run the example with. A machine that builds releases must have one.
async fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status().await;
    let has = found.is_ok_and(|status| status.success());
    assert!(has || std::env::var_os("CI").is_none(), "python3 is missing");
    if !has {
        eprintln!("skipped: python3 is missing, and CI is not set");
    }
    has
}

async fn start() -> Api {
    let api = Setup::config(|config| config.key = Some(ApiKey::new(KEY).unwrap())).start().await;
    let word_count = ExternalType {
        name: TaskType::new("word_count").unwrap(),
        summary: "Counts words".into(),
        input_schema: Json::from(json!({"type": "object"})),
        output_schema: Some(Json::from(json!({"type": "object", "required": ["words"]}))),
    };
    api.catalog.set_external(vec![word_count]).unwrap();
    api
}

fn worker(api: &Api) -> Child {
    Command::new("python3")
        .arg(WORKER)
        .env("TASKFORGE_URL", format!("http://{}", api.address))
        .env("TASKFORGE_API_KEY", KEY)
        .env("TASKFORGE_LEASE_SECONDS", "1")
        .env("TASKFORGE_WAIT_SECONDS", "0.2")
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn send(api: &Api, method: &str, path: &str, body: &str) -> Answer {
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    api.send(method, path, &headers, body.as_bytes()).await
}

async fn count(api: &Api, input: serde_json::Value) -> TaskId {
    let body = json!({"task_type": "word_count", "input": input}).to_string();
    crate::harness::id(&send(api, "POST", "/tasks", &body).await.json())
}

async fn end_of(api: &Api, id: TaskId) -> serde_json::Value {
    send(api, "GET", &format!("/tasks/{id}?wait=20s"), "").await.json()
}

#[tokio::test]
async fn the_python_worker_does_what_it_says() {
    if !has_python().await {
        return;
    }
    let api = start().await;
    let mut worker = worker(&api);
    let counted = count(&api, json!({"text": "to be or not to be"})).await;
    let refused = count(&api, json!({"text": 7})).await;
    // Three times as long as its lease: only heartbeats carry it to its end.
    let slow = count(&api, json!({"text": "slow and steady", "seconds": 3})).await;
    let task = end_of(&api, counted).await;
    assert_eq!(
        (&task["status"], &task["result"]),
        (&json!("completed"), &json!({"words": 6, "characters": 18}))
    );
    let log = send(&api, "GET", &format!("/tasks/{counted}/logs"), "").await;
    assert!(log.text().contains("read 18 characters"), "{}", log.text());
    let task = end_of(&api, refused).await;
    assert_eq!(
        (&task["status"], &task["error"], &task["error_kind"]),
        (&json!("failed"), &json!("the input has no text"), &json!("permanent"))
    );
    let task = end_of(&api, slow).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("completed"), &json!(1)));

    // SIGTERM in the middle of a task: it is finished first, and the next one is left alone.
    let last = count(&api, json!({"text": "the last one", "seconds": 1})).await;
    let running = async {
        while send(&api, "GET", &format!("/tasks/{last}"), "").await.json()["status"] != "running" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TEST_DEADLINE, running).await.expect("it is begun");
    let pid = worker.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let ended = tokio::time::timeout(TEST_DEADLINE, worker.wait()).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(end_of(&api, last).await["status"], "completed");
    let left = count(&api, json!({"text": "nobody is here"})).await;
    let task = send(&api, "GET", &format!("/tasks/{left}"), "").await.json();
    assert_eq!(task["status"], "pending");
}
