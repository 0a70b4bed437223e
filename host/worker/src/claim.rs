//! Slots, hints and claims.

use std::{sync::Arc, time::Duration};

use taskforge_broker::{Broker, Hint, Want};
use taskforge_domain::{ClaimedTask, TaskId, TaskType, Timestamp, WorkerId};
use taskforge_store::{ClaimBy, ClaimRequest, Store, StoreResult};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempt::{self, Bench},
    config::WorkerConfig,
    heartbeat::StoreBackoff,
};

/// How often a worker asks the store itself while the broker is away. A poll, so not often; the price of a lost broker is latency.
const POLL_WITHOUT_BROKER: Duration = Duration::from_millis(100);

/// Claims tasks into free slots and starts their attempts, until `stop`.
///
/// `stop` is looked at only between claims: a claim under way is finished and its tasks are started, because a committed claim that nobody
/// runs would wait for the lease to lapse.
pub(crate) async fn claim_until(
    bench: Arc<Bench>,
    store: Arc<dyn Store>,
    config: WorkerConfig,
    attempts: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.concurrency));
    let mut backoff = StoreBackoff::new();
    loop {
        let Some(Ok(slot)) = stop.run_until_cancelled(slots.clone().acquire_owned()).await else {
            return;
        };
        let mut free = take_free(&slots, slot);
        let types = bench.handlers.types();
        let Some(wanted) = stop
            .run_until_cancelled(next_hints(&*bench.broker, &types, free.len(), config.hint_wait))
            .await
        else {
            return;
        };
        match claim(&*store, bench.worker, &wanted, &types, free.len()).await {
            Ok(claimed) => {
                backoff = StoreBackoff::new();
                for (task, slot) in claimed.into_iter().zip(free.drain(..)) {
                    attempts.spawn(attempt::run(bench.clone(), task, slot));
                }
            }
            Err(error) => {
                tracing::warn!(%error, worker.id = %bench.worker, "tasks were not claimed");
                give_back(&*bench.broker, wanted).await;
                stop.run_until_cancelled(backoff.wait()).await;
            }
        }
    }
}

/// Where the next tasks may be.
enum Wanted {
    Hinted(Vec<Hint>),
    /// The broker is away: whatever the store has.
    Anything,
}

async fn next_hints(broker: &dyn Broker, types: &[TaskType], max: usize, wait: Duration) -> Wanted {
    match broker.pop(Want { types, max, wait }).await {
        Ok(hints) => Wanted::Hinted(hints),
        Err(error) => {
            tracing::debug!(%error, "claiming from the store directly");
            tokio::time::sleep(POLL_WITHOUT_BROKER).await;
            Wanted::Anything
        }
    }
}

async fn claim(
    store: &dyn Store,
    worker: WorkerId,
    wanted: &Wanted,
    types: &[TaskType],
    max: usize,
) -> StoreResult<Vec<ClaimedTask>> {
    let ids: Vec<TaskId>;
    let by = match wanted {
        Wanted::Hinted(hints) if hints.is_empty() => return Ok(Vec::new()),
        Wanted::Hinted(hints) => {
            ids = hints.iter().map(|hint| hint.id).collect();
            ClaimBy::Ids(&ids)
        }
        Wanted::Anything => ClaimBy::Order {
            types,
            limit: u32::try_from(max).unwrap_or(u32::MAX),
        },
    };
    store
        .claim(ClaimRequest {
            worker,
            by,
            now: Timestamp::now(),
        })
        .await
}

/// A hint was taken but not used: others may have more luck with it. If this fails too, the sweeper's audit finds the task.
async fn give_back(broker: &dyn Broker, wanted: Wanted) {
    if let Wanted::Hinted(hints) = wanted
        && let Err(error) = broker.push(&hints).await
    {
        tracing::debug!(%error, "hints were not given back");
    }
}

/// The slot at hand and all others that are free.
fn take_free(slots: &Arc<Semaphore>, first: OwnedSemaphorePermit) -> Vec<OwnedSemaphorePermit> {
    let mut free = vec![first];
    while let Ok(slot) = slots.clone().try_acquire_owned() {
        free.push(slot);
    }
    free
}
