//! Plugins paused and retired, and who can enqueue their tasks.

use serde_json::json;
use taskforge_store::Store as _;
use taskforge_testing::guests;

use super::{post, push_command};
use crate::harness::Api;

#[tokio::test]
async fn a_pause_of_a_plugin_and_one_of_its_queue_are_the_same() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let seen = async || {
        let queues = api.get("/queues").await.json();
        let mut queues = queues["queues"].as_array().unwrap().iter();
        let queue = queues.find(|queue| queue["task_type"] == "shaped").unwrap()["paused"].clone();
        let plugin = api.get("/plugins/shaped").await.json();
        let list = api.get("/plugins").await.json();
        let mut plugins = list["plugins"].as_array().unwrap().iter();
        let listed = plugins.find(|plugin| plugin["name"] == "shaped").unwrap()["paused"].clone();
        [queue, plugin["paused"].clone(), plugin["rollout"]["paused"].clone(), listed]
    };
    for pausing in ["queues", "plugins"] {
        for resuming in ["queues", "plugins"] {
            let paused = post(&api, &format!("/{pausing}/shaped/pause"), json!({})).await;
            assert_eq!(
                (&paused["paused"], seen().await),
                (&json!(true), [(); 4].map(|()| json!(true)))
            );
            let resumed = post(&api, &format!("/{resuming}/shaped/resume"), json!({})).await;
            assert_eq!(resumed["paused"], false, "{pausing} {resuming}");
            assert_eq!(seen().await, [(); 4].map(|()| json!(false)), "{pausing} {resuming}");
            let policy = api.store.policy().await.unwrap();
            assert!(policy.types.is_empty(), "{policy:?}");
        }
    }
}

#[tokio::test]
async fn who_can_enqueue_tasks_of_a_plugin_is_told() {
    let api = Api::start().await;
    let of = |owner: &'static str, name: &'static str| {
        [("tenant", owner), ("name", name), ("version", "1.0.0"), ("activate", "true")]
    };
    let accepted = async |name: &str| {
        let plugin = api.get(&format!("/plugins/{name}")).await.json();
        assert_eq!(plugin["accepts_tasks"], plugin["rollout"]["accepts_tasks"]);
        let task = api.post("/tasks", &json!({ "task_type": name })).await;
        assert_eq!(task.status == 201, plugin["accepts_tasks"] == true, "{plugin}");
        plugin["accepts_tasks"] == true
    };
    for (owner, name) in [("acme", "theirs"), ("default", "ours")] {
        let pushed = api.push(&of(owner, name), &guests::bytes("command")).await;
        assert_eq!(pushed.status, 201, "{pushed:?}");
        assert_eq!(accepted(name).await, owner == "default", "{name}");
    }
    post(&api, "/plugins/ours/retire", json!({})).await;
    assert!(!accepted("ours").await, "it is retired");
}

#[tokio::test]
async fn a_paused_plugin_takes_tasks_and_a_retired_one_says_that_it_is() {
    let api = Api::start().await;
    push_command(&api, "1.0.0", json!({})).await;
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    let task = json!({"task_type": "shaped"});
    assert_eq!(post(&api, "/plugins/shaped/pause", json!({})).await["paused"], true);
    assert_eq!(api.post("/tasks", &task).await.status, 201);
    assert_eq!(post(&api, "/plugins/shaped/resume", json!({})).await["paused"], false);
    let running = api.post("/plugins/shaped/retire", &json!({"version": "1.0.0"})).await;
    running.problem(409, "plugin-conflict");
    // Without any body it is the whole plugin.
    let retired = api.send("POST", "/plugins/shaped/retire", &[], b"").await;
    assert_eq!((retired.status, &retired.json()["retired"]), (200, &json!(true)));
    let refused = api.post("/tasks", &task).await.problem(422, "validation");
    assert_eq!(
        refused["errors"][0],
        json!({"pointer": "/task_type", "detail": "plugin shaped is retired"})
    );
    post(&api, "/plugins/shaped/activate", json!({"version": "1.0.0"})).await;
    assert_eq!(api.post("/tasks", &task).await.status, 201);
    push_command(&api, "2.0.0", json!({})).await;
    post(&api, "/plugins/shaped/retire", json!({"version": "2.0.0"})).await;
    let never = json!({"version": "2.0.0"});
    api.post("/plugins/shaped/activate", &never).await.problem(409, "plugin-conflict");
    let versions = api.get("/plugins/shaped/versions").await.json();
    let states: Vec<_> =
        versions["versions"].as_array().unwrap().iter().map(|version| &version["state"]).collect();
    assert_eq!(states, ["retired", "available"]);
}
