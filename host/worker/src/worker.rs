//! One boot of a worker.

use std::sync::Arc;

use taskforge_broker::Broker;
use taskforge_domain::WorkerId;
use taskforge_registry::{Live, UsageBoard};
use taskforge_runtime::Runtime;
use taskforge_store::{Store, StoreResult, WorkerRecord};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Clock,
    attempt::Bench,
    claim::Claims,
    config::WorkerConfig,
    heartbeat::{StoreBackoff, beat_until, obey_cancels},
    places::Places,
    progress::ProgressBoard,
    running::{Running, StopReason},
    teller::Teller,
};

/// What a worker works with.
#[derive(Clone)]
pub struct Services {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The hint.
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
    clock: Clock,
}

/// How one boot ended.
enum Ended {
    Drained,
    Lapsed,
}

impl Worker {
    /// A worker that is not running yet.
    #[must_use]
    pub fn new(config: WorkerConfig, services: Services) -> Self {
        Self {
            config,
            services,
            clock: Clock::default(),
        }
    }

    /// Works until `stop`, then drains: running attempts may finish within the grace period, and the rest goes back to the queue.
    ///
    /// A worker whose lease lapses (the process was stopped, or cut off from the store) drops what it holds and starts anew under a fresh
    /// id; a store that is away is waited for.
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
        while let Err(error) = self.register(worker).await {
            tracing::warn!(%error, worker.id = %worker, "the worker was not registered; trying again");
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return Ended::Drained;
            }
        }
        let running = Arc::new(Running::default());
        let progress = Arc::new(ProgressBoard::default());
        let (loops, attempts) = (TaskTracker::new(), TaskTracker::new());
        let (teller, telling) = Teller::new(self.services.broker.clone());
        loops.spawn(telling);
        let bench = self.bench(worker, &running, &progress, teller);
        let (slots, reserve) = bench.places.size();
        tracing::info!(worker.id = %worker, slots, reserve, "worker started");
        // Ends the side loops; they outlive the claims, because draining attempts still need their lease and their cancels.
        let (ended, no_more_claims) = (CancellationToken::new(), stop.child_token());
        let Services { store, broker, .. } = &self.services;
        loops.spawn(progress.write_until(store.clone(), self.config.progress_interval, ended.clone()));
        loops.spawn(obey_cancels(
            broker.clone(),
            store.clone(),
            running.clone(),
            ended.clone(),
        ));
        let claims = Claims {
            bench,
            config: self.config.clone(),
            attempts: attempts.clone(),
        };
        let claiming = TaskTracker::new();
        claiming.spawn(claims.run_until(no_more_claims.clone()));
        claiming.close();
        let heart = beat_until(
            store.clone(),
            running.clone(),
            worker,
            self.config.clone(),
            self.clock.clone(),
            ended.clone(),
        );
        let drain = self.drain(&claiming, &attempts, &running, stop);
        let end = tokio::select! {
            lapsed = heart => if lapsed { Ended::Lapsed } else { Ended::Drained },
            () = drain => Ended::Drained,
        };
        no_more_claims.cancel();
        if matches!(end, Ended::Lapsed) {
            tracing::warn!(worker.id = %worker, "the worker's lease lapsed; dropping what it holds");
            running.stop_all(StopReason::Lapsed);
            // A claim under way is finished first, and what it started is stopped like the rest.
            claiming.wait().await;
            running.stop_all(StopReason::Lapsed);
            attempts.close();
            attempts.wait().await;
        }
        ended.cancel();
        loops.close();
        loops.wait().await;
        if let Err(error) = store.remove_worker(worker).await {
            tracing::debug!(%error, worker.id = %worker, "the worker's row stays until the sweeper finds it");
        }
        tracing::info!(worker.id = %worker, "worker stopped");
        end
    }

    async fn register(&self, worker: WorkerId) -> StoreResult<()> {
        self.clock.compare(&*self.services.store).await?;
        let now = self.clock.now();
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

    fn bench(
        &self,
        worker: WorkerId,
        running: &Arc<Running>,
        progress: &Arc<ProgressBoard>,
        teller: Teller,
    ) -> Arc<Bench> {
        let Services {
            store,
            broker,
            runtime,
            live,
            usage,
        } = self.services.clone();
        Arc::new(Bench {
            worker,
            runtime,
            live,
            usage,
            broker,
            store,
            running: running.clone(),
            progress: progress.clone(),
            teller,
            clock: self.clock.clone(),
            places: Places::new(self.config.concurrency, self.config.instances),
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
        if tokio::time::timeout(self.config.drain_grace, attempts.wait())
            .await
            .is_err()
        {
            tracing::info!(
                attempts = attempts.len(),
                "the grace period is over; handing the rest back"
            );
            running.stop_all(StopReason::Draining);
            attempts.wait().await;
        }
    }
}
