//! A copy of the queue policy that is seconds old at most.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use taskforge_broker::{Broker, Signal};
use taskforge_domain::QueuePolicy;
use taskforge_registry::Live;
use taskforge_store::Store;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// How old the copy may be when no signal came.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The policy that a worker goes by when it claims from the store itself.
#[derive(Clone)]
pub(crate) struct PolicyCopy {
    queue: Arc<RwLock<Arc<QueuePolicy>>>,
    live: Arc<Live>,
}

impl PolicyCopy {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        Self {
            queue: Arc::default(),
            live,
        }
    }

    /// The queue's policy, with what plugins ask of it as the registry has it now.
    pub(crate) fn get(&self) -> QueuePolicy {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.live.overlay(QueuePolicy::clone(&queue))
    }

    pub(crate) async fn refresh(&self, store: &dyn Store) {
        match store.policy().await {
            Ok(policy) => *self.queue.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy),
            Err(error) => tracing::debug!(%error, "the queue policy was not read; the last one stays"),
        }
    }

    /// Keeps the copy fresh until `stop`.
    pub(crate) async fn follow(
        self,
        store: Arc<dyn Store>,
        broker: Arc<dyn Broker>,
        stop: CancellationToken,
    ) {
        let mut signals = broker.subscribe();
        let changed = async || loop {
            match signals.recv().await {
                Ok(Signal::Policy | Signal::Plugins | Signal::Missed) | Err(RecvError::Lagged(_)) => return,
                Ok(Signal::Cancel(_) | Signal::Finished(_)) => {}
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        };
        let mut changed = changed;
        while !stop.is_cancelled() {
            self.refresh(&*store).await;
            stop.run_until_cancelled(tokio::time::timeout(MAX_AGE, changed()))
                .await;
        }
    }
}
