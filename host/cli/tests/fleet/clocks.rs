//! Hosts whose clocks are set by an hour while everything is well.

use std::time::Duration;

use serde_json::{Value, json};
use taskforge_testing::{clock::HostClock, server::Postgres, wait::wait_until};

use crate::{bed::Bed, node::Node};

/// Further than any lease or delay here.
const STEP: i64 = 3600;
/// Of the workers that must not lapse, however slow the machine is.
const LEASE: &str = "10s";
/// Of a worker that is to lapse.
const SHORT_LEASE: &str = "2s";

/// Starts a process on a host of its own.
fn on(clock: &HostClock, mut command: std::process::Command) -> Node {
    clock.apply(&mut command);
    Node::start(&mut command)
}

fn time(task: &Value, field: &str) -> jiff::Timestamp {
    task[field].as_str().unwrap().parse().unwrap()
}

async fn submit(bed: &Bed, body: Value) -> String {
    let task = bed.ask("POST", "/tasks", Some(&body)).await;
    task["id"].as_str().unwrap().to_owned()
}

/// A task that takes longer than a lease.
fn slow() -> Value {
    json!({ "task_type": "hostile", "input": { "attack": "sleep", "ms": 13_000 }, "max_retries": 0 })
}

async fn nothing_changes(with_redis: bool, step: i64) {
    let clocks: Option<Vec<_>> = (0..3).map(|_| HostClock::new()).collect();
    let Some(clocks) = clocks else {
        return;
    };
    let bed = if with_redis { Bed::new() } else { Bed::without_redis() };
    let _api = on(&clocks[0], bed.api_command());
    let worker = || bed.worker_command(&["--heartbeat-timeout", LEASE]);
    let _leader = on(&clocks[1], worker());
    wait_until("the first worker leads", async || {
        bed.sql("select holder is not null from leadership") == "t"
    })
    .await;
    let _follower = on(&clocks[2], worker());
    // Each of the three alone, then all of them.
    for set in [&clocks[..1], &clocks[1..2], &clocks[2..], &clocks[..]] {
        let running: Vec<_> = [submit(&bed, slow()).await, submit(&bed, slow()).await].into();
        for id in &running {
            bed.reaches(id, "running").await;
        }
        let later = json!({ "task_type": "fibonacci", "input": { "n": 1 }, "delay": "30m" });
        let before = submit(&bed, later.clone()).await;
        for clock in set {
            clock.set(step);
        }
        let after = submit(&bed, later).await;
        let soon = json!({ "task_type": "fibonacci", "input": { "n": 1 }, "delay": "1s" });
        let soon = submit(&bed, soon).await;
        let retried = json!({
            "task_type": "hostile", "input": { "attack": "fail", "times": 2 },
            "max_retries": 3, "retry_base": "100ms", "retry_cap": "200ms",
        });
        let retried = submit(&bed, retried).await;
        for id in [&soon, &retried] {
            let task = bed.ended(id).await;
            assert_eq!(task["status"], "completed", "{task}");
        }
        let soon = bed.task(&soon).await;
        let waited = time(&soon, "started_at").duration_since(time(&soon, "created_at"));
        assert!((500..60_000).contains(&waited.as_millis()), "a delay of 1 s took {waited:?}");
        for id in &running {
            let task = bed.ended(id).await;
            assert_eq!(task["status"], "completed", "{task}");
            assert_eq!(task["attempt"], 1, "{task}");
        }
        for id in [&before, &after] {
            assert_eq!(bed.task(id).await["status"], "scheduled", "due in half an hour");
        }
        let off =
            bed.sql("select max(abs(created_at / 1e6 - extract(epoch from now())))::bigint < 600 from tasks");
        assert_eq!(off, "t", "tasks are dated by the database");
        assert_eq!(bed.count("select count(*) from events where kind = 'lapsed'"), 0);
        assert_eq!(bed.count("select count(*) from workers where lapsed_at is not null"), 0);
        for clock in set {
            clock.set(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_set_forward_change_nothing() {
    nothing_changes(true, STEP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_set_back_change_nothing() {
    nothing_changes(false, -STEP).await;
}

/// The machine that PostgreSQL runs on, with everything else on it.
async fn no_worker_lapses(step: i64) {
    let Some(clock) = HostClock::new() else {
        return;
    };
    let bed = Bed::on(Postgres::start_on(clock), None);
    let clock = bed.postgres.clock();
    let start = |mut command: std::process::Command| {
        clock.apply(&mut command);
        Node::start(&mut command)
    };
    let _api = start(bed.api_command());
    let worker = || bed.worker_command(&["--heartbeat-timeout", LEASE]);
    let _workers = [start(worker()), start(worker())];
    for seconds in [step, 0] {
        let running: Vec<_> = [submit(&bed, slow()).await, submit(&bed, slow()).await].into();
        for id in &running {
            bed.reaches(id, "running").await;
        }
        clock.set(seconds);
        for id in &running {
            let task = bed.ended(id).await;
            assert_eq!(
                (&task["status"], &task["attempt"]),
                (&json!("completed"), &json!(1)),
                "{task}"
            );
        }
        assert_eq!(bed.count("select count(*) from events where kind = 'lapsed'"), 0);
        assert_eq!(bed.count("select count(*) from workers where lapsed_at is not null"), 0);
        // Times that the fleet writes are the database's again; heartbeats never go back.
        let beats = "select max(heartbeat_at) / 1e6 > extract(epoch from now()) - 60 from workers";
        wait_until("heartbeats follow", async || bed.sql(beats) == "t").await;
        let led = "select abs(expires_at / 1e6 - extract(epoch from now())) < 60 from leadership";
        wait_until("the sweeper's term follows", async || bed.sql(led) == "t").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_lapses_when_the_databases_clock_is_set_forward_and_back() {
    no_worker_lapses(STEP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_lapses_when_the_databases_clock_is_set_back_and_forward() {
    no_worker_lapses(-STEP).await;
}

/// A worker that was frozen past its lease may have taken hints just before, or take some as it
/// comes back: their tasks are for others at once, and not only when the sweeper's audit finds them
/// half a minute later.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_enqueued_as_a_lapsed_worker_comes_back_starts_at_once() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let worker = || bed.start_worker(&["--heartbeat-timeout", SHORT_LEASE]);
    let frozen = worker();
    // Somebody else sweeps, and serves nothing that this is about.
    let _sweeper = bed.start_worker(&["--heartbeat-timeout", SHORT_LEASE, "--types", "hostile"]);
    let warm = bed.submit("fibonacci", json!({ "n": 1 })).await;
    bed.ended(&warm).await;
    for _ in 0..3 {
        frozen.signal("STOP");
        let lapsed = format!(
            "select count(*) from workers where pid = {} and lapsed_at is not null",
            frozen.pid()
        );
        wait_until("the worker has lapsed", async || bed.count(&lapsed) > 0).await;
        let mut ids = Vec::new();
        for n in 0..20 {
            if n == 5 {
                frozen.signal("CONT");
            }
            ids.push(bed.submit("fibonacci", json!({ "n": n })).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for id in ids {
            let task = bed.ended(&id).await;
            let waited = time(&task, "started_at").duration_since(time(&task, "created_at"));
            // The audit comes every 30 s; without it the tasks would wait for that.
            assert!(waited.as_secs() < 25, "{waited:?} before {task} began");
        }
        bed.sql("delete from workers where lapsed_at is not null");
    }
}
