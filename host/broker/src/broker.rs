//! The trait that every broker implements.

use std::time::Duration;

use async_trait::async_trait;
use taskforge_domain::{Priority, TaskId, TaskType, TenantId};
use tokio::sync::broadcast;

/// The result of a broker operation.
pub type BrokerResult<T> = Result<T, BrokerError>;

/// Why a broker operation failed. Never fatal: whoever gets it goes on with the store alone.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the broker is unavailable: {0}")]
pub struct BrokerError(pub String);

/// A task that waits to be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The task.
    pub id: TaskId,
    /// Whose it is; queues are fair between tenants.
    pub tenant: TenantId,
    /// Its type; a worker asks for the types that it serves.
    pub task_type: TaskType,
    /// Its urgency.
    pub priority: Priority,
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    /// The types that it serves.
    pub types: &'a [TaskType],
    /// The most hints that it can use.
    pub max: usize,
    /// How long to wait while there is none.
    pub wait: Duration,
}

/// News for every process of the fleet. A signal may get lost, so each has a slower way of being noticed too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// This task was cancelled while it ran; its worker is to stop it.
    Cancel(TaskId),
    /// This task reached a terminal state; whoever waits for it may look.
    Finished(TaskId),
}

/// A subscription to signals. A slow reader that missed some gets `Lagged` and must look for itself.
pub type Signals = broadcast::Receiver<Signal>;

/// The queue of hints, as the rest of the system sees it.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Adds hints, after the tasks were committed. A hint that is already queued is not queued twice.
    async fn push(&self, hints: &[Hint]) -> BrokerResult<()>;

    /// Takes hints, most urgent first; waits up to `want.wait` while there is none, and returns none after that.
    /// Cancel safe: a dropped call takes nothing.
    async fn pop(&self, want: Want<'_>) -> BrokerResult<Vec<Hint>>;

    /// Hints in the queue.
    async fn depth(&self) -> BrokerResult<u64>;

    /// Whether the queues are known to hold every pending task. `false` after a start or a loss, until [`Broker::mark_complete`].
    async fn is_complete(&self) -> BrokerResult<bool>;

    /// Says that every pending task has been pushed since the loss.
    async fn mark_complete(&self) -> BrokerResult<()>;

    /// Sends signals to every subscriber in the fleet.
    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()>;

    /// Subscribes to signals from now on.
    fn subscribe(&self) -> Signals;
}
