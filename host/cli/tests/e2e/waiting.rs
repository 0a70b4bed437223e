//! What a person is told who waits, interrupts, or is about to delete something.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use taskforge_testing::wait::wait_until;

use crate::server::{Server, taskforge};

/// A server with `hostile` and `fibonacci`.
fn server(data: &std::path::Path, plugins: &std::path::Path) -> Server {
    for name in ["hostile", "fibonacci"] {
        let guest = taskforge_testing::guests::path(name);
        std::fs::copy(guest, plugins.join(format!("{name}.wasm"))).unwrap();
    }
    Server::start_with(data, |command| {
        command.arg("--plugins").arg(plugins);
    })
}

fn run(mut command: Command) -> (Output, String) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (done, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_sees_how_it_goes_and_may_leave() {
    let (data, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server(data.path(), plugins.path());
    let input =
        json!({ "attack": "sleep", "ms": 600_000, "saying": "half of it is done" }).to_string();
    let mut waiting = server
        .command(&["task", "submit", "hostile", "--input", &input, "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let first = next();
    let id = first.strip_prefix("waiting for task ").expect(&first).to_owned();
    let line = next();
    assert!(line.contains(&id) && line.contains("runs, attempt 1 of 4"), "{line}");

    // What it logs is shown although it runs.
    wait_until("the line is shown", async || {
        let (log, said) = run(server.command(&["task", "logs", &id]));
        assert!(log.status.success(), "{said}");
        String::from_utf8_lossy(&log.stdout).contains("half of it is done")
    })
    .await;

    let interrupted =
        Command::new("kill").args(["-INT", &waiting.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    let rest = rest.join("\n");
    for part in [&format!("task wait {id}"), &format!("task cancel {id}"), "goes on"] {
        assert!(rest.contains(part), "{part}: {rest}");
    }
    let mut out = String::new();
    waiting.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "", "nothing for scripts to misread");
    assert_eq!(server.get(&format!("/tasks/{id}")).await["status"], "running");
    let (cancelled, said) = run(server.command(&["task", "cancel", &id]));
    assert!(cancelled.status.success(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_says_at_once_what_it_waits_for_and_when_it_takes_effect() {
    let (data, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server(data.path(), plugins.path());
    let file = taskforge_testing::guests::path("email");
    let (done, said) = run(server.command(&["plugin", "push", file.to_str().unwrap()]));
    assert!(done.status.success(), "{said}");
    assert!(said.lines().next().unwrap().starts_with("pushing "), "{said}");
    let (done, said) = run(server.command(&["plugin", "push", file.to_str().unwrap(), "--json"]));
    assert!(done.status.success() && said.is_empty(), "{said}");
    assert!(serde_json::from_slice::<Value>(&done.stdout).is_ok());
    let version = server.get("/plugins/email").await["version"].clone();
    let activate = ["plugin", "activate", "email", version.as_str().unwrap()];
    let (done, said) = run(server.command(&activate));
    assert!(done.status.success(), "{said}");
    assert!(said.contains("within two seconds"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_used_is_there_when_advice_is_asked_for() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    server.run("fibonacci", json!({ "n": 10 })).await;
    let (done, said) = run(server.command(&["plugin", "advise", "fibonacci", "--json"]));
    let advice: Value = serde_json::from_slice(&done.stdout).expect(&said);
    assert_eq!(advice["attempts"], 1, "{advice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_that_was_not_confirmed() {
    let (data, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server(data.path(), plugins.path());
    for n in 0..3 {
        server.run("fibonacci", json!({ "n": n })).await;
    }
    for _ in 0..2 {
        let task = server
            .run("hostile", json!({ "attack": "fail", "permanent": true, "message": "no" }))
            .await;
        assert_eq!(task["status"], "failed", "{task}");
    }
    let tasks = async || server.get("/tasks?limit=100").await["tasks"].as_array().unwrap().len();
    let prune = &["task", "prune", "--first", "100", "--type", "fibonacci"][..];
    let delete = &["dlq", "delete", "--all"][..];
    let retire = &["plugin", "prune", "fibonacci", "--keep", "1"][..];
    for (command, what) in [
        (prune, "delete 3 tasks"),
        (delete, "delete 2 dead letters"),
        (retire, "delete 0 versions of fibonacci"),
    ] {
        let (done, said) = run(server.command(command));
        assert_eq!(done.status.code(), Some(2), "{command:?}: {said}");
        assert!(said.contains(what) && said.contains("--yes"), "{command:?}: {said}");
        let (done, said) = run(server.command(&[command, &["--dry-run"]].concat()));
        assert!(done.status.success(), "{command:?}: {said}");
    }
    assert_eq!(tasks().await, 5);
    let (done, _) = run(server.command(&[prune, &["--dry-run", "--json"]].concat()));
    let would: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(would, json!({ "would_delete": 3 }));
    // What ended otherwise, and what is beyond the number, is not counted.
    let (done, _) = run(server.command(&["task", "prune", "--first", "2", "--dry-run", "--json"]));
    let would: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(would, json!({ "would_delete": 2 }));

    for command in [prune, delete] {
        let (done, said) = run(server.command(&[command, &["--yes"]].concat()));
        assert!(done.status.success(), "{command:?}: {said}");
    }
    assert_eq!(tasks().await, 0);
}

#[test]
fn a_demo_says_what_it_does_and_leaves_nothing_when_it_is_interrupted() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = taskforge()
        .args(["demo", "--tasks", "1000000"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("starting a system to throw away"), "{first}");
    let enqueuing =
        lines.by_ref().map_while(Result::ok).find(|line| line.contains("of 1000000 tasks"));
    assert!(enqueuing.is_some());
    let interrupted = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    assert_eq!(demo.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("nothing is left")), "{rest:?}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
