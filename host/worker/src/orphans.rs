//! Tasks that the store says this worker runs, and that it does not.
//!
//! A claim may be committed although its caller got an error: the connection broke before the
//! answer. Such a task would stay `running` under the lease of a worker that is alive and knows
//! nothing of it.

use std::collections::HashSet;

use taskforge_domain::{Next, QueuedTask};
use taskforge_store::{LapsedTask, Resolution, StoreResult};

use crate::{attempt::WorkerContext, notifier::Notification};

/// Gives tasks that this worker holds without running them back to the queue, uncounted: their
/// attempts never began.
///
/// To be called while no claim is under way, whose tasks would seem to be such. A claim that went
/// wrong may be committed even after this has looked, so it is called again and again.
pub(crate) async fn hand_back(context: &WorkerContext) -> StoreResult<usize> {
    // Asked first: what runs now and is not in the answer is no concern of this.
    let claimed = context.store.claimed_by(context.worker).await?;
    let known: HashSet<_> = context.running.leases().into_iter().collect();
    let resolutions: Vec<_> = claimed
        .iter()
        .filter(|task| !known.contains(&(task.id, task.run_lease)))
        .map(resolution)
        .collect();
    if resolutions.is_empty() {
        return Ok(0);
    }
    let moved = context.store.resolve_lapsed(None, &resolutions, context.now()).await?;
    // One that ended between the two looks was no orphan, and has not moved.
    if moved.is_empty() {
        return Ok(0);
    }
    tracing::warn!(worker.id = %context.worker, tasks = moved.len(), "claimed tasks whose claim was not answered were handed back");
    metrics::counter!("taskforge_unanswered_claims_total").increment(moved.len() as u64);
    for task in claimed.iter().filter(|task| moved.contains(&task.id)) {
        let queued = QueuedTask { id: task.id, lane: task.lane.clone() };
        context.notifier.tell(Notification::Waits(queued));
    }
    Ok(moved.len())
}

fn resolution(task: &LapsedTask) -> Resolution {
    Resolution {
        id: task.id,
        run_lease: task.run_lease,
        next: Next::HandBack,
        detail: "its claim was not answered, so its attempt never began".to_owned(),
    }
}
