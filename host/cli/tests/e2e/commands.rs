//! The client commands and the plugin commands.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use taskforge_testing::{server::Postgres, tls};

use crate::server::{Server, taskforge};

fn output(args: &[&str]) -> Output {
    taskforge().args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a client command against a server and reads its JSON.
fn client(server: &Server, args: &[&str]) -> Value {
    let done = server.command(args).arg("--json").output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", stderr(&done));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn guest(name: &str) -> String {
    taskforge_testing::guests::path(name).to_str().unwrap().to_owned()
}

#[test]
fn more_attempts_than_a_process_can_run_are_refused_with_the_reason() {
    for command in [
        &["dev", "--concurrency", "8000"][..],
        &["worker", "--database-url", "postgres://x/x", "--concurrency", "798"],
        &["demo", "--workers", "64", "--concurrency", "256"],
    ] {
        let refused = output(command);
        let said = stderr(&refused);
        assert!(!refused.status.success() && said.contains("at most"), "{command:?}: {said}");
    }
}

#[test]
fn a_component_that_is_run_again_is_not_compiled_again() {
    let caches = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = taskforge();
        command
            .args(["plugin", "run", &guest("fibonacci"), "--input", "{\"n\": 10}"])
            .env_remove("TASKFORGE_CACHE_DIR")
            .env("XDG_CACHE_HOME", caches.path());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
        let files = std::fs::read_dir(caches.path().join("taskforge")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 1);
        let file = files.remove(0);
        (file.file_name(), file.metadata().unwrap().ino())
    };
    assert_eq!(run(), run());
    // Where nothing can be kept it runs all the same.
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = taskforge();
    command.args(["plugin", "run", &guest("fibonacci"), "--input", "{\"n\": 10}", "--cache-dir"]);
    let done = command.arg(file.path()).output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
}

#[test]
fn an_authority_that_cannot_be_read_is_named() {
    let mut command = taskforge();
    command.args(["plugin", "run", &guest("fibonacci"), "--ca-file", "/nowhere/ca.pem"]);
    let said = stderr(&command.output().unwrap());
    assert!(said.contains("--ca-file") && said.contains("/nowhere/ca.pem"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_private_authority_is_used_by_whoever_trusts_it() {
    let postgres = Postgres::start();
    assert!(postgres.create_database("secure").ends_with("/secure"));
    let secure = tls::before(postgres.port(), Some(tls::POSTGRES)).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/secure?sslmode=verify-full", secure.port());
    let migrate = |trust: &dyn Fn(&mut Command)| {
        let mut command = taskforge();
        command.args(["migrate", "--startup-timeout", "0s", "--database-url", &url]);
        trust(&mut command);
        command.output().unwrap()
    };
    let stranger = migrate(&|_| {});
    assert!(!stranger.status.success(), "{}", stdout(&stranger));
    let by_option = migrate(&|command| {
        command.arg("--ca-file").arg(tls::authority());
    });
    assert!(by_option.status.success(), "{}", stderr(&by_option));
    let by_variable = migrate(&|command| {
        command.env("SSL_CERT_FILE", tls::authority());
    });
    assert!(by_variable.status.success(), "{}", stderr(&by_variable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_watched_and_pruned_from_the_shell() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let done =
        client(&server, &["task", "submit", "fibonacci", "--input", r#"{"n": 10}"#, "--wait"]);
    assert_eq!((&done["status"], &done["result"]), (&json!("completed"), &json!({ "result": 55 })));
    let id = done["id"].as_str().unwrap();
    assert_eq!(client(&server, &["task", "get", id])["id"], done["id"]);
    assert_eq!(client(&server, &["task", "wait", id])["status"], "completed");
    let log = client(&server, &["task", "logs", id]);
    assert!(log["logs"].as_array().unwrap().len() >= 3, "{log}");

    for n in 0..12 {
        client(
            &server,
            &["task", "submit", "fibonacci", "--input", &json!({ "n": n }).to_string(), "--wait"],
        );
    }
    let last = client(&server, &["task", "list", "--last", "10"]);
    let newest: Vec<_> = last["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["input"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(newest, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]);
    assert_eq!(
        client(&server, &["task", "prune", "--first", "5", "--yes"]),
        json!({ "deleted": 5 })
    );
    assert_eq!(
        client(&server, &["task", "list", "--last", "100"])["tasks"].as_array().unwrap().len(),
        8
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_task_is_cancelled_and_run_again_from_the_shell() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let later =
        client(&server, &["task", "submit", "fibonacci", "-i", r#"{"n": 5}"#, "--delay", "1h"]);
    assert_eq!(later["status"], "scheduled");
    let id = later["id"].as_str().unwrap();
    assert_eq!(client(&server, &["task", "cancel", id])["status"], "cancelled");
    client(&server, &["task", "retry", id]);
    assert_eq!(client(&server, &["task", "wait", id])["result"], json!({ "result": 5 }));
    assert_eq!(
        client(&server, &["task", "list", "--status", "completed", "--type", "fibonacci"])["tasks"]
            [0]["id"],
        id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_told_in_words() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    for (args, told) in [
        (&["task", "submit", "fibonacci", "-i", r#"{"n": -1}"#][..], "/input/n"),
        (&["task", "submit", "fibonacci", "-i", r#"{"n": 1.5}"#], "/input/n"),
        (&["task", "submit", "fibonacci", "-i", r#"{"n": 1000001}"#], "/input/n"),
        (&["task", "submit", "fibonacci"], "n"),
        (
            &["task", "submit", "email", "-i", r#"{"to": "nobody", "subject": "x", "text": "x"}"#],
            "/input/to: \"nobody\" does not have the form of \"user@example.com\"",
        ),
        (&["task", "submit", "nothing"], "nothing"),
        (&["task", "submit", "fibonacci", "-i", "{n"], "not JSON"),
        (&["task", "get", "01890000-0000-7000-8000-000000000000"], "01890000"),
        (&["task", "get", "x"], "invalid"),
        (&["task", "list", "--status", "dead"], "scheduled, pending"),
    ] {
        let done = server.command(args).output().unwrap();
        assert!(!done.status.success(), "{args:?}");
        assert!(stderr(&done).contains(told), "{args:?}: {}", stderr(&done));
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let done = output(&["task", "list", "--server", "http://127.0.0.1:1"]);
    assert!(
        !done.status.success() && stderr(&done).contains("http://127.0.0.1:1"),
        "{}",
        stderr(&done)
    );
}

#[test]
fn a_component_runs_without_a_server() {
    let done = output(&["plugin", "run", &guest("fibonacci"), "--input", r#"{"n": 100}"#]);
    assert!(done.status.success(), "{}", stderr(&done));
    let said = stdout(&done);
    for part in ["354224848179261915075", "fuel", "memory", "time", "SHARE"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    let done = output(&["plugin", "run", &guest("fibonacci"), "--input", r#"{"n": 10}"#, "--json"]);
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["result"], json!({ "result": 55 }));
    assert!(report["usage"]["fuel"].as_u64().unwrap() > 0);
}

#[test]
fn a_component_that_hits_a_limit_fails_with_that_limit() {
    let args = [
        "plugin",
        "run",
        &guest("fibonacci"),
        "-i",
        r#"{"n": 1000000}"#,
        "--fuel",
        "1000000",
        "--json",
    ];
    let done = output(&args);
    assert_eq!(done.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&report["status"], &report["error_kind"]),
        (&json!("failed"), &json!("out_of_fuel"))
    );
}

#[test]
fn input_is_checked_before_a_component_runs() {
    let done = output(&["plugin", "run", &guest("fibonacci"), "-i", r#"{"n": "ten"}"#]);
    assert!(!done.status.success() && stderr(&done).contains("/input/n"), "{}", stderr(&done));
}

#[test]
fn a_component_is_inspected_without_running_a_task() {
    let done = output(&["plugin", "inspect", &guest("scraper"), "--json"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let names = |key: &str| report[key].to_string();
    assert!(names("imports").contains("wasi:http/outgoing-handler"), "{report}");
    assert!(names("exports").contains("taskforge:plugin/handler@0.1.0"), "{report}");
    assert!(report["plugin"]["input_schema"]["properties"]["url"].is_object(), "{report}");
}

#[test]
fn files_that_are_no_plugins_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let component = std::fs::read(guest("fibonacci")).unwrap();
    for (file, told) in [
        (write("core.wasm", b"\0asm\x01\0\0\0"), "wasm32-wasip2"),
        (write("text.wasm", b"#!/bin/sh\n"), "text.wasm"),
        (write("cut.wasm", &component[..component.len() / 2]), "cut.wasm"),
        (folder.path().join("absent.wasm").to_str().unwrap().to_owned(), "absent.wasm"),
    ] {
        let done = output(&["plugin", "run", &file]);
        assert!(
            !done.status.success() && stderr(&done).contains(told),
            "{file}: {}",
            stderr(&done)
        );
    }
}

#[test]
fn a_broken_settings_file_names_the_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let component = folder.path().join("fibonacci.wasm");
    std::fs::copy(guest("fibonacci"), &component).unwrap();
    std::fs::write(folder.path().join("fibonacci.toml"), "[limits]\nfeul = 1\n").unwrap();
    let done = output(&["plugin", "run", component.to_str().unwrap(), "-i", r#"{"n": 1}"#]);
    assert!(!done.status.success() && stderr(&done).contains("feul"), "{}", stderr(&done));
}

#[test]
fn a_broken_plugin_does_not_keep_the_others_from_serving() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(guest("fibonacci"), folder.path().join("fibonacci.wasm")).unwrap();
    std::fs::write(folder.path().join("broken.wasm"), b"\0asm").unwrap();
    let demo = |folder: &Path, kind: &str| {
        output(&["demo", "--tasks", "5", "--plugins", folder.to_str().unwrap(), "--type", kind])
    };
    // The demo measures, so it wants a sound folder; a server goes on without the broken one.
    assert!(stderr(&demo(folder.path(), "fibonacci")).contains("broken.wasm"));
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), |command| {
        command.arg("--plugins").arg(folder.path());
    });
    let listed = client(&server, &["task", "submit", "fibonacci", "-i", r#"{"n": 1}"#, "--wait"]);
    assert_eq!(listed["status"], "completed");
}

#[test]
fn the_demo_runs_every_built_in_type_to_completion() {
    let done = output(&["demo", "--tasks", "120", "--workers", "3", "--json"]);
    assert!(done.status.success(), "{}{}", stdout(&done), stderr(&done));
    let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(summary["outcomes"], json!({ "completed": 120 }));
    for kind in ["fibonacci", "scraper", "email"] {
        assert!(summary["by_type"][kind]["total"]["p50"].as_u64().unwrap() > 0, "{summary}");
    }
}
