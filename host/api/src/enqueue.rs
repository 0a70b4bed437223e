//! Concurrent requests become one commit, then hints.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Hint, Signal};
use taskforge_domain::{NewTask, TaskState};
use taskforge_store::{Batcher, BatcherConfig, Store, StoreResult};
use tokio::sync::mpsc;

/// Commits that may wait for their hints to be pushed. Beyond that hints are dropped, which costs latency only: the sweeper finds
/// pending tasks that nobody was told about.
const WAITING_COMMITS: usize = 256;
/// A broker that takes longer is treated as unavailable.
const BROKER_TIMEOUT: Duration = Duration::from_secs(2);

/// The way of new tasks into the store.
pub(crate) struct Enqueuer {
    batcher: Batcher<NewTask, ()>,
}

impl Enqueuer {
    /// Starts the writer, and behind it the one that pushes hints. Hints go in the order of the commits and on a task of their own, so
    /// neither a slow broker nor a client that hangs up can hold back a commit or lose its hints.
    pub(crate) fn start(store: Arc<dyn Store>, broker: Arc<dyn Broker>) -> Self {
        let (committed, waiting) = mpsc::channel(WAITING_COMMITS);
        tokio::spawn(push_hints(broker, waiting));
        // A full batch of the API (10,000) must fit into the queue together with single tasks.
        let config = BatcherConfig {
            name: "enqueue",
            max_items: 2048,
            queue: 32_768,
            ..BatcherConfig::default()
        };
        let batcher = Batcher::new(config, move |tasks: Vec<NewTask>| {
            let (store, committed) = (Arc::clone(&store), committed.clone());
            async move {
                store.enqueue(&tasks).await?;
                metrics::counter!("taskforge_tasks_enqueued_total").increment(tasks.len() as u64);
                let hints: Vec<Hint> = tasks
                    .iter()
                    .filter(|task| task.first_state() == TaskState::Pending)
                    .map(hint)
                    .collect();
                if !hints.is_empty() && committed.try_send(hints).is_err() {
                    failed("push", "the broker is too slow; hints were dropped");
                }
                Ok(vec![(); tasks.len()])
            }
        });
        Self { batcher }
    }

    /// Returns when the tasks are committed, all or none.
    pub(crate) async fn submit(&self, tasks: Vec<NewTask>) -> StoreResult<()> {
        self.batcher.submit(tasks).await.map(drop)
    }
}

fn hint(task: &NewTask) -> Hint {
    Hint {
        id: task.id,
        tenant: task.tenant.clone(),
        task_type: task.task_type.clone(),
        priority: task.priority,
    }
}

/// Ends when the batcher has ended, after the last hints.
async fn push_hints(broker: Arc<dyn Broker>, mut waiting: mpsc::Receiver<Vec<Hint>>) {
    while let Some(hints) = waiting.recv().await {
        push(&*broker, &hints).await;
    }
}

/// Pushes hints; a failure is logged and counted, and costs latency only.
pub(crate) async fn push(broker: &dyn Broker, hints: &[Hint]) {
    match tokio::time::timeout(BROKER_TIMEOUT, broker.push(hints)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed("push", &error.to_string()),
        Err(_) => failed("push", "the broker did not answer in time"),
    }
}

/// Sends signals; a failure is logged and counted, and whoever waits for one looks for itself a second later.
pub(crate) async fn publish(broker: &dyn Broker, signals: &[Signal]) {
    match tokio::time::timeout(BROKER_TIMEOUT, broker.publish(signals)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed("publish", &error.to_string()),
        Err(_) => failed("publish", "the broker did not answer in time"),
    }
}

fn failed(operation: &'static str, error: &str) {
    metrics::counter!("taskforge_broker_errors_total", "operation" => operation).increment(1);
    tracing::warn!(operation, error, "the broker was not told");
}
