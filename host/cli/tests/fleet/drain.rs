//! What SIGTERM does to a worker, and a rolling restart.

use std::time::{Duration, Instant};

use serde_json::json;
use taskforge_testing::wait::wait_until;

use crate::bed::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_stop_finishes_what_it_can_and_hands_back_the_rest() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let mut worker = bed.start_worker(&["--drain-grace", "3s"]);
    let short = bed.submit("hostile", json!({ "attack": "sleep", "ms": 1_500 })).await;
    let long = bed.submit("hostile", json!({ "attack": "sleep", "ms": 30_000 })).await;
    bed.reaches(&short, "running").await;
    bed.reaches(&long, "running").await;

    worker.signal("TERM");
    wait_until("it says that it drains", async || {
        worker.readyz().await.is_some_and(|(status, _)| status == 503)
    })
    .await;
    // A claim that was under way is finished, and takes what it finds; by now it is long over.
    bed.reaches(&short, "completed").await;
    let late = bed.submit("fibonacci", json!({ "n": 10 })).await;
    let status = worker.wait_for_exit().await;

    assert_eq!(status.code(), Some(0));
    let task = bed.task(&short).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("completed"), &json!(1)), "{task}");
    let task = bed.task(&long).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("pending"), &json!(0)), "{task}");
    assert_eq!(bed.task(&late).await["status"], "pending", "it claimed nothing more");
    assert_eq!(bed.count("select count(*) from workers"), 0, "it has taken its leave");

    // What was handed back is hinted, so another worker has it at once.
    let _other = bed.start_worker(&[]);
    bed.reaches(&long, "running").await;
    assert_eq!(bed.ended(&late).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_to_stop_is_immediate() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let mut worker = bed.start_worker(&["--drain-grace", "60s"]);
    let id = bed.submit("hostile", json!({ "attack": "sleep", "ms": 50_000 })).await;
    bed.reaches(&id, "running").await;
    worker.signal("TERM");
    wait_until("it drains", async || {
        // It takes no more, and still answers those who ask how it is.
        worker.readyz().await.is_some()
    })
    .await;
    let asked = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.wait_for_exit().await.code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(20), "it waited for the attempt");
    assert_eq!(bed.task(&id).await["status"], "running", "until its lease lapses");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_nothing_and_wastes_no_attempt() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let mut workers: Vec<_> = (0..3).map(|_| bed.start_worker(&["--drain-grace", "2s"])).collect();
    let mut ids = Vec::new();
    for round in 0..3 {
        for _ in 0..10 {
            let tasks: Vec<_> = (0..20)
                .map(|n| match n {
                    0 => json!({ "task_type": "hostile", "input": { "attack": "sleep", "ms": 1_000 } }),
                    _ => json!({ "task_type": "fibonacci", "input": { "n": n } }),
                })
                .collect();
            let answer = bed.ask("POST", "/tasks/batch", Some(&json!({ "tasks": tasks }))).await;
            ids.extend(
                answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()),
            );
        }
        let mut old = workers.remove(0);
        old.signal("TERM");
        assert_eq!(old.wait_for_exit().await.code(), Some(0), "worker {round}");
        workers.push(bed.start_worker(&["--drain-grace", "2s"]));
    }
    for id in &ids {
        let task = bed.ended(id).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("completed"), &json!(1)), "{task}");
    }
    assert_eq!(bed.count("select count(*) from events where kind = 'lapsed'"), 0);
}
