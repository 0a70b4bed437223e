//! Enqueues until told to stop, and remembers what was acknowledged.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use taskforge_testing::web;
use tokio::task::JoinHandle;

use crate::{bed::KEY, node::client};

/// What a task of the load must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Completed,
    /// Its handler fails it for good.
    Failed,
}

impl Expected {
    /// The status that it is.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// A load under way.
pub(super) struct Load {
    acknowledged: Arc<AtomicUsize>,
    enqueueing: JoinHandle<HashMap<String, Expected>>,
}

/// Tasks in one request.
const BATCH: usize = 50;

impl Load {
    /// Enqueues `tasks` at this URL over some seconds, batch by batch, again and again while the
    /// API is away. A batch that got no answer may be in the store or not, and is nobody's promise.
    pub(super) fn start(url: String, counter: &Counter, tasks: usize) -> Self {
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (count, counter) = (acknowledged.clone(), counter.url.clone());
        // About ten seconds' worth, or four of a short run.
        let pause = Duration::from_secs_f64(BATCH as f64 * (10.0 / tasks as f64).min(1.0 / 250.0));
        let enqueueing = tokio::spawn(async move {
            let http = client();
            let mut ids = HashMap::new();
            let mut ticks = tokio::time::interval(pause);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while ids.len() < tasks {
                ticks.tick().await;
                let batch: Vec<_> = (0..BATCH).map(|n| task(ids.len() + n, &counter)).collect();
                let body =
                    json!({ "tasks": batch.iter().map(|(task, _)| task).collect::<Vec<_>>() });
                let Ok(response) = http.post(&url).bearer_auth(KEY).json(&body).send().await else {
                    continue;
                };
                let status = response.status().as_u16();
                let Ok(answer) = response.json::<Value>().await else {
                    continue;
                };
                match status {
                    201 => {}
                    // The store is away, and the API says so.
                    500.. => continue,
                    _ => panic!("{status}: {answer}"),
                }
                let batch = answer["ids"].as_array().unwrap().iter().zip(&batch);
                ids.extend(
                    batch.map(|(id, (_, expected))| (id.as_str().unwrap().to_owned(), *expected)),
                );
                count.store(ids.len(), Ordering::SeqCst);
            }
            ids
        });
        Self { acknowledged, enqueueing }
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits for the last acknowledgement.
    pub(super) async fn finish(self) -> HashMap<String, Expected> {
        self.enqueueing.await.unwrap()
    }
}

/// Of ten tasks: four quick ones, three that are counted, one slow, one that fails twice first, one
/// that fails for good.
fn task(number: usize, counter: &str) -> (Value, Expected) {
    let counted = |more: Value| {
        let mut input = json!({ "attack": "count_runs", "url": counter });
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("hostile", input)
    };
    let ((task_type, input), expected) = match number % 10 {
        0..4 => (("fibonacci", json!({ "n": number % 500 })), Expected::Completed),
        4..7 => (counted(json!({})), Expected::Completed),
        7 => (counted(json!({ "ms": 200 + number % 7 * 100 })), Expected::Completed),
        8 => (counted(json!({ "fail_times": 2 })), Expected::Completed),
        _ => (counted(json!({ "permanent": true })), Expected::Failed),
    };
    let task = json!({
        "task_type": task_type, "input": input, "priority": 1 + number % 5,
        // A task survives as many lapses as it has retries, and none of these may run out of them.
        "max_retries": 50, "retry_base": "50ms", "retry_cap": "500ms",
    });
    (task, expected)
}

/// The server outside that counts runs.
pub(super) struct Counter {
    url: String,
    runs: Arc<Mutex<HashMap<String, usize>>>,
    _server: web::Server,
}

impl Counter {
    pub(super) async fn start() -> Self {
        let runs = Arc::new(Mutex::new(HashMap::new()));
        let counted = runs.clone();
        let server = web::Server::answering(move |request| {
            if let Some(id) = request.headers().get("x-task-id") {
                *counted.lock().unwrap().entry(id.to_str().unwrap().to_owned()).or_default() += 1;
            }
            Response::new(Bytes::from_static(b"counted"))
        })
        .await;
        Self { url: server.url("/"), runs, _server: server }
    }

    /// How often each task ran.
    pub(super) fn runs(&self) -> HashMap<String, usize> {
        self.runs.lock().unwrap().clone()
    }
}
