//! The embedded system on a host whose clock is set, and beside a program that locks its database.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use taskforge_testing::{clock::HostClock, guests, wait::wait_until};

use crate::server::Server;

/// Further than any lease or delay here.
const STEP: i64 = 3600;

/// Serves the component that misbehaves on demand, besides the built-in ones.
fn with_hostile(data: &std::path::Path) -> std::path::PathBuf {
    let folder = data.join("plugins");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["fibonacci", "hostile"] {
        let component = guests::path(name);
        for file in [component.with_extension("toml"), component] {
            std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
    folder
}

async fn submit(server: &Server, body: Value) -> String {
    let (status, task) = server.try_post("/tasks", &body).await.expect("it answers");
    assert_eq!(status, 201, "{task}");
    task["id"].as_str().unwrap().to_owned()
}

async fn nothing_changes(step: i64) {
    let Some(clock) = HostClock::new() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let plugins = with_hostile(data.path());
    let server = Server::start_with(data.path(), |command| {
        clock.apply(command);
        command.env("TASKFORGE_PLUGINS", &plugins);
    });
    // Longer than a lease, and than it takes to find that one has lapsed.
    let slow = json!({ "task_type": "hostile", "input": { "attack": "sleep", "ms": 13_000 }, "max_retries": 0 });
    let running = submit(&server, slow).await;
    while server.get(&format!("/tasks/{running}")).await["status"] != "running" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let later = json!({ "task_type": "fibonacci", "input": { "n": 1 }, "delay": "30m" });
    let before = submit(&server, later.clone()).await;
    clock.set(step);
    let after = submit(&server, later).await;
    let soon = json!({ "task_type": "fibonacci", "input": { "n": 1 }, "delay": "1s" });
    let soon = submit(&server, soon).await;
    let retried = json!({
        "task_type": "hostile", "input": { "attack": "fail", "times": 2 },
        "max_retries": 3, "retry_base": "100ms", "retry_cap": "200ms",
    });
    let retried = submit(&server, retried).await;
    for id in [&soon, &retried, &running] {
        let task = server.ended(id).await;
        assert_eq!(task["status"], "completed", "{task}");
    }
    assert_eq!(server.get(&format!("/tasks/{running}")).await["attempt"], 1);
    for id in [&before, &after] {
        let task = server.get(&format!("/tasks/{id}")).await;
        assert_eq!(task["status"], "scheduled", "due in half an hour: {task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_forward_changes_nothing() {
    nothing_changes(STEP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_changes_nothing() {
    nothing_changes(-STEP).await;
}

/// Holds the lock of a database until its standard input is closed.
fn lock(database: &std::path::Path) -> Option<std::process::Child> {
    let script = format!(
        "import sqlite3, sys\nc = sqlite3.connect({:?}, isolation_level=None)\n\
         c.execute('pragma busy_timeout = 10000')\nc.execute('begin immediate')\n\
         print('locked', flush=True)\nsys.stdin.read()\nc.execute('rollback')\n",
        database.to_str().unwrap(),
    );
    let mut process = Command::new("python3")
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    let mut said = String::new();
    let mut output = std::io::BufReader::new(process.stdout.take()?);
    std::io::BufRead::read_line(&mut output, &mut said).ok()?;
    (said.trim() == "locked").then_some(process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_somebody_locks_costs_answers_and_no_finished_task() {
    let data = tempfile::tempdir().unwrap();
    let plugins = with_hostile(data.path());
    let server = Server::start_with(data.path(), |command| {
        command.env("TASKFORGE_PLUGINS", &plugins);
    });
    let slow = json!({ "task_type": "hostile", "input": { "attack": "sleep", "ms": 8_000 }, "max_retries": 0 });
    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(submit(&server, slow.clone()).await);
    }
    for id in &running {
        wait_until("it runs", async || {
            let task = server.get(&format!("/tasks/{id}")).await;
            assert!(task["finished_at"].is_null(), "too soon: {task}");
            task["status"] == "running"
        })
        .await;
    }
    let Some(mut lock) = lock(&data.path().join("taskforge.db")) else {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        eprintln!("skipped: python3 is missing");
        return;
    };
    let locked = Instant::now();
    let body = json!({ "task_type": "fibonacci", "input": { "n": 1 } });
    let mut refused = 0;
    // The tasks end meanwhile, and their worker's lease would.
    while refused < 2 || locked.elapsed() < Duration::from_secs(13) {
        let (status, answer) = server.try_post("/tasks", &body).await.expect("it answers");
        assert_eq!(status, 503, "{answer}");
        refused += 1;
    }
    drop(lock.stdin.take());
    assert!(lock.wait().unwrap().success());
    for id in &running {
        let task = server.ended(id).await;
        assert_eq!(task["status"], "completed", "{task}");
        assert_eq!(task["attempt"], 1, "{task}");
        let history = server.get(&format!("/tasks/{id}/logs")).await.to_string();
        assert!(!history.contains("stopped answering"), "{history}");
    }
    submit(&server, body).await;
}
