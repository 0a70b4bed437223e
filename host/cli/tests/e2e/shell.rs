//! What scripts read: exit codes, errors, lists, ids, completions.

use std::process::Command;

use http::Response;
use serde_json::{Value, json};
use taskforge_testing::{guests, web};

use crate::server::{Server, component, done, json, run, said, taskforge};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_errors_tell_what_went_wrong() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let nobody = "00000000-0000-7000-8000-000000000000";
    let fails = [
        "task",
        "submit",
        "scraper",
        "-i",
        r#"{"url": "http://127.0.0.1:1/"}"#,
        "--max-retries",
        "0",
        "--wait",
    ];
    let later =
        done(&server, &["task", "submit", "fibonacci", "-i", r#"{"n": 1}"#, "--delay", "1h"]);
    let later = later.trim();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["task", "submit", "fibonacci", "-i", r#"{"n": 1}"#, "--wait"], 0, ""),
        (&fails, 3, ""),
        (&["task", "wait", later, "--timeout", "10ms"], 7, ""),
        (&["task", "get", nobody], 4, "not_found"),
        (&["task", "get", "0000"], 4, "not_found"),
        (&["plugin", "show", "nope"], 4, "not_found"),
        (&["queue", "pause", "nope"], 4, "not_found"),
        (&["task", "submit", "fibonacci", "-i", r#"{"n": -1}"#], 5, "refused"),
        (&["task", "retry", later], 5, "refused"),
        (&["task", "list", "--api-key", "wrong-wrong-wrong-wrong"], 5, "refused"),
        (&["task", "list", "--server", "http://127.0.0.1:1"], 6, "unreachable"),
        (&["task", "wait", nobody, "--server", "http://127.0.0.1:1"], 6, "unreachable"),
        (&["task", "wait", nobody], 4, "not_found"),
        (&["task", "list", "--sevrer", "x"], 2, "usage"),
        (&["task", "prune", "--first", "5"], 2, "usage"),
        (&["task", "get", "no-id"], 2, "usage"),
        (&["dlq", "delete"], 2, "usage"),
    ];
    for (args, code, kind) in cases {
        let plain = run(&server, args);
        assert_eq!(plain.status.code(), Some(*code), "{args:?}: {}", said(&plain));
        let output = run(&server, &[args, &["--json"][..]].concat());
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {}", said(&output));
        if kind.is_empty() {
            continue;
        }
        assert!(output.stdout.is_empty(), "{args:?}: {}", said(&output));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        let error = &error["error"];
        assert_eq!((&error["kind"], &error["exit_code"]), (&json!(kind), &json!(code)), "{args:?}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.starts_with("error"), "{args:?}: {message}");
        if *kind == "refused" {
            assert!(error["problem"]["type"].as_str().unwrap().starts_with("urn:"), "{error}");
        }
    }
    let wrong = run(&server, &["task", "submit", "fibonacci", "-i", r#"{"n": -1}"#, "--json"]);
    let error: Value = serde_json::from_slice(&wrong.stderr).unwrap();
    assert_eq!(error["error"]["problem"]["errors"][0]["pointer"], "/input/n");
    let help = String::from_utf8(taskforge().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("Exit codes"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_an_object_that_names_it_and_numbers_stay_as_they_are() {
    let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let anything = component(files.path(), "anything.wasm", &guests::bytes("command"));
    done(&server, &["plugin", "push", &anything, "--name", "anything", "--version", "1.0.0"]);
    let number = "12345678901234567890123";
    let input = format!(r#"{{"n":{number},"x":1.10}}"#);
    let id = done(&server, &["task", "submit", "anything", "-i", &input, "--delay", "1h"]);
    let id = id.trim();
    for args in [
        &["task", "get", id][..],
        &["task", "get", id, "--json"],
        &["task", "list", "--json"],
        &["task", "wait", id, "--timeout", "1ms", "--json"],
        &["task", "cancel", id, "--json"],
    ] {
        let shown = said(&run(&server, args));
        assert!(shown.contains(number) && shown.contains("1.10"), "{args:?}: {shown}");
    }
    for (args, name) in [
        (&["task", "list"][..], "tasks"),
        (&["task", "logs", id], "logs"),
        (&["dlq", "list"], "tasks"),
        (&["dlq", "groups"], "groups"),
        (&["queue", "list"], "queues"),
        (&["queue", "list"], "tenants"),
        (&["plugin", "list"], "plugins"),
        (&["plugin", "versions", "anything"], "versions"),
        (&["plugin", "events", "anything"], "events"),
        (&["plugin", "secret", "list", "anything"], "secrets"),
    ] {
        let list = json(&server, args);
        assert!(list[name].is_array(), "{args:?}: {list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_an_id_is_enough_where_it_is_the_only_one() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id =
            done(&server, &["task", "submit", "fibonacci", "-i", r#"{"n": 1}"#, "--delay", "1h"]);
        ids.push(id.trim().to_owned());
    }
    let first = &ids[0][..32];
    assert_eq!(json(&server, &["task", "get", first])["id"], ids[0]);
    assert_eq!(json(&server, &["task", "cancel", &first.to_uppercase()])["id"], ids[0]);
    let waited = run(&server, &["task", "wait", first]);
    assert!(said(&waited).contains("cancelled"), "{}", said(&waited));
    assert_eq!(json(&server, &["task", "retry", first])["id"], ids[0]);
    let several = run(&server, &["task", "get", &ids[0][..2]]);
    assert!(
        several.status.code() == Some(2) && said(&several).contains(&ids[2]),
        "{}",
        said(&several)
    );
    let none = run(&server, &["dlq", "requeue", first]);
    assert!(!said(&none).contains("panicked") && none.status.code() != Some(2), "{}", said(&none));
}

/// A server that takes a task, and then cannot answer: as one that is being replaced.
async fn leaving(id: &'static str) -> web::Server {
    web::Server::answering(move |request| {
        let (status, answer) = match (request.method().as_str(), request.uri().path()) {
            ("POST", "/tasks") => (201, json!({"id": id, "status": "pending"})),
            ("GET", "/elsewhere") => (307, json!({})),
            _ => (503, json!({"title": "Not now", "status": 503})),
        };
        Response::builder()
            .status(status)
            .header("location", "/docs/")
            .body(answer.to_string().into())
            .unwrap()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_end_nobody_tells_keeps_its_id() {
    let id = "019a2f6e-8c3a-7cc0-9d8e-2f1f5d0c7b11";
    let server = leaving(id).await;
    let submit = ["task", "submit", "scraper", "-i", "{}", "--wait"];
    let run = |more: &[&str]| {
        let mut command = taskforge();
        command.args(submit).args(more);
        command.env("TASKFORGE_SERVER", server.url("/")).output().unwrap()
    };
    let people = run(&[]);
    assert_eq!(people.status.code(), Some(6), "{}", said(&people));
    let again = format!("taskforge task wait {id}");
    assert!(said(&people).contains(&again), "{}", said(&people));
    let programs = run(&["--json"]);
    assert_eq!(programs.status.code(), Some(6), "{}", said(&programs));
    let error: Value = serde_json::from_slice(&programs.stderr).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains(&again), "{error}");
    assert_eq!(error["error"]["kind"], "unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_not_ready_is_an_error_for_programs_too() {
    let server = leaving("").await;
    for (path, status) in [("/readyz", "503"), ("/elsewhere", "307")] {
        let output = taskforge().args(["health", "--json", &server.url(path)]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        let error = &error["error"];
        assert_eq!((&error["kind"], &error["exit_code"]), (&json!("failed"), &json!(1)));
        assert!(error["message"].as_str().unwrap().contains(status), "{error}");
    }
}

#[test]
fn shells_are_given_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = taskforge().args(["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("taskforge") && script.contains("submit"), "{shell}");
    }
    let checked = Command::new("bash")
        .args(["-c", "source <(\"$0\" completions bash) && complete -p taskforge"])
        .arg(taskforge().get_program())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
}
