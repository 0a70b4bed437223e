//! One boot of a worker.

use std::sync::Arc;

use taskforge_broker::Broker;
use taskforge_domain::WorkerId;
use taskforge_registry::{Live, UsageBoard};
use taskforge_runtime::Runtime;
use taskforge_store::{Store, StoreError, StoreResult, WorkerRecord};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    attempt::WorkerContext,
    cancels,
    claim::Claims,
    config::WorkerConfig,
    heartbeat::{Heartbeat, StoreBackoff},
    notifier::Notifier,
    progress::ProgressBoard,
    running::{Running, StopReason},
};

/// What a worker works with.
#[derive(Clone)]
pub struct Services {
    /// The database: what exists, and how it ends.
    pub store: Arc<dyn Store>,
    /// What waits, and signals.
    pub broker: Arc<dyn Broker>,
    /// The sandbox.
    pub runtime: Runtime,
    /// Which plugin serves which task type.
    pub live: Arc<Live>,
    /// Where what attempts used is counted. Whoever makes it has it written.
    pub usage: Arc<UsageBoard>,
}

/// A worker.
pub struct Worker {
    config: WorkerConfig,
    services: Services,
}

/// Heartbeats between two looks at the store for leases that were lost without a signal reaching
/// this worker.
const BEATS_PER_LOOK: u32 = 5;

/// How one boot ended.
enum Ended {
    Drained,
    Lapsed,
}

impl Worker {
    /// A worker that is not running yet.
    #[must_use]
    pub fn new(config: WorkerConfig, services: Services) -> Self {
        Self { config, services }
    }

    /// Works until `stop`, then drains: running attempts may finish within the grace period, and
    /// the rest goes back to the queue.
    ///
    /// A worker whose lease lapses (the process was stopped, or cut off from the store) drops what
    /// it holds and starts anew under a fresh id; a store that is away is waited for.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.run_once(&stop).await {
                Ended::Drained => return,
                Ended::Lapsed => metrics::counter!("taskforge_worker_lapses_total").increment(1),
            }
        }
    }

    async fn run_once(&self, stop: &CancellationToken) -> Ended {
        let worker = WorkerId::generate();
        let mut backoff = StoreBackoff::new();
        let running = Arc::new(Running::default());
        // The first ends the side loops, which outlive the claims: draining attempts still need
        // their lease and their cancels.
        let (ended, no_more_claims) = (CancellationToken::new(), stop.child_token());
        let mut lapse = loop {
            match self.join(worker, &running, &no_more_claims, &ended).await {
                Ok(lapse) => break lapse,
                Err(error) => {
                    tracing::warn!(%error, worker.id = %worker, "the worker was not registered; trying again");
                }
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return Ended::Drained;
            }
        };
        let progress = Arc::new(ProgressBoard::default());
        let (loops, attempts) = (TaskTracker::new(), TaskTracker::new());
        let (notifier, telling) = Notifier::new(self.services.broker.clone());
        loops.spawn(telling);
        let context = self.context(worker, &running, &progress, notifier);
        let (permits, overflow) = context.admission.size();
        tracing::info!(worker.id = %worker, permits, overflow, "worker started");
        let Services { store, broker, .. } = &self.services;
        loops.spawn(progress.write_until(
            store.clone(),
            self.config.progress_interval,
            ended.clone(),
        ));
        loops.spawn(cancels::obey_until(
            broker.clone(),
            store.clone(),
            running.clone(),
            self.config.heartbeat_interval * BEATS_PER_LOOK,
            ended.clone(),
        ));
        let claims = Claims { context, config: self.config.clone(), attempts: attempts.clone() };
        let claiming = TaskTracker::new();
        claiming.spawn(claims.run_until(no_more_claims.clone()));
        claiming.close();
        let drain = self.drain(&claiming, &attempts, &running, stop);
        let end = tokio::select! {
            _ = &mut lapse => Ended::Lapsed,
            () = drain => Ended::Drained,
        };
        if matches!(end, Ended::Lapsed) {
            // The heartbeat has done so, unless it panicked.
            no_more_claims.cancel();
            running.stop_all(StopReason::Lapsed);
            // A claim under way is finished first, and what it starts is stopped at once.
            claiming.wait().await;
            attempts.close();
            attempts.wait().await;
        }
        ended.cancel();
        loops.close();
        loops.wait().await;
        if matches!(end, Ended::Drained) {
            lapse.await.ok();
        }
        if let Err(error) = store.remove_worker(worker).await {
            tracing::debug!(%error, worker.id = %worker, "the worker's row stays until the sweeper finds it");
        }
        tracing::info!(worker.id = %worker, "worker stopped");
        end
    }

    /// Announces the worker and starts its heartbeat. The answer hears of the end of that: a lapse,
    /// unless `ended` is cancelled before.
    async fn join(
        &self,
        worker: WorkerId,
        running: &Arc<Running>,
        no_more_claims: &CancellationToken,
        ended: &CancellationToken,
    ) -> StoreResult<oneshot::Receiver<()>> {
        self.register(worker).await?;
        let heartbeat = Heartbeat {
            store: self.services.store.clone(),
            running: running.clone(),
            worker,
            config: self.config.clone(),
            no_more_claims: no_more_claims.clone(),
        };
        heartbeat.start(ended.clone()).map_err(|error| {
            StoreError::Unavailable(format!("no thread for the heartbeat: {error}"))
        })
    }

    async fn register(&self, worker: WorkerId) -> StoreResult<()> {
        let now = self.services.store.clock().now();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned();
        let record = WorkerRecord {
            id: worker,
            host,
            pid: std::process::id(),
            started_at: now,
            lease: self.config.heartbeat_timeout,
        };
        self.services.store.register_worker(&record, now).await
    }

    fn context(
        &self,
        worker: WorkerId,
        running: &Arc<Running>,
        progress: &Arc<ProgressBoard>,
        notifier: Notifier,
    ) -> Arc<WorkerContext> {
        let Services { store, broker, runtime, live, usage } = self.services.clone();
        Arc::new(WorkerContext {
            worker,
            runtime,
            live,
            usage,
            broker,
            store,
            running: running.clone(),
            progress: progress.clone(),
            notifier,
            admission: Admission::new(self.config.concurrency, self.config.instances),
        })
    }

    /// Returns once `stop` was given and every attempt has ended.
    async fn drain(
        &self,
        claiming: &TaskTracker,
        attempts: &TaskTracker,
        running: &Running,
        stop: &CancellationToken,
    ) {
        stop.cancelled().await;
        claiming.wait().await;
        attempts.close();
        if tokio::time::timeout(self.config.drain_grace, attempts.wait()).await.is_err() {
            tracing::info!(
                attempts = attempts.len(),
                "the grace period is over; handing the rest back"
            );
            running.stop_all(StopReason::Draining);
            attempts.wait().await;
        }
    }
}
