//! From a push to the first task that every worker ran of it, and from a rollback to the first task
//! of the version before.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use taskforge_testing::guests;

use crate::bed::Bed;

const WORKERS: usize = 3;
const PUSHES: usize = 8;

pub(crate) async fn measure() {
    let bed = Bed::new();
    let _api = bed.start_api();
    let _workers: Vec<_> = (0..WORKERS).map(|_| bed.start_worker(&[])).collect();
    let mut pushes = Vec::new();
    for n in 0..PUSHES {
        let component = guests::variant("golive001", &format!("0.{n}.0"));
        let began = Instant::now();
        let (status, answer) = bed.push("activate=true", component).await;
        assert!(status < 300, "{status} {answer}");
        let answered = began.elapsed();
        all_workers_run(&bed, &format!("0.{n}.0")).await;
        pushes.push((answered, began.elapsed()));
    }
    println!(
        "push of a new version of a Rust component to an idle fleet of {WORKERS} workers, {PUSHES} times:"
    );
    print("  answered after", pushes.iter().map(|(answered, _)| *answered));
    print("  every worker had run a task of it after", pushes.iter().map(|(_, ran)| *ran));

    let mut rollbacks = Vec::new();
    for n in 0..PUSHES {
        let version = if n % 2 == 0 { PUSHES - 2 } else { PUSHES - 1 };
        let began = Instant::now();
        bed.ask("POST", "/plugins/golive001/rollback", Some(&json!({}))).await;
        all_workers_run(&bed, &format!("0.{version}.0")).await;
        rollbacks.push(began.elapsed());
    }
    print(
        "rollback: every worker had run a task of the version before after",
        rollbacks.into_iter(),
    );
}

/// Enqueues small tasks until attempts of a version are on record from every worker.
async fn all_workers_run(bed: &Bed, version: &str) {
    let mut seen: HashSet<String> = HashSet::new();
    while seen.len() < WORKERS {
        let tasks: Vec<_> = (0..2 * WORKERS)
            .map(|_| json!({ "task_type": "golive001", "input": { "n": 30 } }))
            .collect();
        let (status, answer) =
            bed.send("POST", "/tasks/batch", Some(&json!({ "tasks": tasks }))).await.unwrap();
        if status != 201 {
            // The API process does not know it yet.
            assert_eq!(status, 422, "{answer}");
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let ids: Vec<_> = answer["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
        for id in &ids {
            bed.ended(id.trim_matches('"')).await;
        }
        let ids = ids.join(",").replace('"', "'");
        let workers = bed.sql(&format!(
            "select distinct worker from attempts where task_id in ({ids}) and plugin_version = '{version}'"
        ));
        seen.extend(workers.lines().map(str::to_owned));
    }
}

fn print(what: &str, times: impl Iterator<Item = Duration>) {
    let mut times: Vec<_> = times.map(|time| time.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{what}: median {:.0} ms, longest {:.0} ms",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}
