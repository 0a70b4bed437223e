//! The way of new tasks into the store, and of hints and signals into the broker.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Signal};
use taskforge_domain::{NewTask, QueuedTask, TaskState};
use taskforge_store::{Store, StoreError, StoreResult};
use tokio::sync::mpsc;

/// Hints of committed tasks that may wait to be pushed. Beyond that they are dropped, which costs
/// latency only: the sweeper finds pending tasks that nobody was told about.
const WAITING_HINTS: usize = 65_536;
/// Hints in one push. A broker takes them in one round trip, in which it does nothing else.
const PUSH: usize = 4096;
/// A broker that takes longer is treated as unavailable.
const BROKER_TIMEOUT: Duration = Duration::from_secs(2);

/// The way of new tasks into the store. Requests are not gathered here: the store coalesces
/// concurrent calls by itself, and a second queue before it would only make them wait for each
/// other's commits.
pub(crate) struct Enqueuer {
    store: Arc<dyn Store>,
    committed: mpsc::Sender<QueuedTask>,
}

impl Enqueuer {
    /// Starts the one that pushes hints. It takes whatever waits in one push, so the hints of
    /// requests that commit while a push is under way travel together, and a lone request's leave
    /// at once.
    pub(crate) fn start(store: Arc<dyn Store>, broker: Arc<dyn Broker>) -> Self {
        let (committed, waiting) = mpsc::channel(WAITING_HINTS);
        tokio::spawn(push_hints(broker, waiting));
        Self { store, committed }
    }

    /// Returns when the tasks are committed, all or none.
    ///
    /// A task of its own does it, so that neither a client that hangs up nor a request that is
    /// given up separates a commit from its hints.
    pub(crate) async fn submit(&self, tasks: Vec<NewTask>) -> StoreResult<()> {
        let (store, committed) = (Arc::clone(&self.store), self.committed.clone());
        let commit = tokio::spawn(async move {
            store.enqueue(&tasks).await?;
            metrics::counter!("taskforge_tasks_enqueued_total").increment(tasks.len() as u64);
            let hints = tasks.into_iter().filter(|task| task.first_state() == TaskState::Pending);
            leave(&committed, hints.map(|task| QueuedTask::from(&task)).collect());
            Ok(())
        });
        commit.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a commit ended badly");
            Err(StoreError::Closed)
        })
    }
}

/// Leaves hints for the one that pushes them, all or none.
fn leave(committed: &mpsc::Sender<QueuedTask>, hints: Vec<QueuedTask>) {
    match committed.try_reserve_many(hints.len()) {
        Ok(places) => places.zip(hints).for_each(|(place, hint)| place.send(hint)),
        Err(_) => failed("push", "the broker is too slow; hints were dropped"),
    }
}

/// Ends when the [`Enqueuer`] and its commits have ended, after the last hints.
async fn push_hints(broker: Arc<dyn Broker>, mut waiting: mpsc::Receiver<QueuedTask>) {
    let mut hints = Vec::new();
    while waiting.recv_many(&mut hints, PUSH).await > 0 {
        push(&*broker, &hints).await;
        hints.clear();
    }
}

/// Pushes hints; a failure is logged and counted, and costs latency only.
pub(crate) async fn push(broker: &dyn Broker, hints: &[QueuedTask]) {
    if !hints.is_empty() {
        told("push", broker.push(hints)).await;
    }
}

/// Gives back hints whose tasks have to wait for a permit of a cap; a failure costs latency only.
pub(crate) async fn set_aside(broker: &dyn Broker, hints: &[QueuedTask]) {
    if !hints.is_empty() {
        told("set_aside", broker.set_aside(hints)).await;
    }
}

/// Sends signals; a failure is logged and counted, and whoever waits for one looks for itself a
/// second later.
pub(crate) async fn publish(broker: &dyn Broker, signals: &[Signal]) {
    told("publish", broker.publish(signals)).await;
}

/// Tells the broker something that it may miss.
pub(crate) async fn told(
    operation: &'static str,
    telling: impl Future<Output = taskforge_broker::BrokerResult<()>>,
) {
    match tokio::time::timeout(BROKER_TIMEOUT, telling).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failed(operation, &error.to_string()),
        Err(_) => failed(operation, "the broker did not answer in time"),
    }
}

fn failed(operation: &'static str, error: &str) {
    metrics::counter!("taskforge_broker_errors_total", "operation" => operation).increment(1);
    tracing::warn!(operation, error, "the broker was not told");
}

#[cfg(test)]
mod tests {
    use taskforge_domain::{Json, TaskType, TenantId, Timestamp};

    use super::*;

    fn hints(count: usize) -> Vec<QueuedTask> {
        let task = || {
            let (kind, input) = (TaskType::new("x").unwrap(), Json::from(serde_json::json!(1)));
            QueuedTask::from(&NewTask::new(TenantId::default(), kind, input, Timestamp::UNIX_EPOCH))
        };
        std::iter::repeat_with(task).take(count).collect()
    }

    #[tokio::test]
    async fn what_waits_is_pushed_together_in_order_and_a_commit_that_does_not_fit_leaves_none() {
        let (committed, mut waiting) = mpsc::channel(10);
        let (first, second) = (hints(3), hints(5));
        leave(&committed, first.clone());
        leave(&committed, second.clone());
        leave(&committed, hints(3));
        let mut pushed = Vec::new();
        assert_eq!(waiting.recv_many(&mut pushed, PUSH).await, 8);
        assert_eq!(pushed, [first, second].concat());
    }
}
