use serde_json::json;
use taskforge_store::Store;

use crate::harness::{Answer, Api};

#[tokio::test]
async fn bytes_that_are_not_utf8_are_refused_with_their_place() {
    let api = Api::start().await;
    for body in
        [&b"{\"task_type\": \"echo\", \"input\": \"\xff\xfe\"}"[..], b"\xff\xfe{\x00}\x00", b"\x80"]
    {
        let answer =
            api.send("POST", "/tasks", &[("content-type", "application/json")], body).await;
        let problem = answer.problem(400, "malformed-body");
        assert!(problem["detail"].as_str().unwrap().contains("not UTF-8: byte"), "{problem}");
    }
}

#[tokio::test]
async fn deep_nesting_is_refused_and_harms_nobody() {
    let api = Api::start().await;
    for bomb in [
        "[".repeat(1_000_000),
        "{\"a\":".repeat(200_000),
        format!("{}{}", "[".repeat(200), "]".repeat(200)),
    ] {
        for body in [
            bomb.clone(),
            format!("{{\"task_type\":\"echo\",\"input\":{bomb}}}"),
            format!("{{\"tasks\":[{bomb}]}}"),
        ] {
            for path in ["/tasks", "/tasks/batch"] {
                let problem = api.post_text(path, &body).await.problem(400, "malformed-body");
                assert!(problem["detail"].as_str().unwrap().contains("nests deeper"), "{problem}");
            }
        }
    }
    assert_eq!(api.get("/healthz").await.status, 200);
    let fine =
        format!("{{\"task_type\":\"echo\",\"input\":{}1{}}}", "[".repeat(98), "]".repeat(98));
    assert_eq!(api.post_text("/tasks", &fine).await.status, 201);
}

#[tokio::test]
async fn keys_given_twice_are_refused_everywhere() {
    let api = Api::start().await;
    for (body, pointer) in [
        (r#"{"task_type":"echo","task_type":"fibonacci"}"#, "/task_type"),
        (r#"{"task_type":"echo","priority":1,"priority":5}"#, "/priority"),
        (r#"{"task_type":"echo","input":1,"input":2}"#, "/input"),
        (r#"{"task_type":"fibonacci","input":{"n":1,"n":-1}}"#, "/input"),
        (r#"{"task_type":"fibonacci","input":{"n":-1,"n":1}}"#, "/input"),
        (r#"{"task_type":"echo","input":[{"a":{"b":1,"\u0062":2}}]}"#, "/input"),
    ] {
        let answer = api.post_text("/tasks", body).await;
        assert_eq!(answer.pointers(), [pointer], "{body}");
        assert!(answer.text().contains("twice"), "{}", answer.text());
    }
}

#[tokio::test]
async fn numbers_and_strings_that_readers_take_differently_are_refused() {
    let api = Api::start().await;
    for input in ["1e999", "-1e999", r#""\ud800""#, r#"{"\udfff":1}"#, "[1e400]"] {
        let answer =
            api.post_text("/tasks", &format!(r#"{{"task_type":"echo","input":{input}}}"#)).await;
        assert_eq!(answer.pointers(), ["/input"], "{input}");
    }
    let huge = "9".repeat(300);
    for n in [huge.as_str(), "-0.0000001", "1e309"] {
        let answer = api
            .post_text("/tasks", &format!(r#"{{"task_type":"fibonacci","input":{{"n":{n}}}}}"#))
            .await;
        assert_eq!(answer.status, 422, "{n}");
    }
    for n in ["1e3", "10.0", "1000000"] {
        let answer = api
            .post_text("/tasks", &format!(r#"{{"task_type":"fibonacci","input":{{"n":{n}}}}}"#))
            .await;
        assert_eq!(answer.status, 201, "{n} is an integer, as JSON Schema counts");
    }
    let text = format!(r#"{{"task_type":"echo","priority":{huge}}}"#);
    assert_eq!(api.post_text("/tasks", &text).await.pointers(), ["/priority"]);
}

#[tokio::test]
async fn nul_characters_are_data_inside_a_string_and_an_error_outside() {
    let api = Api::start().await;
    let answer = api.post_text("/tasks", r#"{"task_type":"echo","input":"a\u0000b"}"#).await;
    assert_eq!(answer.status, 201);
    let read = api.get(answer.header("location")).await.json();
    assert_eq!(read["input"], "a\0b");
    for body in ["{\"task_type\":\"echo\",\"input\":\"a\0b\"}", "\0", "{\"task_type\":\"echo\"}\0"]
    {
        api.post_text("/tasks", body).await.problem(400, "malformed-body");
    }
    assert_eq!(
        api.post_text("/tasks", r#"{"task_type":"ec\u0000ho"}"#).await.pointers(),
        ["/task_type"]
    );
    api.get("/tasks?task_type=%00").await.problem(400, "invalid-parameter");
}

#[tokio::test]
async fn a_name_of_any_length_or_script_is_not_echoed_whole() {
    let api = Api::start().await;
    let long = "é".repeat(100_000);
    for body in [
        json!({"task_type": long}),
        json!({"task_type": "echo", (long.clone()): 1}),
        json!({"task_type": "fibonacci", "input": {(long.clone()): 1, "n": 1}}),
    ] {
        let answer = api.post("/tasks", &body).await;
        assert_eq!(answer.status, 422);
        assert!(answer.body.len() < 4_000, "{} bytes", answer.body.len());
    }
    let answer = api.get(&format!("/tasks?{}=1", "x".repeat(10_000))).await;
    answer.problem(400, "invalid-parameter");
    assert!(answer.body.len() < 1_000);
}

#[tokio::test]
async fn sql_in_any_field_is_only_text() {
    let api = Api::start().await;
    let text = "'); drop table tasks; --";
    let id = api.create(json!({"task_type": "echo", "input": {"a": text}})).await;
    assert_eq!(api.get(&format!("/tasks/{id}")).await.json()["input"]["a"], text);
    api.get("/tasks?status=pending'%20or%201=1--").await.problem(400, "invalid-parameter");
    assert_eq!(api.store.counts().await.unwrap().by_type.len(), 1);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let api = Api::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\r\nX",
    ] {
        let mut request = bytes.to_vec();
        request.extend_from_slice(b"\r\n\r\n");
        // Closed without a word, or a plain 400; never a hang.
        if let Ok(raw) = api.raw(&request).await
            && let Some(answer) = Answer::parse(&raw)
        {
            assert_eq!(answer.status, 400, "{bytes:?}");
        }
    }
    let smuggle = b"POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let raw = api.raw(smuggle).await.unwrap();
    assert!(
        !String::from_utf8_lossy(&raw).contains("200 OK"),
        "two lengths make no second request"
    );
    assert_eq!(api.get("/healthz").await.status, 200);
}
