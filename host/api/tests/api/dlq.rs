use std::collections::BTreeSet;

use serde_json::{Value, json};
use taskforge_domain::{FailureKind, TaskId};

use crate::harness::{Api, id};

/// One dead letter of each sort: a refused connection twice (on different ports), a trap, and
/// another type's.
async fn some(api: &Api) -> [TaskId; 4] {
    let refused = |n| json!({"task_type": "fibonacci", "input": {"n": n}});
    let ids = [
        api.dead_letter(refused(1), FailureKind::Retryable, "connection to 10.0.0.1:8080 refused")
            .await,
        api.dead_letter(refused(2), FailureKind::Retryable, "connection to 10.0.0.2:9090 refused")
            .await,
        api.dead_letter(refused(3), FailureKind::Trap, "unreachable").await,
        api.dead_letter(json!({"task_type": "echo"}), FailureKind::Trap, "unreachable").await,
    ];
    // The hints of their first attempts, which nobody took.
    api.drain(&["fibonacci", "echo"], 4).await;
    ids
}

fn ids(tasks: &Value) -> BTreeSet<TaskId> {
    tasks["tasks"].as_array().unwrap().iter().map(id).collect()
}

fn requeued(answer: &Value) -> BTreeSet<TaskId> {
    let ids = answer["ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().parse().unwrap()).collect()
}

async fn status(api: &Api, id: TaskId) -> String {
    let task = api.get(&format!("/tasks/{id}")).await.json();
    task["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_errors_and_filtered() {
    let api = Api::start().await;
    let began = api.create(json!({"task_type": "echo"})).await;
    api.complete(began).await;
    api.drain(&["echo"], 1).await;
    let [a, b, c, d] = some(&api).await;
    let all = api.get("/dlq").await.json();
    assert_eq!(ids(&all), BTreeSet::from([a, b, c, d]), "and nothing that has not failed");
    assert_eq!(all["next_cursor"], Value::Null);
    let newest = &all["tasks"][0];
    assert_eq!(
        (&newest["error"], &newest["error_kind"], &newest["status"]),
        (&json!("unreachable"), &json!("trap"), &json!("failed"))
    );
    let group = all["tasks"][3]["error_group"].as_str().unwrap();
    let failed_at = all["tasks"][1]["finished_at"].as_str().unwrap();
    for (query, expected) in [
        ("task_type=fibonacci".to_owned(), vec![a, b, c]),
        ("task_type=fibonacci&error_kind=trap".to_owned(), vec![c]),
        ("error_kind=retryable,trap".to_owned(), vec![a, b, c, d]),
        (format!("group={group}"), vec![a, b]),
        (format!("id={a},{d}"), vec![a, d]),
        (format!("failed_from={failed_at}"), vec![c, d]),
        (format!("failed_before={failed_at}"), vec![a, b]),
        ("group=0000000000000000".to_owned(), vec![]),
    ] {
        let found = api.get(&format!("/dlq?{query}")).await.json();
        assert_eq!(ids(&found), BTreeSet::from_iter(expected), "{query}");
    }
    let first = api.get("/dlq?limit=3").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = api.get(&format!("/dlq?limit=3&cursor={cursor}")).await.json();
    assert_eq!(ids(&second), BTreeSet::from([a]));
}

#[tokio::test]
async fn the_same_sort_of_error_is_one_group() {
    let api = Api::start().await;
    let [_, b, c, d] = some(&api).await;
    let groups = api.get("/dlq/groups").await.json();
    let groups = groups["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 3, "{groups:#?}");
    let largest = &groups[0];
    assert_eq!(
        (&largest["count"], &largest["task_type"], &largest["error_kind"]),
        (&json!(2), &json!("fibonacci"), &json!("retryable"))
    );
    assert_eq!(largest["newest"], b.to_string());
    assert!(largest["example"].as_str().unwrap().ends_with("refused"));
    assert!(largest["first_failed_at"].as_str() <= largest["last_failed_at"].as_str());
    let newest: BTreeSet<&str> =
        groups[1..].iter().map(|group| group["newest"].as_str().unwrap()).collect();
    assert_eq!(newest, BTreeSet::from([c.to_string().as_str(), d.to_string().as_str()]));
    assert_eq!(groups[1]["group"], groups[2]["group"], "one fingerprint, two types");
    let echo = api.get("/dlq/groups?task_type=echo").await.json();
    assert_eq!(echo["groups"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("/dlq/groups?limit=1").await.json()["groups"][0], *largest);
}

#[tokio::test]
async fn each_way_of_choosing_moves_those_and_no_others() {
    let api = Api::start().await;
    let [a, b, c, d] = some(&api).await;
    let group = api.get(&format!("/tasks/{c}")).await.json()["error_group"].clone();
    let all_types = ["fibonacci", "echo"];
    for (body, expected) in [
        (json!({"ids": ([a, TaskId::generate()].map(|id| id.to_string()))}), vec![a]),
        (json!({"group": group, "task_type": "echo"}), vec![d]),
        (json!({"filter": {"error_kind": "retryable", "task_type": ["fibonacci"]}}), vec![b]),
        (json!({"all": true}), vec![c]),
    ] {
        let answer = api.post("/dlq/requeue", &body).await;
        let expected = BTreeSet::from_iter(expected);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(requeued(&answer.json()), expected, "{body}");
        assert_eq!(
            (&answer.json()["requeued"], &answer.json()["more"]),
            (&json!(expected.len()), &json!(false))
        );
        let hinted = api.drain(&all_types, expected.len()).await;
        assert_eq!(BTreeSet::from_iter(hinted), expected, "workers are told");
    }
    for id in [a, b, c, d] {
        assert_eq!(status(&api, id).await, "pending");
    }
    let again = api.post("/dlq/requeue", &json!({"all": true})).await.json();
    assert_eq!(again, json!({"requeued": 0, "ids": [], "more": false}));
}

#[tokio::test]
async fn an_edited_input_is_checked_first() {
    let api = Api::start().await;
    let [a, b, _, d] = some(&api).await;
    let ids = json!([a, b].map(|id| id.to_string()));
    let wrong = api.post("/dlq/requeue", &json!({"ids": ids, "input": {"n": -1}})).await;
    assert_eq!(wrong.pointers(), ["/input/n"]);
    let mixed = json!([a, d].map(|id| id.to_string()));
    let several = api.post("/dlq/requeue", &json!({"ids": mixed, "input": {"n": 1}})).await;
    assert_eq!(several.pointers(), ["/input"]);
    assert!(several.text().contains("echo and fibonacci"), "{}", several.text());
    let all = api.post("/dlq/requeue", &json!({"all": true, "input": {"n": 1}})).await;
    assert_eq!(all.pointers(), ["/input"]);
    for id in [a, b, d] {
        assert_eq!(status(&api, id).await, "failed", "nothing has moved");
    }
    let right = api.post("/dlq/requeue", &json!({"ids": ids, "input": {"n": 7}})).await;
    assert_eq!((right.status, &right.json()["requeued"]), (200, &json!(2)), "{}", right.text());
    for id in [a, b] {
        assert_eq!(api.get(&format!("/tasks/{id}")).await.json()["input"], json!({"n": 7}));
    }
    let only_type = json!({"filter": {"task_type": "echo"}, "input": [1]});
    assert_eq!(api.post("/dlq/requeue", &only_type).await.json()["requeued"], 1);
    let gone = json!({"filter": {"task_type": "unloaded"}, "input": 1});
    assert_eq!(api.post("/dlq/requeue", &gone).await.pointers(), ["/input"]);
}

#[tokio::test]
async fn thousands_move_page_by_page() {
    let api = Api::start().await;
    api.dead_letters(2_500).await;
    let answer = api.post("/dlq/requeue", &json!({"filter": {"task_type": "echo"}})).await.json();
    assert_eq!((&answer["requeued"], &answer["more"]), (&json!(2_500), &json!(false)));
    assert_eq!(requeued(&answer).len(), 1_000, "the answer stays small");
    api.drain(&["echo"], 2_500).await;
}

#[tokio::test]
async fn dead_letters_are_deleted_only_if_that_is_meant() {
    let api = Api::start().await;
    let [a, b, c, d] = some(&api).await;
    let waiting = api.fibonacci().await;
    for query in [
        "",
        "?all=yes",
        "?all=false",
        "?all=true&task_type=echo",
        "?task_type=",
        "?error_kind=bad",
        "?group=7",
        "?status=pending",
        "?failed_before=yesterday",
    ] {
        api.delete(&format!("/dlq{query}")).await.problem(400, "invalid-parameter");
    }
    assert_eq!(ids(&api.get("/dlq").await.json()).len(), 4);
    let some = api.delete(&format!("/dlq?id={a}")).await.json();
    assert_eq!(some, json!({"deleted": 1, "more": false}));
    let trap = api.delete("/dlq?error_kind=trap&task_type=echo").await.json();
    assert_eq!(trap["deleted"], 1);
    assert_eq!(ids(&api.get("/dlq").await.json()), BTreeSet::from([b, c]));
    for gone in [a, d] {
        api.get(&format!("/tasks/{gone}")).await.problem(404, "not-found");
    }
    api.dead_letters(1_200).await;
    assert_eq!(api.delete("/dlq?all=true").await.json(), json!({"deleted": 1_202, "more": false}));
    assert_eq!(status(&api, waiting).await, "pending", "only dead letters went");
}

#[tokio::test]
async fn a_requeue_that_is_not_clear_moves_nothing() {
    let api = Api::start().await;
    let [a, ..] = some(&api).await;
    let many: Vec<String> = (0..1_001).map(|_| TaskId::generate().to_string()).collect();
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"all": true, "ids": [a.to_string()]}), ""),
        (json!({"all": false}), "/all"),
        (json!({"ids": []}), "/ids"),
        (json!({"ids": ["1"]}), "/ids"),
        (json!({"ids": many}), "/ids"),
        (json!({"group": "unreachable"}), "/group"),
        (json!({"filter": {}}), "/filter"),
        (json!({"filter": {"status": "failed"}}), "/filter/status"),
        (json!({"filter": {"failed_from": "now"}}), "/filter/failed_from"),
        (json!({"filter": {"error_kind": ["trap", "bad"]}}), "/filter/error_kind"),
        (json!({"all": true, "task_type": "echo"}), "/task_type"),
        (json!({"everything": true, "all": true}), "/everything"),
    ] {
        assert_eq!(api.post("/dlq/requeue", &body).await.pointers(), [pointer], "{body}");
    }
    let twice = r#"{"all": true, "input": {"n": 1, "n": 2}}"#;
    assert_eq!(api.post_text("/dlq/requeue", twice).await.pointers(), ["/input"]);
    api.post_text("/dlq/requeue", "").await.problem(400, "malformed-body");
    for path in [
        "/dlq?limit=0",
        "/dlq?cursor=x",
        "/dlq?status=failed",
        "/dlq/groups?limit=1001",
        "/dlq/groups?cursor=x",
    ] {
        api.get(path).await.problem(400, "invalid-parameter");
    }
    assert_eq!(ids(&api.get("/dlq").await.json()).len(), 4);
}
