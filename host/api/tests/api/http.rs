//! What HTTP asks of a request's head, and whose pages may send one where there is no key.

use serde_json::json;

use crate::harness::{Answer, Api};

async fn raw(api: &Api, head: &str) -> Answer {
    let raw = api.raw(head.as_bytes()).await.unwrap();
    Answer::parse(&raw).unwrap_or_else(|| panic!("no answer to {head:?}"))
}

#[tokio::test]
async fn a_host_is_given_once_and_is_one() {
    let api = Api::start().await;
    for host in [
        "",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost\r\nHost: evil.example\r\n",
        "host:\r\n",
        "host: a b\r\n",
        "host: user@localhost\r\n",
        "host: localhost:port\r\n",
        "host: localhost:99999\r\n",
        "host: localhost/x\r\n",
        "host: [::1\r\n",
        "host: loc%00alhost\r\n",
        "host: \u{e9}\r\n",
    ] {
        for line in ["GET /healthz", "POST /tasks", "GET /nowhere"] {
            let head = format!("{line} HTTP/1.1\r\n{host}connection: close\r\n\r\n");
            raw(&api, &head).await.problem(400, "bad-request");
        }
    }
    // HTTP/1.0 has none; without a key nothing says then whom it is for.
    raw(&api, "GET /healthz HTTP/1.0\r\n\r\n").await.problem(403, "foreign-origin");
    let head = "GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n";
    assert_eq!(raw(&api, head).await.status, 200);
}

#[tokio::test]
async fn a_target_in_absolute_form_means_the_same() {
    let api = Api::start().await;
    let get = |target: &str, host: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    };
    let same = get("http://localhost:8000/tasks", "localhost:8000");
    assert_eq!(raw(&api, &same).await.status, 200);
    for (target, host) in [
        ("http://evil.example/tasks", "localhost"),
        ("http://localhost/tasks", "evil.example"),
        ("http://user@localhost/tasks", "localhost"),
        ("ftp://localhost/tasks", "localhost"),
    ] {
        raw(&api, &get(target, host)).await.problem(400, "bad-request");
    }
    let foreign = get("http://evil.example/tasks", "evil.example");
    raw(&api, &foreign).await.problem(403, "foreign-origin");
    for line in ["OPTIONS *", "CONNECT localhost:80"] {
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let status = raw(&api, &head).await.status;
        assert!((400..500).contains(&status), "{line}: {status}");
    }
}

#[tokio::test]
async fn without_a_key_other_names_and_other_sites_are_kept_out() {
    let api = Api::start().await;
    let wasm = [0; 8];
    for foreign in [
        &[("host", "evil.example")][..],
        &[("host", "localhost"), ("origin", "http://evil.example")],
        &[("host", "localhost"), ("origin", "null")],
        &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
        &[("host", "localhost"), ("sec-fetch-site", "same-site")],
    ] {
        for (method, path) in [
            ("POST", "/tasks"),
            ("POST", "/plugins?activate=true"),
            ("GET", "/tasks"),
            ("GET", "/metrics"),
            ("DELETE", "/dlq?all=true"),
            ("POST", "/queues/echo/pause"),
            ("GET", "/nowhere"),
        ] {
            let mut head =
                format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: 8\r\n");
            for (name, value) in foreign {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            let mut request = format!("{head}content-type: text/plain\r\n\r\n").into_bytes();
            request.extend_from_slice(&wasm);
            let answer = Answer::parse(&api.raw(&request).await.unwrap()).unwrap();
            answer.problem(403, "foreign-origin");
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
    }
    // A link on another page may lead to the pages, which show nothing of what is stored.
    let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    assert_eq!(api.send("GET", "/docs/", &link, b"").await.status, 200);
    let own = [("origin", "http://localhost"), ("content-type", "application/json")];
    let body = json!({"task_type": "echo"}).to_string();
    let created = api.send("POST", "/tasks", &own, body.as_bytes()).await;
    assert_eq!(created.status, 201);
}

/// Texts that no row, key or file name holds.
const BAD: [&str; 9] = ["a%00b", "%00", "a%1bb", "a%0ab", "%zz", "%", "%ff", "%c0%80", "%C2%85"];

#[tokio::test]
async fn no_text_of_a_path_or_a_query_is_our_fault() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json();
    let long = "x".repeat(5_000);
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            let parameters = operation["parameters"].as_array();
            for parameter in parameters.into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                for bad in BAD.into_iter().chain([long.as_str(), "%E2%80%AE", "'%22;--"]) {
                    let target = match parameter["in"].as_str().unwrap() {
                        "path" => with(path, name, bad),
                        "query" => format!("{}?{name}={bad}", with(path, "", "")),
                        _ => continue,
                    };
                    let answer = api.send(&method, &target, &[], b"").await;
                    assert!((400..500).contains(&answer.status), "{method} {target}: {answer:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 300, "{tried}");
    for bad in BAD {
        let problem = api.get(&format!("/tasks?task_type={bad}")).await;
        let problem = problem.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["parameter"], "task_type", "{bad}");
        api.get(&format!("/nowhere/{bad}")).await.problem(404, "no-route");
    }
}

/// A path with one of its parameters replaced, and good values for the others.
fn with(path: &str, name: &str, value: &str) -> String {
    let path = path.replace(&format!("{{{name}}}"), value);
    let id = "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11";
    [
        ("id", id),
        ("version", "1.0.0"),
        ("type", "echo"),
        ("name", "echo"),
        ("tenant", "default"),
        ("key", "k"),
    ]
    .iter()
    .fold(path, |path, (name, good)| path.replace(&format!("{{{name}}}"), good))
}

#[tokio::test]
async fn a_wrong_secret_version_or_operator_is_named() {
    let api = Api::start().await;
    for path in ["/plugins/echo/secrets/a%00b", "/plugins/echo/secrets/a%E2%80%AEb"] {
        api.delete(path).await.problem(400, "invalid-parameter");
        api.put(path, &json!({"value": "x"})).await.problem(400, "invalid-parameter");
    }
    let problem = api.delete("/plugins/echo/secrets/a%E2%80%AEb").await;
    let problem = problem.problem(400, "invalid-parameter");
    assert_eq!(problem["errors"][0]["parameter"], "key");
    let version = json!({"version": "1.0\u{0}0"});
    for path in ["/plugins/echo/activate", "/plugins/echo/retire"] {
        assert_eq!(api.post(path, &version).await.pointers(), ["/version"], "{path}");
    }
    for by in ["a\u{202e}b", &"x".repeat(101)] {
        let headers = [("x-operator", by)];
        let answer = api.send("POST", "/plugins/echo/pause", &headers, b"").await;
        let problem = answer.problem(400, "invalid-parameter");
        assert_eq!(problem["errors"][0]["parameter"], "x-operator");
    }
}
