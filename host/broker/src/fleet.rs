//! Redis while it is there, the store while it is away.

use std::sync::Arc;

use async_trait::async_trait;
use taskforge_domain::{Lane, QueuePolicy, TaskId};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
};

use crate::{
    Broker, BrokerResult, Bulletin, Eviction, LOOK_PAUSE, Mode, Popped, QueuedTask, RedisBroker,
    ShortLane, Signal, Signals, StoreBroker, Want, local::SIGNALS,
};

/// A [`RedisBroker`] with a [`StoreBroker`] behind it.
///
/// Each process judges for itself whether Redis is there, and they need not agree: a process that
/// is cut off posts notices for its tasks, and the others look in the store when they receive them.
/// When Redis is back it lacks the hints of that time. So it is not complete, and the sweeper
/// rebuilds it; nothing here remembers them.
#[derive(Debug)]
pub struct FleetBroker {
    redis: RedisBroker,
    direct: StoreBroker,
    /// Signals of both.
    signals: broadcast::Sender<Signal>,
    /// Ends with the broker.
    _tasks: JoinSet<()>,
}

impl FleetBroker {
    /// Falls back to the store when Redis is away.
    #[must_use]
    pub fn new(redis: RedisBroker, bulletin: Arc<dyn Bulletin>) -> Self {
        let signals = broadcast::Sender::new(SIGNALS);
        let direct = StoreBroker::with(bulletin, signals.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(redis.subscribe(), signals.clone()));
        Self { redis, direct, signals, _tasks: tasks }
    }

    /// Hints if there are any, and a look in the store, where a process that is cut off from Redis
    /// has put tasks.
    async fn pop_and_look(&self, want: &Want<'_>) -> Popped {
        let now = Want { wait: std::time::Duration::ZERO, ..want.clone() };
        let popped = self.redis.pop(now).await.unwrap_or_default();
        Popped { look_in_store: true, ..popped }
    }
}

async fn forward(mut from: Signals, to: broadcast::Sender<Signal>) {
    loop {
        let signal = match from.recv().await {
            Ok(signal) => signal,
            Err(RecvError::Lagged(_)) => Signal::Missed,
            Err(RecvError::Closed) => return,
        };
        // Fails without subscribers, which does not matter.
        to.send(signal).ok();
    }
}

#[async_trait]
impl Broker for FleetBroker {
    async fn push(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        match self.redis.push(hints).await {
            Ok(()) => Ok(()),
            Err(_) => self.direct.push(hints).await,
        }
    }

    async fn pop(&self, want: Want<'_>) -> BrokerResult<Popped> {
        if !self.redis.is_away() {
            tokio::select! {
                biased;
                () = self.direct.notified(want.types) => return Ok(self.pop_and_look(&want).await),
                popped = self.redis.pop(want.clone()) => if let Ok(popped) = popped {
                    return Ok(popped);
                },
            }
        }
        Ok(self.direct.look(want.types, want.wait.min(LOOK_PAUSE)).await)
    }

    /// While Redis is away workers find the tasks in the store.
    async fn set_aside(&self, hints: &[QueuedTask]) -> BrokerResult<()> {
        match self.redis.set_aside(hints).await {
            Ok(()) => Ok(()),
            Err(_) => self.direct.push(hints).await,
        }
    }

    async fn depth(&self) -> BrokerResult<u64> {
        self.redis.depth().await
    }

    /// While Redis is away there is nothing to rebuild: all workers look in the store.
    async fn is_complete(&self) -> BrokerResult<bool> {
        if self.redis.is_away() {
            return Ok(true);
        }
        self.redis.is_complete().await
    }

    async fn mark_complete(&self) -> BrokerResult<()> {
        self.redis.mark_complete().await
    }

    async fn short_lanes(&self) -> BrokerResult<Vec<ShortLane>> {
        if self.redis.is_away() {
            return Ok(Vec::new());
        }
        self.redis.short_lanes().await
    }

    async fn refill(
        &self,
        lane: &Lane,
        after: Option<TaskId>,
        tasks: &[TaskId],
        is_all: bool,
    ) -> BrokerResult<()> {
        self.redis.refill(lane, after, tasks, is_all).await
    }

    /// While Redis is away it cannot take the policy: the caller sets it again when the mode has
    /// changed.
    async fn set_policy(&self, policy: &QueuePolicy) -> BrokerResult<()> {
        self.direct.set_policy(policy).await?;
        if self.redis.is_away() {
            return Ok(());
        }
        self.redis.set_policy(policy).await
    }

    async fn publish(&self, signals: &[Signal]) -> BrokerResult<()> {
        match self.redis.publish(signals).await {
            Ok(()) => Ok(()),
            Err(_) => self.direct.publish(signals).await,
        }
    }

    fn subscribe(&self) -> Signals {
        self.signals.subscribe()
    }

    fn mode(&self) -> Mode {
        self.redis.mode()
    }

    fn concern(&self) -> Option<String> {
        self.redis.concern()
    }

    fn eviction(&self) -> Option<Eviction> {
        self.redis.eviction()
    }
}
