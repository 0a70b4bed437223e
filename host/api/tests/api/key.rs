use std::net::SocketAddr;

use serde_json::{Value, json};
use taskforge_api::{ApiConfig, ApiKey, BindError, bind};

use crate::harness::{Answer, Api, Setup};

const KEY: &str = "correct-horse-battery-staple";

async fn locked() -> Api {
    Setup::config(|config| config.key = Some(ApiKey::new(KEY).unwrap())).start().await
}

/// Asserts that nobody was let in, and returns what they were told, without the request's id.
#[track_caller]
fn refused(answer: &Answer) -> Value {
    let mut problem = answer.problem(401, "unauthorized");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    problem["instance"] = Value::Null;
    problem
}

#[tokio::test]
async fn every_documented_operation_but_probes_and_pages_asks_for_the_key() {
    let api = locked().await;
    let document = api.get("/openapi.json").await.json();
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(
        (&schemes["bearer"]["scheme"], &schemes["header"]["name"]),
        (&json!("bearer"), &json!("x-api-key"))
    );
    assert_eq!(document["security"], json!([{"bearer": []}, {"header": []}]));
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answer = api.send(&method.to_uppercase(), path, &[], b"").await;
            if operation["security"] == json!([]) {
                assert_ne!(answer.status, 401, "{method} {path}");
                continue;
            }
            refused(&answer);
            assert!(operation["responses"]["401"].is_object(), "{method} {path}");
            asked += 1;
        }
    }
    assert!(asked >= 20, "{asked} operations");
}

#[tokio::test]
async fn what_a_person_or_a_probe_needs_first_is_open() {
    let api = locked().await;
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs/", "/docs/swagger-ui.css"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    for path in ["/", "/docs"] {
        assert!((300..400).contains(&api.get(path).await.status), "{path}");
    }
}

#[tokio::test]
async fn the_key_is_taken_from_either_header_and_a_wrong_one_is_told_the_same_as_none() {
    let api = locked().await;
    let bearer = format!("Bearer {KEY}");
    for header in [("authorization", bearer.as_str()), ("x-api-key", KEY)] {
        assert_eq!(api.send("GET", "/tasks", &[header], b"").await.status, 200);
    }
    let none = refused(&api.get("/tasks").await);
    let prefix = &KEY[..KEY.len() - 1];
    for header in [
        ("x-api-key", prefix),
        ("x-api-key", ""),
        ("authorization", KEY),
        ("authorization", "Basic Y29ycmVjdC1ob3JzZQ=="),
        ("authorization", "Bearer correct-horse-battery-stapler"),
        ("cookie", KEY),
    ] {
        let answer = api.send("GET", "/tasks", &[header], b"").await;
        assert_eq!(refused(&answer), none, "{header:?}");
    }
    let in_query = api.get(&format!("/tasks?api_key={KEY}")).await;
    assert_eq!(refused(&in_query), none, "a key in a URL ends up in logs");
}

#[tokio::test]
async fn there_is_no_other_spelling_of_an_open_route() {
    let api = locked().await;
    for path in [
        "/nowhere",
        "//healthz/",
        "/healthz/",
        "/healthz/../tasks",
        "/docs/../tasks",
        "/tasks/",
        "/metrics",
        "/openapi.json/x",
    ] {
        let answer = api.get(path).await;
        assert!([401, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.text().contains("tasks\":"), "{path}: {}", answer.text());
    }
    refused(&api.get("/nowhere").await);
    refused(&api.get("/tasks/").await);
}

#[tokio::test]
async fn a_request_without_the_key_does_nothing() {
    let api = locked().await;
    refused(&api.post("/tasks", &json!({"task_type": "echo"})).await);
    refused(&api.post_text("/tasks", "{").await);
    refused(&api.delete("/dlq?all=true").await);
    let with = [("x-api-key", KEY)];
    let tasks = api.send("GET", "/tasks", &with, b"").await.json();
    assert_eq!(tasks["tasks"], json!([]));
}

#[tokio::test]
async fn without_a_key_only_loopback_is_listened_on() {
    let listen = |address: &str, key: Option<&str>| {
        bind(ApiConfig {
            listen: address.parse::<SocketAddr>().unwrap(),
            key: key.map(|key| ApiKey::new(key).unwrap()),
            ..ApiConfig::default()
        })
    };
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.7:0", "[::ffff:192.0.2.7]:0"] {
        let refused = listen(address, None).await.unwrap_err();
        assert!(matches!(refused, BindError::NeedsKey(_)), "{address}: {refused}");
        assert!(refused.to_string().contains("API key"), "{refused}");
    }
    listen("127.0.0.1:0", None).await.unwrap();
    listen("127.1.2.3:0", None).await.unwrap();
    listen("0.0.0.0:0", Some(KEY)).await.unwrap();
    // An address that is nobody's is another error.
    let taken = listen("192.0.2.7:0", Some(KEY)).await.unwrap_err();
    assert!(matches!(taken, BindError::Io(_)), "{taken}");
}
