use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use taskforge_domain::{Failure, FailureKind, Next, Outcome};

use crate::harness::{Api, Setup};

#[tokio::test]
async fn health_and_readiness_are_told_apart() {
    let plugins_loaded = Arc::new(AtomicBool::new(false));
    let loaded = Arc::clone(&plugins_loaded);
    let ready = move || {
        if loaded.load(Ordering::SeqCst) { Ok(()) } else { Err("no plugin is loaded".to_owned()) }
    };
    let api = Setup { ready: Arc::new(ready), ..Setup::default() }.start().await;
    assert_eq!(api.get("/healthz").await.json()["status"], "ok");
    let answer = api.get("/readyz").await;
    let checks = json!({"store": "ok", "broker": "ok", "server": "no plugin is loaded"});
    let expected = json!({"status": "unavailable", "mode": "local", "checks": checks});
    assert_eq!((answer.status, answer.json()), (503, expected));
    plugins_loaded.store(true, Ordering::SeqCst);
    assert_eq!(api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_tasks_by_state() {
    let api = Api::start().await;
    let id = api.fibonacci().await;
    let (worker, task) = api.claim(id).await;
    let failure = Outcome::Failed(Failure::new(FailureKind::Trap, "unreachable"));
    api.end(worker, &task, failure, Next::DeadLetter).await;
    api.create(json!({"task_type": "echo"})).await;
    api.get(&format!("/tasks/{id}")).await;
    api.send("INVENTED", "/nowhere", &[], b"").await;
    let answer = api.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for line in [
        "taskforge_tasks{type=\"fibonacci\",state=\"failed\"} 1\n",
        "taskforge_tasks{type=\"echo\",state=\"pending\"} 1\n",
        "taskforge_store_up 1\n",
        "taskforge_broker_up 1\n",
        "taskforge_queue_depth ",
        "taskforge_broker_mode{mode=\"local\"} 1\n",
        "taskforge_plugins 2\n",
        "taskforge_http_requests_total{route=\"/tasks/{id}\",method=\"GET\",status=\"200\"}",
        "taskforge_http_requests_total{route=\"unmatched\",method=\"other\",status=\"404\"}",
        "taskforge_http_request_duration_seconds_bucket{route=\"/tasks\",method=\"POST\",le=\"0.0001\"}",
        "taskforge_http_connections ",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains(&id.to_string()), "an id is no label");
    // Every line is a comment or a sample, every family is declared once.
    let mut families = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# TYPE ") {
            Some(family) => assert!(families.insert(family.to_owned()), "{line}"),
            None => assert!(
                line.starts_with("# HELP ")
                    || line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()),
                "{line}"
            ),
        }
    }
}

#[tokio::test]
async fn the_pages_load_from_here_and_nowhere_else() {
    let api = Api::start().await;
    let root = api.get("/").await;
    assert_eq!((root.status, root.header("location")), (307, "/docs/"));
    let docs = api.get("/docs").await;
    assert_eq!((docs.status, docs.header("location")), (308, "/docs/"));
    let page = api.get("/docs/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html"));
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self';"),
        "{policy}"
    );
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for file in page.text().split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap())
        {
            assert!(!file.contains("//"), "{file} is on another server");
            let answer = api.get(&format!("/docs/{}", file.trim_start_matches("./"))).await;
            assert_eq!(answer.status, 200, "{file}");
            assert!(
                !answer.body.is_empty() && answer.header("x-content-type-options") == "nosniff"
            );
            files += 1;
        }
    }
    assert!(files >= 5, "{files} files");
    assert!(!page.text().contains("<script>"), "inline scripts would break the policy");
    let start = api.get("/docs/swagger-initializer.js").await;
    assert!(
        start.text().contains("\"/openapi.json\"") && start.text().contains("\"none\""),
        "{}",
        start.text()
    );
    assert!(!start.text().contains("http"), "{}", start.text());
}

#[tokio::test]
async fn every_answer_is_safe_to_meet_in_a_browser() {
    let api = Api::start().await;
    for path in ["/tasks", "/nowhere", "/healthz", "/metrics", "/openapi.json"] {
        let answer = api.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(
            answer.header("content-security-policy"),
            "default-src 'none'; frame-ancestors 'none'",
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert!(!answer.header("x-request-id").is_empty(), "{path}");
    }
}
