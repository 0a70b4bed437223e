//! `kill -9` in the middle of everything, against a real process: this test's own binary, run again
//! as the victim.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use taskforge_domain::{
    Attempt, Digest, Json, NewTask, Next, Outcome, TaskId, TaskState, TaskType, TenantId,
    Timestamp, Usage, WorkerId,
};
use taskforge_store::{ClaimBy, ClaimRequest, Commit, Completion, SqliteStore, Store};

const DATABASE: &str = "TASKFORGE_TEST_VICTIM_DATABASE";

/// What the victim says of a task once the store has answered.
const ENQUEUED: &str = "enqueued";
const COMPLETED: &str = "completed";

/// Says it where a killed process has said it: in the pipe, before anything else happens.
fn say(word: &str, ids: impl IntoIterator<Item = TaskId>) {
    let mut out = std::io::stdout().lock();
    for id in ids {
        writeln!(out, "\n{word} {id}").unwrap();
    }
    out.flush().unwrap();
}

async fn live_until_killed(store: Arc<SqliteStore>, n: usize) {
    let worker = WorkerId::generate();
    for round in 0.. {
        let new = |k: usize| {
            let input = Json::from(serde_json::json!({"n": k, "text": "x".repeat(k * 50)}));
            NewTask::new(
                TenantId::default(),
                TaskType::new("work").unwrap(),
                input,
                Timestamp::now(),
            )
        };
        let tasks: Vec<_> = (0..1 + (n * 7 + round) % 40).map(new).collect();
        store.enqueue(&tasks).await.unwrap();
        say(ENQUEUED, tasks.iter().map(|task| task.id));
        let ids: Vec<_> = tasks.iter().step_by(2).map(|task| task.id).collect();
        let claimed = store
            .claim(ClaimRequest { worker, by: ClaimBy::Ids(&ids), now: Timestamp::now() })
            .await
            .unwrap()
            .tasks;
        let ends: Vec<_> = claimed
            .iter()
            .map(|task| Completion {
                attempt: Attempt {
                    task: task.id,
                    run_lease: task.run_lease,
                    number: task.attempt,
                    worker,
                    plugin_version: "1.0.0".into(),
                    plugin_digest: Digest::from_bytes([1; 32]),
                    started_at: task.started_at,
                    finished_at: Timestamp::now(),
                    outcome: Outcome::Completed(task.input.clone()),
                    usage: Usage::default(),
                    logs: Vec::new(),
                },
                next: Next::Complete,
            })
            .collect();
        let commits = store.complete(&ends).await.unwrap();
        assert!(commits.iter().all(|commit| *commit == Commit::Committed));
        say(COMPLETED, ids);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the victim: what_was_acknowledged_survives_a_kill runs it and kills it"]
async fn victim() {
    let Some(database) = std::env::var_os(DATABASE) else {
        return;
    };
    let store = SqliteStore::open(Path::new(&database)).await.unwrap();
    let clients: Vec<_> =
        (0..8).map(|n| tokio::spawn(live_until_killed(Arc::clone(&store), n))).collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Runs the victim until it has said `lines` lines, kills it, and returns all that it had said.
fn kill_after(database: &Path, lines: usize) -> Vec<(String, TaskId)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--ignored", "--nocapture"])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        // The test harness says things too, and the last line may be cut.
        if let Some((word, id)) = line.strip_suffix('\n').and_then(|line| line.split_once(' '))
            && (word == ENQUEUED || word == COMPLETED)
            && let Ok(id) = id.parse()
        {
            said.push((word.to_owned(), id));
            if said.len() == lines {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    let status = child.wait().unwrap();
    assert!(said.len() >= lines, "the victim ended by itself: {status}");
    assert!(!status.success());
    said
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("taskforge.db");
    let (mut enqueued, mut completed) = (HashSet::new(), HashSet::new());
    // The same database is killed again and again, each time somewhere else.
    for lines in [1, 150, 700, 1300] {
        for (word, id) in kill_after(&database, lines) {
            if word == ENQUEUED {
                enqueued.insert(id)
            } else {
                completed.insert(id)
            };
        }
        let store = SqliteStore::open(&database).await.unwrap();
        for id in &enqueued {
            let task = store.task(&TenantId::default(), *id).await.unwrap();
            let task = task.unwrap_or_else(|| panic!("task {id} was acknowledged and is lost"));
            if completed.contains(id) {
                assert_eq!(
                    (task.state, task.result.as_ref()),
                    (TaskState::Completed, Some(&task.input)),
                    "{id}"
                );
            } else {
                let possible = [TaskState::Pending, TaskState::Running, TaskState::Completed];
                assert!(possible.contains(&task.state), "{id} is {}", task.state);
            }
        }
        let (now, ttl) = (Timestamp::now(), Duration::from_secs(5));
        let term = store.lead(WorkerId::generate(), now, ttl).await.unwrap();
        let term = term.expect("whoever led before is dead");
        // What the dead workers held is found, whoever they were: none of them had ever registered.
        let lapsed = store.lapsed(term, now, 10_000).await.unwrap();
        let counts = store.counts().await.unwrap();
        let running = counts
            .by_type
            .iter()
            .find(|(_, state, _)| *state == TaskState::Running)
            .map_or(0, |c| c.2);
        assert_eq!(lapsed.len() as u64, running);
        store.close().await.unwrap();
    }
    assert!(enqueued.len() > 500 && completed.len() > 100);
}
