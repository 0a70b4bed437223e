//! What running attempts say, written in batches.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use taskforge_domain::{LogLine, Progress, RunLease, TaskId};
use taskforge_runtime::LogTail;
use taskforge_store::{ProgressReport, Store};
use tokio_util::sync::CancellationToken;

/// What is written of an attempt's log while it runs, in bytes: its latest lines.
const LATEST: u64 = 4 << 10;

/// What one attempt has said so far.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Its log.
    pub(crate) log: LogTail,
    progress: Mutex<Option<Progress>>,
    /// It has reported since the last look.
    has_reported: AtomicBool,
    /// Lines of its log at the last look.
    seen: AtomicUsize,
}

impl Said {
    /// Takes a report, in the place of the one before.
    pub(crate) fn report(&self, progress: Progress) {
        *locked(&self.progress) = Some(progress);
        self.has_reported.store(true, Relaxed);
    }

    /// Everything, if something is new since the last look.
    fn changes(&self) -> Option<(Option<Progress>, Vec<LogLine>)> {
        let has_reported = self.has_reported.swap(false, Relaxed);
        let lines = self.log.len();
        // An attempt that is over has none any more.
        let has_logged = lines > 0 && self.seen.swap(lines, Relaxed) != lines;
        (has_reported || has_logged)
            .then(|| (locked(&self.progress).clone(), self.log.latest(LATEST)))
    }

    /// What it has said is new again: the report of the last look was not written.
    fn repeat(&self) {
        self.has_reported.store(locked(&self.progress).is_some(), Relaxed);
        self.seen.store(0, Relaxed);
    }
}

/// The attempts that have run for a while. A handler may report a million times and log without an
/// end; the store hears of each attempt twice a second at most, and [`LATEST`] bytes of its log.
#[derive(Debug, Default)]
pub struct ProgressBoard {
    running: Mutex<HashMap<(TaskId, RunLease), Arc<Said>>>,
}

/// An attempt on the board, as long as this lives.
pub(crate) struct Shown {
    board: Arc<ProgressBoard>,
    attempt: (TaskId, RunLease),
}

impl Drop for Shown {
    fn drop(&mut self) {
        locked(&self.board.running).remove(&self.attempt);
    }
}

impl ProgressBoard {
    /// Puts up an attempt. Quick ones never are: they are over before anybody could look.
    pub(crate) fn show(
        self: &Arc<Self>,
        id: TaskId,
        run_lease: RunLease,
        said: &Arc<Said>,
    ) -> Shown {
        let attempt = (id, run_lease);
        locked(&self.running).insert(attempt, Arc::clone(said));
        Shown { board: Arc::clone(self), attempt }
    }

    /// Writes what is new until `stop`.
    pub async fn write_until(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        every: Duration,
        stop: CancellationToken,
    ) {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            let reports = self.changes();
            if reports.is_empty() {
                continue;
            }
            if let Err(error) = store.report_progress(&reports).await {
                tracing::debug!(%error, reports = reports.len(), "progress was not written");
                self.repeat(&reports);
            }
        }
    }

    /// Writes with the next look what could not be written. Attempts that are over by then have
    /// committed it.
    fn repeat(&self, reports: &[ProgressReport]) {
        let running = locked(&self.running);
        for report in reports {
            if let Some(said) = running.get(&(report.id, report.run_lease)) {
                said.repeat();
            }
        }
    }

    fn changes(&self) -> Vec<ProgressReport> {
        let running = locked(&self.running);
        let changes = running.iter().filter_map(|(&(id, run_lease), said)| {
            let (progress, log) = said.changes()?;
            Some(ProgressReport { id, run_lease, progress, log })
        });
        changes.collect()
    }
}

/// Nothing panics while it holds one of these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
