//! A person's first tasks: a number, a page, a letter — and real pages of all kinds.

use std::{path::PathBuf, process::Command};

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use taskforge_testing::web;

use crate::server::Server;

/// A server whose scraper may reach loopback.
fn local_server(data: &std::path::Path) -> Server {
    Server::start_with(data, |command| {
        command.args(["--allow-private", "127.0.0.0/8"]);
    })
}

#[tokio::test]
async fn fibonacci_is_exact_for_small_and_large_n() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let task = server.run("fibonacci", json!({ "n": 10 })).await;
    assert_eq!(
        (&task["status"], &task["result"]),
        (&json!("completed"), &json!({ "result": 55 })),
        "{task}"
    );

    let task = server.run("fibonacci", json!({ "n": 1_000_000 })).await;
    let digits = task["result"]["result"].as_str().unwrap_or_else(|| panic!("{task}"));
    // The known number has 208,988 digits, which begin and end like this.
    assert_eq!(digits.len(), 208_988);
    assert!(digits.starts_with("19532821287077577316") && digits.ends_with("68996526838242546875"));
}

#[tokio::test]
async fn a_letter_lands_in_the_outbox_as_a_valid_message() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let input = json!({ "to": ["a@example.com", "b@example.com"], "subject": "Grüße", "text": "Hello\n.\nworld" });
    let task = server.run("email", input).await;
    assert_eq!(task["status"], "completed", "{task}");
    let files: Vec<_> = std::fs::read_dir(server.data_dir().join("outbox"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "eml"))
        .collect();
    assert_eq!(files.len(), 1);
    let message = std::fs::read(&files[0]).unwrap();
    let message = mail_parser::MessageParser::default().parse(&message).unwrap();
    assert_eq!(message.subject(), Some("Grüße"));
    assert_eq!(message.to().unwrap().iter().count(), 2);
    assert_eq!(
        message.message_id(),
        task["result"]["message_id"].as_str().map(|id| id.trim_matches(['<', '>']))
    );
}

#[tokio::test]
async fn a_header_cannot_be_smuggled_into_a_letter() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let input =
        json!({ "to": "a@example.com", "subject": "x\r\nBcc: everyone@example.com", "text": "x" });
    let body = json!({ "task_type": "email", "input": input });
    let (status, problem) = server.try_post("/tasks", &body).await.unwrap();
    assert_eq!(status, 422, "{problem}");
    assert!(problem.to_string().contains("/input/subject"), "{problem}");
}

fn page(content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder().header("content-type", content_type).body(body.into()).unwrap()
}

#[tokio::test]
async fn pages_in_old_charsets_and_broken_markup_are_read() {
    let site = web::Server::answering(|request| match request.uri().path() {
        "/1252" => page("text/html; charset=windows-1252", &b"<title>Caf\xe9 \x80 5</title>"[..]),
        // 日本 in Shift_JIS, said by a meta element only.
        "/sjis" => {
            page("text/html", &b"<meta charset=Shift_JIS><title>\x93\xfa\x96\x7b</title>"[..])
        }
        "/broken" => {
            page("text/html", "<html><body><div><p>no head<title>Late &amp; open<h1>One</div><h1>")
        }
        "/untitled" => page("text/html", "<p>nothing"),
        "/hop" => Response::builder()
            .status(302)
            .header("location", "untitled")
            .body(Bytes::new())
            .unwrap(),
        _ => Response::builder()
            .status(404)
            .header("content-type", "text/html")
            .body("<title>Gone</title>".into())
            .unwrap(),
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let server = local_server(data.path());
    let scrape = async |path: &str| {
        let task = server.run("scraper", json!({ "url": site.url(path) })).await;
        assert_eq!(task["status"], "completed", "{task}");
        task["result"].clone()
    };
    assert_eq!(scrape("/1252").await["title"], "Café € 5");
    assert_eq!(scrape("/sjis").await["title"], "日本");
    // An unclosed title swallows the rest of the page, as it does in a browser.
    assert!(scrape("/broken").await["title"].as_str().unwrap().starts_with("Late & open"));
    assert_eq!(scrape("/untitled").await["title"], Value::Null);
    let hopped = scrape("/hop").await;
    assert_eq!(
        (&hopped["url"], &hopped["status_code"]),
        (&json!(site.url("/untitled")), &json!(200))
    );
    let gone = scrape("/gone").await;
    assert_eq!((&gone["status_code"], &gone["title"]), (&json!(404), &json!("Gone")));
}

#[tokio::test]
async fn failures_of_the_network_are_told_from_failures_of_the_input() {
    let data = tempfile::tempdir().unwrap();
    let server = local_server(data.path());
    let closed = web::closed_port().await;
    let body = json!({
        "task_type": "scraper", "input": { "url": format!("http://{closed}/") },
        "max_retries": 1, "retry_base": "1ms", "retry_cap": "1ms",
    });
    let (status, task) = server.try_post("/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let task = server.ended(task["id"].as_str().unwrap()).await;
    assert_eq!(
        (&task["status"], &task["error_kind"], &task["retry_count"]),
        (&json!("failed"), &json!("retryable"), &json!(1))
    );

    let (status, _) = server
        .try_post("/tasks", &json!({ "task_type": "scraper", "input": { "url": "not a url" } }))
        .await
        .unwrap();
    // Refused by the API, or failed for good by the handler: never retried.
    if status == 201 {
        let task = server.run("scraper", json!({ "url": "not a url" })).await;
        assert_eq!(
            (&task["error_kind"], &task["retry_count"]),
            (&json!("permanent"), &json!(0)),
            "{task}"
        );
    } else {
        assert_eq!(status, 422);
    }
}

#[tokio::test]
async fn loopback_is_refused_unless_it_was_granted() {
    let site = web::Server::with_page("<title>secret</title>").await;
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let task = server.run("scraper", json!({ "url": site.url("/") })).await;
    assert_eq!(
        (&task["status"], &task["error_kind"]),
        (&json!("failed"), &json!("capability_denied")),
        "{task}"
    );
    assert!(task["error"].as_str().unwrap().contains("127.0.0.1"), "{task}");
    assert_eq!(site.connections(), 0);
}

/// The HTML documentation of the installed toolchain, if it is there.
fn rust_documentation() -> Option<PathBuf> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let html =
        PathBuf::from(String::from_utf8(sysroot.stdout).ok()?.trim()).join("share/doc/rust/html");
    html.is_dir().then_some(html)
}

#[tokio::test]
async fn the_documentation_of_rust_is_scraped() {
    let Some(html) = rust_documentation() else {
        eprintln!("skipped: the toolchain has no rust-docs component");
        return;
    };
    let site = web::Server::answering(move |request| {
        let file = html.join(request.uri().path().trim_start_matches('/'));
        match std::fs::read(file) {
            Ok(body) => page("text/html", body),
            Err(_) => Response::builder().status(404).body(Bytes::new()).unwrap(),
        }
    })
    .await;
    let data = tempfile::tempdir().unwrap();
    let server = local_server(data.path());
    let pages = [
        ("/std/index.html", "std - Rust"),
        ("/std/vec/struct.Vec.html", "Vec in std::vec - Rust"),
        ("/book/ch01-00-getting-started.html", "Getting Started - The Rust Programming Language"),
        ("/reference/expressions.html", "Expressions - The Rust Reference"),
    ];
    for (path, title) in pages {
        let task = server.run("scraper", json!({ "url": site.url(path) })).await;
        let result = &task["result"];
        assert_eq!(
            (&result["status_code"], &result["title"]),
            (&json!(200), &json!(title)),
            "{task}"
        );
        assert_eq!(result["language"], "en", "{task}");
    }
}
