use serde_json::{Value, json};
use taskforge_broker::Broker;
use taskforge_store::Store;

use crate::harness::{Api, TEST_DEADLINE};

#[tokio::test]
async fn ten_thousand_tasks_are_accepted_together() {
    let api = Api::start().await;
    let tasks: Vec<Value> =
        (0..10_000).map(|n| json!({"task_type": "fibonacci", "input": {"n": n}})).collect();
    let answer = api.post("/tasks/batch", &json!({"tasks": tasks})).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let ids = answer.json()["ids"].as_array().unwrap().clone();
    assert_eq!(ids.len(), 10_000);
    assert!(
        ids.is_sorted_by_key(|id| id.as_str().unwrap().to_owned()),
        "in the order of the tasks"
    );
    let last = api.get(&format!("/tasks/{}", ids[9_999].as_str().unwrap())).await.json();
    assert_eq!(last["input"]["n"], 9_999);
    let counted: u64 =
        api.store.counts().await.unwrap().by_type.iter().map(|(_, _, count)| count).sum();
    assert_eq!(counted, 10_000);
    let hinted = async {
        while api.broker.depth().await.unwrap() < 10_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_DEADLINE, hinted).await.expect("every task is hinted");
}

#[tokio::test]
async fn one_wrong_task_keeps_out_all_and_is_named_by_its_index() {
    let api = Api::start().await;
    let mut tasks: Vec<Value> =
        (0..100).map(|n| json!({"task_type": "fibonacci", "input": {"n": n}})).collect();
    tasks[17]["input"]["n"] = json!(-1);
    tasks[42] = json!({"task_type": "fibonaci"});
    tasks[99] = json!(3);
    let answer = api.post("/tasks/batch", &json!({"tasks": tasks})).await;
    assert_eq!(answer.pointers(), ["/tasks/17/input/n", "/tasks/42/task_type", "/tasks/99"]);
    assert_eq!(api.store.counts().await.unwrap().by_type, []);
}

#[tokio::test]
async fn a_batch_has_one_to_ten_thousand_tasks() {
    let api = Api::start().await;
    let many = vec![json!({"task_type": "echo"}); 10_001];
    for (body, pointers) in [
        (json!({"tasks": many}), vec!["/tasks"]),
        (json!({"tasks": []}), vec!["/tasks"]),
        (json!({"tasks": {}}), vec!["/tasks"]),
        (json!({}), vec!["/tasks"]),
        (json!({"tasks": [{"task_type": "echo"}], "task": 1}), vec!["/task"]),
        (json!([]), vec![""]),
    ] {
        let answer = api.post("/tasks/batch", &body).await;
        assert_eq!(answer.pointers(), pointers);
    }
    assert_eq!(api.store.counts().await.unwrap().by_type, []);
}

#[tokio::test]
async fn a_batch_of_errors_is_answered_with_the_first_few() {
    let api = Api::start().await;
    let tasks = vec![json!({"task_type": "fibonacci", "input": {"n": -1}}); 10_000];
    let answer = api.post("/tasks/batch", &json!({"tasks": tasks})).await;
    assert_eq!(answer.pointers().len(), 20);
}
