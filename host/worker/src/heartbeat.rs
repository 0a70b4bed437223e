//! The lease on everything that a worker holds.
//!
//! It is renewed on a thread of its own, with a connection of its own: neither waits for anything
//! else that the process does. Attempts, claims and commits share threads and connections, and
//! whatever keeps those busy must not make a worker seem dead, because its tasks would then be run
//! again elsewhere.
//!
//! So a heartbeat says that the process lives and reaches the store, no more. A process that lives
//! and does not get on is for its supervisor to find, by `/healthz`, which the other threads
//! answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_domain::WorkerId;
use taskforge_store::{LeaseConnection, Store, StoreError, StoreResult};
use tokio::{runtime::Builder, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    config::WorkerConfig,
    running::{Running, StopReason},
};

/// Renews a worker's lease.
pub(crate) struct Heartbeat {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) running: Arc<Running>,
    pub(crate) worker: WorkerId,
    pub(crate) config: WorkerConfig,
    /// Cancelled at a lapse: nothing more is claimed.
    pub(crate) no_more_claims: CancellationToken,
}

impl Heartbeat {
    /// Beats until `stop`, or until the lease has lapsed: the store says so, or it could not be
    /// asked for so long that others must assume it. What the worker holds is stopped then;
    /// whatever it still committed would be stale. The receiver hears of the end, whichever it was.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(self, stop: CancellationToken) -> std::io::Result<oneshot::Receiver<()>> {
        let (ends, end) = oneshot::channel();
        let beat = move || {
            // Made here: where it is dropped it must be allowed to block.
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(self.beat_until(stop)),
                Err(error) => {
                    tracing::error!(%error, worker.id = %self.worker, "the heartbeat cannot begin");
                    // The worker begins anew, which must not be at once.
                    std::thread::sleep(Duration::from_secs(1));
                    self.stop_all();
                }
            }
            // Nobody listens any more if the process ends.
            ends.send(()).ok();
        };
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat)?;
        Ok(end)
    }

    async fn beat_until(self, stop: CancellationToken) {
        let mut connection = None;
        let beating = self.beat(&mut connection);
        if stop.run_until_cancelled(beating).await.is_some() {
            tracing::warn!(worker.id = %self.worker, "the worker's lease lapsed; dropping what it holds");
            self.stop_all();
        }
        if let Some(connection) = connection {
            connection.close().await;
        }
    }

    fn stop_all(&self) {
        self.no_more_claims.cancel();
        self.running.stop_all(StopReason::Lapsed);
    }

    /// Returns once the lease has lapsed.
    async fn beat(&self, connection: &mut Option<Box<dyn LeaseConnection>>) {
        let every = self.config.heartbeat_interval.min(self.config.heartbeat_timeout / 5);
        let mut interval = tokio::time::interval(every.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            interval.tick().await;
            // Taken before the request: the store's clock for this beat starts no earlier.
            let asked = Instant::now();
            // A store that hangs must not keep the lapse from being noticed.
            let left = self.config.heartbeat_timeout.saturating_sub(renewed.elapsed());
            // Nor may a connection that has gone silent take all the time that another one would
            // need.
            let limit = left.min(self.config.heartbeat_timeout / 4);
            let renewal = tokio::time::timeout(limit, self.renew(connection)).await;
            match renewal.unwrap_or_else(|_| {
                let silence = format!("no answer within {limit:?}");
                Err(StoreError::Unavailable(silence))
            }) {
                Ok(true) => renewed = asked,
                Ok(false) => return,
                Err(error) => {
                    let silent = renewed.elapsed();
                    tracing::warn!(%error, worker.id = %self.worker, ?silent, "the heartbeat was not written");
                    if silent >= self.config.heartbeat_timeout {
                        return;
                    }
                }
            }
        }
    }

    async fn renew(&self, connection: &mut Option<Box<dyn LeaseConnection>>) -> StoreResult<bool> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.store.lease_connection().await?),
        };
        connection.heartbeat(self.worker, self.store.clock().now()).await
    }
}

/// Delays between tries of a store that is away: doubling from 50 ms to 2 s.
pub(crate) struct StoreBackoff(Duration);

impl StoreBackoff {
    pub(crate) const fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(2));
    }
}
