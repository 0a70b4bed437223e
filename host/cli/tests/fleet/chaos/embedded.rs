//! The embedded database, whose disk is full for a while.

use std::time::Instant;

use taskforge_testing::{disk::SmallDisk, server::free_port, wait::wait_until};

use super::{
    ONE_AT_A_TIME,
    load::{Counter, Load},
    scale,
};
use crate::{
    bed::{self, KEY},
    binary::taskforge,
    node::{Node, client},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_the_embedded_database_is_full() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let scale = scale();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let Some(disk) = SmallDisk::mount(&data, 256) else {
        return;
    };
    let mut command = taskforge();
    command
        .args(["dev", "--listen", &format!("127.0.0.1:{}", free_port())])
        .env("TASKFORGE_DATA_DIR", &data)
        .env("TASKFORGE_PLUGINS", bed::plugins(folder.path()))
        .env("TASKFORGE_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("TASKFORGE_API_KEY", KEY)
        .env("TASKFORGE_CONCURRENCY", "256");
    let node = Node::start(&mut command);
    let counter = Counter::start().await;
    let load = Load::start(format!("{}/tasks/batch", node.url), &counter, scale.tasks);
    wait_until("the load is under way", async || load.acknowledged() >= scale.tasks / 4).await;
    let ready = async || node.readyz().await.is_some_and(|(status, _)| status == 200);
    disk.fill();
    let hit = Instant::now();
    wait_until("it is noticed", async || !ready().await).await;
    tokio::time::sleep(scale.outage).await;
    disk.empty();
    wait_until("it is ready again", ready).await;
    let recovered = hit.elapsed();
    let acknowledged = load.finish().await;

    let http = client();
    let (mut lost, mut twice) = (Vec::new(), Vec::new());
    for (id, expected) in &acknowledged {
        let (status, ends) = ended(&http, &node, id).await;
        if status != expected.as_str() {
            lost.push(format!("{id} {expected:?} {status}"));
        }
        if ends != 1 {
            twice.push(format!("{id}: {ends} ends"));
        }
    }
    let runs = counter.runs();
    let counted: Vec<_> = acknowledged.keys().filter_map(|id| runs.get(id)).collect();
    println!(
        "CHAOS | the disk of the embedded database is full | {} | {} | {} | {:.1} s (ready again) | 0 | {:.3} |",
        acknowledged.len(),
        lost.len(),
        twice.len(),
        recovered.as_secs_f64(),
        counted.iter().copied().sum::<usize>() as f64 / counted.len().max(1) as f64,
    );
    assert!(lost.is_empty(), "{} lost: {:?}", lost.len(), lost.first());
    assert!(twice.is_empty(), "{} twice: {:?}", twice.len(), twice.first());
}

/// How a task ended, and how often its history says that it did.
async fn ended(http: &reqwest::Client, node: &Node, id: &str) -> (String, usize) {
    let get = async |path: String| -> serde_json::Value {
        let request = http.get(format!("{}{path}", node.url)).bearer_auth(KEY);
        request.send().await.unwrap().json().await.unwrap()
    };
    let mut status = String::new();
    wait_until(&format!("task {id} has ended"), async || {
        let task = get(format!("/tasks/{id}?wait=10s")).await;
        status = task["status"].as_str().unwrap_or_default().to_owned();
        ["completed", "failed"].contains(&status.as_str())
    })
    .await;
    let history = get(format!("/tasks/{id}/logs")).await;
    let lines = history.as_array().expect("lines").iter();
    let ends = lines.filter(|line| line["event"] == "completed" || line["event"] == "dead_letter");
    (status, ends.count())
}
