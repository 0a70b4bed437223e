//! What the death of a worker costs its tasks.

use serde_json::{Value, json};
use taskforge_testing::wait::wait_until;

use crate::bed::Bed;

/// Enqueues tasks without retries that take some seconds, more than one worker runs at once.
async fn enqueue(bed: &Bed, count: usize) -> Vec<String> {
    let sleep = json!({ "attack": "sleep", "ms": 8_000 });
    let task = json!({ "task_type": "hostile", "input": sleep, "max_retries": 0 });
    let batch = json!({ "tasks": vec![task; count] });
    let answer = bed.ask("POST", "/tasks/batch", Some(&batch)).await;
    let ids = answer["ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_die_or_fall_silent_cost_no_task_an_attempt() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let lease = ["--heartbeat-timeout", "5s"];
    let [killed, silent] = [bed.start_worker(&lease), bed.start_worker(&lease)];
    let ids = enqueue(&bed, 48).await;
    wait_until("both hold tasks", async || {
        tasks_of(&bed, killed.pid()) > 0 && tasks_of(&bed, silent.pid()) > 0
    })
    .await;
    killed.kill();
    silent.signal("STOP");
    let survivors = [bed.start_worker(&lease), bed.start_worker(&lease)];
    wait_until("the tasks of the silent one are taken from it", async || {
        tasks_of(&bed, silent.pid()) == 0
    })
    .await;
    assert!(bed.count("select count(*) from events where kind = 'lapsed'") >= 2);
    // Its commits come too late.
    silent.signal("CONT");
    for id in &ids {
        let task = bed.ended(id).await;
        let seen = (&task["status"], &task["attempt"]);
        assert_eq!(seen, (&json!("completed"), &json!(1)), "{task}");
    }
    assert_eq!(
        bed.count("select count(*) from tasks where lapses <> (select count(*) from events where task_id = id and kind = 'lapsed')"),
        0
    );
    drop(survivors);
}

/// Tasks that the process with this id runs.
fn tasks_of(bed: &Bed, pid: u32) -> u64 {
    bed.count(&format!(
        "select count(*) from tasks join workers on workers.id = tasks.worker
         where state = 'running' and pid = {pid}"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_there_whenever_its_worker_dies_ends_after_the_third() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let id = enqueue(&bed, 1).await.remove(0);
    for lapses in 0..3 {
        let worker = bed.start_worker(&["--heartbeat-timeout", "5s"]);
        // The worker before is dead, but its lease has yet to run out.
        wait_until("it runs again", async || {
            let task = bed.task(&id).await;
            task["status"] == "running" && task["lapses"] == lapses
        })
        .await;
        assert_eq!(bed.task(&id).await["attempt"], 1);
        worker.kill();
    }
    // Whoever sweeps after the third.
    let _sweeper = bed.start_worker(&[]);
    let task = bed.ended(&id).await;
    assert_eq!(
        (&task["status"], &task["error_kind"]),
        (&json!("failed"), &json!("lease_lapsed")),
        "{task}"
    );
    let retried: Value = bed.ask("POST", &format!("/tasks/{id}/retry"), None).await;
    assert_eq!(retried["lapses"], 0, "{retried}");
    assert_eq!(bed.ended(&id).await["status"], "completed");
}
