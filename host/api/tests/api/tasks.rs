use std::collections::BTreeSet;

use serde_json::{Value, json};
use taskforge_broker::{Broker, Signal};
use taskforge_domain::{Failure, FailureKind, Next, Outcome};

use crate::harness::{Api, TEST_DEADLINE, id, now};

#[tokio::test]
async fn an_accepted_task_can_be_read_back_as_it_was_answered() {
    let api = Api::start().await;
    let answer = api
        .post("/tasks", &json!({"task_type": "fibonacci", "input": {"n": 10}, "priority": 4}))
        .await;
    assert_eq!(answer.status, 201);
    let task = answer.json();
    assert_eq!(answer.header("location"), format!("/tasks/{}", task["id"].as_str().unwrap()));
    assert_eq!(answer.header("content-type"), "application/json");
    let read = api.get(answer.header("location")).await;
    assert_eq!((read.status, read.json()), (200, task.clone()));
    let fields: BTreeSet<&str> = task.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "attempt",
        "created_at",
        "error",
        "error_group",
        "error_kind",
        "finished_at",
        "id",
        "input",
        "max_retries",
        "priority",
        "progress",
        "result",
        "retry_count",
        "lapses",
        "run_at",
        "started_at",
        "status",
        "task_type",
    ];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(
        (&task["status"], &task["priority"], &task["max_retries"]),
        (&json!("pending"), &json!(4), &json!(3))
    );
    assert_eq!(task["input"], json!({"n": 10}));
}

#[tokio::test]
async fn a_completed_task_shows_its_result() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    api.complete(id).await;
    let task = api.get(&format!("/tasks/{id}")).await.json();
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &json!({"result": 55})));
    assert_eq!(
        (&task["error"], &task["attempt"], &task["retry_count"]),
        (&Value::Null, &json!(1), &json!(0))
    );
    assert!(task["started_at"].is_string() && task["finished_at"].is_string());
}

#[tokio::test]
async fn the_old_names_of_input_and_the_trailing_slash_still_work() {
    let api = Api::start().await;
    for body in [
        json!({"task_type": "fibonacci", "input_data": {"n": 10}, "priority": 4}),
        json!({"task_type": "fibonacci", "payload": {"n": 10}}),
    ] {
        let answer = api.post("/tasks/", &body).await;
        assert_eq!((answer.status, &answer.json()["input"]), (201, &json!({"n": 10})));
    }
    assert_eq!(api.get("/tasks/").await.json()["tasks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_input_is_kept_to_the_letter() {
    let api = Api::start().await;
    let input =
        r#"{"z":123456789012345678901234567890,"a" : 1.000, "e":1E+2,"s":"\u00e9\u0000\/"}"#;
    let answer =
        api.post_text("/tasks", &format!(r#"{{"task_type":"echo","input":{input}}}"#)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.text().contains(input));
    let read = api.get(answer.header("location")).await;
    assert!(read.text().contains(input), "{}", read.text());
}

#[tokio::test]
async fn an_input_that_is_left_out_is_an_empty_object() {
    let api = Api::start().await;
    let answer = api.post("/tasks", &json!({"task_type": "echo"})).await;
    assert_eq!((answer.status, &answer.json()["input"]), (201, &json!({})));
    let answer = api.post("/tasks", &json!({"task_type": "echo", "input": null})).await;
    assert_eq!((answer.status, &answer.json()["input"]), (201, &json!(null)));
}

#[tokio::test]
async fn a_task_for_now_is_hinted_and_a_task_for_later_is_not() {
    let api = Api::start().await;
    let later = api.post("/tasks", &json!({"task_type": "echo", "delay": "1h"})).await.json();
    let past = api.create(json!({"task_type": "echo", "run_at": "2001-01-01T00:00:00Z"})).await;
    let at_time = api
        .post("/tasks", &json!({"task_type": "echo", "run_at": "2100-01-01T00:00:00+02:00"}))
        .await;
    assert_eq!(
        (&later["status"], at_time.status),
        (&json!("scheduled"), 422),
        "more than 10 years ahead"
    );
    assert_eq!(api.hints(&["echo"]).await, [past]);
    assert_eq!(api.broker.depth().await.unwrap(), 0);
    let seconds = api.post("/tasks", &json!({"task_type": "echo", "delay": 90.5})).await.json();
    let time = |field: &str| {
        seconds[field].as_str().unwrap().parse::<taskforge_domain::Timestamp>().unwrap()
    };
    assert_eq!(time("run_at").duration_since(time("created_at")).as_millis(), 90_500);
}

#[tokio::test]
async fn a_waiting_task_can_be_cancelled_and_run_again() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let cancelled = api.post_text(&format!("/tasks/{id}/cancel"), "").await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["status"]),
        (200, &json!("cancelled")),
        "{cancelled:?}"
    );
    let again = api.post_text(&format!("/tasks/{id}/cancel"), "").await;
    assert_eq!(again.status, 200, "a repeated cancel is no error");
    let retried = api.post_text(&format!("/tasks/{id}/retry"), "").await;
    assert_eq!((retried.status, &retried.json()["status"]), (200, &json!("pending")));
    api.complete(id).await;
    for action in ["cancel", "retry"] {
        let conflict = api
            .post_text(&format!("/tasks/{id}/{action}"), "")
            .await
            .problem(409, "state-conflict");
        assert!(conflict["detail"].as_str().unwrap().contains("is completed"), "{conflict}");
    }
}

#[tokio::test]
async fn cancelling_a_running_task_tells_its_worker_and_whoever_waits() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    api.claim(id).await;
    let mut signals = api.broker.subscribe();
    assert_eq!(api.post_text(&format!("/tasks/{id}/cancel"), "").await.status, 200);
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push(tokio::time::timeout(TEST_DEADLINE, signals.recv()).await.unwrap().unwrap());
    }
    assert_eq!(heard, [Signal::Cancel(id), Signal::Finished(id)]);
}

#[tokio::test]
async fn a_retried_dead_letter_is_hinted_again() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let (worker, task) = api.claim(id).await;
    let failure = Failure::new(FailureKind::Permanent, "no such number");
    api.end(worker, &task, Outcome::Failed(failure), Next::DeadLetter).await;
    let failed = api.get(&format!("/tasks/{id}")).await.json();
    assert_eq!(
        (&failed["error"], &failed["error_kind"]),
        (&json!("no such number"), &json!("permanent"))
    );
    // The hint of the first attempt, which the test's worker did not take.
    assert_eq!(api.hints(&["fibonacci"]).await, [id]);
    assert_eq!(api.post_text(&format!("/tasks/{id}/retry"), "").await.status, 200);
    assert_eq!(api.hints(&["fibonacci"]).await, [id]);
}

#[tokio::test]
async fn lists_page_newest_first_without_gaps_or_repeats() {
    let api = Api::start().await;
    let tasks: Vec<Value> =
        (0..25).map(|n| json!({"task_type": "fibonacci", "input": {"n": n}})).collect();
    let ids = api.post("/tasks/batch", &json!({"tasks": tasks})).await.json()["ids"].clone();
    let mut expected: Vec<Value> = ids.as_array().unwrap().clone();
    expected.reverse();
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = api.get(&format!("/tasks?limit=10{cursor}")).await.json();
        seen.extend(page["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()));
        pages += 1;
        // A task that comes in meanwhile does not shift the pages.
        api.fibonacci().await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((seen, pages), (expected, 3));
    assert_eq!(
        api.get("/tasks?limit=25&status=pending").await.json()["tasks"].as_array().unwrap().len(),
        25
    );
}

#[tokio::test]
async fn lists_filter_by_state_type_time_and_kind_of_failure() {
    let api = Api::start().await;
    let (first, echo) =
        (api.fibonacci().await, api.create(json!({"task_type": "echo", "delay": "1h"})).await);
    api.complete(first).await;
    let between = now();
    let failed = api.fibonacci().await;
    let (worker, task) = api.claim(failed).await;
    api.end(worker, &task, Outcome::Failed(Failure::new(FailureKind::Trap, "x")), Next::DeadLetter)
        .await;
    let pending = api.fibonacci().await;
    for (query, expected) in [
        ("", vec![pending, failed, echo, first]),
        ("?status=completed", vec![first]),
        ("?status=completed,failed", vec![failed, first]),
        ("?status=completed&status=SCHEDULED", vec![echo, first]),
        ("?task_type=echo", vec![echo]),
        ("?task_type=echo,fibonacci&status=pending", vec![pending]),
        ("?error_kind=trap", vec![failed]),
        ("?error_kind=deadline", vec![]),
        (&*format!("?created_from={between}"), vec![pending, failed]),
        (&*format!("?created_before={between}&limit=1"), vec![echo]),
    ] {
        let page = api.get(&format!("/tasks{query}")).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        let ids: Vec<_> = page.json()["tasks"].as_array().unwrap().iter().map(id).collect();
        assert_eq!(ids, expected, "{query}");
    }
}

#[tokio::test]
async fn a_page_of_large_tasks_ends_early_and_the_next_goes_on() {
    let api = Api::start().await;
    let text = "x".repeat(3 << 20);
    for _ in 0..8 {
        api.create(json!({"task_type": "echo", "input": text})).await;
    }
    let (mut seen, mut cursor, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let answer = api.get(&format!("/tasks?limit=1000{cursor}")).await;
        assert!(answer.body.len() < 60 << 20, "{}", answer.body.len());
        let page = answer.json();
        let before = seen.len();
        seen.extend(page["tasks"].as_array().unwrap().iter().map(id));
        assert!(seen.len() > before);
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 8);
    assert!(pages >= 1);
}

#[tokio::test]
async fn prune_deletes_the_oldest_that_have_ended_and_nothing_else() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(api.fibonacci().await);
    }
    for id in &ids[..3] {
        api.complete(*id).await;
    }
    let answer = api.delete("/tasks?first=2").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"deleted": 2})));
    assert_eq!(api.delete("/tasks?first=100&status=failed").await.json(), json!({"deleted": 0}));
    assert_eq!(api.delete("/tasks?first=100").await.json(), json!({"deleted": 1}));
    let left = api.get("/tasks").await.json();
    assert_eq!(left["tasks"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [ids[3]]);
    let problem =
        api.delete("/tasks?first=1&status=pending").await.problem(400, "invalid-parameter");
    assert_eq!(problem["errors"][0]["parameter"], "status");
    let problem = api.delete("/tasks").await.problem(400, "invalid-parameter");
    assert_eq!(problem["errors"][0]["parameter"], "first");
}

#[tokio::test]
async fn plugins_are_listed_with_what_they_may_do() {
    let api = Api::start().await;
    let list = api.get("/plugins").await.json();
    let names: Vec<&str> =
        list["plugins"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "fibonacci"]);
    let one = api.get("/plugins/fibonacci").await.json();
    assert_eq!(one["input_schema"]["properties"]["n"]["maximum"], 1_000_000);
    assert_eq!(
        (&one["limits"]["deadline"], &one["grants"]["mail"]),
        (&json!("30s"), &json!(false))
    );
    api.get("/plugins/nobody").await.problem(404, "not-found");
}

#[tokio::test]
async fn tasks_are_found_by_the_beginning_of_their_id() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(api.fibonacci().await.to_string());
    }
    let found = async |query: &str| -> Vec<String> {
        let list = api.get(&format!("/tasks?{query}")).await.json();
        let tasks = list["tasks"].as_array().unwrap().iter();
        tasks.map(|task| task["id"].as_str().unwrap().to_owned()).collect()
    };
    for id in &ids {
        // The last digits are random: one fewer is still enough for one of five.
        for prefix in [id.clone(), id.to_uppercase(), id.replace('-', ""), id[..30].to_owned()] {
            assert_eq!(
                found(&format!("id_prefix={prefix}&limit=2")).await,
                [id.as_str()],
                "{prefix}"
            );
        }
    }
    let newest: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(found(&format!("id_prefix={}", &ids[0][..1])).await, newest);
    let page = api.get(&format!("/tasks?id_prefix={}&limit=2", &ids[0][..1])).await.json();
    let rest =
        found(&format!("id_prefix=0&limit=10&cursor={}", page["next_cursor"].as_str().unwrap()))
            .await;
    assert_eq!(rest, newest[2..]);
    let (below, above) = ("0", "f");
    assert_eq!(found(&format!("id_prefix={above}")).await, [""; 0]);
    assert_eq!(found(&format!("id_prefix={below}&status=completed")).await, [""; 0]);
    let last = api.get(&format!("/tasks?id_prefix={}&limit=1", ids[0])).await.json();
    assert_eq!(last["next_cursor"], serde_json::Value::Null, "no other has it");
    for wrong in ["", "x", "0123456789abcdef0123456789abcdef0", "%2D"] {
        let refused = api.get(&format!("/tasks?id_prefix={wrong}")).await;
        refused.problem(400, "invalid-parameter");
    }
}

#[tokio::test]
async fn json_keeps_each_number_as_it_was_written() {
    let api = Api::start().await;
    let input = r#"{"n":12345678901234567890123,"x":1.10,"list":[0.30000000000000000001]}"#;
    let body = format!(r#"{{"task_type":"echo","input":{input}}}"#);
    let created = api.post_text("/tasks", &body).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.text().contains(input), "{created:?}");
    let id = crate::harness::id(&created.json());
    assert!(api.get(&format!("/tasks/{id}")).await.text().contains(input));
    assert!(api.get("/tasks").await.text().contains(input));
    let dead = api
        .dead_letter(json!({"task_type": "echo"}), taskforge_domain::FailureKind::Trap, "boom")
        .await;
    let body = format!(r#"{{"ids":["{dead}"],"input":{input}}}"#);
    let requeued = api.post_text("/dlq/requeue", &body).await;
    assert_eq!(requeued.status, 200, "{requeued:?}");
    assert!(api.get(&format!("/tasks/{dead}")).await.text().contains(input));
}
