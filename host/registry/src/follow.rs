//! Hears of changes of the registry, and reads them.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Signal, Signals};
use taskforge_store::{PluginStore, RegistrySnapshot, StoreResult};
use tokio::sync::{broadcast::error::RecvError, watch};
use tokio_util::sync::CancellationToken;

use crate::live::Live;

/// How often the registry's revision is asked for, in case that a signal was lost.
const POLL: Duration = Duration::from_secs(1);

/// The registry's snapshots, one after the other.
pub type Snapshots = watch::Receiver<Arc<RegistrySnapshot>>;

/// Keeps a process's copy of the registry fresh: at once after a signal, within a second without
/// one.
pub struct Follower {
    store: Arc<dyn PluginStore>,
    signals: Signals,
    latest: watch::Sender<Arc<RegistrySnapshot>>,
    confirms: Option<Arc<Live>>,
}

impl Follower {
    /// Reads the registry for the first time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(store: Arc<dyn PluginStore>, broker: &dyn Broker) -> StoreResult<Self> {
        // Before the look, so that a change after it is heard of.
        let signals = broker.subscribe();
        let first = store.registry().await?;
        Ok(Self { store, signals, latest: watch::Sender::new(Arc::new(first)), confirms: None })
    }

    /// The same, which also tells this whenever the registry was found to be as it was last seen.
    #[must_use]
    pub fn confirming(self, live: Arc<Live>) -> Self {
        Self { confirms: Some(live), ..self }
    }

    /// What was read last, and what will be.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        self.latest.subscribe()
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut is_away = false;
        while stop
            .run_until_cancelled(tokio::time::timeout(POLL, news(&mut self.signals)))
            .await
            .is_some()
        {
            match self.look().await {
                Ok(()) => is_away = false,
                Err(error) if is_away => tracing::debug!(%error, "the registry was not read"),
                Err(error) => {
                    is_away = true;
                    tracing::warn!(%error, "the registry was not read; what runs goes on");
                }
            }
        }
    }

    async fn look(&self) -> StoreResult<()> {
        let (began, known) = (self.store.clock().now(), self.latest.borrow().revision);
        if self.store.registry_revision().await? != known {
            let snapshot = Arc::new(self.store.registry().await?);
            tracing::debug!(revision = snapshot.revision.0, "the registry has changed");
            if let Some(live) = &self.confirms {
                live.see(&snapshot);
            }
            self.latest.send_replace(snapshot);
        }
        if let Some(live) = &self.confirms {
            live.confirm(began);
        }
        Ok(())
    }
}

/// Waits for a reason to look.
async fn news(signals: &mut Signals) {
    loop {
        match signals.recv().await {
            Ok(Signal::Plugins | Signal::Missed) | Err(RecvError::Lagged(_)) => return,
            Ok(Signal::Cancel(_) | Signal::Finished(_) | Signal::Policy) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
