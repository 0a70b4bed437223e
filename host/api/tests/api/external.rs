use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taskforge_broker::Broker;
use taskforge_domain::{Json, Next, TaskId, TaskType, Timestamp};
use taskforge_registry::ExternalType;
use taskforge_store::{Resolution, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Answer, Api, TEST_DEADLINE, now};

/// A server that also knows `ocr`, which has no plugin and a schema for its output.
async fn start() -> Api {
    let api = Api::start().await;
    let ocr = ExternalType {
        name: TaskType::new("ocr").unwrap(),
        summary: "Reads images".into(),
        input_schema: Json::from(json!({"type": "object", "required": ["image"]})),
        output_schema: Some(Json::from(json!({
            "type": "object", "required": ["text"], "properties": {"text": {"type": "string"}},
        }))),
    };
    api.catalog.set_external(vec![ocr]).unwrap();
    api
}

async fn ocr(api: &Api) -> TaskId {
    api.create(json!({"task_type": "ocr", "input": {"image": "scan.png"}})).await
}

/// Asks for one task and gets it.
async fn lease(api: &Api, task_type: &str) -> Value {
    let ask = json!({"task_types": [task_type], "wait": "20s", "worker": "gpu-7"});
    let answer = api.post("/task/next", &ask).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let tasks = answer.json()["tasks"].clone();
    assert_eq!(tasks.as_array().unwrap().len(), 1, "{tasks}");
    tasks[0].clone()
}

/// The body of `/complete_task` for a leased task.
fn ended(leased: &Value, mut how: Value) -> Value {
    how["task_id"] = leased["id"].clone();
    how["lease_token"] = leased["lease_token"].clone();
    how
}

async fn complete(api: &Api, leased: &Value, how: Value) -> Answer {
    api.post("/complete_task", &ended(leased, how)).await
}

async fn beat(api: &Api, leased: &Value) -> Answer {
    api.post("/task/heartbeat", &ended(leased, json!({}))).await
}

async fn read(api: &Api, leased: &Value) -> Value {
    api.get(&format!("/tasks/{}", leased["id"].as_str().unwrap())).await.json()
}

#[tokio::test]
async fn a_task_is_leased_renewed_and_completed() {
    let api = start().await;
    let id = ocr(&api).await;
    let path = format!("/tasks/{id}?wait=20s");
    let waiting = api.get(&path);
    let working = async {
        let leased = lease(&api, "ocr").await;
        assert_eq!(
            (&leased["id"], &leased["task_type"], &leased["input"]),
            (&json!(id.to_string()), &json!("ocr"), &json!({"image": "scan.png"}))
        );
        assert_eq!(
            (&leased["attempt"], &leased["max_attempts"], &leased["priority"]),
            (&json!(1), &json!(4), &json!(3))
        );
        assert_eq!(read(&api, &leased).await["status"], "running");
        let renewed = beat(&api, &leased).await.json();
        assert_eq!(renewed["cancelled"], false);
        assert!(renewed["lease_expires_at"].as_str() >= leased["lease_expires_at"].as_str());
        let logs = json!([{"message": "looked"}, {"level": "warn", "message": "blurred"}]);
        let how = json!({"output": {"text": "hello"}, "logs": logs});
        let done = complete(&api, &leased, how).await;
        assert_eq!(
            (done.status, done.json()),
            (200, json!({"task_id": id.to_string(), "status": "completed"}))
        );
    };
    let (task, ()) = tokio::join!(waiting, working);
    assert_eq!(
        (&task.json()["status"], &task.json()["result"]),
        (&json!("completed"), &json!({"text": "hello"})),
        "who waits for it is woken"
    );
    let history = api.get(&format!("/tasks/{id}/logs")).await;
    for word in ["plugin version external", "looked", "blurred"] {
        assert!(history.text().contains(word), "{word}: {}", history.text());
    }
}

#[tokio::test]
async fn a_failure_is_retried_or_is_a_dead_letter() {
    let api = start().await;
    ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    let failure = json!({"kind": "retryable", "message": "out of toner\u{0}", "retry_after": "1h"});
    let later = json!({"failure": failure});
    assert_eq!(complete(&api, &leased, later).await.json()["status"], "scheduled");
    let task = read(&api, &leased).await;
    assert_eq!(
        (&task["status"], &task["error_kind"], &task["error"]),
        (&json!("scheduled"), &json!("retryable"), &json!("out of toner\u{fffd}"))
    );
    let ahead: Timestamp = task["run_at"].as_str().unwrap().parse().unwrap();
    assert!(ahead > now().checked_add(Duration::from_secs(3_500)).unwrap());

    ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    let never = json!({"failure": {"kind": "permanent", "message": "no image"}, "output": null});
    assert_eq!(complete(&api, &leased, never).await.json()["status"], "failed");
    let dead = api.get("/dlq?task_type=ocr&error_kind=permanent").await.json();
    assert_eq!(dead["tasks"][0]["id"], leased["id"]);
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_changes_nothing() {
    let api = start().await;
    ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    let output = json!({"output": {"text": "first"}});
    let first = complete(&api, &leased, output.clone()).await;
    let task = read(&api, &leased).await;
    for repeat in [
        output,
        json!({"output": {"text": "second"}}),
        json!({"failure": {"kind": "permanent", "message": "no"}}),
    ] {
        let answer = complete(&api, &leased, repeat).await;
        assert_eq!((answer.status, answer.json()), (200, first.json()));
    }
    assert_eq!(read(&api, &leased).await, task);
    beat(&api, &leased).await.problem(409, "lease-lost");

    // Also after the task has gone on.
    ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    let failure = json!({"failure": {"kind": "retryable", "message": "again", "retry_after": 0}});
    assert_eq!(complete(&api, &leased, failure.clone()).await.json()["status"], "scheduled");
    let due = now().checked_add(Duration::from_secs(1)).unwrap();
    let promoted = api.store.promote_due(api.term().await, due, 10).await.unwrap();
    assert_eq!(promoted.len(), 1);
    api.complete(promoted[0].id).await;
    assert_eq!(complete(&api, &leased, failure).await.json()["status"], "scheduled");
    assert_eq!(read(&api, &leased).await["status"], "completed");
}

#[tokio::test]
async fn a_token_that_is_none_changes_nothing() {
    let api = start().await;
    ocr(&api).await;
    ocr(&api).await;
    let (mine, other) = (lease(&api, "ocr").await, lease(&api, "ocr").await);
    let before = read(&api, &mine).await;
    let token = mine["lease_token"].as_str().unwrap();
    let mut changed = token.to_owned();
    changed.replace_range(20..21, if &token[20..21] == "A" { "B" } else { "A" });
    let tokens = [
        other["lease_token"].as_str().unwrap(),
        &changed,
        &token[1..],
        "",
        "x",
        &"A".repeat(100_000),
        "🦀",
    ];
    for bad in tokens {
        let mut forged = mine.clone();
        forged["lease_token"] = json!(bad);
        beat(&api, &forged).await.problem(409, "lease-lost");
        let answer = complete(&api, &forged, json!({"output": {"text": "mine!"}})).await;
        answer.problem(409, "lease-lost");
    }
    let mut elsewhere = mine.clone();
    elsewhere["id"] = json!(TaskId::generate().to_string());
    beat(&api, &elsewhere).await.problem(409, "lease-lost");
    assert_eq!(read(&api, &mine).await, before);
    assert_eq!(beat(&api, &mine).await.status, 200, "and the lease still holds");
}

#[tokio::test]
async fn a_lease_that_has_run_out_is_over_although_nobody_has_swept() {
    let api = start().await;
    ocr(&api).await;
    let ask = json!({"task_types": ["ocr"], "wait": "20s", "lease": 1});
    let leased = api.post("/task/next", &ask).await.json()["tasks"][0].clone();
    let over: Timestamp = leased["lease_expires_at"].as_str().unwrap().parse().unwrap();
    let poll = async {
        while now() <= over {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TEST_DEADLINE, poll).await.expect("a second passes");
    complete(&api, &leased, json!({"output": {"text": "late"}})).await.problem(409, "lease-lost");
    beat(&api, &leased).await.problem(409, "lease-lost");
    assert_eq!(read(&api, &leased).await["result"], Value::Null);
}

#[tokio::test]
async fn after_a_lapse_the_next_holder_counts_and_the_first_does_not() {
    let api = start().await;
    let id = ocr(&api).await;
    let first = lease(&api, "ocr").await;
    // The sweeper comes by in an hour.
    let (term, later) = (api.term().await, now().checked_add(Duration::from_secs(3_700)).unwrap());
    let lapsed = api.store.lapsed(term, later, 10).await.unwrap();
    assert_eq!(lapsed.len(), 1);
    let resolution = Resolution {
        id,
        run_lease: lapsed[0].run_lease,
        next: Next::RetryAt(now()),
        detail: "lapsed".into(),
    };
    api.store.resolve_lapsed(Some(term), &[resolution], now()).await.unwrap();
    complete(&api, &first, json!({"output": {"text": "late"}})).await.problem(409, "lease-lost");
    let promoted = api.store.promote_due(term, later, 10).await.unwrap();
    let hints: Vec<_> = promoted
        .into_iter()
        .map(|task| taskforge_broker::QueuedTask { id: task.id, lane: task.lane })
        .collect();
    api.broker.push(&hints).await.unwrap();
    let second = lease(&api, "ocr").await;
    assert_eq!(second["attempt"], 1, "a lapse is no attempt");
    assert_eq!(read(&api, &second).await["lapses"], 1);
    complete(&api, &first, json!({"output": {"text": "late"}})).await.problem(409, "lease-lost");
    beat(&api, &first).await.problem(409, "lease-lost");
    assert_eq!(complete(&api, &second, json!({"output": {"text": "second"}})).await.status, 200);
    assert_eq!(read(&api, &second).await["result"], json!({"text": "second"}));
}

#[tokio::test]
async fn a_cancel_is_heard_at_the_next_heartbeat_and_stands() {
    let api = start().await;
    let id = ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    api.post_text(&format!("/tasks/{id}/cancel"), "").await;
    let heard = beat(&api, &leased).await;
    assert_eq!(
        (heard.status, heard.json()),
        (200, json!({"lease_expires_at": null, "cancelled": true}))
    );
    for _ in 0..2 {
        let done = complete(&api, &leased, json!({"output": {"text": "too late"}})).await;
        assert_eq!((done.status, &done.json()["status"]), (200, &json!("cancelled")));
    }
    let task = read(&api, &leased).await;
    assert_eq!((&task["status"], &task["result"]), (&json!("cancelled"), &Value::Null));
}

#[tokio::test]
async fn an_output_that_breaks_its_schema_is_refused_and_can_be_mended() {
    let api = start().await;
    ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    for (output, pointer) in [
        (json!({}), "/output/text"),
        (json!({"text": 7}), "/output/text"),
        (Value::Null, "/output"),
    ] {
        let answer = complete(&api, &leased, json!({"output": output})).await;
        assert_eq!(answer.pointers(), [pointer]);
    }
    assert_eq!(read(&api, &leased).await["status"], "running");
    assert_eq!(complete(&api, &leased, json!({"output": {"text": ""}})).await.status, 200);
    // A plugin's output is its author's affair, whoever made it.
    api.create(json!({"task_type": "echo"})).await;
    let leased = lease(&api, "echo").await;
    assert_eq!(complete(&api, &leased, json!({"output": null})).await.status, 200);
}

#[tokio::test]
async fn a_batch_is_the_most_urgent_of_the_types_asked_for() {
    let api = start().await;
    let mut ids = Vec::new();
    for priority in [1, 5, 3] {
        ids.push(api.create(json!({"task_type": "echo", "priority": priority})).await.to_string());
    }
    ocr(&api).await;
    let answer = api
        .post("/task/next", &json!({"task_types": ["echo", "echo"], "max": 2, "wait": "20s"}))
        .await;
    let tasks = answer.json()["tasks"].clone();
    let got: Vec<_> = tasks.as_array().unwrap().iter().map(|task| &task["id"]).collect();
    assert_eq!(got, [&json!(ids[1]), &json!(ids[2])]);
    // Each lease is its own.
    assert_ne!(tasks[0]["lease_token"], tasks[1]["lease_token"]);
    assert_eq!(complete(&api, &tasks[0], json!({"output": 1})).await.status, 200);
    assert_eq!(beat(&api, &tasks[1]).await.status, 200);
}

#[tokio::test]
async fn a_long_poll_gets_what_comes_and_ends_with_its_time_or_the_server() {
    let api = start().await;
    let nothing = json!({"tasks": []});
    for wait in [json!(0), json!("300ms"), Value::Null] {
        let answer = api.post("/task/next", &json!({"task_types": "echo", "wait": wait})).await;
        assert_eq!((answer.status, answer.json()), (200, nothing.clone()));
    }
    let (leased, id) = tokio::join!(lease(&api, "ocr"), async {
        assert_eq!(api.get("/healthz").await.status, 200);
        ocr(&api).await
    });
    assert_eq!(leased["id"], id.to_string());
    let begin = Instant::now();
    let ask = json!({"task_types": ["echo"], "wait": "60s"});
    let waiting = api.post("/task/next", &ask);
    let closing = async {
        assert_eq!(api.get("/healthz").await.status, 200);
        api.shutdown.cancel();
    };
    let (answer, ()) = tokio::join!(waiting, closing);
    assert_eq!((answer.status, answer.json()), (200, nothing));
    assert!(begin.elapsed() < Duration::from_secs(30), "it did not wait for its time");
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_waits_takes_nothing_with_it() {
    let api = start().await;
    let body = json!({"task_types": ["ocr"], "max": 100, "wait": "60s"}).to_string();
    let head = format!(
        "POST /task/next HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..5 {
        let mut gone = api.connect().await;
        gone.write_all(head.as_bytes()).await.unwrap();
        gone.shutdown().await.unwrap();
        // The server closes its side when it has noticed.
        let mut answer = Vec::new();
        let closed = gone.read_to_end(&mut answer);
        tokio::time::timeout(TEST_DEADLINE, closed).await.expect("it notices").ok();
        assert!(answer.is_empty());
    }
    let id = ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    assert_eq!((&leased["id"], &leased["attempt"]), (&json!(id.to_string()), &json!(1)));
}

#[tokio::test]
async fn logs_are_cut_where_a_plugins_would_be() {
    let api = start().await;
    let id = ocr(&api).await;
    let leased = lease(&api, "ocr").await;
    let lines: Vec<Value> = (0..100).map(|_| json!({"message": "é".repeat(1_000)})).collect();
    let how = json!({"output": {"text": ""}, "logs": lines});
    assert_eq!(complete(&api, &leased, how).await.status, 200);
    let history = api.get(&format!("/tasks/{id}/logs")).await;
    assert!(history.text().contains("log cut at 65536 bytes"), "{} bytes", history.body.len());
    assert!(history.body.len() < 100_000, "{} bytes", history.body.len());
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let api = start().await;
    let types: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    for (body, pointer) in [
        (json!([]), ""),
        (json!({}), "/task_types"),
        (json!({"task_types": []}), "/task_types"),
        (json!({"task_types": types}), "/task_types"),
        (json!({"task_types": ["nobody"]}), "/task_types"),
        (json!({"task_types": ["no type"]}), "/task_types"),
        (json!({"task_types": ["ocr"], "max": 0}), "/max"),
        (json!({"task_types": ["ocr"], "max": 101}), "/max"),
        (json!({"task_types": ["ocr"], "max": "all"}), "/max"),
        (json!({"task_types": ["ocr"], "lease": "999ms"}), "/lease"),
        (json!({"task_types": ["ocr"], "lease": 3_601}), "/lease"),
        (json!({"task_types": ["ocr"], "lease": -1}), "/lease"),
        (json!({"task_types": ["ocr"], "wait": "61s"}), "/wait"),
        (json!({"task_types": ["ocr"], "worker": "x".repeat(201)}), "/worker"),
        (json!({"task_types": ["ocr"], "worker": "a\u{0}b"}), "/worker"),
        (json!({"task_types": ["ocr"], "timeout": 5}), "/timeout"),
    ] {
        assert_eq!(api.post("/task/next", &body).await.pointers(), [pointer], "{body}");
    }
    let id = TaskId::generate().to_string();
    for (body, pointers) in [
        (json!({"output": 1}), vec!["/task_id", "/lease_token"]),
        (json!({"task_id": 7, "lease_token": 7, "output": 1}), vec!["/task_id", "/lease_token"]),
        (json!({"task_id": id, "lease_token": "x"}), vec![""]),
        (json!({"task_id": id, "lease_token": "x", "failure": null}), vec![""]),
        (
            json!({"task_id": id, "lease_token": "x", "output": 1, "failure": {"kind": "permanent", "message": ""}}),
            vec![""],
        ),
        (json!({"task_id": id, "lease_token": "x", "failure": "no"}), vec!["/failure"]),
        (
            json!({"task_id": id, "lease_token": "x", "failure": {}}),
            vec!["/failure/kind", "/failure/message"],
        ),
        (
            json!({"task_id": id, "lease_token": "x", "failure": {"kind": "trap", "message": "x"}}),
            vec!["/failure/kind"],
        ),
        (
            json!({"task_id": id, "lease_token": "x", "failure": {"kind": "permanent", "message": "x", "retry_after": 1}}),
            vec!["/failure/retry_after"],
        ),
        (
            json!({"task_id": id, "lease_token": "x", "failure": {"kind": "retryable", "message": "x", "retry_after": "8d"}}),
            vec!["/failure/retry_after"],
        ),
        (json!({"task_id": id, "lease_token": "x", "output": 1, "logs": "x"}), vec!["/logs"]),
        (
            json!({"task_id": id, "lease_token": "x", "output": 1, "logs": [{"message": "x"}, {"level": "loud", "text": "x"}]}),
            vec!["/logs/1/text", "/logs/1/level", "/logs/1/message"],
        ),
        (json!({"task_id": id, "lease_token": "x", "output": 1, "result": 1}), vec!["/result"]),
    ] {
        assert_eq!(api.post("/complete_task", &body).await.pointers(), pointers, "{body}");
    }
    let twice =
        format!(r#"{{"task_id": "{id}", "lease_token": "x", "output": {{"a": 1, "a": 2}}}}"#);
    assert_eq!(api.post_text("/complete_task", &twice).await.pointers(), ["/output"]);
    api.post_text("/task/next", "null").await.pointers();
    assert_eq!(
        api.post("/task/heartbeat", &json!({})).await.pointers(),
        ["/task_id", "/lease_token"]
    );
}

#[tokio::test]
async fn external_types_are_shown_and_enqueued_like_plugins() {
    let api = start().await;
    let list = api.get("/plugins").await.json();
    let kinds: Vec<_> = list["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| (&plugin["name"], &plugin["kind"]))
        .collect();
    let (component, external) = (json!("component"), json!("external"));
    assert_eq!(
        kinds,
        [
            (&json!("echo"), &component),
            (&json!("fibonacci"), &component),
            (&json!("ocr"), &external)
        ]
    );
    let ocr = api.get("/plugins/ocr").await.json();
    assert_eq!((&ocr["kind"], &ocr["summary"]), (&external, &json!("Reads images")));
    assert_eq!(ocr["input_schema"]["required"], json!(["image"]));
    let wrong = api.post("/tasks", &json!({"task_type": "ocr", "input": {}})).await;
    assert_eq!(wrong.pointers(), ["/input/image"]);
}
