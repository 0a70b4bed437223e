use serde_json::json;
use taskforge_broker::{Broker, Signal};
use taskforge_domain::{FailureKind, TaskType, TenantId, Timestamp, TypePolicy};
use taskforge_store::{RegistrySnapshot, Store};

use crate::harness::{Api, TEST_DEADLINE};

#[tokio::test]
async fn a_queue_is_set_paused_and_resumed_and_the_fleet_is_told_each_time() {
    let api = Api::start().await;
    let mut signals = api.broker.subscribe();
    let fibonacci = TaskType::new("fibonacci").unwrap();
    let set = api.put("/queues/fibonacci", &json!({"max_running": 20})).await;
    let queue = json!({"task_type": "fibonacci", "paused": false, "max_running": 20});
    assert_eq!((set.status, set.json()), (200, queue));
    for (action, paused) in [("pause", true), ("pause", true), ("resume", false)] {
        let answer = api.post_text(&format!("/queues/fibonacci/{action}"), "").await;
        let queue = json!({"task_type": "fibonacci", "paused": paused, "max_running": 20});
        assert_eq!((answer.status, answer.json()), (200, queue), "{action} keeps the cap");
        assert_eq!(api.store.policy().await.unwrap().is_paused(&fibonacci), paused);
    }
    for _ in 0..4 {
        let signal = tokio::time::timeout(TEST_DEADLINE, signals.recv()).await.expect("a signal");
        assert_eq!(signal.unwrap(), Signal::Policy);
    }
    api.put("/queues/fibonacci", &json!({})).await;
    assert!(api.store.policy().await.unwrap().types.is_empty(), "the default is forgotten");
}

#[tokio::test]
async fn a_tenants_share_is_set_and_listed() {
    let api = Api::start().await;
    let before = json!({"tenants": [{"tenant": "default", "weight": 1, "max_running": null}]});
    assert_eq!(api.get("/tenants").await.json(), before);
    let set = api.put("/tenants/acme", &json!({"weight": 1000, "max_running": 0})).await;
    assert_eq!(set.json(), json!({"tenant": "acme", "weight": 1000, "max_running": 0}));
    let acme = TenantId::new("acme").unwrap();
    let policy = api.store.policy().await.unwrap();
    assert_eq!((policy.weight(&acme).get(), policy.tenant_cap(&acme)), (1000, Some(0)));
    let tenants = api.get("/tenants").await.json();
    assert_eq!(tenants["tenants"][0]["tenant"], "acme");
    assert_eq!(tenants["tenants"][1], before["tenants"][0]);
}

#[tokio::test]
async fn the_list_shows_every_known_type_and_every_policy() {
    let api = Api::start().await;
    let paused = TypePolicy { paused: true, ..TypePolicy::default() };
    let gone = TaskType::new("not-loaded-any-more").unwrap();
    api.store.set_type_policy(&gone, paused).await.unwrap();
    api.put("/tenants/default", &json!({"weight": 5})).await;
    let list = api.get("/queues").await.json();
    let none =
        json!({"pending": 0, "scheduled": 0, "running": 0, "failed": 0, "oldest_pending_at": null});
    let expected = json!({
        "queues": [
            {"task_type": "echo", "paused": false, "max_running": null, "tasks": none},
            {"task_type": "fibonacci", "paused": false, "max_running": null, "tasks": none},
            {"task_type": "not-loaded-any-more", "paused": true, "max_running": null, "tasks": none},
        ],
        "tenants": [{"tenant": "default", "weight": 5, "max_running": null}],
    });
    assert_eq!(list, expected);
}

#[tokio::test]
async fn the_list_says_how_many_tasks_there_are_and_how_old_the_oldest_is() {
    let api = Api::start().await;
    let first = api.fibonacci().await;
    api.fibonacci().await;
    let running = api.fibonacci().await;
    api.claim(running).await;
    api.create(json!({"task_type": "fibonacci", "input": {"n": 1}, "delay": "1h"})).await;
    let dead = json!({"task_type": "echo", "max_retries": 0});
    api.dead_letter(dead, FailureKind::Trap, "boom").await;
    let list = api.get("/queues").await.json();
    let tasks = |place: usize| list["queues"][place]["tasks"].clone();
    let oldest = tasks(1)["oldest_pending_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(oldest, first.made_at().unwrap(), "the one that was enqueued first");
    let task = api.get(&format!("/tasks/{first}")).await.json();
    let created: Timestamp = task["created_at"].as_str().unwrap().parse().unwrap();
    assert!(created.duration_since(oldest).abs().as_secs() < 5, "{created} {oldest}");
    let numbers = |tasks: &serde_json::Value| {
        ["pending", "scheduled", "running", "failed"].map(|state| tasks[state].as_u64().unwrap())
    };
    assert_eq!(numbers(&tasks(1)), [2, 1, 1, 0], "{list}");
    assert_eq!((numbers(&tasks(0)), &tasks(0)["oldest_pending_at"]), ([0, 0, 0, 1], &json!(null)));
}

#[tokio::test]
async fn a_type_that_does_not_exist_has_no_queue() {
    let api = Api::start().await;
    for (method, path) in
        [("POST", "/queues/nope/pause"), ("POST", "/queues/nope/resume"), ("PUT", "/queues/nope")]
    {
        let json = [("content-type", "application/json")];
        let body: &[u8] = if method == "PUT" { b"{}" } else { b"" };
        let refused = api.send(method, path, &json, body).await.problem(404, "not-found");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("nope") && detail.contains("fibonacci"), "{detail}");
    }
    assert!(api.store.policy().await.unwrap().types.is_empty());
    // Tasks of a type that was there before are something to pause.
    api.create(json!({"task_type": "echo"})).await;
    api.catalog.set_plugins(RegistrySnapshot::default());
    assert_eq!(api.post_text("/queues/echo/pause", "").await.status, 200);
}

#[tokio::test]
async fn a_policy_that_is_none_changes_nothing() {
    let api = Api::start().await;
    for (body, pointer) in [
        (json!([]), ""),
        (json!({"paused": 1}), "/paused"),
        (json!({"paused": "true"}), "/paused"),
        (json!({"max_running": -1}), "/max_running"),
        (json!({"max_running": 1.5}), "/max_running"),
        (json!({"max_running": 1_000_001}), "/max_running"),
        (json!({"weight": 3}), "/weight"),
        (json!({"pause": true}), "/pause"),
    ] {
        assert_eq!(api.put("/queues/echo", &body).await.pointers(), [pointer], "{body}");
    }
    for (body, pointer) in [
        (json!({"weight": 0}), "/weight"),
        (json!({"weight": 1001}), "/weight"),
        (json!({"weight": "heavy"}), "/weight"),
        (json!({"paused": true}), "/paused"),
    ] {
        assert_eq!(api.put("/tenants/acme", &body).await.pointers(), [pointer], "{body}");
    }
    for (method, path) in [
        ("PUT", "/queues/no%20type"),
        ("POST", "/queues/no%20type/pause"),
        ("PUT", "/tenants/UPPER"),
        ("GET", "/queues?x=1"),
        ("POST", "/queues/echo/pause?for=1h"),
    ] {
        let json = [("content-type", "application/json")];
        let answer = api.send(method, path, &json, b"{}").await;
        answer.problem(400, "invalid-parameter");
    }
    let policy = api.store.policy().await.unwrap();
    assert!(policy.types.is_empty() && policy.tenants.is_empty(), "{policy:?}");
}
