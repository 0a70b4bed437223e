//! Reports of running handlers, written in batches.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use taskforge_domain::{Progress, RunLease, TaskId};
use taskforge_store::{ProgressReport, Store};
use tokio_util::sync::CancellationToken;

/// The latest report of each running attempt that has not been written yet. A handler may report a million times; the store hears of
/// it twice a second.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    unwritten: Mutex<HashMap<TaskId, (RunLease, Progress)>>,
}

impl ProgressBoard {
    /// Puts up a report, over an older one of the same task.
    pub fn report(&self, id: TaskId, run_lease: RunLease, progress: Progress) {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, (run_lease, progress));
    }

    /// Writes reports until `stop`.
    pub async fn write_until(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        every: Duration,
        stop: CancellationToken,
    ) {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            let reports = self.take();
            if reports.is_empty() {
                continue;
            }
            // Lost progress is no loss: the handler reports again, or ends.
            if let Err(error) = store.report_progress(&reports).await {
                tracing::debug!(%error, reports = reports.len(), "progress was not written");
            }
        }
    }

    fn take(&self) -> Vec<ProgressReport> {
        let unwritten = std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner));
        unwritten
            .into_iter()
            .map(|(id, (run_lease, progress))| ProgressReport {
                id,
                run_lease,
                progress,
            })
            .collect()
    }
}
