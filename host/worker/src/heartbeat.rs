//! The lease on everything that a worker holds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_broker::{Broker, Signal};
use taskforge_domain::{RunLease, TaskId, WorkerId};
use taskforge_store::{Store, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::{
    Clock,
    config::WorkerConfig,
    running::{Running, StopReason},
};

/// Beats between two looks at the store for leases that were lost without a signal reaching this worker.
const BEATS_PER_LEASE_CHECK: u32 = 5;
/// Beats between two looks at the database's clock.
const BEATS_PER_CLOCK_CHECK: u32 = 30;

/// Renews the worker's lease until `stop`. Returns early when the lease has lapsed: the store says so, or it could not be asked for
/// so long that others must assume it. The caller then drops what it holds; whatever it still committed would be stale.
///
/// Returns `true` after a lapse.
pub async fn beat_until(
    store: Arc<dyn Store>,
    running: Arc<Running>,
    worker: WorkerId,
    config: WorkerConfig,
    clock: Clock,
    stop: CancellationToken,
) -> bool {
    let every = config.heartbeat_interval.min(config.heartbeat_timeout / 5);
    let mut interval = tokio::time::interval(every.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = Instant::now();
    let mut beats = 0_u32;
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        // Taken before the request: the store's clock for this beat starts no earlier.
        let asked = Instant::now();
        // A store that hangs must not keep the lapse from being noticed.
        let left = config.heartbeat_timeout.saturating_sub(renewed.elapsed());
        let beat = tokio::time::timeout(left, store.heartbeat(worker, clock.now()));
        match beat
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer within the lease".to_owned())))
        {
            Ok(true) => renewed = asked,
            Ok(false) => return true,
            Err(error) => {
                let silent = renewed.elapsed();
                tracing::warn!(%error, worker.id = %worker, ?silent, "the heartbeat was not written");
                if silent >= config.heartbeat_timeout {
                    return true;
                }
            }
        }
        beats = beats.wrapping_add(1);
        let checks = async {
            if beats.is_multiple_of(BEATS_PER_LEASE_CHECK) {
                stop_lost(&*store, &running, &running.held()).await;
            }
            if beats.is_multiple_of(BEATS_PER_CLOCK_CHECK)
                && let Err(error) = clock.compare(&*store).await
            {
                tracing::debug!(%error, "the clocks were not compared");
            }
        };
        // The next beat is more important.
        tokio::time::timeout(every, checks).await.ok();
    }
    false
}

/// Stops those of the held attempts whose lease is gone: the task was cancelled, or it lapsed.
async fn stop_lost(store: &dyn Store, running: &Running, held: &[(TaskId, RunLease)]) {
    if held.is_empty() {
        return;
    }
    let lost = match store.lost_leases(held).await {
        Ok(lost) => lost,
        Err(error) => return tracing::debug!(%error, "held leases were not checked"),
    };
    for pair in held.iter().filter(|(id, _)| lost.contains(id)) {
        // The answer names tasks. One that is held twice may have lost one lease and not the other.
        let twice = held.iter().filter(|(id, _)| *id == pair.0).count() > 1;
        let is_lost = !twice
            || store
                .lost_leases(&[*pair])
                .await
                .is_ok_and(|lost| !lost.is_empty());
        if is_lost {
            running.stop(*pair, StopReason::Cancelled);
        }
    }
}

/// Stops attempts whose task somebody cancelled, as the signals come in. The store is asked which lease is meant: a signal may be late,
/// and the task in its next attempt.
pub async fn obey_cancels(
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    running: Arc<Running>,
    stop: CancellationToken,
) {
    let mut signals = broker.subscribe();
    while let Some(signal) = stop.run_until_cancelled(signals.recv()).await {
        match signal {
            Ok(Signal::Cancel(cancelled)) => {
                let held: Vec<_> = running
                    .held()
                    .into_iter()
                    .filter(|(id, _)| *id == cancelled)
                    .collect();
                stop_lost(&*store, &running, &held).await;
            }
            // What a slow reader missed, the lease check finds within seconds.
            Ok(Signal::Finished(_) | Signal::Policy | Signal::Plugins | Signal::Missed)
            | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return stop.cancelled().await,
        }
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
