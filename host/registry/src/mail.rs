//! How much mail versions send, counted in the store for the whole fleet.

use std::sync::Arc;

use async_trait::async_trait;
use taskforge_domain::TaskType;
use taskforge_runtime::{MailAmount, MailCounter, MailError};
use taskforge_store::{MailCount, PluginStore};
use tokio::sync::Mutex;

/// Counts in a store. One message at a time: they are few, and others need the store's connections.
pub struct StoredMailCounter {
    store: Arc<dyn PluginStore>,
    turn: Arc<Mutex<()>>,
}

impl StoredMailCounter {
    /// A counter in this store.
    #[must_use]
    pub fn new(store: Arc<dyn PluginStore>) -> Self {
        Self { store, turn: Arc::default() }
    }
}

#[async_trait]
impl MailCounter for StoredMailCounter {
    async fn count(
        &self,
        plugin: &TaskType,
        version: &str,
        sent: MailAmount,
        limit: MailAmount,
    ) -> Result<bool, MailError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (store, plugin, version) =
            (Arc::clone(&self.store), plugin.clone(), version.to_owned());
        // To its end, also if the attempt is called off.
        let counted = tokio::spawn(async move {
            let _turn = turn;
            store.count_mail(&plugin, &version, amount(sent), amount(limit)).await
        });
        let away = |error: &dyn std::error::Error| {
            tracing::warn!(%error, "mail of a plugin could not be counted");
            MailError::unavailable("mail cannot be counted now, and is not sent without")
        };
        match counted.await {
            Ok(counted) => counted.map_err(|error| away(&error)),
            Err(error) => Err(away(&error)),
        }
    }
}

const fn amount(amount: MailAmount) -> MailCount {
    MailCount { messages: amount.messages, bytes: amount.bytes }
}
