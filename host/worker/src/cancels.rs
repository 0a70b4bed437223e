//! Attempts whose lease is gone while their worker's is not: their task was cancelled, mostly.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Signal};
use taskforge_domain::{RunLease, TaskId};
use taskforge_store::Store;
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::running::{Running, StopReason};

/// Stops attempts whose task somebody cancelled, as the signals come in, and those that no signal
/// told of, for which it looks in the store every `look`. The store is asked which lease is meant:
/// a signal may be late, and the task in its next attempt.
pub(crate) async fn obey_until(
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    running: Arc<Running>,
    look: Duration,
    stop: CancellationToken,
) {
    let mut signals = broker.subscribe();
    let mut is_open = true;
    // No interval may be zero.
    let look = look.max(Duration::from_millis(1));
    let mut looks = tokio::time::interval_at(Instant::now() + look, look);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {
                // Cancels are not to wait for a store that hangs.
                tokio::time::timeout(look, stop_lost(&*store, &running, &running.leases())).await.ok();
            }
            signal = signals.recv(), if is_open => match signal {
                Ok(Signal::Cancel(cancelled)) => {
                    let mut leases = running.leases();
                    leases.retain(|(id, _)| *id == cancelled);
                    stop_lost(&*store, &running, &leases).await;
                }
                // What a slow reader missed, the next look finds.
                Ok(Signal::Finished(_) | Signal::Policy | Signal::Plugins | Signal::Missed)
                | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => is_open = false,
            },
        }
    }
}

/// Stops those attempts whose lease is gone.
async fn stop_lost(store: &dyn Store, running: &Running, leases: &[(TaskId, RunLease)]) {
    if leases.is_empty() {
        return;
    }
    let lost = match store.lost_leases(leases).await {
        Ok(lost) => lost,
        Err(error) => return tracing::debug!(%error, "leases were not checked"),
    };
    for pair in leases.iter().filter(|(id, _)| lost.contains(id)) {
        // The answer names tasks. One that runs here twice may have lost one lease and not the other.
        let twice = leases.iter().filter(|(id, _)| *id == pair.0).count() > 1;
        let is_lost =
            !twice || store.lost_leases(&[*pair]).await.is_ok_and(|lost| !lost.is_empty());
        if is_lost {
            running.stop(*pair, StopReason::Cancelled);
        }
    }
}
