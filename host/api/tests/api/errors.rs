use serde_json::json;
use taskforge_domain::TaskId;
use taskforge_store::RegistrySnapshot;

use crate::harness::Api;

#[tokio::test]
async fn a_wrong_field_is_named_by_its_pointer() {
    let api = Api::start().await;
    for (body, pointers) in [
        (json!({"task_type": "fibonacci", "input": {"n": -1}}), vec!["/input/n"]),
        (json!({"task_type": "fibonacci", "input": {"n": 1.5}}), vec!["/input/n"]),
        (json!({"task_type": "fibonacci", "input": {"n": 1_000_001}}), vec!["/input/n"]),
        (json!({"task_type": "fibonacci", "input": {}}), vec!["/input/n"]),
        (json!({"task_type": "fibonacci"}), vec!["/input/n"]),
        (json!({"task_type": "fibonacci", "input_data": {"n": "x"}}), vec!["/input_data/n"]),
        (json!({"task_type": "fibonacci", "payload": {"n": 1, "m": 2}}), vec!["/payload/m"]),
        (json!({"task_type": "fibonacci", "input": {"n": 1}, "payload": {}}), vec!["/payload"]),
        (json!({"task_type": "echo", "input_data": 1, "payload": 1}), vec!["/payload"]),
        (json!({"input": {}}), vec!["/task_type"]),
        (json!({"task_type": null}), vec!["/task_type"]),
        (json!({"task_type": 7}), vec!["/task_type"]),
        (json!({"task_type": "no spaces"}), vec!["/task_type"]),
        (json!({"task_type": "echo", "priority": 0}), vec!["/priority"]),
        (json!({"task_type": "echo", "priority": 6}), vec!["/priority"]),
        (json!({"task_type": "echo", "priority": 2.5}), vec!["/priority"]),
        (json!({"task_type": "echo", "priority": "high"}), vec!["/priority"]),
        (json!({"task_type": "echo", "max_retries": 101}), vec!["/max_retries"]),
        (json!({"task_type": "echo", "max_retries": -1}), vec!["/max_retries"]),
        (json!({"task_type": "echo", "retry_base": "8d"}), vec!["/retry_base"]),
        (json!({"task_type": "echo", "retry_base": "2h", "retry_cap": "1h"}), vec!["/retry_base"]),
        (json!({"task_type": "echo", "retry_cap": true}), vec!["/retry_cap"]),
        (json!({"task_type": "echo", "run_at": "tomorrow"}), vec!["/run_at"]),
        (json!({"task_type": "echo", "run_at": 5}), vec!["/run_at"]),
        (json!({"task_type": "echo", "delay": -1}), vec!["/delay"]),
        (json!({"task_type": "echo", "delay": "11y"}), vec!["/delay"]),
        (json!({"task_type": "echo", "delay": 1e300}), vec!["/delay"]),
        (
            json!({"task_type": "echo", "delay": 1, "run_at": "2026-01-01T00:00:00Z"}),
            vec!["/delay"],
        ),
        (json!({"task_type": "echo", "prioritee": 1}), vec!["/prioritee"]),
        (json!({"task_type": "echo", "a/b~c": 1}), vec!["/a~1b~0c"]),
        (
            json!({"task_type": "nobody", "priority": 9, "max_retries": 999}),
            vec!["/task_type", "/priority", "/max_retries"],
        ),
        (json!([1]), vec![""]),
        (json!("text"), vec![""]),
        (json!(null), vec![""]),
    ] {
        let answer = api.post("/tasks", &body).await;
        assert_eq!(answer.pointers(), pointers, "{body}: {}", answer.text());
    }
    assert_eq!(api.get("/tasks").await.json()["tasks"], json!([]), "nothing of it was stored");
}

#[tokio::test]
async fn an_unknown_type_is_answered_with_the_known_ones() {
    let api = Api::start().await;
    let problem =
        api.post("/tasks", &json!({"task_type": "fibonaci"})).await.problem(422, "validation");
    let detail = problem["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("echo") && detail.contains("fibonacci"), "{detail}");
    api.catalog.set_plugins(RegistrySnapshot::default());
    let problem =
        api.post("/tasks", &json!({"task_type": "echo"})).await.problem(422, "validation");
    assert!(problem["detail"].as_str().unwrap().contains("none is loaded"), "{problem}");
}

#[tokio::test]
async fn malformed_json_is_answered_with_its_line_and_column() {
    let api = Api::start().await;
    for (body, place) in [
        ("{\"task_type\": \"echo\",\n \"input\": {n: 1}}", "line 2 column 12"),
        ("{\"task_type\": \"echo\"", "line 1 column 20"),
        ("{\"task_type\": \"echo\"} extra", "line 1 column 23"),
        ("{'task_type': 'echo'}", "line 1 column 2"),
        ("nonsense", "line 1 column 2"),
    ] {
        let problem = api.post_text("/tasks", body).await.problem(400, "malformed-body");
        assert!(problem["detail"].as_str().unwrap().contains(place), "{body}: {problem}");
    }
    for empty in ["", "  \n"] {
        let problem = api.post_text("/tasks", empty).await.problem(400, "malformed-body");
        assert!(problem["detail"].as_str().unwrap().contains("empty"), "{problem}");
    }
}

#[tokio::test]
async fn a_wrong_query_parameter_is_named() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    for (path, name) in [
        ("/tasks?status=done", "status"),
        ("/tasks?status=pending,,failed", "status"),
        ("/tasks?task_type=a%20b", "task_type"),
        ("/tasks?error_kind=bad", "error_kind"),
        ("/tasks?created_from=yesterday", "created_from"),
        ("/tasks?created_before=2026-13-01T00:00:00Z", "created_before"),
        ("/tasks?limit=0", "limit"),
        ("/tasks?limit=1001", "limit"),
        ("/tasks?limit=ten", "limit"),
        ("/tasks?limit=1&limit=2", "limit"),
        ("/tasks?cursor=!!", "cursor"),
        ("/tasks?cursor=AAAA", "cursor"),
        ("/tasks?page=2", "page"),
        ("/plugins?all=1", "all"),
        (&*format!("/tasks/{id}?wat=10s"), "wat"),
        (&*format!("/tasks/{id}/logs?tail=1"), "tail"),
        ("/tasks/17", "id"),
        ("/tasks/17/logs", "id"),
        ("/tasks/%ff", "id"),
        ("/tasks/..%2f..%2fetc", "id"),
        ("/plugins/a%20b", "name"),
    ] {
        let problem = api.get(path).await.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["parameter"], name, "{path}: {problem}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let api = Api::start().await;
    let id = TaskId::generate();
    for path in [format!("/tasks/{id}"), format!("/tasks/{id}/logs")] {
        let problem = api.get(&path).await.problem(404, "not-found");
        assert!(problem["detail"].as_str().unwrap().contains(&id.to_string()));
    }
    for action in ["cancel", "retry"] {
        api.post_text(&format!("/tasks/{id}/{action}"), "").await.problem(404, "not-found");
    }
    for path in ["/task", "/tasks/x/y/z", "/docs/nothing.js", "/%00", "//tasks"] {
        api.get(path).await.problem(404, "no-route");
    }
}

#[tokio::test]
async fn a_wrong_method_is_answered_with_the_right_ones() {
    let api = Api::start().await;
    let id = TaskId::generate();
    for (method, path, allowed) in [
        ("PUT", "/tasks".to_owned(), vec!["DELETE", "GET", "HEAD", "POST"]),
        ("GET", "/tasks/batch".to_owned(), vec!["POST"]),
        ("PATCH", format!("/tasks/{id}"), vec!["GET", "HEAD"]),
        ("GET", format!("/tasks/{id}/cancel"), vec!["POST"]),
        ("POST", "/metrics".to_owned(), vec!["GET", "HEAD"]),
        ("BREW", "/plugins".to_owned(), vec!["GET", "HEAD", "POST"]),
    ] {
        let answer = api.send(method, &path, &[], b"").await;
        answer.problem(405, "method-not-allowed");
        let mut allow: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow, allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_must_be_declared_as_plain_json() {
    let api = Api::start().await;
    let body = json!({"task_type": "echo"}).to_string();
    for headers in [
        vec![],
        vec![("content-type", "text/plain")],
        vec![("content-type", "application/x-www-form-urlencoded")],
        vec![("content-type", "application/json; charset=utf-16")],
        vec![("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        api.send("POST", "/tasks", &headers, body.as_bytes())
            .await
            .problem(415, "unsupported-media-type");
        api.send("POST", "/tasks/batch", &headers, body.as_bytes())
            .await
            .problem(415, "unsupported-media-type");
    }
    for fine in ["application/json; charset=UTF-8", "Application/JSON", "application/vnd.acme+json"]
    {
        let answer = api.send("POST", "/tasks", &[("content-type", fine)], body.as_bytes()).await;
        assert_eq!(answer.status, 201, "{fine}");
    }
}

#[tokio::test]
async fn a_request_keeps_the_id_that_it_came_with_if_it_can_stand_in_a_log() {
    let api = Api::start().await;
    let given = api.send("GET", "/nowhere", &[("x-request-id", "trace-42.a_b")], b"").await;
    assert_eq!(given.problem(404, "no-route")["instance"], "trace-42.a_b");
    for bad in ["a b", "<script>", &"x".repeat(65)] {
        let answer = api.send("GET", "/healthz", &[("x-request-id", bad)], b"").await;
        assert!(answer.header("x-request-id").parse::<TaskId>().is_ok(), "{bad}");
    }
}
