//! Subscribes to changes of the registry, and has the catalog read them.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Signal, Signals};
use taskforge_store::{PluginStore, StoreResult};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;

/// How often the registry's revision is asked for, in case that a signal was lost.
const POLL: Duration = Duration::from_secs(1);

/// Keeps a process's catalog fresh: at once after a signal, within a second without one.
pub struct Follower {
    store: Arc<dyn PluginStore>,
    signals: Signals,
    catalog: Arc<Catalog>,
}

impl Follower {
    /// Reads the registry for the first time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(
        store: Arc<dyn PluginStore>,
        broker: &dyn Broker,
        catalog: Arc<Catalog>,
    ) -> StoreResult<Self> {
        // Before the first read, so that no change after it is missed.
        let signals = broker.subscribe();
        catalog.refresh(&*store).await?;
        Ok(Self { store, signals, catalog })
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut is_away = false;
        while stop
            .run_until_cancelled(tokio::time::timeout(POLL, change(&mut self.signals)))
            .await
            .is_some()
        {
            match self.catalog.refresh(&*self.store).await {
                Ok(()) => is_away = false,
                Err(error) if is_away => tracing::debug!(%error, "the registry was not read"),
                Err(error) => {
                    is_away = true;
                    tracing::warn!(%error, "the registry was not read; what runs goes on");
                }
            }
        }
    }
}

/// Waits for a signal that the registry may have changed.
async fn change(signals: &mut Signals) {
    loop {
        match signals.recv().await {
            Ok(Signal::Plugins | Signal::Missed) | Err(RecvError::Lagged(_)) => return,
            Ok(Signal::Cancel(_) | Signal::Finished(_) | Signal::Policy) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
