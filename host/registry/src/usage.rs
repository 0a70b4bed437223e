//! What attempts used, written each second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use taskforge_domain::{Outcome, Usage, VersionId, VersionUsage};
use taskforge_store::PluginStore;
use tokio_util::sync::CancellationToken;

/// How often it is written.
const INTERVAL: Duration = Duration::from_secs(1);

/// What attempts used since it was last written, by version and phase of its rollout. An attempt
/// costs it a lock and some additions; the store is told of thousands at once.
#[derive(Default)]
pub struct UsageBoard {
    unwritten: Mutex<HashMap<(VersionId, i64), VersionUsage>>,
}

impl UsageBoard {
    /// Counts an attempt.
    pub fn record(&self, version: VersionId, phase: i64, outcome: &Outcome, usage: &Usage) {
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        unwritten.entry((version, phase)).or_default().record(outcome, usage);
    }

    /// Writes until `stop`, and once more then.
    pub async fn write_until(
        self: Arc<Self>,
        store: Arc<dyn PluginStore>,
        stop: CancellationToken,
    ) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            self.write(&*store).await;
        }
        self.write(&*store).await;
    }

    /// Writes what there is.
    pub async fn write(&self, store: &dyn PluginStore) {
        let used: Vec<_> = self
            .take()
            .into_iter()
            .filter(|(_, used)| used.attempts > 0)
            .map(|((version, phase), used)| (version, phase, used))
            .collect();
        if used.is_empty() {
            return;
        }
        if let Err(error) = store.add_usage(&used).await {
            // Kept for the next time. A statement whose answer was lost is counted twice then:
            // figures to go by, not to bill by.
            tracing::debug!(%error, "usage was not written; trying again");
            let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
            for (version, phase, used) in used {
                unwritten.entry((version, phase)).or_default().merge(&used);
            }
        }
    }

    fn take(&self) -> HashMap<(VersionId, i64), VersionUsage> {
        std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
